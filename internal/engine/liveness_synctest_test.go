package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// A worker that falls silent is lost: its jobs are ready again at once, with a crash counted, and it is told.
func TestSilentWorkerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		ids := enqueue(t, e, append(jobs("a", 2), jobs("b", 1)...)...)
		w, other := register(t, e), register(t, e)
		if got := fetchJobs(t, e, w, 5, "a"); len(got) != 2 {
			t.Fatalf("fetched %+v", got)
		}
		if got := fetchJobs(t, e, w, 5, "b"); len(got) != 1 {
			t.Fatalf("fetched %+v", got)
		}
		waiting := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: []string{"a"}, Max: 1, Wait: time.Minute})
		for range 10 {
			time.Sleep(time.Second)
			if _, err := e.Heartbeat(t.Context(), other, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range ids {
			if d, err := e.Job(t.Context(), id); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 1 {
				t.Fatalf("job %+v, %v", d.Info, err)
			}
		}
		f := <-waiting
		wantError(t, f.err, CodeNotFound, ReasonWorkerLost)
		_, err := e.Heartbeat(t.Context(), w, nil)
		wantError(t, err, CodeNotFound, ReasonWorkerLost)
		_, err = e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{"a"}, Max: 1})
		wantError(t, err, CodeNotFound, ReasonWorkerLost)
		ws, err := e.Workers(t.Context())
		if err != nil || len(ws) != 1 || ws[0].ID != other || e.Stats().WorkersLost != 1 {
			t.Fatalf("workers %+v, %v, lost %d", ws, err, e.Stats().WorkersLost)
		}
	})
}

// Jobs that are fetched for the stream of a worker that says nothing do not keep it alive: it is lost after its TTL, however many there are.
func TestStreamFetchesAreNoSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		w, ttl, err := e.RegisterWorker(t.Context(), WorkerInfo{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for lost := false; !lost; {
			time.Sleep(ttl / 8)
			ids := enqueue(t, e, jobs("a", 1)...)
			got, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: []string{"a"}, Max: 1, OfStream: true})
			if lost = err != nil; lost {
				wantError(t, err, CodeNotFound, ReasonWorkerLost)
			} else if len(got) != 1 || got[0].ID != ids[0] {
				t.Fatalf("fetched %+v", got)
			}
			if after := time.Since(start); after > ttl*5/4 {
				t.Fatalf("after %v the worker is not lost, whose TTL is %v", after, ttl)
			}
		}
	})
}

// A worker is silent only when its TTL has passed: half a TTL is no silence. What was asked for has not passed when it is lost.
func TestTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		id, ttl, err := e.RegisterWorker(t.Context(), WorkerInfo{})
		if err != nil || ttl < WorkerTTLDefault*8/10 || ttl > WorkerTTLDefault*9/10 {
			t.Fatalf("ttl %v, %v", ttl, err)
		}
		for range 5 {
			time.Sleep(ttl - time.Millisecond)
			reply, err := e.Heartbeat(t.Context(), id, nil)
			if err != nil || reply.TTL != ttl {
				t.Fatalf("%+v, %v", reply, err)
			}
		}
		time.Sleep(WorkerTTLDefault - 100*time.Millisecond)
		_, err = e.Heartbeat(t.Context(), id, nil)
		wantError(t, err, CodeNotFound, ReasonWorkerLost)
	})
}

func TestGoodbyeCountsNoCrash(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ids := enqueue(t, e, jobs("q", 1)...)
	w := register(t, e)
	fetchJobs(t, e, w, 1, "q")
	if err := e.DeregisterWorker(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if d, err := e.Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateReady || d.Info.Crashes != 0 {
		t.Fatalf("job %+v, %v", d.Info, err)
	}
	wantError(t, e.DeregisterWorker(t.Context(), w), CodeNotFound, ReasonWorkerLost)
}

// A cancelled running job's worker hears of it at once and again with its heartbeat; a lease that timed out likewise.
func TestNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		js := jobs("q", 2)
		js[1].Spec.TimeoutMillis = 1000
		ids := enqueue(t, e, js...)
		w := register(t, e)
		got := fetchJobs(t, e, w, 2, "q")
		notices, end := e.Notices(w)
		defer end()
		if s, err := e.Cancel(t.Context(), ids[0]); err != nil || s != queue.StateRunning {
			t.Fatalf("cancel: %v, %v", s, err)
		}
		one := LeaseRef{ID: got[0].ID, Token: got[0].Token}
		two := LeaseRef{ID: got[1].ID, Token: got[1].Token}
		if n := <-notices; n != (Notice{Lease: one, Cancel: true}) {
			t.Fatalf("notice %+v", n)
		}
		if n := <-notices; n != (Notice{Lease: two}) {
			t.Fatalf("notice %+v", n)
		}
		reply, err := e.Heartbeat(t.Context(), w, []LeaseRef{one, two})
		if err != nil || len(reply.Cancel) != 1 || reply.Cancel[0] != one || len(reply.Lost) != 1 || reply.Lost[0] != two {
			t.Fatalf("%+v, %v", reply, err)
		}
		if err := e.SignalWorker(t.Context(), w, WorkerQuiet); err != nil {
			t.Fatal(err)
		}
		if reply, err = e.Heartbeat(t.Context(), w, nil); err != nil || reply.State != WorkerQuiet {
			t.Fatalf("%+v, %v", reply, err)
		}
	})
}

// A worker that connects again gives back the leases it never heard of.
func TestResumeGivesBackUnknownLeases(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ids := enqueue(t, e, jobs("q", 3)...)
	w := register(t, e)
	got := fetchJobs(t, e, w, 3, "q")
	if _, err := e.ResumeWorker(t.Context(), w, []LeaseRef{{ID: got[1].ID, Token: got[1].Token}}); err != nil {
		t.Fatal(err)
	}
	for i, want := range []State{queue.StateReady, queue.StateRunning, queue.StateReady} {
		if d, err := e.Job(t.Context(), ids[i]); err != nil || d.Info.State != want || d.Info.Crashes != 0 {
			t.Fatalf("job %d: %+v, %v", i, d.Info, err)
		}
	}
}

// After a restart every worker has a full TTL; one that comes back in time keeps its jobs.
func TestWorkersSurviveRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		e := open(t, disk, nil)
		ids := enqueue(t, e, jobs("q", 2)...)
		back, lost := register(t, e), register(t, e)
		fetchJobs(t, e, back, 1, "q")
		fetchJobs(t, e, lost, 1, "q")
		shut(t, e)
		e = open(t, disk, nil)
		time.Sleep(3500 * time.Millisecond)
		if _, err := e.Heartbeat(t.Context(), back, nil); err != nil {
			t.Fatal(err)
		}
		if s := state(t, e, ids[1]); s != queue.StateRunning {
			t.Fatalf("the silent worker's job is %v before its TTL", s)
		}
		time.Sleep(3500 * time.Millisecond)
		if a, b := state(t, e, ids[0]), state(t, e, ids[1]); a != queue.StateRunning || b != queue.StateReady {
			t.Fatalf("jobs are %v and %v", a, b)
		}
	})
}

// Leases of a worker that the catalog does not know are given back after a TTL.
func TestOrphanedLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		e := open(t, disk, nil)
		ids := enqueue(t, e, jobs("q", 1)...)
		p := e.routes.byName("q").homes[0].pump
		c := p.newCall()
		c.items.Commit(queue.AppendFetch(c.items.Buf(), 77, []queue.QueueID{e.routes.byName("q").homes[0].id}, 1, 0, 0))
		if err := p.do(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if s := state(t, e, ids[0]); s != queue.StateRunning {
			t.Fatalf("job is %v", s)
		}
		time.Sleep(30 * time.Second)
		if s := state(t, e, ids[0]); s != queue.StateReady {
			t.Fatalf("job is %v", s)
		}
	})
}
