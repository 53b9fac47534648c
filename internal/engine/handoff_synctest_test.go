package engine

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// gate is a disk whose syncs can be held up.
type gate struct {
	*vfs.Sim
	mu   sync.Mutex
	held chan struct{}
}

func newGate() *gate {
	g := &gate{Sim: vfs.NewSim(1, vfs.SimOptions{})}
	g.SetHook(func(op vfs.Op) error {
		if op.Kind != vfs.OpSyncData {
			return nil
		}
		g.mu.Lock()
		held := g.held
		g.mu.Unlock()
		if held != nil {
			<-held
		}
		return nil
	})
	return g
}

// hold makes syncs wait until the function returned is called.
func (g *gate) hold() (release func()) {
	held := make(chan struct{})
	g.mu.Lock()
	g.held = held
	g.mu.Unlock()
	return func() {
		g.mu.Lock()
		g.held = nil
		g.mu.Unlock()
		close(held)
	}
}

// fetched is the outcome of a Fetch that ran in a goroutine of its own.
type fetched struct {
	jobs []FetchedJob
	err  error
}

func (e *Engine) fetchAside(ctx context.Context, r *FetchRequest) <-chan fetched {
	done := make(chan fetched, 1)
	go func() {
		jobs, err := e.Fetch(ctx, r)
		done <- fetched{jobs, err}
	}()
	return done
}

// parked counts the fetches parked on a queue's shard.
func parked(e *Engine, name string) int {
	return e.routes.byName(name).homes[0].pump.stats().ParkedFetches
}

func batches(e *Engine, name string) uint64 {
	return e.routes.byName(name).homes[0].pump.batches.Load()
}

// An enqueue for which a fetch is parked takes one log entry: the job is stored and leased by it.
func TestHandOffTakesOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		ack(t, e, first(t, e, enqueue(t, e, jobs("q", 1)...)))
		got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 10, Wait: time.Minute})
		synctest.Wait()
		second := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 10, Wait: time.Minute})
		synctest.Wait()
		if n := parked(e, "q"); n != 2 {
			t.Fatalf("%d fetches are parked, want 2", n)
		}
		before := batches(e, "q")
		ids := enqueue(t, e, jobs("q", 3)...)
		f := <-got
		if f.err != nil || len(f.jobs) != 3 || f.jobs[0].ID != ids[0] {
			t.Fatalf("fetched %+v", f)
		}
		if n := batches(e, "q") - before; n != 1 {
			t.Fatalf("the enqueue and its fetch took %d entries, want 1", n)
		}
		if n := parked(e, "q"); n != 1 {
			t.Fatalf("%d fetches are parked, want the second one", n)
		}
		if h := e.routes.byName("q").homes[0].pump.stats().HandedOff; h != 1 {
			t.Fatalf("%d fetches were handed a job, want 1", h)
		}
		// A job that comes back wakes it too.
		if _, err := e.Finish(t.Context(), 0, []Outcome{{Kind: OutcomeRelease, ID: f.jobs[1].ID, Token: f.jobs[1].Token}}, nil); err != nil {
			t.Fatal(err)
		}
		if s := <-second; s.err != nil || len(s.jobs) != 1 || s.jobs[0].ID != ids[1] {
			t.Fatalf("the second fetch got %+v", s)
		}
		if n := parked(e, "q"); n != 0 {
			t.Fatalf("%d fetches are parked, want none", n)
		}
	})
}

// first fetches the one job there is.
func first(t testing.TB, e *Engine, ids []JobID) FetchedJob {
	t.Helper()
	d, err := e.Job(t.Context(), ids[0])
	if err != nil {
		t.Fatal(err)
	}
	return fetchJobs(t, e, 0, 1, d.QueueName)[0]
}

// No more fetches ride than there are jobs for them, and the oldest go first.
func TestHandOffIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		ack(t, e, first(t, e, enqueue(t, e, jobs("q", 1)...)))
		var waiting []<-chan fetched
		for range 5 {
			waiting = append(waiting, e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 1, Wait: time.Minute}))
			synctest.Wait()
		}
		for i := range 5 {
			before := batches(e, "q")
			ids := enqueue(t, e, jobs("q", 1)...)
			f := <-waiting[i]
			if f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != ids[0] {
				t.Fatalf("fetch %d got %+v", i, f)
			}
			if n := batches(e, "q") - before; n != 1 {
				t.Fatalf("%d entries for job %d, want 1", n, i)
			}
			if n := parked(e, "q"); n != 4-i {
				t.Fatalf("%d fetches are parked after job %d", n, i)
			}
		}
	})
}

func TestFetchThatFindsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		ack(t, e, first(t, e, enqueue(t, e, jobs("q", 1)...)))
		before := batches(e, "q")
		if got := fetchJobs(t, e, 0, 1, "q"); len(got) != 0 {
			t.Fatalf("fetched %+v", got)
		}
		start := time.Now()
		got, err := e.Fetch(t.Context(), &FetchRequest{Queues: []string{"q", "nowhere"}, Max: 1, Wait: 3 * time.Second})
		if err != nil || len(got) != 0 || time.Since(start) != 3*time.Second {
			t.Fatalf("fetched %+v, %v after %v", got, err, time.Since(start))
		}
		if n := batches(e, "q") - before; n != 0 || parked(e, "q") != 0 {
			t.Fatalf("%d entries, %d parked", n, parked(e, "q"))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = e.Fetch(ctx, &FetchRequest{Queues: []string{"q"}, Max: 1, Wait: time.Minute})
		wantError(t, err, CodeDeadlineExceeded, ReasonDeadline)
		if parked(e, "q") != 0 {
			t.Fatal("a fetch whose caller left is still parked")
		}
	})
}

// A fetch from a queue that does not exist creates nothing and is served when the queue is made.
func TestFetchWaitsForItsQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		none := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"new"}, Max: 1, Wait: time.Minute})
		some := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"other", "new"}, Max: 1, Wait: time.Minute})
		synctest.Wait()
		if n := len(e.routes.table().byName); n != 0 {
			t.Fatalf("%d queues were made by fetches", n)
		}
		enqueue(t, e, jobs("other", 1)...)
		if f := <-some; f.err != nil || len(f.jobs) != 1 || f.jobs[0].QueueName != "other" {
			t.Fatalf("fetched %+v", f)
		}
		enqueue(t, e, jobs("new", 1)...)
		if f := <-none; f.err != nil || len(f.jobs) != 1 || f.jobs[0].QueueName != "new" {
			t.Fatalf("fetched %+v", f)
		}
	})
}

// A fetch over queues of several shards is parked on all of them and served by one.
func TestFetchOverSeveralShards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		names := []string{"a", "b"}
		for _, name := range names {
			ack(t, e, first(t, e, enqueue(t, e, jobs(name, 1)...)))
		}
		if e.routes.byName("a").homes[0].pump == e.routes.byName("b").homes[0].pump {
			t.Fatal("both queues live on one shard")
		}
		for range 3 {
			for _, name := range names {
				got := e.fetchAside(t.Context(), &FetchRequest{Queues: names, Max: 5, Wait: time.Minute})
				synctest.Wait()
				if parked(e, "a") != 1 || parked(e, "b") != 1 {
					t.Fatalf("parked %d and %d", parked(e, "a"), parked(e, "b"))
				}
				ids := enqueue(t, e, jobs(name, 2)...)
				f := <-got
				if f.err != nil || len(f.jobs) != 2 || f.jobs[0].ID != ids[0] {
					t.Fatalf("fetched %+v", f)
				}
				if parked(e, "a") != 0 || parked(e, "b") != 0 {
					t.Fatal("the fetch is still parked")
				}
				ack(t, e, f.jobs...)
			}
		}
		// Without waiting it finds the jobs of either.
		enqueue(t, e, jobs("b", 1)...)
		if got := fetchJobs(t, e, 0, 5, "a", "b"); len(got) != 1 {
			t.Fatalf("fetched %+v", got)
		}
	})
}

// A fetch whose caller leaves while its entry is being stored gives back what it was granted.
func TestAbandonedFetchGivesItsLeasesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newGate()
		e := open(t, disk, nil)
		ids := enqueue(t, e, jobs("q", 2)...)
		ctx, cancel := context.WithCancel(t.Context())
		release := disk.hold()
		got := e.fetchAside(ctx, &FetchRequest{Queues: []string{"q"}, Max: 2, Wait: time.Minute})
		synctest.Wait()
		cancel()
		f := <-got
		wantError(t, f.err, CodeCancelled, ReasonCancelled)
		release()
		synctest.Wait()
		for _, id := range ids {
			d, err := e.Job(t.Context(), id)
			if err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 0 || d.Info.Failures != 0 {
				t.Fatalf("job %+v, %v", d.Info, err)
			}
		}
		if again := fetchJobs(t, e, 0, 2, "q"); len(again) != 2 || again[0].ID != ids[0] || again[0].Attempt != 1 || again[1].Attempt != 1 {
			t.Fatalf("fetched %+v", again)
		}
	})
}

// A fetch whose wait ends while its entry is being stored still gets its jobs.
func TestWaitOverWhileInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newGate()
		e := open(t, disk, nil)
		enqueue(t, e, jobs("q", 1)...)
		release := disk.hold()
		got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 2, Wait: time.Second})
		time.Sleep(2 * time.Second)
		release()
		if f := <-got; f.err != nil || len(f.jobs) != 1 {
			t.Fatalf("fetched %+v", f)
		}
	})
}
