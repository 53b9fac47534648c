package beaver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// refuse answers m, whose first outcome is refused.
func (s *fakeWorkStream) refuse(m *beaverv1.WorkRequest, err *beaverv1.JobError) {
	o := m.GetOutcomes()[0]
	s.answers <- &beaverv1.WorkResponse{
		OutcomesThrough: m.GetOutcomesSequence(),
		Refused:         []*beaverv1.OutcomeRefused{{Id: o.GetId(), Token: o.GetToken(), Error: err}},
	}
}

// TestWorkerOutcomeInvalid: an outcome that the server refuses for what it says ends its attempt all the same, as a failure.
func TestWorkerOutcomeInvalid(t *testing.T) {
	handler := HandlerFunc(func(context.Context, *LeasedJob) error { return nil })
	workerBubble(t, WorkerConfig{Handler: handler}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
		invalid := &beaverv1.JobError{Code: "invalid_argument", Field: "result", Message: "too odd"}
		s.refuse(s.outcomeUnanswered(), invalid)
		m := s.outcomeUnanswered()
		if o := m.GetOutcomes()[0]; o.GetToken() != 1 || o.GetFailure() == nil || o.GetFailure().GetRetryAfter() != nil {
			t.Errorf("instead of the refused one: %v, want a plain failure", o)
		}
		s.refuse(m, invalid)
		if again := stop(t, w, s); len(again) != 0 {
			t.Errorf("the plain failure is refused too, and then comes %v", again)
		}
		if got := w.Stats(); got.Stale != 1 || got.Completed != 0 {
			t.Errorf("stats: %+v", got)
		}
	})
}

// TestWorkerQuietForgotten: a worker that was told to go quiet works again when a new stream's welcome does not say so.
func TestWorkerQuietForgotten(t *testing.T) {
	handler := HandlerFunc(func(context.Context, *LeasedJob) error { return nil })
	workerBubble(t, WorkerConfig{Handler: handler, Concurrency: 3}, func(t *testing.T, fake *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{State: beaverv1.WorkerState_WORKER_STATE_QUIET}
		if m := <-s.requests; !m.GetQuiet() {
			t.Errorf("after the wish: %v, want quiet", m)
		}
		s.end <- errors.New("connection reset")
		s = <-fake.streams
		if m := s.welcome(42); !m.GetQuiet() {
			t.Errorf("hello: %v, want quiet until the server says otherwise", m)
		}
		if m := <-s.requests; m.GetQuiet() || m.GetCredits() != 3 {
			t.Errorf("after the welcome: %v, want 3 credits", m)
		}
		stop(t, w, s)
	})
}

// TestWorkerOutcomeRefusedForNow: an outcome that the server could not take just now is sent again, and the worker still holds
// its lease. Otherwise the job would stay running as long as the worker lives.
func TestWorkerOutcomeRefusedForNow(t *testing.T) {
	for _, code := range []Code{CodeUnavailable, CodeAborted, CodeResourceExhausted, CodeInternal} {
		t.Run(string(code), func(t *testing.T) {
			handler := HandlerFunc(func(context.Context, *LeasedJob) error { return nil })
			workerBubble(t, WorkerConfig{Handler: handler}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
				s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
				start := time.Now()
				for range 3 {
					s.refuse(s.outcomeUnanswered(), &beaverv1.JobError{Code: string(code), Message: "nothing happened; try again"})
					synctest.Wait()
					if held := w.heartbeat().GetHeld(); len(held) != 1 || held[0].GetToken() != 1 {
						t.Errorf("held while the outcome waits: %v", held)
					}
				}
				if m := s.outcome(); m.GetOutcomes()[0].GetToken() != 1 || time.Since(start) < 3*backoffMin/2 {
					t.Errorf("%v after %v, want the outcome again, with pauses", m, time.Since(start))
				}
				stop(t, w, s)
				if got := w.Stats(); got.Completed != 1 || got.Stale != 0 {
					t.Errorf("stats: %+v", got)
				}
			})
		})
	}
}

// TestWorkerLostStale: outcomes that a server did not read, since it had taken the worker for lost, are stale and not in doubt.
func TestWorkerLostStale(t *testing.T) {
	for name, tc := range map[string]struct {
		end  error
		want WorkerStats
	}{
		"told":   {connect.NewWireError(connect.CodeNotFound, errors.New("the worker is not registered")), WorkerStats{Stale: 1, Disconnected: 1}},
		"broken": {errors.New("connection reset"), WorkerStats{Unconfirmed: 1, Disconnected: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			handler := HandlerFunc(func(context.Context, *LeasedJob) error { return nil })
			workerBubble(t, WorkerConfig{Handler: handler}, func(t *testing.T, fake *fakeWork, w *Worker, s *fakeWorkStream) {
				s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
				s.outcomeUnanswered()
				s.end <- tc.end
				s = <-fake.streams
				hello := s.welcome(43)
				lost := &beaverv1.JobError{Code: "failed_precondition", Reason: reasonLeaseLost}
				if len(hello.GetOutcomes()) == 0 {
					hello = s.outcomeUnanswered()
				}
				s.refuse(hello, lost)
				stop(t, w, s)
				if got := w.Stats(); got != tc.want {
					t.Errorf("stats: %+v, want %+v", got, tc.want)
				}
			})
		})
	}
}
