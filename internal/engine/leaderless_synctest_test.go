package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// twoShards opens an engine with the queues a and b on different shards.
func twoShards(t *testing.T) (e *Engine, a, b *pump) {
	t.Helper()
	e = open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	for _, name := range []string{"a", "b"} {
		ack(t, e, first(t, e, enqueue(t, e, jobs(name, 1)...)))
	}
	a, b = e.routes.byName("a").homes[0].pump, e.routes.byName("b").homes[0].pump
	if a == b {
		t.Fatal("both queues live on one shard")
	}
	return e, a, b
}

// lose takes the lead of a shard, and regain gives it back.
func lose(t *testing.T, e *Engine, p *pump) {
	t.Helper()
	onShard(t, e, p, func() { p.Leadership(false, 1) })
}

func regain(t *testing.T, e *Engine, p *pump) {
	t.Helper()
	onShard(t, e, p, func() { p.Leadership(true, 2) })
	p.wake()
}

// TestFetchPassesOverLeaderlessShards: without waiting, those that serve are asked, and it fails when none does.
func TestFetchPassesOverLeaderlessShards(t *testing.T) {
	e, a, b := twoShards(t)
	fetch := func() ([]FetchedJob, error) {
		return e.Fetch(t.Context(), &FetchRequest{Queues: []string{"a", "b"}, Max: 5})
	}
	lose(t, e, a)
	for range 2 { // whichever shard is first
		if got, err := fetch(); len(got) != 0 || err != nil {
			t.Fatalf("%+v, %v", got, err)
		}
		enqueue(t, e, jobs("b", 1)...)
		if got, err := fetch(); len(got) != 1 || err != nil {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	lose(t, e, b)
	for range 2 {
		_, err := fetch()
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
	}
}

// TestParkedFetchOutlivesALead: a fetch that waits on several shards goes on with those that serve, comes to the others when
// they do, and fails when none is left.
func TestParkedFetchOutlivesALead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a, b := twoShards(t)
		aside := func() <-chan fetched {
			got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"a", "b"}, Max: 5, Wait: time.Minute})
			synctest.Wait()
			return got
		}
		served := func(got <-chan fetched, name string) {
			t.Helper()
			ids := enqueue(t, e, jobs(name, 1)...)
			f := <-got
			if f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != ids[0] {
				t.Fatalf("fetched %+v", f)
			}
			synctest.Wait()
			if parked(e, "a") != 0 || parked(e, "b") != 0 {
				t.Fatal("the fetch is still parked")
			}
		}
		got := aside()
		lose(t, e, a)
		served(got, "b") // lost while it waits
		got = aside()
		served(got, "b") // lost before it comes
		got = aside()
		regain(t, e, a)
		served(got, "a") // back while it waits
		got = aside()
		lose(t, e, a)
		regain(t, e, a)
		lose(t, e, b)
		served(got, "a") // back, and the other lost
		got = aside()
		lose(t, e, a)
		wantError(t, (<-got).err, CodeUnavailable, ReasonNotLeader)
		wantError(t, (<-aside()).err, CodeUnavailable, ReasonNotLeader)
		if parked(e, "a") != 0 || parked(e, "b") != 0 {
			t.Fatal("a failed fetch is still parked")
		}
		regain(t, e, b)
		got = aside()
		regain(t, e, a)
		served(got, "a")
	})
}

// TestFetchEndsWithTheNode: one that sleeps on a shard without a leader does too.
func TestFetchEndsWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a, _ := twoShards(t)
		lose(t, e, a)
		got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"a", "b"}, Max: 5, Wait: time.Minute})
		synctest.Wait()
		shut(t, e)
		wantError(t, (<-got).err, CodeUnavailable, ReasonStopping)
	})
}

// TestHeartbeatPassesOverLeaderlessShards: it is a sign of life, and judges the leases of the shards that can be asked.
func TestHeartbeatPassesOverLeaderlessShards(t *testing.T) {
	e, a, _ := twoShards(t)
	w := register(t, e)
	enqueue(t, e, append(jobs("a", 1), jobs("b", 1)...)...)
	inA, inB := fetchJobs(t, e, w, 1, "a")[0], fetchJobs(t, e, w, 1, "b")[0]
	held := []LeaseRef{{inA.ID, inA.Token + 1}, {inB.ID, inB.Token + 1}} // lost both
	lose(t, e, a)
	reply, err := e.Heartbeat(t.Context(), w, held)
	if err != nil || len(reply.Lost) != 1 || reply.Lost[0] != held[1] {
		t.Errorf("%+v, %v; want what the other shard lost", reply, err)
	}
	regain(t, e, a)
	if reply, err = e.Heartbeat(t.Context(), w, held); err != nil || len(reply.Lost) != 2 {
		t.Errorf("%+v, %v; want both", reply, err)
	}
}

// TestFinishPassesOverLeaderlessShards: what one shard cannot take now is the outcome's own error, even when it is the only
// one, so that a worker's stream goes on.
func TestFinishPassesOverLeaderlessShards(t *testing.T) {
	e, a, _ := twoShards(t)
	enqueue(t, e, append(jobs("a", 1), jobs("b", 1)...)...)
	got := append(fetchJobs(t, e, 0, 1, "a"), fetchJobs(t, e, 0, 1, "b")...)
	lose(t, e, a)
	outcomes := []Outcome{{Kind: OutcomeAck, ID: got[0].ID, Token: got[0].Token}, {Kind: OutcomeAck, ID: got[1].ID, Token: got[1].Token}}
	for _, n := range []int{1, 2} {
		ended, err := e.Finish(t.Context(), 0, outcomes[:n], nil)
		if err != nil {
			t.Fatal(err)
		}
		wantError(t, ended[0].Err, CodeUnavailable, ReasonNotLeader)
		if n == 2 && ended[1].Err != nil {
			t.Errorf("the other shard's: %v", ended[1].Err)
		}
	}
}

// TestResumeWithALeaderlessShard: the worker comes back, works for the other shards, and the leases it does not know of go
// back when their shard does; only then it fetches there.
func TestResumeWithALeaderlessShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a, _ := twoShards(t)
		w := register(t, e)
		ids := enqueue(t, e, jobs("a", 2)...)
		known := fetchJobs(t, e, w, 1, "a")[0]
		fetchJobs(t, e, w, 1, "a") // never reaches it
		lose(t, e, a)
		held := []LeaseRef{{known.ID, known.Token}}
		if reply, err := e.ResumeWorker(t.Context(), w, held); err != nil || len(reply.Lost) != 0 {
			t.Fatalf("%+v, %v", reply, err)
		}
		_, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{"a"}, Max: 1})
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		got := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: []string{"a", "b"}, Max: 1, Wait: time.Minute})
		synctest.Wait()
		for range 10 {
			time.Sleep(time.Second)
			if _, err := e.Heartbeat(t.Context(), w, held); err != nil {
				t.Fatal(err)
			}
		}
		regain(t, e, a)
		f := <-got // the job that it did not know of
		if f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != ids[1] || f.jobs[0].Crashes != 0 {
			t.Fatalf("fetched %+v", f)
		}
		if s := state(t, e, known.ID); s != queue.StateRunning {
			t.Errorf("the job it knew of is %v", s)
		}
	})
}

// TestLostWorkerWithALeaderlessShard: what it held elsewhere goes back at once, and the rest when its shard is back.
func TestLostWorkerWithALeaderlessShard(t *testing.T) {
	for name, goodbye := range map[string]bool{"silent": false, "goodbye": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, a, _ := twoShards(t)
				w := register(t, e)
				ids := enqueue(t, e, append(jobs("a", 1), jobs("b", 1)...)...)
				fetchJobs(t, e, w, 1, "a")
				fetchJobs(t, e, w, 1, "b")
				lose(t, e, a)
				if goodbye {
					if err := e.DeregisterWorker(t.Context(), w); err != nil {
						t.Fatal(err)
					}
				} else {
					time.Sleep(2 * WorkerTTLDefault)
				}
				if one, other := state(t, e, ids[0]), state(t, e, ids[1]); one != queue.StateRunning || other != queue.StateReady {
					t.Fatalf("jobs are %v and %v", one, other)
				}
				time.Sleep(2 * WorkerTTLDefault)
				regain(t, e, a)
				time.Sleep(WorkerTTLDefault)
				for _, id := range ids {
					d, err := e.Job(t.Context(), id)
					if err != nil || d.Info.State != queue.StateReady || (d.Info.Crashes == 0) != goodbye {
						t.Errorf("job %+v, %v", d.Info, err)
					}
				}
				if workers, err := e.Workers(t.Context()); err != nil || len(workers) != 0 {
					t.Errorf("%+v, %v; want none", workers, err)
				}
			})
		})
	}
}

// TestNewLeadHoldsDeadlines: a lease that ran out while the shard had no leader can still be extended or ended for a TTL.
func TestNewLeadHoldsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, a, _ := twoShards(t)
		ids := enqueue(t, e, jobs("a", 3)...)
		got, err := e.Fetch(t.Context(), &FetchRequest{Queues: []string{"a"}, Max: 3, Lease: 3 * time.Second})
		if err != nil || len(got) != 3 {
			t.Fatalf("%+v, %v", got, err)
		}
		lose(t, e, a)
		time.Sleep(10 * time.Second)
		regain(t, e, a)
		time.Sleep(WorkerTTLDefault / 2)
		ack(t, e, got[0])
		if _, err := e.Extend(t.Context(), ids[1], got[1].Token, time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(WorkerTTLDefault)
		for i, want := range []State{queue.StateCompleted, queue.StateRunning, queue.StateReady} {
			if s := state(t, e, ids[i]); s != want {
				t.Errorf("job %d is %v, want %v", i, s, want)
			}
		}
	})
}
