package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	handOffRate    = 500 // jobs a second
	handOffWorkers = 16
)

func (b *benchRun) sdk() (*beaver.Client, error) {
	var urls []string
	for _, p := range b.servers() {
		urls = append(urls, p.url())
	}
	return beaver.NewClient(beaver.Config{Addr: strings.Join(urls, ",")})
}

// benchEnqueueCallers measures one client that n callers share.
func benchEnqueueCallers(n int) func(context.Context, *benchRun) ([]benchRow, error) {
	return func(ctx context.Context, b *benchRun) ([]benchRow, error) {
		client, err := b.sdk()
		if err != nil {
			return nil, err
		}
		queues := b.queuesOf(benchQueue)
		var turn atomic.Uint64
		row, err := b.rate(ctx, fmt.Sprintf("enqueue-%d", n), n, func(ctx context.Context) (int, error) {
			at := turn.Add(1)
			_, err := client.Enqueue(ctx, beaver.Job{Queue: queues[at%uint64(len(queues))], Kind: "bench", Payload: b.payload, OrderingKey: b.key(at)})
			return 1, err
		})
		row.Note = fmt.Sprintf("one job at a time, %d callers, one client", n)
		return []benchRow{row}, errors.Join(err, client.Close(ctx))
	}
}

func benchEnqueueLone(ctx context.Context, b *benchRun) ([]benchRow, error) {
	client, err := b.sdk()
	if err != nil {
		return nil, err
	}
	queues := b.queuesOf(benchQueue)
	var durations []time.Duration
	start := time.Now().Add(benchWarmUp)
	end := start.Add(time.Duration(b.seconds) * time.Second)
	turn := uint64(0)
	for began := time.Now(); began.Before(end); began = time.Now() {
		turn++
		job := beaver.Job{Queue: queues[turn%uint64(len(queues))], Kind: "bench", Payload: b.payload, OrderingKey: b.key(turn)}
		if _, err := client.Enqueue(ctx, job); err != nil {
			return nil, err
		}
		if began.After(start) {
			durations = append(durations, time.Since(began))
		}
	}
	row := benchRow{
		Name: "enqueue-lone", JobsPerSec: float64(len(durations)) / float64(b.seconds),
		P50Micros: micros(quantile(durations, 0.5)), P99Micros: micros(quantile(durations, 0.99)), Note: "one caller",
	}
	return []benchRow{row}, client.Close(ctx)
}

// benchHandOff measures from just before the enqueue call to the handler's first line, with idle workers.
func benchHandOff(ctx context.Context, b *benchRun) ([]benchRow, error) {
	client, err := b.sdk()
	if err != nil {
		return nil, err
	}
	began := time.Now()                                       // the payload carries the monotonic time since
	const warmUp = handOffRate * int(benchWarmUp/time.Second) // jobs
	total := warmUp + handOffRate*b.seconds
	var (
		mu        sync.Mutex
		durations []time.Duration
	)
	done := make(chan struct{})
	handler := beaver.HandlerFunc(func(_ context.Context, job *beaver.LeasedJob) error {
		took := time.Since(began) - time.Duration(binary.BigEndian.Uint64(job.Payload))
		mu.Lock()
		defer mu.Unlock()
		if durations = append(durations, took); len(durations) == total {
			close(done)
		}
		return nil
	})
	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{Queues: []string{benchQueue}, Handler: handler, Concurrency: handOffWorkers})
	if err != nil {
		return nil, err
	}
	if err := worker.Start(ctx); err != nil {
		return nil, err
	}
	if err := b.enqueueAtRate(ctx, client, began, total); err != nil {
		return nil, err
	}
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("%d of %d jobs reached the worker", len(durations), total)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	durations = durations[warmUp:]
	row := benchRow{
		Name: "handoff", JobsPerSec: handOffRate, P50Micros: micros(quantile(durations, 0.5)),
		P99Micros: micros(quantile(durations, 0.99)), Note: "enqueue call to handler start, one Work stream",
	}
	return []benchRow{row}, errors.Join(worker.Stop(ctx), client.Close(ctx))
}

// enqueueAtRate enqueues jobs at an even pace, each call in a goroutine of its own so that a slow one holds up no other.
func (b *benchRun) enqueueAtRate(ctx context.Context, client *beaver.Client, began time.Time, total int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second / handOffRate)
	defer tick.Stop()
	for turn := range uint64(total) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		wg.Go(func() {
			stamped := append([]byte(nil), b.payload...)
			if len(stamped) < 8 {
				stamped = make([]byte, 8)
			}
			binary.BigEndian.PutUint64(stamped, uint64(time.Since(began)))
			if _, err := client.Enqueue(ctx, beaver.Job{Queue: benchQueue, Kind: "bench", Payload: stamped, OrderingKey: b.key(turn)}); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
