package engine

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// openOnDisk opens an engine on a real directory with the log's own defaults.
func openOnDisk(b *testing.B) *Engine {
	b.Helper()
	return open(b, vfs.OS(), func(o *Options) { o.Dir, o.WAL = b.TempDir(), wal.Options{} })
}

// cycler enqueues, fetches and acks a batch of jobs, over and over, reusing its memory.
type cycler struct {
	e        *Engine
	request  EnqueueRequest
	fetch    FetchRequest
	enqueued []Enqueued
	outcomes []Outcome
	ended    []Ended
}

func newCycler(e *Engine, worker WorkerID, queueName string, batch int) *cycler {
	c := &cycler{e: e, fetch: FetchRequest{Worker: worker, Queues: []string{queueName}, Max: batch, Wait: time.Second}}
	payload := bytes.Repeat([]byte("x"), 1024)
	for range batch {
		c.request.Jobs = append(c.request.Jobs, NewJob{Queue: queueName, Spec: Spec{Priority: 5, Kind: "bench", Payload: payload}})
	}
	return c
}

func (c *cycler) cycle(ctx context.Context, b *testing.B) {
	var err error
	if c.enqueued, err = c.e.Enqueue(ctx, &c.request, c.enqueued[:0]); err != nil {
		b.Fatal(err)
	}
	for left := len(c.request.Jobs); left > 0; {
		jobs, err := c.e.Fetch(ctx, &c.fetch)
		if err != nil || len(jobs) == 0 {
			b.Fatal(len(jobs), err)
		}
		c.outcomes = c.outcomes[:0]
		for i := range jobs {
			c.outcomes = append(c.outcomes, Outcome{Kind: OutcomeAck, ID: jobs[i].ID, Token: jobs[i].Token})
		}
		if c.ended, err = c.e.Finish(ctx, c.fetch.Worker, c.outcomes, c.ended[:0]); err != nil {
			b.Fatal(err)
		}
		left -= len(jobs)
	}
}

// BenchmarkCycle is the whole life of jobs through the engine in process, in batches of 100 with 1 KiB payloads, by 16
// callers on a real disk: each step is durable before it is answered. An operation is one job.
func BenchmarkCycle(b *testing.B) {
	const callers, batch = 16, 100
	e := openOnDisk(b)
	ctx := context.Background()
	w := register(b, e)
	work := make(chan struct{})
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			c := newCycler(e, w, []string{"a", "b", "c", "d"}[i%4], batch)
			for range work {
				c.cycle(ctx, b)
			}
		})
	}
	keepAlive(b, e, w)
	b.ReportAllocs()
	done := 0
	for b.Loop() {
		if done%batch == 0 {
			work <- struct{}{}
		}
		done++
	}
	close(work)
	wg.Wait()
	b.ReportMetric(float64(done)/b.Elapsed().Seconds(), "jobs/s")
}

// keepAlive beats for a worker as long as the benchmark runs.
func keepAlive(b *testing.B, e *Engine, w WorkerID) {
	stop := make(chan struct{})
	b.Cleanup(func() { close(stop) })
	go func() {
		for {
			select {
			case <-time.After(time.Second):
				if _, err := e.Heartbeat(context.Background(), w, nil); err != nil {
					return
				}
			case <-stop:
				return
			}
		}
	}()
}

// BenchmarkEnqueueLone is one caller that stores one job at a time: the latency of a durable enqueue.
func BenchmarkEnqueueLone(b *testing.B) {
	e := openOnDisk(b)
	c := newCycler(e, 0, "lone", 1)
	ctx := context.Background()
	took := make([]time.Duration, 0, 1<<16)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		var err error
		if c.enqueued, err = e.Enqueue(ctx, &c.request, c.enqueued[:0]); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	reportQuantiles(b, took)
}

// BenchmarkHandOff is one worker parked and one producer: from the call of Enqueue to the return of Fetch with the job.
func BenchmarkHandOff(b *testing.B) {
	e := openOnDisk(b)
	c := newCycler(e, 0, "hand", 1)
	ctx := context.Background()
	enqueue(b, e, c.request.Jobs...)
	fetchJobs(b, e, 0, 1, "hand")
	type arrival struct {
		at   time.Time
		jobs []FetchedJob
	}
	arrived := make(chan arrival)
	go func() {
		defer close(arrived)
		for {
			jobs, err := e.Fetch(ctx, &c.fetch)
			if err != nil {
				return
			}
			if len(jobs) > 0 {
				arrived <- arrival{time.Now(), jobs}
			}
		}
	}()
	took := make([]time.Duration, 0, 1<<16)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		var err error
		if c.enqueued, err = e.Enqueue(ctx, &c.request, c.enqueued[:0]); err != nil {
			b.Fatal(err)
		}
		a := <-arrived
		took = append(took, a.at.Sub(start))
		if c.ended, err = e.Finish(ctx, 0, []Outcome{{Kind: OutcomeAck, ID: a.jobs[0].ID, Token: a.jobs[0].Token}}, c.ended[:0]); err != nil {
			b.Fatal(err)
		}
	}
	reportQuantiles(b, took)
	shut(b, e)
	for range arrived {
		continue
	}
}

// BenchmarkFdatasync is the disk's own latency, to hold the others against: 4 KiB written in place and synced.
func BenchmarkFdatasync(b *testing.B) {
	fs := vfs.OS()
	f, err := fs.Create(b.TempDir() + "/sync")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			b.Error(err)
		}
	}()
	if err := f.Preallocate(8 << 20); err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, 4096)
	took := make([]time.Duration, 0, 1<<16)
	for i := int64(0); b.Loop(); i++ {
		start := time.Now()
		if _, err := f.WriteAt(buf, i%2048*4096); err != nil {
			b.Fatal(err)
		}
		if err := f.SyncData(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	reportQuantiles(b, took)
}

func reportQuantiles(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
