package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// TestFleetAtWork runs producers and workers on all nodes of a cluster on real goroutines, while leads move. Every job that was
// acknowledged is completed, and none twice.
func TestFleetAtWork(t *testing.T) {
	c := found(t)
	defer c.close()
	names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
	const producers, each = 6, 60
	var stored, ended sync.Map
	var storedCount, endedCount atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var making, working sync.WaitGroup
	for p := range producers {
		e := c.nodes[uint64(p%3+1)]
		making.Go(func() {
			for i := 0; i < each; {
				out, err := e.Enqueue(ctx, &EnqueueRequest{
					Session: SessionID{byte(p + 1)}, Sequence: uint64(i + 1),
					Jobs: []NewJob{{Queue: names[(p+i)%3], Spec: Spec{Priority: 5, Kind: "k", Payload: fmt.Append(nil, p, "-", i)}}},
				}, nil)
				if err != nil {
					if code := asError(err).Code; code != CodeUnknownOutcome && code != CodeUnavailable {
						t.Errorf("enqueue: %v", err)
						return
					}
					continue
				}
				stored.Store(out[0].ID, true)
				storedCount.Add(1)
				i++
			}
		})
	}
	work, stop := context.WithCancel(ctx)
	for n := range 3 {
		e := c.nodes[uint64(n+1)]
		w := register(t, e)
		defer beating(e, w)()
		working.Go(func() {
			for work.Err() == nil {
				jobs, err := e.Fetch(work, &FetchRequest{Worker: w, Queues: names, Max: 7, Wait: time.Second})
				if err != nil && asError(err).Code != CodeUnavailable && work.Err() == nil {
					t.Errorf("fetch: %v", err)
				}
				for i := range jobs {
					if !finishes(ctx, t, e, w, &jobs[i]) {
						return
					}
					if _, twice := ended.LoadOrStore(jobs[i].ID, true); twice {
						t.Errorf("job %v ended twice", jobs[i].ID)
					}
					endedCount.Add(1)
				}
				if len(jobs) == 0 { // it holds nothing: what it was leased when a lead moved never reached it
					_, _ = e.ResumeWorker(work, w, nil)
				}
			}
		})
	}
	for i := range 6 {
		c.lead(shard.ID(i%3+1), uint64((i+1)%3+1))
	}
	making.Wait()
	c.await("all jobs have ended", func() bool { return endedCount.Load() >= storedCount.Load() || t.Failed() })
	stop()
	working.Wait()
	stored.Range(func(id, _ any) bool {
		if _, ok := ended.Load(id); !ok {
			t.Errorf("job %v never ended", id)
		}
		return true
	})
}

// finishes acks a job until that has a known outcome.
func finishes(ctx context.Context, t *testing.T, e *Engine, w WorkerID, j *FetchedJob) bool {
	for {
		out, err := e.Finish(ctx, w, []Outcome{{Kind: OutcomeAck, ID: j.ID, Token: j.Token}}, nil)
		if err == nil && out[0].Err == nil {
			return true
		}
		if err == nil && out[0].Err.Code != CodeUnknownOutcome && out[0].Err.Code != CodeUnavailable || ctx.Err() != nil {
			t.Errorf("ack: %v, %+v", err, out)
			return false
		}
	}
}
