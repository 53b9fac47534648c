package engine

import (
	"errors"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// unique is a job with a unique key.
func unique(key string) NewJob { return NewJob{Queue: "q", Spec: Spec{UniqueKey: key}} }

// die makes all ready jobs of q dead.
func die(t *testing.T, e *Engine) {
	t.Helper()
	var outcomes []Outcome
	for _, job := range fetchJobs(t, e, 0, 100, "q") {
		outcomes = append(outcomes, Outcome{Kind: OutcomeFail, ID: job.ID, Token: job.Token, Failure: Failure{Final: true}})
	}
	ended, err := e.Finish(t.Context(), 0, outcomes, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ended {
		if ended[i].Err != nil || ended[i].State != queue.StateDead {
			t.Fatalf("%+v", ended[i])
		}
	}
}

// TestRetryAllDeadPassesOver: dead jobs whose keys others hold stay dead, and keep none of the others behind them.
func TestRetryAllDeadPassesOver(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	dead := enqueue(t, e, unique("a"), unique("b"), unique("c"), NewJob{Queue: "q"}, NewJob{Queue: "q"}, NewJob{Queue: "q"})
	die(t, e)
	holders := enqueue(t, e, unique("a"), unique("b"), unique("c"))
	retry := func(limit, want, passed int, wantMore bool) {
		t.Helper()
		n, more, err := e.RetryAllDead(t.Context(), "q", limit)
		over, _ := errors.AsType[*PassedOver](err)
		if n != want || more != wantMore || (over == nil) != (passed == 0) || over == nil && err != nil {
			t.Fatalf("retried %d, more %v, %v; want %d, %v", n, more, err, want, wantMore)
		}
		if over == nil {
			return
		}
		wantError(t, over.First, CodeFailedPrecondition, ReasonUniqueKeyHeld)
		if over.Count != passed || !strings.Contains(over.First.Message, dead[0].String()) || !strings.Contains(over.First.Message, holders[0].String()) {
			t.Errorf("passed over: %d, %v", over.Count, over)
		}
	}
	retry(1, 1, 3, true)
	retry(10, 2, 3, false)
	retry(10, 0, 3, false)
	for _, id := range holders {
		if _, err := e.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	retry(2, 2, 0, true)
	retry(2, 1, 0, false)
	if n, more, err := e.DiscardAllDead(t.Context(), "q", 10); n != 0 || more || err != nil {
		t.Errorf("discarded %d %v %v", n, more, err)
	}
}
