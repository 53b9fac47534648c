package engine

import (
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// leases counts what is leased on all shards.
func leases(e *Engine) uint64 {
	n := uint64(0)
	for _, s := range e.Stats().Shards {
		n += uint64(s.Totals.Leases)
	}
	return n
}

// TestFetchIsBoundByBytes: a fetch leases no more than it delivers, and no more than fits one answer.
func TestFetchIsBoundByBytes(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	w := register(t, e)
	large := make([]byte, queue.PayloadBytesMax)
	const count = 20
	for range count {
		js := jobs("q", 1)
		js[0].Spec.Payload = large
		enqueue(t, e, js...)
	}
	enqueue(t, e, jobs("q", 1)...)
	left := count + 1
	for left > 0 {
		before := leases(e)
		got := fetchJobs(t, e, w, queue.FetchMax, "q")
		size := 0
		for i := range got {
			size += len(got[i].Spec.Payload)
		}
		if size > FetchBytesMax || len(got) < min(FetchBytesMax/queue.PayloadBytesMax-1, left) {
			t.Fatalf("%d jobs of %d bytes, %d were left", len(got), size, left)
		}
		if held := leases(e) - before; held != uint64(len(got)) {
			t.Fatalf("leased %d, delivered %d", held, len(got))
		}
		left -= len(got)
	}
}

// TestFetchMostSmallJobs: jobs that are small enough come all the FetchMax at once.
func TestFetchMostSmallJobs(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	w := register(t, e)
	enqueue(t, e, jobs("q", queue.FetchMax)...)
	if got := fetchJobs(t, e, w, queue.FetchMax, "q"); len(got) != queue.FetchMax {
		t.Errorf("%d jobs, want %d", len(got), queue.FetchMax)
	}
}

// TestExtendStaysWithinTimeout: whoever holds the lease, and the answer says when it really ends.
func TestExtendStaysWithinTimeout(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	w := register(t, e)
	js := jobs("q", 2)
	for i := range js {
		js[i].Spec.TimeoutMillis = time.Minute.Milliseconds()
	}
	enqueue(t, e, js...)
	for _, holder := range []WorkerID{w, 0} {
		j := fetchJobs(t, e, holder, 1, "q")[0]
		detail, err := e.Job(t.Context(), j.ID)
		if err != nil {
			t.Fatal(err)
		}
		end := time.UnixMilli(int64(detail.Info.StartedAt)).Add(time.Minute)
		for _, d := range []time.Duration{time.Second, time.Hour} {
			until, err := e.Extend(t.Context(), j.ID, j.Token, d)
			if err != nil {
				t.Fatal(err)
			}
			detail, err := e.Job(t.Context(), j.ID)
			if err != nil || until.UnixMilli() != int64(detail.Info.Deadline) {
				t.Errorf("worker %d: answered %v, ends at %d, %v", holder, until.UnixMilli(), detail.Info.Deadline, err)
			}
			if d == time.Hour && !until.Equal(end) {
				t.Errorf("worker %d: extended until %v, want the end of the timeout %v", holder, until, end)
			}
		}
	}
}
