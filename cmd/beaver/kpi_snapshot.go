package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// kpiSnapshot compares partial snapshots with full ones: on one node, with ever more jobs waiting, and for followers.
func kpiSnapshot(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	var facts []kpiFact
	for waiting := kpiBacklogMin; waiting <= r.backlog; waiting *= 10 {
		got, err := r.backlogOf(ctx, waiting)
		facts = append(facts, got...)
		if err != nil {
			return facts, err
		}
	}
	got, err := r.catchUp(ctx)
	return append(facts, got...), err
}

// backlogOf has jobs of 1 KiB wait on one node, which is killed and started again; and then writes and reads what a snapshot is that has
// their payloads in it.
func (r *kpiRun) backlogOf(ctx context.Context, waiting int) (facts []kpiFact, err error) {
	dir := filepath.Join(r.dir, strconv.Itoa(waiting))
	b := &benchRun{benchOptions: benchOptions{backlog: waiting}, payload: benchPayload(1024)}
	if b.server, err = newServerProcess(filepath.Join(dir, "data"), r.log, "--log-level", "warn"); err != nil {
		return nil, err
	}
	if _, err := b.server.start(ctx); err != nil {
		return nil, err
	}
	defer b.server.kill()
	if _, err := b.fill(ctx, "backlog", waiting); err != nil {
		return nil, err
	}
	b.server.kill()
	began := time.Now()
	if _, err := b.server.start(ctx); err != nil {
		return nil, err
	}
	fetched, err := b.rpc(1).next().Fetch(ctx, connect.NewRequest(&beaverv1.FetchRequest{Queues: []string{"backlog"}, Max: 1}))
	if err != nil {
		return nil, err
	}
	if len(fetched.Msg.GetJobs()) != 1 {
		return nil, errors.New("the first fetch after the restart got no job")
	}
	recovered := time.Since(began)
	b.server.stop()
	partial, full, err := measureSnapshots(b.server.dataDir, filepath.Join(dir, "full"))
	if err != nil {
		return nil, err
	}
	if full.jobs != uint64(waiting) || partial.jobs != full.jobs {
		return nil, fmt.Errorf("the full snapshot has %d jobs, the partial one %d, and %d wait", full.jobs, partial.jobs, waiting)
	}
	what := quantity(float64(waiting), "") + " waiting: "
	r.say("%spartial %s and %v, full %s and %v; kill -9 to first fetch %v", what, byteSize(partial.bytes), partial.read, byteSize(full.bytes), full.read, recovered)
	return []kpiFact{
		{Name: what + "partial snapshot", Value: float64(partial.bytes), Unit: "B"},
		{Name: what + "full snapshot", Value: float64(full.bytes), Unit: "B", Note: fmt.Sprintf("written and synced in %v", full.wrote.Round(time.Millisecond))},
		kpiFact{Name: what + "partial is smaller by", Value: 100 * (1 - float64(partial.bytes)/float64(full.bytes)), Unit: "%"}.above(40),
		{Name: what + "state read from partial", Value: 1000 * partial.read.Seconds(), Unit: "ms"},
		{Name: what + "state and payloads read from full", Value: 1000 * full.read.Seconds(), Unit: "ms", Note: "from the page cache"},
		kpiFact{Name: what + "partial is faster by", Value: 100 * (1 - partial.read.Seconds()/full.read.Seconds()), Unit: "%"}.above(50),
		{Name: what + "kill -9 to the first job fetched", Value: 1000 * recovered.Seconds(), Unit: "ms", Note: "start of the process and replay of the log included"},
	}, os.RemoveAll(dir)
}
