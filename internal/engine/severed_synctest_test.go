package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// severedBy is when the jobs of a worker whose connection broke have to be back, and severedNot when they may not be yet.
const (
	severedBy  = WorkerTTLDefault/2 + 100*time.Millisecond
	severedNot = WorkerTTLDefault * 2 / 5
)

// lives has a worker give signs of life for a while.
func lives(t *testing.T, e *Engine, w WorkerID, d time.Duration) {
	t.Helper()
	for ; d > 0; d -= WorkerTTLDefault / 5 {
		if _, err := e.Heartbeat(t.Context(), w, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(min(d, WorkerTTLDefault/5))
	}
}

// A worker whose connection broke loses its jobs after the grace, unless it comes back within it.
func TestSeveredWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		ids := enqueue(t, e, jobs("q", 2)...)
		dies, back := register(t, e), register(t, e)
		fetchJobs(t, e, dies, 1, "q")
		fetchJobs(t, e, back, 1, "q")
		time.Sleep(time.Millisecond)
		lives(t, e, dies, time.Millisecond)
		lives(t, e, back, time.Millisecond)
		e.WorkerLeft(dies, true)
		e.WorkerLeft(back, true)
		e.WorkerLeft(back+100, true) // nobody
		time.Sleep(severedNot - time.Millisecond)
		if a, b := state(t, e, ids[0]), state(t, e, ids[1]); a != queue.StateRunning || b != queue.StateRunning {
			t.Fatalf("jobs are %v and %v within the grace", a, b)
		}
		if _, err := e.Heartbeat(t.Context(), back, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(severedBy - severedNot)
		if d, err := e.Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 1 {
			t.Fatalf("%+v, %v", d.Info, err)
		}
		lives(t, e, back, 3*WorkerTTLDefault)
		if s := state(t, e, ids[1]); s != queue.StateRunning {
			t.Errorf("the job of the worker that came back is %v", s)
		}
	})
}

// TestSeveredAcrossNodes: the jobs of a worker whose connection to one node broke go back on all shards, by the word of another node; those of
// one that went on at a third node stay, also when the word of the break comes late.
func TestSeveredAcrossNodes(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
		e := c.nodes[3]
		hold := func() (WorkerID, []JobID) {
			w := register(t, e)
			var ids []JobID
			for _, name := range names {
				ids = append(ids, enqueue(t, e, jobs(name, 1)...)...)
				fetchJobs(t, e, w, 1, name)
			}
			return w, ids
		}
		states := func(ids []JobID, want State) {
			t.Helper()
			for _, id := range ids {
				if s := state(t, c.nodes[1], id); s != want {
					t.Errorf("job %v is %v; want %v", id, s, want)
				}
			}
		}
		dies, lost := hold()
		moves, kept := hold()
		late, behind := hold()
		time.Sleep(WorkerTTLDefault / 2)
		for _, w := range []WorkerID{dies, moves, late} {
			if _, err := e.Heartbeat(t.Context(), w, nil); err != nil {
				t.Fatal(err)
			}
		}
		e.WorkerLeft(dies, true)
		e.WorkerLeft(moves, true)
		time.Sleep(time.Second)
		if _, err := c.nodes[2].Heartbeat(t.Context(), moves, nil); err != nil {
			t.Fatal(err)
		}
		c.net.cutOff(3, true)
		e.WorkerLeft(late, true)
		defer beating(c.nodes[2], moves)()
		defer beating(c.nodes[2], late)()
		if _, err := c.nodes[2].Heartbeat(t.Context(), late, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second / 2)
		c.net.cutOff(3, false)
		states(lost, queue.StateRunning)
		time.Sleep(severedBy - 3*time.Second/2)
		c.leader(3)
		states(lost, queue.StateReady)
		time.Sleep(3 * WorkerTTLDefault)
		states(kept, queue.StateRunning)
		states(behind, queue.StateRunning)
		if e.workers.get(late).told.Load() == 0 {
			t.Error("the word of the break never came")
		}
	})
}

// TestSeveredUnderAnotherJudge: who leads the catalog anew hears of the break, too, and gives the worker the grace once more.
func TestSeveredUnderAnotherJudge(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		ids := enqueue(t, c.nodes[3], jobs(name, 2)...)
		dies, moves := register(t, c.nodes[3]), register(t, c.nodes[3])
		fetchJobs(t, c.nodes[3], dies, 1, name)
		fetchJobs(t, c.nodes[3], moves, 1, name)
		c.nodes[3].WorkerLeft(dies, true)
		c.nodes[3].WorkerLeft(moves, true)
		time.Sleep(time.Millisecond)
		if _, err := c.nodes[1].Heartbeat(t.Context(), moves, nil); err != nil {
			t.Fatal(err)
		}
		defer beating(c.nodes[1], moves)()
		if c.nodes[1].workers.get(dies).severed.Load() == 0 {
			t.Fatal("the node that judges was not told")
		}
		c.lead(0, 2)
		if s := state(t, c.nodes[1], ids[0]); s != queue.StateRunning {
			t.Errorf("the job is %v", s)
		}
		time.Sleep(WorkerTTLDefault/pulseShare + severedBy)
		if s := state(t, c.nodes[1], ids[0]); s != queue.StateReady {
			t.Errorf("the job is %v", s)
		}
		time.Sleep(2 * WorkerTTLDefault)
		if s := state(t, c.nodes[1], ids[1]); s != queue.StateRunning {
			t.Errorf("the job of the worker that went on elsewhere is %v", s)
		}
	})
}

// TestSilentWithinTTL: whatever a worker's own TTL, its jobs are with others before the one that was asked for has passed.
func TestSilentWithinTTL(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		const workers = 20
		ids := enqueue(t, c.nodes[3], jobs(name, workers)...)
		for range workers {
			w := register(t, c.nodes[3])
			fetchJobs(t, c.nodes[3], w, 1, name)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(WorkerTTLDefault*4/5 - workers*7*time.Millisecond)
		for _, id := range ids {
			if s := state(t, c.nodes[1], id); s != queue.StateRunning {
				t.Errorf("job %v is %v after 80 %% of the TTL", id, s)
			}
		}
		time.Sleep(WorkerTTLDefault/5 - 50*time.Millisecond)
		for _, id := range ids {
			if s := state(t, c.nodes[1], id); s != queue.StateReady {
				t.Errorf("job %v is %v when the TTL has passed", id, s)
			}
		}
	})
}

// TestDebtsEndWithTheStream: what a worker did not know of when it came to one node is not held against what it is given at the next.
func TestDebtsEndWithTheStream(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		first, next := c.nodes[3], c.nodes[1]
		ids := enqueue(t, first, jobs(name, 1)...)
		w := register(t, first)
		first.workers.get(w).owe(2, knownLeases{}) // as if shard 2 had no leader when the worker came
		first.WorkerLeft(w, false)
		if _, err := next.ResumeWorker(t.Context(), w, nil); err != nil {
			t.Fatal(err)
		}
		defer beating(next, w)()
		got := fetchJobs(t, next, w, 1, name)
		time.Sleep(2 * WorkerTTLDefault / pulseShare) // the first node's monitor has come by
		if s := state(t, next, ids[0]); s != queue.StateRunning {
			t.Fatalf("the job is %v, and its worker runs it", s)
		}
		ack(t, next, got...)
	})
}
