package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// smallLog keeps the simulated disk of a test small.
var smallLog = wal.Options{FileBytes: 1 << 20, BufferBytes: 16 << 20, ReserveBytes: 1}

// testWriter sends log lines to the test's own output.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// open opens an engine on a disk and closes it with the test.
func open(t testing.TB, fs vfs.FS, edit func(*Options)) *Engine {
	t.Helper()
	opts := Options{
		FS: fs, Dir: "data", Shards: 2, WAL: smallLog,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Fatal:  func(err error) { t.Errorf("the log failed: %v", err) },
	}
	if edit != nil {
		edit(&opts)
	}
	e, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { shut(t, e) })
	return e
}

func shut(t testing.TB, e *Engine) {
	t.Helper()
	if err := e.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

// jobs makes n jobs of a queue whose payloads tell them apart.
func jobs(queueName string, n int) []NewJob {
	js := make([]NewJob, n)
	for i := range js {
		js[i] = NewJob{Queue: queueName, Spec: Spec{Priority: 5, Kind: "k", Payload: fmt.Appendf(nil, "%s-%d", queueName, i)}}
	}
	return js
}

func enqueue(t testing.TB, e *Engine, js ...NewJob) []JobID {
	t.Helper()
	out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: js}, nil)
	if err != nil {
		t.Fatalf("enqueue: %v", err)
	}
	ids := make([]JobID, len(out))
	for i := range out {
		if out[i].Err != nil {
			t.Fatalf("enqueue job %d: %v", i, out[i].Err)
		}
		ids[i] = out[i].ID
	}
	return ids
}

func fetchJobs(t testing.TB, e *Engine, w WorkerID, n int, queues ...string) []FetchedJob {
	t.Helper()
	got, err := e.Fetch(t.Context(), &FetchRequest{Worker: w, Queues: queues, Max: n})
	if err != nil {
		t.Fatalf("fetch: %v", err)
	}
	return got
}

func ack(t testing.TB, e *Engine, js ...FetchedJob) {
	t.Helper()
	outcomes := make([]Outcome, len(js))
	for i := range js {
		outcomes[i] = Outcome{Kind: OutcomeAck, ID: js[i].ID, Token: js[i].Token, ContentType: "text/plain", Result: []byte("done")}
	}
	ended, err := e.Finish(t.Context(), 0, outcomes, nil)
	if err != nil {
		t.Fatalf("finish: %v", err)
	}
	for i := range ended {
		if ended[i].Err != nil || ended[i].State != queue.StateCompleted {
			t.Fatalf("ack %d: %v, %v", i, ended[i].State, ended[i].Err)
		}
	}
}

func register(t testing.TB, e *Engine) WorkerID {
	t.Helper()
	w, _, err := e.RegisterWorker(t.Context(), WorkerInfo{Name: "w", Host: "h", PID: 1, Concurrency: 10})
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	return w
}

func state(t testing.TB, e *Engine, id JobID) State {
	t.Helper()
	d, err := e.Job(t.Context(), id)
	if err != nil {
		t.Fatalf("job %v: %v", id, err)
	}
	return d.Info.State
}

// wantError checks code and reason of an error.
func wantError(t testing.TB, err error, code Code, reason string) {
	t.Helper()
	var own *Error
	if !errors.As(err, &own) || own.Code != code || own.Reason != reason {
		t.Fatalf("error is %v (%+v), want code %d, reason %s", err, own, code, reason)
	}
	if own.Message == "" {
		t.Fatalf("error %s has no message", reason)
	}
}

func TestLifecycle(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	ids := enqueue(t, e, jobs("mail", 3)...)
	w := register(t, e)
	got := fetchJobs(t, e, w, 2, "mail")
	if len(got) != 2 || got[0].ID != ids[0] || got[1].ID != ids[1] || string(got[1].Spec.Payload) != "mail-1" ||
		got[0].QueueName != "mail" || got[0].Attempt != 1 {
		t.Fatalf("fetched %+v", got)
	}
	if err := e.Progress(t.Context(), got[0].ID, got[0].Token, 40, "nearly"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Extend(t.Context(), got[0].ID, got[0].Token, time.Minute); err != nil {
		t.Fatal(err)
	}
	d, err := e.Job(t.Context(), ids[0])
	if err != nil || d.Info.State != queue.StateRunning || d.Progress != "nearly" || d.Info.ProgressPercent != 40 || !d.HasSpec {
		t.Fatalf("job %+v, %v", d, err)
	}
	ack(t, e, got[0])
	ended, err := e.Finish(t.Context(), w, []Outcome{
		{Kind: OutcomeAck, ID: got[0].ID, Token: got[0].Token},
		{Kind: OutcomeFail, ID: got[1].ID, Token: got[1].Token, Failure: Failure{Type: "E", Message: "broke", Stack: "s", Final: true}},
		{Kind: OutcomeRelease, ID: JobID{Shard: 99, Pos: 5}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ended[0].Err != nil || ended[0].State != queue.StateCompleted {
		t.Errorf("the repeat of an ack: %+v; want the first one's answer", ended[0])
	}
	wantError(t, ended[2].Err, CodeNotFound, ReasonJobNotFound)
	if ended[1].Err != nil || ended[1].State != queue.StateDead {
		t.Fatalf("fail: %+v", ended[1])
	}
	if d, err = e.Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateCompleted || string(d.Result) != "done" || d.ResultContentType != "text/plain" {
		t.Fatalf("completed job %+v, %v", d, err)
	}
	if d, err = e.Job(t.Context(), ids[1]); err != nil || len(d.Errors) != 1 || d.Errors[0].Message != "broke" || d.Errors[0].At.IsZero() {
		t.Fatalf("dead job %+v, %v", d, err)
	}
	if s, err := e.Cancel(t.Context(), ids[2]); err != nil || s != queue.StateCancelled {
		t.Fatalf("cancel: %v, %v", s, err)
	}
	if n, next, err := e.RetryAllDead(t.Context(), "mail", "", 10); n != 1 || next != "" || err != nil {
		t.Fatalf("retry all: %d %v %v", n, next, err)
	}
	got = fetchJobs(t, e, 0, 10, "mail")
	if len(got) != 1 || got[0].ID != ids[1] || got[0].Failures != 0 {
		t.Fatalf("fetched %+v", got)
	}
	ack(t, e, got...)
	st, err := e.Queue(t.Context(), "mail")
	if err != nil || st.Info.Completed != 2 || st.Info.Cancelled != 1 || !st.OldestReadyAt.IsZero() {
		t.Fatalf("queue %+v, %v", st, err)
	}
}
