package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// backlogTurns is how often each rate is measured on the full and on the empty queue, in turns: a ratio of figures taken minutes
// apart would say more about the machine than about the queues.
const backlogTurns = 5

// benchBacklog fills a queue, looks at the server's memory and snapshot, kills it, times its way back to the first fetch, and
// measures the rates on the full queue in turns with those on another server's empty one.
func benchBacklog(ctx context.Context, b *benchRun) ([]benchRow, error) {
	fill, err := b.fill(ctx, "backlog", b.backlog)
	if err != nil {
		return nil, err
	}
	rows := []benchRow{fill}
	client, err := b.sdk()
	if err != nil {
		return rows, err
	}
	status, err := client.Status(ctx)
	if err != nil {
		return rows, errors.Join(err, client.Close(ctx))
	}
	var snapshot int64
	for _, s := range status.Shards {
		snapshot = max(snapshot, int64(s.SnapshotBytes))
	}
	rows = append(rows, benchRow{Name: "backlog-size", Note: fmt.Sprintf("%d jobs waiting: server RSS %d MiB, largest snapshot %d KiB, data directory %d MiB",
		b.backlog, b.server.residentBytes()>>20, snapshot>>10, dirBytes(b.server.dataDir)>>20)})
	restart, err := b.restart(ctx, client)
	rows = append(rows, restart)
	if err := errors.Join(err, client.Close(ctx)); err != nil {
		return rows, err
	}
	rates, err := b.backlogRates(ctx)
	return append(rows, rates...), err
}

// backlogRates measures whole cycles, and then enqueues, which leave a backlog behind on the other server too.
func (b *benchRun) backlogRates(ctx context.Context) ([]benchRow, error) {
	server, err := newServerProcess(b.server.dataDir+"-empty", io.Discard, "--log-level", "error")
	if err != nil {
		return nil, err
	}
	if _, err := server.start(ctx); err != nil {
		return nil, err
	}
	defer server.stop()
	empty := *b
	empty.server = server
	cycles, err := takeTurns(
		func() ([]benchRow, error) { return b.cycleRate(ctx, "backlog-cycle", "backlog") },
		func() ([]benchRow, error) { return empty.cycleRate(ctx, "empty-cycle", "empty") })
	if err != nil {
		return cycles, err
	}
	enqueues, err := takeTurns(
		func() ([]benchRow, error) { return b.enqueueRate(ctx, "backlog-enqueue", "backlog") },
		func() ([]benchRow, error) { return empty.enqueueRate(ctx, "empty-enqueue", "empty") })
	return append(cycles, enqueues...), err
}

// takeTurns measures full and empty alternately. The medians of both are returned, and the note of the full one says how each
// turn's rates compare.
func takeTurns(full, empty func() ([]benchRow, error)) ([]benchRow, error) {
	var runs [][]benchRow
	ratios := make([]float64, backlogTurns)
	for i := range ratios {
		first, err := full()
		if err != nil {
			return nil, err
		}
		second, err := empty()
		if err != nil {
			return nil, err
		}
		ratios[i] = 100 * first[0].JobsPerSec / second[0].JobsPerSec
		runs = append(runs, append(first, second...))
	}
	slices.Sort(ratios)
	rows := medianRows(runs)
	rows[0].Note += fmt.Sprintf("; %.0f %% of %s, the median of %d turns from %.0f to %.0f %%",
		ratios[backlogTurns/2], rows[1].Name, backlogTurns, ratios[0], ratios[backlogTurns-1])
	return rows, nil
}

// fill stores n jobs in batches.
func (b *benchRun) fill(ctx context.Context, queue string, n int) (benchRow, error) {
	clients, reqs := b.rpc(benchCallers), b.batches(queue, benchBatch)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var left atomic.Int64
	left.Store(int64(n / benchBatch))
	began := time.Now()
	done := make(chan error, benchCallers)
	for range benchCallers {
		go func() {
			for left.Add(-1) >= 0 {
				if _, err := enqueueBatch(ctx, clients.next(), reqs.next()); err != nil {
					cancel(err)
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	var err error
	for range benchCallers {
		err = errors.Join(err, <-done)
	}
	rate := float64(n) / time.Since(began).Seconds()
	return benchRow{Name: "backlog-fill", JobsPerSec: rate, Note: fmt.Sprintf("%d jobs, 100 a call, 8 callers", n)}, err
}

// restart kills the server and times it back to ready and to the first leased job.
func (b *benchRun) restart(ctx context.Context, client *beaver.Client) (benchRow, error) {
	b.server.kill()
	began := time.Now()
	ready, err := b.server.start(ctx)
	if err != nil {
		return benchRow{}, err
	}
	res, err := b.rpc(1).next().Fetch(ctx, connect.NewRequest(&beaverv1.FetchRequest{Queues: []string{"backlog"}, Max: 1}))
	if err != nil {
		return benchRow{}, err
	}
	if len(res.Msg.GetJobs()) != 1 {
		return benchRow{}, errors.New("the first fetch after the restart got no job")
	}
	fetched := time.Since(began)
	q, err := client.Queue(ctx, "backlog")
	if err != nil {
		return benchRow{}, err
	}
	if got := int(q.Ready + q.Running); got < b.backlog/benchBatch*benchBatch {
		return benchRow{}, fmt.Errorf("%d jobs are there after the restart; %d were stored", got, b.backlog)
	}
	return benchRow{Name: "backlog-restart", P50Micros: micros(fetched), Note: fmt.Sprintf("kill -9 to first fetch; ready after %v", ready.Round(time.Millisecond))}, nil
}
