package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// benchBacklog measures the rates on an empty queue, fills one, looks at the server's memory and snapshot, kills it, times its
// way back to the first fetch, and measures the rates on the full queue.
func benchBacklog(ctx context.Context, b *benchRun) ([]benchRow, error) {
	rows, err := b.backlogRates(ctx, "empty")
	if err != nil {
		return rows, err
	}
	empty := rows
	fill, err := b.fill(ctx, "backlog", b.backlog)
	if err != nil {
		return rows, err
	}
	client, err := b.sdk()
	if err != nil {
		return rows, err
	}
	rows = append(rows, fill)
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
	full, err := b.backlogRates(ctx, "backlog")
	for i := range full {
		full[i].Note += fmt.Sprintf("; %.0f %% of %s", 100*full[i].JobsPerSec/empty[i].JobsPerSec, empty[i].Name)
	}
	return append(rows, full...), err
}

// backlogRates measures the rate of whole cycles and then that of enqueues, which leaves a backlog behind.
func (b *benchRun) backlogRates(ctx context.Context, queue string) ([]benchRow, error) {
	cycle, err := b.cycleRate(ctx, queue+"-cycle", queue)
	if err != nil {
		return cycle, err
	}
	enqueue, err := b.enqueueRate(ctx, queue+"-enqueue", queue)
	return append(cycle, enqueue...), err
}

// fill stores n jobs in batches.
func (b *benchRun) fill(ctx context.Context, queue string, n int) (benchRow, error) {
	client, req := b.rpc(benchCallers), b.batch(queue)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var left atomic.Int64
	left.Store(int64(n / benchBatch))
	began := time.Now()
	done := make(chan error, benchCallers)
	for range benchCallers {
		go func() {
			for left.Add(-1) >= 0 {
				if _, err := enqueueBatch(ctx, client, req); err != nil {
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
	res, err := b.rpc(1).Fetch(ctx, connect.NewRequest(&beaverv1.FetchRequest{Queues: []string{"backlog"}, Max: 1}))
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
