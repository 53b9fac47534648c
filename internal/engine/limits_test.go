package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// Each limit of a request: the most is taken, one more is refused with its field and nothing done.
func TestRequestLimits(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ids := enqueue(t, e, jobs("q", 1)...)
	job := first(t, e, ids)
	enqueueN := func(n int) error {
		_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs("q", n)}, nil)
		return err
	}
	spec := func(edit func(*Spec)) error {
		js := jobs("q", 1)
		edit(&js[0].Spec)
		out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: js}, nil)
		if err == nil && out[0].Err != nil {
			return out[0].Err
		}
		return err
	}
	named := func(name string) error {
		out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil)
		if err == nil && out[0].Err != nil {
			return out[0].Err
		}
		return err
	}
	fetch := func(r FetchRequest) error { _, err := e.Fetch(t.Context(), &r); return err }
	outcome := func(o Outcome) error {
		o.ID, o.Token = job.ID, job.Token+1 // stale: a good outcome passes the check and changes nothing
		ended, err := e.Finish(t.Context(), 0, []Outcome{o}, nil)
		if err == nil && ended[0].Err.Reason != ReasonLeaseLost {
			return ended[0].Err
		}
		return err
	}
	extend := func(d time.Duration) error {
		_, err := e.Extend(t.Context(), job.ID, job.Token, d)
		return err
	}
	all := func(limit int) error { _, _, err := e.RetryAllDead(t.Context(), "q", "", limit); return err }
	list := func(r ListRequest) error { _, _, err := e.List(t.Context(), r); return err }
	long := strings.Repeat("n", cluster.QueueNameBytesMax)
	tests := []struct {
		field, reason string
		good, bad     func() error
	}{
		{"jobs", ReasonTooLarge, func() error { return enqueueN(queue.EnqueueJobsMax) }, func() error { return enqueueN(queue.EnqueueJobsMax + 1) }},
		{"jobs", ReasonInvalid, func() error { return enqueueN(1) }, func() error { return enqueueN(0) }},
		{"queue", ReasonInvalid, func() error { return named(long) }, func() error { return named(long + "n") }},
		{"queue", ReasonInvalid, func() error { return named("a/b:c.d_e-f") }, func() error { return named("two words") }},
		{
			"payload", ReasonTooLarge, func() error { return spec(func(s *Spec) { s.Payload = make([]byte, queue.PayloadBytesMax) }) },
			func() error { return spec(func(s *Spec) { s.Payload = make([]byte, queue.PayloadBytesMax+1) }) },
		},
		{"priority", ReasonInvalid, func() error { return spec(func(s *Spec) { s.Priority = 9 }) }, func() error { return spec(func(s *Spec) { s.Priority = 10 }) }},
		{"expires_at", ReasonInvalid, func() error { return nil }, func() error { return spec(func(s *Spec) { s.ExpiresAt = 5 }) }},
		{
			"max", ReasonInvalid, func() error { return fetch(FetchRequest{Queues: []string{"none"}, Max: queue.FetchMax}) },
			func() error { return fetch(FetchRequest{Queues: []string{"none"}, Max: queue.FetchMax + 1}) },
		},
		{
			"queues", ReasonTooLarge, func() error {
				return fetch(FetchRequest{Queues: slices.Repeat([]string{"none"}, queue.FetchQueuesMax), Max: 1})
			},
			func() error {
				return fetch(FetchRequest{Queues: slices.Repeat([]string{"none"}, queue.FetchQueuesMax+1), Max: 1})
			},
		},
		{"queues", ReasonInvalid, func() error { return nil }, func() error { return fetch(FetchRequest{Max: 1}) }},
		{"queues", ReasonInvalid, func() error { return nil }, func() error { return fetch(FetchRequest{Queues: []string{"bad name"}, Max: 1}) }},
		{"wait", ReasonInvalid, func() error { return nil }, func() error {
			return fetch(FetchRequest{Queues: []string{"q"}, Max: 1, Wait: queue.WaitMillisMax*time.Millisecond + 1})
		}},
		{
			"lease", ReasonInvalid, func() error { return fetch(FetchRequest{Queues: []string{"none"}, Max: 1, Lease: AnonymousLeaseMin}) },
			func() error {
				return fetch(FetchRequest{Queues: []string{"none"}, Max: 1, Lease: AnonymousLeaseMin - 1})
			},
		},
		{
			"result", ReasonTooLarge, func() error { return outcome(Outcome{Result: make([]byte, queue.ResultBytesMax)}) },
			func() error { return outcome(Outcome{Result: make([]byte, queue.ResultBytesMax+1)}) },
		},
		{
			"failure.message", ReasonTooLarge, func() error {
				return outcome(Outcome{Kind: OutcomeFail, Failure: Failure{Message: strings.Repeat("m", queue.ErrorTextBytesMax)}})
			}, func() error {
				return outcome(Outcome{Kind: OutcomeFail, Failure: Failure{Message: strings.Repeat("m", queue.ErrorTextBytesMax+1)}})
			},
		},
		{
			"failure.stack", ReasonTooLarge, func() error {
				return outcome(Outcome{Kind: OutcomeFail, Failure: Failure{Stack: strings.Repeat("m", queue.ErrorStackBytesMax)}})
			}, func() error {
				return outcome(Outcome{Kind: OutcomeFail, Failure: Failure{Stack: strings.Repeat("m", queue.ErrorStackBytesMax+1)}})
			},
		},
		{"kind", ReasonInvalid, func() error { return outcome(Outcome{Kind: OutcomeRelease}) }, func() error { return outcome(Outcome{Kind: OutcomeRelease + 1}) }},
		{"duration", ReasonInvalid, func() error { return extend(time.Minute) }, func() error { return extend(time.Microsecond) }},
		{
			"duration", ReasonInvalid, func() error { return extend(queue.LeaseMillisMax * time.Millisecond) },
			func() error { return extend(queue.LeaseMillisMax*time.Millisecond + time.Millisecond) },
		},
		{
			"percent", ReasonInvalid, func() error { return e.Progress(t.Context(), job.ID, job.Token, 100, "") },
			func() error { return e.Progress(t.Context(), job.ID, job.Token, 101, "") },
		},
		{
			"message", ReasonTooLarge, func() error {
				return e.Progress(t.Context(), job.ID, job.Token, 1, strings.Repeat("m", queue.ProgressBytesMax))
			}, func() error {
				return e.Progress(t.Context(), job.ID, job.Token, 1, strings.Repeat("m", queue.ProgressBytesMax+1))
			},
		},
		{"limit", ReasonInvalid, func() error { return all(BulkMax) }, func() error { return all(BulkMax + 1) }},
		{
			"limit", ReasonInvalid, func() error { return list(ListRequest{Queue: "q", State: queue.StateReady, Limit: queue.ListMax}) },
			func() error {
				return list(ListRequest{Queue: "q", State: queue.StateReady, Limit: queue.ListMax + 1})
			},
		},
		{"state", ReasonInvalid, func() error { return nil }, func() error { return list(ListRequest{Queue: "q", Limit: 1}) }},
		{"cursor", ReasonInvalid, func() error { return nil }, func() error {
			return list(ListRequest{Queue: "q", State: queue.StateReady, Limit: 1, Cursor: "!"})
		}},
	}
	for _, test := range tests {
		if err := test.good(); err != nil {
			t.Errorf("%s at its limit: %v", test.field, err)
		}
		err := test.bad()
		own, ok := errors.AsType[*Error](err)
		if !ok || own.Code != CodeInvalidArgument || own.Reason != test.reason || own.Field != test.field || own.Message == "" {
			t.Errorf("%s over its limit: %+v", test.field, err)
		}
	}
	if _, err := e.Finish(t.Context(), 0, make([]Outcome, FinishMax+1), nil); err == nil {
		t.Error("a Finish over its limit was taken")
	}
	big := jobs("q", 5)
	for i := range big {
		big[i].Spec.Payload = make([]byte, queue.PayloadBytesMax)
	}
	_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: big}, nil)
	wantError(t, err, CodeInvalidArgument, ReasonTooLarge)
}

// An atomic request is all or nothing, names the job at fault, and keeps to one shard.
func TestAtomic(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	enqueue(t, e, jobs("a", 1)...)
	enqueue(t, e, jobs("b", 1)...)
	if _, err := e.ConfigureQueue(t.Context(), "a", Settings{DepthMax: 3}); err != nil {
		t.Fatal(err)
	}
	_, err := e.Enqueue(t.Context(), &EnqueueRequest{Atomic: true, Jobs: jobs("a", 3)}, nil)
	wantError(t, err, CodeResourceExhausted, ReasonQueueFull)
	bad := jobs("a", 2)
	bad[1].Spec.Priority = 77
	_, err = e.Enqueue(t.Context(), &EnqueueRequest{Atomic: true, Jobs: bad}, nil)
	if own, ok := errors.AsType[*Error](err); !ok || own.Field != "jobs[1].priority" {
		t.Fatalf("error %+v", err)
	}
	_, err = e.Enqueue(t.Context(), &EnqueueRequest{Atomic: true, Jobs: append(jobs("a", 1), jobs("b", 1)...)}, nil)
	wantError(t, err, CodeInvalidArgument, ReasonInvalid)
	if st, err := e.Queue(t.Context(), "a"); err != nil || st.Info.Enqueued != 1 {
		t.Fatalf("queue %+v, %v", st.Info, err)
	}
	if _, err = e.Enqueue(t.Context(), &EnqueueRequest{Atomic: true, Jobs: jobs("a", 2)}, nil); err != nil {
		t.Fatal(err)
	}
	// Without atomicity the good ones are stored, and the bad one has its error.
	if _, err := e.UpdateQueue(t.Context(), "a", func(s *Settings) { s.DepthMax = 100 }); err != nil {
		t.Fatal(err)
	}
	out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: append(bad, jobs("b", 1)...)}, nil)
	if err != nil || out[0].Err != nil || out[2].Err != nil || out[1].Err == nil || out[1].Err.Field != "priority" {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestListPages(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ids := enqueue(t, e, jobs("q", 25)...)
	var got []JobID
	cursor := ""
	for {
		page, next, err := e.List(t.Context(), ListRequest{Queue: "q", State: queue.StateReady, Limit: 10, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			if !d.HasSpec || d.Spec.Kind != "k" || d.Spec.Payload != nil || d.QueueName != "q" {
				t.Fatalf("row %+v", d)
			}
			got = append(got, d.ID)
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, ids) {
		t.Fatalf("listed %v, want %v", got, ids)
	}
	_, _, err := e.List(t.Context(), ListRequest{Queue: "none", State: queue.StateReady, Limit: 10})
	wantError(t, err, CodeNotFound, ReasonQueueNotFound)
	_, err = e.Job(t.Context(), JobID{Shard: 1, Pos: queue.MakePos(1<<40, 0)})
	wantError(t, err, CodeNotFound, ReasonJobNotFound)
	_, err = e.Job(t.Context(), JobID{Shard: 9, Pos: 1})
	wantError(t, err, CodeNotFound, ReasonJobNotFound)
}

func TestPausing(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	if st, err := e.UpdateQueue(t.Context(), "q", func(s *Settings) { s.Paused = true }); err != nil || !st.Info.Settings.Paused {
		t.Fatalf("%+v, %v", st, err)
	}
	if st, err := e.ConfigureQueue(t.Context(), "q", Settings{MaxAttempts: 2}); err != nil || !st.Info.Settings.Paused || st.Info.Settings.MaxAttempts != 2 {
		t.Fatalf("%+v, %v", st, err)
	}
	enqueue(t, e, jobs("q", 1)...)
	got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 1, Wait: time.Minute})
	if st, err := e.ResumeQueue(t.Context(), "q"); err != nil || st.Info.Settings.Paused {
		t.Fatalf("%+v, %v", st, err)
	}
	if f := <-got; f.err != nil || len(f.jobs) != 1 {
		t.Fatalf("fetched %+v", f)
	}
}

// A closed engine refuses politely, and parked fetches end.
func TestClosed(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ack(t, e, first(t, e, enqueue(t, e, jobs("q", 1)...)))
	got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{"q"}, Max: 1, Wait: time.Minute})
	for parked(e, "q") == 0 {
		if ok, why := e.Ready(); !ok {
			t.Fatal(why)
		}
	}
	shut(t, e)
	f := <-got
	wantError(t, f.err, CodeUnavailable, ReasonStopping)
	_, err := e.Enqueue(context.Background(), &EnqueueRequest{Jobs: jobs("q", 1)}, nil)
	wantError(t, err, CodeUnavailable, ReasonStopping)
	if ok, _ := e.Ready(); ok {
		t.Fatal("a closed engine is ready")
	}
}

// crowded is a disk that others have nearly filled.
type crowded struct{ *vfs.Sim }

func (crowded) Usage(string) (vfs.Usage, error) {
	return vfs.Usage{Free: 1 << 20, Total: 1 << 40}, nil
}

// On a full disk new jobs are refused, and those stored can be finished.
func TestDiskFull(t *testing.T) {
	disk := vfs.NewSim(1, vfs.SimOptions{})
	e := open(t, disk, nil)
	job := first(t, e, enqueue(t, e, jobs("q", 1)...))
	shut(t, e)
	e = open(t, crowded{disk}, func(o *Options) { o.WAL.ReserveBytes = 8 << 20 })
	_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs("q", 1)}, nil)
	wantError(t, err, CodeResourceExhausted, ReasonDiskFull)
	ack(t, e, job)
}

func TestHistogram(t *testing.T) {
	var h histogram
	for _, d := range []time.Duration{-1, 0, histogramFirst, histogramFirst + 1, time.Second, 1000 * time.Hour} {
		h.add(d)
	}
	s := h.read()
	if s.Count != 6 || s.Counts[0] != 3 || s.Counts[1] != 1 || s.Counts[len(s.Counts)-1] != 1 || len(s.Bounds) != len(s.Counts)-1 {
		t.Fatalf("%+v", s)
	}
}

// TestHeldLimit: what the limits of a worker allow it to hold, a heartbeat may name; one that names more is heard all the same.
func TestHeldLimit(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	id, _, err := e.RegisterWorker(t.Context(), cluster.WorkerInfo{Name: "w", Queues: []string{"q"}, Concurrency: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := e.ResumeWorker(t.Context(), id, make([]LeaseRef, HeldMax))
	if err != nil || len(reply.Lost) != HeldMax {
		t.Errorf("%d lost, err %v", len(reply.Lost), err)
	}
	w := e.workers.get(id)
	w.beat.Store(0)
	_, err = e.Heartbeat(t.Context(), id, make([]LeaseRef, HeldMax+1))
	wantError(t, err, CodeInvalidArgument, ReasonTooLarge)
	if w.beat.Load() == 0 {
		t.Error("a heartbeat that is refused is no sign of life")
	}
}
