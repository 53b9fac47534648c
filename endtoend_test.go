package beaver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

type sum struct{ A, B int }

func (sum) Kind() string { return "sum" }

func TestEndToEnd(t *testing.T) {
	c := startServer(t)
	mux := beaver.NewMux()
	beaver.HandleResult(mux, func(_ context.Context, j *beaver.JobOf[sum]) (int, error) { return j.Args.A + j.Args.B, nil })
	w := startWorker(t, c, beaver.WorkerConfig{Queues: []string{"math"}, Handler: mux, Concurrency: 20})

	var group sync.WaitGroup
	ids := make([]beaver.JobID, 200)
	for i := range ids {
		group.Go(func() {
			id, err := beaver.Enqueue(t.Context(), c, sum{i, 1}, beaver.Job{Queue: "math"})
			if err != nil {
				t.Error(err)
			}
			ids[i] = id
		})
	}
	group.Wait()
	for i, id := range ids {
		job := waitJob(t, c, id, beaver.StateCompleted)
		var got int
		if err := json.Unmarshal(job.Result, &got); err != nil || got != i+1 {
			t.Errorf("result %q of job %d: %v", job.Result, i, err)
		}
	}
	if got := w.Stats(); got.Completed != 200 || got.Stale != 0 {
		t.Errorf("stats: %+v", got)
	}
}

// startWorker starts a worker that is stopped when the test ends.
func startWorker(tb testing.TB, c *beaver.Client, cfg beaver.WorkerConfig) *beaver.Worker {
	tb.Helper()
	w, err := beaver.NewWorker(c, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := w.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := w.Stop(context.Background()); err != nil {
			tb.Errorf("stop: %v", err)
		}
	})
	return w
}

// waitJob waits until the job is in the state.
func waitJob(tb testing.TB, c *beaver.Client, id beaver.JobID, want beaver.JobState) *beaver.JobInfo {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
		job, err := c.Job(tb.Context(), id)
		if err != nil {
			tb.Fatal(err)
		}
		if job.State == want {
			return job
		}
		if time.Now().After(deadline) {
			tb.Fatalf("job %s is %s, want %s", id, job.State, want)
		}
	}
}

func TestEndToEndFailures(t *testing.T) {
	c := startServer(t)
	mux := beaver.NewMux()
	mux.HandleKind("flaky", beaver.HandlerFunc(func(_ context.Context, j *beaver.LeasedJob) error {
		if j.Attempt < 3 {
			return beaver.RetryAfter(time.Millisecond, fmt.Errorf("attempt %d", j.Attempt))
		}
		return nil
	}))
	mux.HandleKind("hopeless", beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
		return beaver.Permanent(errors.New("no such address"))
	}))
	mux.HandleKind("panics", beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error { panic("boom") }))
	startWorker(t, c, beaver.WorkerConfig{Queues: []string{"q"}, Handler: mux})

	answers, err := c.EnqueueMany(t.Context(), []beaver.Job{
		{Queue: "q", Kind: "flaky"},
		{Queue: "q", Kind: "hopeless"},
		{Queue: "q", Kind: "panics", MaxAttempts: 1},
		{Queue: "q", Kind: "unknown", Retry: &beaver.RetryPolicy{Kind: beaver.RetryNever}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if job := waitJob(t, c, answers[0].ID, beaver.StateCompleted); job.Attempt != 3 || len(job.Errors) != 2 {
		t.Errorf("flaky: %+v", job)
	}
	if job := waitJob(t, c, answers[1].ID, beaver.StateDead); job.DeadReason != "final" || job.Errors[0].Message != "no such address" {
		t.Errorf("hopeless: %+v", job)
	}
	if job := waitJob(t, c, answers[2].ID, beaver.StateDead); job.Errors[0].Type != "panic" || job.Errors[0].Stack == "" {
		t.Errorf("panics: %+v", job)
	}
	if job := waitJob(t, c, answers[3].ID, beaver.StateDead); len(job.Errors) != 1 {
		t.Errorf("unknown: %+v", job)
	}
	n, err := c.DiscardAllDead(t.Context(), "q")
	if err != nil || n != 3 {
		t.Errorf("discarded %d, %v", n, err)
	}
}

func TestEndToEndCancel(t *testing.T) {
	c := startServer(t)
	started := make(chan struct{})
	causes := make(chan error, 1)
	startWorker(t, c, beaver.WorkerConfig{Queues: []string{"q"}, Handler: beaver.HandlerFunc(
		func(ctx context.Context, j *beaver.LeasedJob) error {
			close(started)
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return ctx.Err()
		})})
	id, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	<-started
	if state, err := c.Cancel(t.Context(), id); err != nil || state != beaver.StateRunning {
		t.Errorf("cancel: %v, %v", state, err)
	}
	if cause := <-causes; !errors.Is(cause, beaver.ErrCancelled) {
		t.Errorf("the handler's context ended with %v", cause)
	}
	waitJob(t, c, id, beaver.StateCancelled)
}

func TestEndToEndRestart(t *testing.T) {
	dir := t.TempDir()
	s := openServer(t, dir, "127.0.0.1:0")
	addr := s.Addr()
	c := newClient(t, s)
	running, finish := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w := startWorker(t, c, beaver.WorkerConfig{Queues: []string{"q"}, Concurrency: 4, Handler: beaver.HandlerFunc(
		func(ctx context.Context, j *beaver.LeasedJob) error {
			if j.Kind == "slow" {
				once.Do(func() { close(running) })
				select {
				case <-finish:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return nil
		})})
	slow, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q", Kind: "slow"})
	if err != nil {
		t.Fatal(err)
	}
	<-running

	// Enqueues go on during the restart: all are stored, each once.
	var group sync.WaitGroup
	ids := make([]beaver.JobID, 400)
	for caller := range 8 {
		group.Go(func() {
			for i := caller; i < len(ids); i += 8 {
				id, err := c.Enqueue(t.Context(), beaver.Job{Queue: "other", Kind: fmt.Sprint(i)})
				if err != nil {
					t.Error(err)
				}
				ids[i] = id
			}
		})
	}
	closeServer(t, s)
	s = openServer(t, dir, addr)
	t.Cleanup(func() { closeServer(t, s) })
	group.Wait()
	q, err := c.Queue(t.Context(), "other")
	if err != nil || q.Ready != uint64(len(ids)) {
		t.Errorf("%d jobs are stored, want %d; %v", q.Ready, len(ids), err)
	}

	// The lease survived: the same attempt of the job completes it.
	after, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	waitJob(t, c, after, beaver.StateCompleted)
	close(finish)
	if job := waitJob(t, c, slow, beaver.StateCompleted); job.Attempt != 1 || job.Crashes != 0 {
		t.Errorf("the slow job was done again: %+v", job)
	}
	if got := w.Stats(); got.Disconnected == 0 || got.Stale != 0 {
		t.Errorf("stats: %+v", got)
	}
}

// TestRetryAfterOutOfRange: however odd the time that a handler wants to wait for, its attempt ends and holds up no other.
func TestRetryAfterOutOfRange(t *testing.T) {
	for name, tc := range map[string]struct {
		after time.Duration
		want  beaver.JobState
	}{
		"negative": {-time.Second, beaver.StateCompleted},
		"too long": {20 * 365 * 24 * time.Hour, beaver.StateBackoff},
	} {
		t.Run(name, func(t *testing.T) {
			c := startServer(t)
			startWorker(t, c, beaver.WorkerConfig{Queues: []string{"q"}, Handler: beaver.HandlerFunc(func(_ context.Context, job *beaver.LeasedJob) error {
				if job.Kind == "odd" && job.Attempt == 1 {
					return beaver.RetryAfter(tc.after, errors.New("not now"))
				}
				return nil
			})})
			answers, err := c.EnqueueMany(t.Context(), []beaver.Job{{Queue: "q", Kind: "odd"}, {Queue: "q", Kind: "good"}})
			if err != nil {
				t.Fatal(err)
			}
			waitJob(t, c, answers[0].ID, tc.want)
			waitJob(t, c, answers[1].ID, beaver.StateCompleted)
		})
	}
}
