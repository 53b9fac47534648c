package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// TestCancelReachesAnotherNode: a worker hears at once that its job is cancelled, though the job's leader, the worker and who cancels are on
// three nodes; its heartbeats say it again.
func TestCancelReachesAnotherNode(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[3]
		w := register(t, e)
		c.await("the leader knows the worker", func() bool { return c.nodes[2].workers.get(w) != nil })
		ids := enqueue(t, e, jobs(name, 1)...)
		got := fetchJobs(t, e, w, 1, name)
		notices, end := e.Notices(w)
		defer end()
		at := time.Now()
		if s, err := c.nodes[1].Cancel(t.Context(), ids[0]); err != nil || s != queue.StateRunning {
			t.Fatalf("%v, %v", s, err)
		}
		n := <-notices
		if !n.Cancel || n.Lease != (LeaseRef{ids[0], got[0].Token}) {
			t.Fatalf("%+v", n)
		}
		if took := time.Since(at); took > time.Second {
			t.Errorf("it took %v", took)
		}
		reply, err := e.Heartbeat(t.Context(), w, []LeaseRef{{ids[0], got[0].Token}})
		if err != nil || len(reply.Cancel) != 1 {
			t.Fatalf("%+v, %v", reply, err)
		}
	})
}

// TestSilentWorkerAcrossNodes: a worker whose jobs are on three leaders and that is silent loses them all after its TTL and not before;
// one that another node hears lives. It is so too when the judge has just died.
func TestSilentWorkerAcrossNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
		c.lead(0, 3)
		e := c.nodes[2]
		hold := func() (WorkerID, []JobID) {
			w := register(t, e)
			var ids []JobID
			for _, name := range names {
				ids = append(ids, enqueue(t, e, jobs(name, 1)...)...)
				if got := fetchJobs(t, e, w, 1, name); len(got) != 1 {
					t.Fatalf("%+v", got)
				}
			}
			return w, ids
		}
		states := func(ids []JobID, want State) {
			t.Helper()
			for _, id := range ids {
				d, err := e.Job(t.Context(), id)
				if err != nil || d.Info.State != want {
					t.Errorf("job %v: %+v, %v; want state %v", id, d.Info, err, want)
				}
			}
		}
		alive, held := hold()
		stop := beating(e, alive)
		defer stop()
		_, lost := hold()
		time.Sleep(WorkerTTLDefault / 2)
		states(lost, queue.StateRunning)
		time.Sleep(2 * WorkerTTLDefault)
		states(lost, queue.StateReady)
		states(held, queue.StateRunning)
		for _, id := range lost {
			if d, err := e.Job(t.Context(), id); err != nil || d.Info.Crashes != 1 {
				t.Errorf("job %v: %+v, %v", id, d.Info, err)
			}
		}
		for _, n := range c.nodes {
			if ws, err := n.Workers(t.Context()); err != nil || len(ws) != 1 || ws[0].ID != alive || ws[0].Running != 3 {
				t.Errorf("%+v, %v", ws, err)
			}
		}
		hold() // takes the jobs that were lost, in their order, and not those made for it
		c.crash(3)
		time.Sleep(WorkerTTLDefault / 2)
		states(lost, queue.StateRunning)
		time.Sleep(3 * WorkerTTLDefault)
		states(held, queue.StateRunning)
		for _, id := range lost {
			if d, err := e.Job(t.Context(), id); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 2 {
				t.Errorf("job %v: %+v, %v", id, d.Info, err)
			}
		}
	})
}

// TestDismissedTwice: two nodes that both take themselves for the judge dismiss a worker, which counts once; what others hold stays theirs.
func TestDismissedTwice(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[3]
		w, other := register(t, e), register(t, e)
		ids := enqueue(t, e, jobs(name, 2)...)
		fetchJobs(t, e, w, 1, name)
		fetchJobs(t, e, other, 1, name)
		for _, judge := range []uint64{2, 1, 3} {
			if err := c.nodes[judge].dismiss(t.Context(), []WorkerID{w}, queue.AppendWorkerLost); err != nil {
				t.Fatalf("node %d: %v", judge, err)
			}
		}
		if d, err := e.Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 1 {
			t.Errorf("%+v, %v", d.Info, err)
		}
		if s := state(t, e, ids[1]); s != queue.StateRunning {
			t.Errorf("the other worker's job is %v", s)
		}
	})
}

// TestGoodbyeAcrossNodes: a worker that says goodbye on one node is gone on all, and no crash is counted.
func TestGoodbyeAcrossNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		w := register(t, c.nodes[3])
		ids := enqueue(t, c.nodes[3], jobs(name, 1)...)
		fetchJobs(t, c.nodes[3], w, 1, name)
		if err := c.nodes[3].DeregisterWorker(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if d, err := c.nodes[1].Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 0 {
			t.Fatalf("%+v, %v", d.Info, err)
		}
		synctest.Wait()
		for id, e := range c.nodes {
			_, err := e.Heartbeat(t.Context(), w, nil)
			if err == nil {
				t.Errorf("node %d still knows the worker", id)
			}
		}
	})
}

// TestWorkerComesToALateNode: a node whose catalog is behind does not call a worker lost that registered at another one.
func TestWorkerComesToALateNode(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		c.net.cutOff(3, true)
		w := register(t, c.nodes[1])
		if c.nodes[3].workers.get(w) != nil {
			t.Fatal("the node knows the worker, though it was cut off")
		}
		c.net.cutOff(3, false)
		if _, err := c.nodes[3].ResumeWorker(t.Context(), w, nil); err != nil {
			t.Fatal(err)
		}
		c.net.cutOff(3, true)
		w = register(t, c.nodes[1])
		c.net.cutOff(3, false)
		if _, err := c.nodes[3].Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{"q"}, Max: 1}); err != nil {
			t.Fatal(err)
		}
		_, err := c.nodes[3].ResumeWorker(t.Context(), w+1000, nil)
		wantError(t, err, CodeNotFound, ReasonWorkerLost)
	})
}

// TestWorkerChangesNodes: a worker whose node dies goes on at another one, with its jobs.
func TestWorkerChangesNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		w := register(t, c.nodes[3])
		enqueue(t, c.nodes[3], jobs(name, 2)...)
		got := fetchJobs(t, c.nodes[3], w, 1, name)
		fetchJobs(t, c.nodes[3], w, 1, name) // never reaches it
		c.crash(3)
		e := c.nodes[1]
		reply, err := e.ResumeWorker(t.Context(), w, []LeaseRef{{got[0].ID, got[0].Token}})
		if err != nil || len(reply.Lost) != 0 {
			t.Fatalf("%+v, %v", reply, err)
		}
		stop := beating(e, w)
		defer stop()
		time.Sleep(2 * WorkerTTLDefault)
		ack(t, e, got...)
		if more := fetchJobs(t, e, w, 5, name); len(more) != 1 || more[0].Crashes != 0 {
			t.Fatalf("%+v", more)
		}
	})
}

// TestBeatDuringAReport: what a worker says while its node reports what it said before is reported the next time.
func TestBeatDuringAReport(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		e := c.nodes[3]
		w := register(t, e)
		pulse := e.pulseInterval()
		time.Sleep(2 * pulse) // that it came is known
		c.net.delay(callLeg{3, 1, callBeats}, pulse*9/10)
		for i := range 4 {
			var last time.Time
			for range 2 { // the second while the first is reported, or a moment after it or before
				if _, err := e.Heartbeat(t.Context(), w, nil); err != nil {
					t.Fatal(err)
				}
				last = time.Now()
				time.Sleep(pulse * 3 / 4)
			}
			time.Sleep(2 * pulse)
			if known := c.nodes[1].workers.get(w).lastBeat(); last.Sub(known) > 10*time.Millisecond {
				t.Errorf("round %d: the node that judges does not know of the last sign of life, but of one %v before", i, last.Sub(known))
			}
			time.Sleep(pulse / 8)
		}
	})
}
