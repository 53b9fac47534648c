package beaver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// workerBubble runs f with a worker that has started on a fake stream, whose hello is taken.
func workerBubble(t *testing.T, cfg WorkerConfig, f func(t *testing.T, fake *fakeWork, w *Worker, s *fakeWorkStream)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeWork(t)
		c := &Client{cfg: Config{Logger: slog.New(slog.DiscardHandler)}, dialWork: fake.open}
		cfg.Queues = []string{"q"}
		w, err := NewWorker(c, cfg)
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() { started <- w.Start(t.Context()) }()
		s := <-fake.streams
		hello := s.welcome(42)
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		if w.ID() != 42 || int(hello.GetCredits()) != w.cfg.Concurrency || hello.GetWorkerId() != 0 {
			t.Fatalf("worker %d, hello %v", w.ID(), hello)
		}
		f(t, fake, w, s)
	})
}

// stop stops the worker while the fake answers, and returns the outcomes of that time.
func stop(t *testing.T, w *Worker, s *fakeWorkStream) []*beaverv1.Outcome {
	t.Helper()
	stopped := make(chan error)
	go func() { stopped <- w.Stop(t.Context()) }()
	outcomes := s.drain()
	if err := <-stopped; err != nil {
		t.Errorf("stop: %v", err)
	}
	return outcomes
}

func TestWorkerOutcomes(t *testing.T) {
	base := errors.New("smtp: no route")
	for _, tc := range []struct {
		name    string
		handler HandlerFunc
		want    func(o *beaverv1.Outcome) bool
	}{
		{"ack", func(context.Context, *LeasedJob) error { return nil }, func(o *beaverv1.Outcome) bool {
			return o.GetFailure() == nil && !o.GetRelease() && o.GetResult() == nil
		}},
		{"result", func(_ context.Context, j *LeasedJob) error { return j.SetResult(map[string]int{"sum": 3}) }, func(o *beaverv1.Outcome) bool {
			return string(o.GetResult()) == `{"sum":3}` && o.GetContentType() == ContentTypeJSON
		}},
		{"fail", func(context.Context, *LeasedJob) error { return base }, func(o *beaverv1.Outcome) bool {
			return o.GetFailure().GetMessage() == base.Error() && !o.GetFailure().GetFinal()
		}},
		{"permanent", func(context.Context, *LeasedJob) error { return fmt.Errorf("send: %w", Permanent(base)) }, func(o *beaverv1.Outcome) bool {
			return o.GetFailure().GetFinal() && strings.HasPrefix(o.GetFailure().GetMessage(), "send: smtp")
		}},
		{"retry after", func(context.Context, *LeasedJob) error { return RetryAfter(time.Minute, base) }, func(o *beaverv1.Outcome) bool {
			return o.GetFailure().GetRetryAfter().AsDuration() == time.Minute
		}},
		{"detailed", func(context.Context, *LeasedJob) error {
			return fmt.Errorf("run: %w", &Failure{Type: "exit status 3", Message: "oops", Stack: "main", Final: true})
		}, func(o *beaverv1.Outcome) bool {
			f := o.GetFailure()
			return f.GetType() == "exit status 3" && f.GetMessage() == "run: oops" && f.GetStack() == "main" && f.GetFinal()
		}},
		{"release", func(context.Context, *LeasedJob) error { return fmt.Errorf("busy: %w", ErrRelease) }, func(o *beaverv1.Outcome) bool {
			return o.GetRelease() && o.GetFailure() == nil
		}},
		{"panic", func(context.Context, *LeasedJob) error { panic("boom") }, func(o *beaverv1.Outcome) bool {
			f := o.GetFailure()
			return f.GetType() == "panic" && f.GetMessage() == "panic: boom" && strings.Contains(f.GetStack(), "worker_synctest_test.go")
		}},
		{"goexit", func(context.Context, *LeasedJob) error { runtime.Goexit(); return nil }, func(o *beaverv1.Outcome) bool {
			return o.GetFailure().GetType() == "panic"
		}},
		{"long error", func(context.Context, *LeasedJob) error { return errors.New(strings.Repeat("é", 5000) + "\xff") }, func(o *beaverv1.Outcome) bool {
			m := o.GetFailure().GetMessage()
			return len(m) == failureMessageBytesMax && strings.Trim(m, "é") == ""
		}},
		{"too large a result", func(_ context.Context, j *LeasedJob) error {
			return j.SetResultBytes("text/plain", make([]byte, resultBytesMax+1))
		}, func(o *beaverv1.Outcome) bool { return strings.Contains(o.GetFailure().GetMessage(), "262144") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			workerBubble(t, WorkerConfig{Handler: tc.handler, Concurrency: 2}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
				s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
				m := s.outcome()
				if o := m.GetOutcomes()[0]; o.GetToken() != 1 || !tc.want(o) {
					t.Errorf("outcome: %v", o)
				}
				if m.GetCredits() != 1 {
					t.Errorf("%d credits with the outcome, want 1", m.GetCredits())
				}
				stop(t, w, s)
			})
		})
	}
}

// waitingHandler waits for the end of the context and returns its cause.
func waitingHandler(ctx context.Context, _ *LeasedJob) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestWorkerCancelAndLostLease(t *testing.T) {
	workerBubble(t, WorkerConfig{Handler: HandlerFunc(waitingHandler)}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		a, b := leased(1, "a"), leased(2, "b")
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{a, b}}
		s.answers <- &beaverv1.WorkResponse{
			Cancel: []*beaverv1.LeaseRef{{Id: a.GetId(), Token: a.GetToken()}},
			Lost:   []*beaverv1.LeaseRef{{Id: b.GetId(), Token: b.GetToken()}, {Id: a.GetId(), Token: 99}},
		}
		m := s.outcome()
		if o := m.GetOutcomes(); len(o) != 1 || o[0].GetId() != a.GetId() || o[0].GetFailure().GetType() != "cancelled" {
			t.Errorf("outcomes: %v", o)
		}
		if o := stop(t, w, s); len(o) != 0 {
			t.Errorf("an outcome for a lost lease: %v", o)
		}
		if got := w.Stats(); got.Stale != 1 || got.Failed != 1 || got.Running != 0 {
			t.Errorf("stats: %+v", got)
		}
	})
}

func TestWorkerDeadline(t *testing.T) {
	var extended chan struct{} // made in the bubble
	handler := HandlerFunc(func(ctx context.Context, j *LeasedJob) error {
		if _, ok := ctx.Deadline(); !ok {
			return errors.New("no deadline")
		}
		if j.Kind == "extend" {
			j.run.extend(time.Now().Add(time.Minute))
			close(extended)
		}
		return waitingHandler(ctx, j)
	})
	workerBubble(t, WorkerConfig{Handler: handler}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		extended = make(chan struct{})
		start := time.Now()
		for i, kind := range []string{"plain", "extend"} {
			j := leased(uint64(i+1), kind)
			j.Deadline = timestamppb.New(start.Add(2 * time.Second))
			s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{j}}
		}
		<-extended
		for _, want := range []time.Duration{2 * time.Second, time.Minute} {
			o := s.outcome().GetOutcomes()[0]
			if o.GetFailure().GetType() != "timeout" || time.Since(start) != want {
				t.Errorf("after %v: %v, want a timeout after %v", time.Since(start), o, want)
			}
		}
		stop(t, w, s)
	})
}

func TestWorkerHeartbeats(t *testing.T) {
	workerBubble(t, WorkerConfig{Handler: HandlerFunc(waitingHandler)}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
		<-s.requests // Still at the rate of the TTL that was assumed.
		for range 3 {
			start := time.Now()
			m := <-s.requests
			if since := time.Since(start); since > 3*time.Second || since < 2700*time.Millisecond {
				t.Errorf("a heartbeat after %v, want a little less than a third of the TTL of 9 s", since)
			}
			if len(m.GetHeld()) != 1 || m.GetHeld()[0].GetToken() != 1 || m.GetCredits() != 0 || !m.GetComplete() || m.GetReceived() != 1 {
				t.Errorf("heartbeat: %v", m)
			}
		}
		w.cancelJobs(ErrStopped)
		stop(t, w, s)
	})
}

func TestWorkerReconnects(t *testing.T) {
	var release chan struct{} // made in the bubble
	handler := HandlerFunc(func(ctx context.Context, j *LeasedJob) error {
		if j.Kind == "slow" {
			<-release
		}
		return nil
	})
	workerBubble(t, WorkerConfig{Handler: handler, Concurrency: 5}, func(t *testing.T, f *fakeWork, w *Worker, s *fakeWorkStream) {
		release = make(chan struct{})
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "fast"), leased(2, "slow")}}
		first := s.outcomeUnanswered()
		s.end <- errors.New("connection reset")

		s = <-f.streams
		hello := s.welcome(42)
		if hello.GetWorkerId() != 42 || hello.GetCredits() != 4 || len(hello.GetHeld()) != 2 {
			t.Errorf("hello: %v", hello)
		}
		again := hello
		if len(again.GetOutcomes()) != 1 || again.GetOutcomes()[0].GetToken() != 1 || again.GetOutcomesSequence() <= first.GetOutcomesSequence() {
			t.Errorf("sent again: %v", again)
		}
		refusal := &beaverv1.JobError{Code: "failed_precondition", Reason: "LEASE_LOST"}
		s.answers <- &beaverv1.WorkResponse{
			OutcomesThrough: again.GetOutcomesSequence(),
			Refused:         []*beaverv1.OutcomeRefused{{Id: again.GetOutcomes()[0].GetId(), Token: 1, Error: refusal}},
		}
		close(release)
		s.outcome()
		stop(t, w, s)
		if got := w.Stats(); got.Unconfirmed != 1 || got.Completed != 1 || got.Disconnected != 1 || got.Stale != 0 {
			t.Errorf("stats: %+v", got)
		}
	})
}

func TestWorkerForgotten(t *testing.T) {
	workerBubble(t, WorkerConfig{Handler: HandlerFunc(waitingHandler)}, func(t *testing.T, f *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
		synctest.Wait()
		s.end <- ErrWorkerLost
		s = <-f.streams
		if hello := s.welcome(43); hello.GetWorkerId() != 0 {
			t.Errorf("hello: %v", hello)
		}
		synctest.Wait()
		if got := w.Stats(); w.ID() != 43 || got.Stale != 1 || got.Running != 0 {
			t.Errorf("worker %d, stats %+v", w.ID(), got)
		}
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(2, "k")}}
		synctest.Wait()
		s.end <- errors.New("connection reset")
		s = <-f.streams
		s.welcome(44) // A new name without a word: the old one is lost too.
		synctest.Wait()
		if got := w.Stats(); got.Stale != 2 || got.Running != 0 {
			t.Errorf("stats %+v", got)
		}
		stop(t, w, s)
	})
}

func TestWorkerGracePeriod(t *testing.T) {
	var finish, stubborn chan struct{} // made in the bubble
	handler := HandlerFunc(func(ctx context.Context, j *LeasedJob) error {
		switch j.Kind {
		case "quick":
			time.Sleep(3 * time.Second)
			return nil
		case "obeys":
			return waitingHandler(ctx, j)
		case "final":
			return Permanent(waitingHandler(ctx, j))
		default:
			<-stubborn
			close(finish)
			return nil
		}
	})
	workerBubble(t, WorkerConfig{Handler: handler, GracePeriod: 5 * time.Second}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		finish, stubborn = make(chan struct{}), make(chan struct{})
		s.answers <- &beaverv1.WorkResponse{
			Jobs: []*beaverv1.LeasedJob{leased(1, "quick"), leased(2, "obeys"), leased(3, "stubborn"), leased(4, "final")},
		}
		synctest.Wait()
		start := time.Now()
		outcomes := stop(t, w, s)
		if took := time.Since(start); took != 5*time.Second+abandonWait {
			t.Errorf("stop took %v", took)
		}
		slices.SortFunc(outcomes, func(a, b *beaverv1.Outcome) int { return int(a.GetToken()) - int(b.GetToken()) })
		if len(outcomes) != 4 || outcomes[0].GetRelease() || outcomes[0].GetFailure() != nil || !outcomes[1].GetRelease() ||
			!outcomes[2].GetRelease() || !outcomes[3].GetFailure().GetFinal() {
			t.Errorf("outcomes: %v", outcomes)
		}
		close(stubborn)
		<-finish
	})
}

func TestWorkerStopsAtTheServersWish(t *testing.T) {
	workerBubble(t, WorkerConfig{Handler: HandlerFunc(waitingHandler), GracePeriod: -1}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{State: beaverv1.WorkerState_WORKER_STATE_QUIET}
		if m := <-s.requests; !m.GetQuiet() || m.GetCredits() != 0 {
			t.Errorf("told to be quiet: %v", m)
		}
		s.answers <- &beaverv1.WorkResponse{State: beaverv1.WorkerState_WORKER_STATE_RUN}
		if m := <-s.requests; m.GetQuiet() || m.GetCredits() != defaultConcurrency {
			t.Errorf("told to run: %v", m)
		}
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
		s.answers <- &beaverv1.WorkResponse{State: beaverv1.WorkerState_WORKER_STATE_STOP}
		if o := s.drain(); len(o) != 1 || !o[0].GetRelease() {
			t.Errorf("told to stop: %v", o)
		}
		<-w.Done()
		if err := w.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestWorkerStopWithoutServer(t *testing.T) {
	workerBubble(t, WorkerConfig{Handler: HandlerFunc(func(context.Context, *LeasedJob) error { return nil })},
		func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
			s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
			s.outcomeUnanswered()
			s.end <- errors.New("connection reset")
			start := time.Now()
			if err := w.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "1 outcomes unanswered") {
				t.Errorf("stop: %v", err)
			}
			if took := time.Since(start); took != flushWait {
				t.Errorf("stop took %v", took)
			}
		})
}

func TestWorkerIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeWork(t)
		c := &Client{cfg: Config{Logger: slog.New(slog.DiscardHandler)}, dialWork: fake.open}
		w, err := NewWorker(c, WorkerConfig{Queues: []string{"q"}, Handler: NewMux()})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			for s := range fake.streams {
				s.end <- errors.New("connection refused")
			}
		}()
		if err := w.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("start: %v", err)
		}
		close(fake.streams)
		if err := w.Start(t.Context()); err == nil {
			t.Error("a worker started twice")
		}
	})
}

func TestClockOffset(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 900e6, time.UTC)
	for _, tc := range []struct {
		date string
		want time.Duration
	}{
		{"", 0},
		{"nonsense", 0},
		{now.Format(http.TimeFormat), 0},
		{now.Add(2 * time.Second).Format(http.TimeFormat), 0},
		{now.Add(3 * time.Second).Format(http.TimeFormat), 3 * time.Second},
		{now.Add(-time.Hour).Format(http.TimeFormat), -time.Hour},
	} {
		if got := clockOffset(tc.date, now); got != tc.want {
			t.Errorf("clockOffset(%q) = %v, want %v", tc.date, got, tc.want)
		}
	}
}
