package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// inCluster runs a test with three nodes, in which node i leads shard i and node 1 the catalog.
func inCluster(t *testing.T, test func(t *testing.T, c *fleet)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := found(t)
		defer c.close()
		test(t, c)
	})
}

// TestEveryOperationEverywhere: a node that leads neither the queue's shard nor the catalog answers all that the leader would.
func TestEveryOperationEverywhere(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[3]
		ids := enqueue(t, e, jobs(name, 5)...)
		for _, id := range ids {
			if id.Shard != 2 {
				t.Fatalf("job %v is not on shard 2", id)
			}
		}
		w := register(t, e)
		got := fetchJobs(t, e, w, 2, name)
		if len(got) != 2 || got[0].ID != ids[0] || string(got[1].Spec.Payload) != name+"-1" || got[0].QueueName != name || got[0].Attempt != 1 {
			t.Fatalf("fetched %+v", got)
		}
		if err := e.Progress(t.Context(), got[0].ID, got[0].Token, 40, "nearly"); err != nil {
			t.Fatal(err)
		}
		d, err := e.Job(t.Context(), ids[0])
		if err != nil || d.Info.State != queue.StateRunning || d.Progress != "nearly" || d.QueueName != name || string(d.Spec.Payload) != name+"-0" {
			t.Fatalf("%+v, %v", d, err)
		}
		reply, err := e.Heartbeat(t.Context(), w, []LeaseRef{{got[0].ID, got[0].Token}, {got[1].ID, got[1].Token + 1}})
		if err != nil || len(reply.Lost) != 1 || reply.Lost[0].ID != got[1].ID {
			t.Fatalf("%+v, %v", reply, err)
		}
		ended, err := e.Finish(t.Context(), w, []Outcome{
			{Kind: OutcomeAck, ID: got[0].ID, Token: got[0].Token, Result: []byte("done")},
			{Kind: OutcomeFail, ID: got[1].ID, Token: got[1].Token, Failure: Failure{Message: "broke", Final: true}},
		}, nil)
		if err != nil || ended[0].Err != nil || ended[1].Err != nil || ended[1].State != queue.StateDead {
			t.Fatalf("%+v, %v", ended, err)
		}
		if d, err = e.Job(t.Context(), ids[1]); err != nil || len(d.Errors) != 1 || d.Errors[0].Message != "broke" {
			t.Fatalf("%+v, %v", d, err)
		}
		page, cursor, err := e.List(t.Context(), ListRequest{Queue: name, State: queue.StateReady, Limit: 2, Full: true})
		if err != nil || len(page) != 2 || cursor == "" || page[0].ID != ids[2] || string(page[0].Spec.Payload) != name+"-2" {
			t.Fatalf("%+v, %q, %v", page, cursor, err)
		}
		if page, _, err = e.List(t.Context(), ListRequest{Queue: name, State: queue.StateReady, Limit: 2, Cursor: cursor}); err != nil || len(page) != 1 || page[0].ID != ids[4] {
			t.Fatalf("%+v, %v", page, err)
		}
		if s, err := e.Cancel(t.Context(), ids[2]); err != nil || s != queue.StateCancelled {
			t.Fatalf("%v, %v", s, err)
		}
		if n, next, err := e.RetryAllDead(t.Context(), name, "", 10); n != 1 || next != "" || err != nil {
			t.Fatalf("%d, %v, %v", n, next, err)
		}
		if s, err := e.PauseQueue(t.Context(), name); err != nil || !s.Info.Settings.Paused {
			t.Fatalf("%+v, %v", s, err)
		}
		if got := fetchJobs(t, c.nodes[2], 0, 10, name); len(got) != 0 {
			t.Fatalf("fetched %+v from a paused queue", got)
		}
		if s, err := e.ResumeQueue(t.Context(), name); err != nil || s.Info.Settings.Paused || s.OldestReadyAt.IsZero() {
			t.Fatalf("%+v, %v", s, err)
		}
		all, err := e.Queues(t.Context())
		if err != nil || len(all) == 0 {
			t.Fatalf("%+v, %v", all, err)
		}
		for id, n := range c.nodes {
			ws, err := n.Workers(t.Context())
			if err != nil || len(ws) != 1 || ws[0].ID != w || ws[0].Info.Name != "w" {
				t.Fatalf("node %d: %+v, %v", id, ws, err)
			}
		}
		if err := c.nodes[2].SignalWorker(t.Context(), w, WorkerQuiet); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * WorkerTTLDefault / 5)
		if reply, err = e.Heartbeat(t.Context(), w, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * WorkerTTLDefault / 5)
		if reply, err = e.Heartbeat(t.Context(), w, nil); err != nil || reply.State != WorkerQuiet {
			t.Fatalf("%+v, %v", reply, err)
		}
		if err := e.DeregisterWorker(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		_, err = c.nodes[1].Heartbeat(t.Context(), w, nil)
		wantError(t, err, CodeNotFound, ReasonWorkerLost)
	})
}

// TestNewQueueIsKnownEverywhere: who was told of a queue by one node finds it on all others, and a fetch that waits for it there gets its
// jobs.
func TestNewQueueIsKnownEverywhere(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		got := c.nodes[3].fetchAside(t.Context(), &FetchRequest{Queues: []string{"later"}, Max: 1, Wait: time.Minute})
		time.Sleep(time.Second)
		ids := enqueue(t, c.nodes[2], jobs("later", 1)...)
		if s, err := c.nodes[1].Queue(t.Context(), "later"); err != nil || s.Info.Enqueued != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if f := <-got; f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != ids[0] {
			t.Fatalf("%+v", f)
		}
		_, err := c.nodes[2].Queue(t.Context(), "never")
		wantError(t, err, CodeNotFound, ReasonQueueNotFound)
	})
}

// TestUpdatesOnAllNodes: updates of a queue's settings by different nodes at once are each applied to what the one before it left.
func TestUpdatesOnAllNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		const each = 10
		before, err := c.nodes[1].UpdateQueue(t.Context(), "q", func(s *Settings) { s.DepthMax = 1000 })
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for _, e := range c.nodes {
			all.Go(func() {
				for range each {
					if _, err := e.UpdateQueue(context.Background(), "q", func(s *Settings) { s.DepthMax++ }); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		after, err := c.nodes[3].Queue(t.Context(), "q")
		if err != nil || after.Info.Settings.DepthMax != before.Info.Settings.DepthMax+3*each {
			t.Fatalf("the depth is %d, %v", after.Info.Settings.DepthMax, err)
		}
	})
}

// TestFetchAcrossNodes: a fetch over queues that three nodes lead gets what comes first, wherever that is, and keeps nothing else.
func TestFetchAcrossNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
		e := c.nodes[1]
		w := register(t, e)
		stop := beating(e, w)
		defer stop()
		for _, name := range names {
			got := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: names, Max: 5, Wait: time.Minute})
			time.Sleep(time.Second)
			ids := enqueue(t, c.nodes[2], jobs(name, 1)...)
			f := <-got
			if f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != ids[0] || f.jobs[0].QueueName != name {
				t.Fatalf("%+v", f)
			}
			ack(t, e, f.jobs...)
		}
		// All at once: one of them is the worker's, and the others are still there.
		got := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: names, Max: 1, Wait: time.Minute})
		time.Sleep(time.Second)
		for _, name := range names {
			enqueue(t, c.nodes[3], jobs(name, 1)...)
		}
		if f := <-got; f.err != nil || len(f.jobs) != 1 {
			t.Fatalf("%+v", f)
		}
		time.Sleep(time.Second)
		if ws, err := e.Workers(t.Context()); err != nil || ws[0].Running != 1 {
			t.Fatalf("%+v, %v; want one running", ws, err)
		}
		for range 2 {
			more := fetchJobs(t, e, w, 1, names...)
			if len(more) != 1 || more[0].Failures != 0 || more[0].Crashes != 0 {
				t.Fatalf("%+v", more)
			}
			ack(t, e, more...)
		}
		// One that waits in vain ends in time, and one whose caller leaves leaves nothing behind.
		at := time.Now()
		if jobs, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: names, Max: 1, Wait: 3 * time.Second}); err != nil || len(jobs) != 0 {
			t.Fatalf("%+v, %v", jobs, err)
		}
		if took := time.Since(at); took < 3*time.Second || took > 4*time.Second {
			t.Errorf("it waited %v", took)
		}
	})
}

// beating has a worker send heartbeats until stopped.
func beating(e *Engine, w WorkerID) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(WorkerTTLDefault / 3)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = e.Heartbeat(e.background, w, nil)
			case <-done:
				return
			}
		}
	}()
	return func() { close(done); <-ended }
}
