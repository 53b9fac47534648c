package beaver_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beaver-raft/beaver"
)

const benchPayloadBytes = 1 << 10

// BenchmarkEnqueue stores 1 KiB jobs one at a time, by so many callers of one client; the node is in the same process.
func BenchmarkEnqueue(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			c := startServer(b)
			job := beaver.Job{Queue: "bench", Kind: "bench", Payload: make([]byte, benchPayloadBytes)}
			if _, err := c.Enqueue(b.Context(), job); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range callers {
				group.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Enqueue(context.Background(), job); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
		})
	}
}

// BenchmarkEnqueueMany stores 1 KiB jobs, 100 a call, by 8 callers of one client.
func BenchmarkEnqueueMany(b *testing.B) {
	c := startServer(b)
	jobs := make([]beaver.Job, 100)
	for i := range jobs {
		jobs[i] = beaver.Job{Queue: "bench", Kind: "bench", Payload: make([]byte, benchPayloadBytes)}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range 8 {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				if _, err := c.EnqueueMany(context.Background(), jobs); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.ReportMetric(float64(100*b.N)/b.Elapsed().Seconds(), "jobs/s")
}

// BenchmarkWorker takes 1 KiB jobs from a full queue with one worker.
func BenchmarkWorker(b *testing.B) {
	for _, concurrency := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("concurrency=%d", concurrency), func(b *testing.B) {
			c := startServer(b)
			jobs := make([]beaver.Job, 1000)
			for i := range jobs {
				jobs[i] = beaver.Job{Queue: "bench", Kind: "bench", Payload: make([]byte, benchPayloadBytes)}
			}
			for n := 0; n < b.N; n += len(jobs) {
				if _, err := c.EnqueueMany(b.Context(), jobs[:min(len(jobs), b.N-n)]); err != nil {
					b.Fatal(err)
				}
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			done := make(chan struct{})
			handler := beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
				if left.Add(-1) == 0 {
					close(done)
				}
				return nil
			})
			b.ReportAllocs()
			b.ResetTimer()
			w := startWorker(b, c, beaver.WorkerConfig{Queues: []string{"bench"}, Handler: handler, Concurrency: concurrency})
			<-done
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			if err := w.Stop(b.Context()); err != nil {
				b.Error(err)
			}
		})
	}
}
