package engine

import (
	"errors"
	"reflect"
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

// TestRetryAllDeadPassesOver: dead jobs whose keys others hold stay dead, and keep none of the others behind them, however many they are and
// however few a call looks at.
func TestRetryAllDeadPassesOver(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	dead := enqueue(t, e, unique("a"), unique("b"), unique("c"), NewJob{Queue: "q"}, NewJob{Queue: "q"}, NewJob{Queue: "q"})
	die(t, e)
	holders := enqueue(t, e, unique("a"), unique("b"), unique("c"))
	next := ""
	retry := func(limit, want int, wantMore bool, passed ...int) {
		t.Helper()
		n, after, err := e.RetryAllDead(t.Context(), "q", next, limit)
		next = after
		over, _ := errors.AsType[*PassedOver](err)
		if n != want || (next != "") != wantMore || (over == nil) != (len(passed) == 0) || over == nil && err != nil {
			t.Fatalf("retried %d, next %q, %v; want %d, %v", n, next, err, want, wantMore)
		}
		if over == nil {
			return
		}
		wantError(t, over.First, CodeFailedPrecondition, ReasonUniqueKeyHeld)
		first := passed[0]
		if over.Count != len(passed) || !strings.Contains(over.First.Message, dead[first].String()) || !strings.Contains(over.First.Message, holders[first].String()) {
			t.Errorf("passed over: %d, %v", over.Count, over)
		}
	}
	retry(1, 0, true, 0)
	retry(3, 1, true, 1, 2)
	retry(2, 2, false)
	retry(10, 0, false, 0, 1, 2)
	retry(3, 0, false, 0, 1, 2)
	retry(2, 0, true, 0, 1)
	retry(2, 0, false, 2)
	for _, id := range holders {
		if _, err := e.Cancel(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	retry(2, 2, true)
	retry(2, 1, false)
	if n, next, err := e.DiscardAllDead(t.Context(), "q", "", 10); n != 0 || next != "" || err != nil {
		t.Errorf("discarded %d %v %v", n, next, err)
	}
	for _, wrong := range []string{"nonsense!", "0", strings.Repeat("0", 1<<12), (&sweep{}).format() + "00"} {
		_, _, err := e.RetryAllDead(t.Context(), "q", wrong, 1)
		wantError(t, err, CodeInvalidArgument, ReasonInvalid)
	}
}

// TestSweep: what a sweep has written is read back, and homes that are not there any more are no end of it.
func TestSweep(t *testing.T) {
	one, two, three := &pump{}, &pump{}, &pump{}
	one.shard, two.shard, three.shard = 1, 2, 3
	rt := &route{all: []home{{one, 7}, {two, 7}, {three, 8}}}
	s := &sweep{at: place{2, 7}, pos: 99, asked: []place{{1, 7}, {9, 1}}}
	got, ok := parseSweep(s.format())
	if !ok || !reflect.DeepEqual(got, s) {
		t.Fatalf("%+v is read as %+v", s, got)
	}
	if h, ok := got.home(rt); !ok || h != rt.all[1] || got.pos != 99 {
		t.Errorf("it goes on at %+v, %d", h, got.pos)
	}
	got.at = place{5, 5} // the queue has left it
	if h, ok := got.home(rt); !ok || h != rt.all[1] || got.pos != 0 {
		t.Errorf("it goes on at %+v, %d", h, got.pos)
	}
	got.at, got.asked = place{}, []place{{3, 8}, {2, 7}, {1, 7}}
	if h, ok := got.home(rt); ok {
		t.Errorf("it does not end, but goes on at %+v", h)
	}
	full := &sweep{at: place{1, 1}, asked: make([]place, sweepAskedMax)}
	if _, ok := parseSweep(full.format()); !ok {
		t.Error("the most homes are refused")
	}
	full.asked = append(full.asked, place{})
	if _, ok := parseSweep(full.format()); ok {
		t.Error("more homes than that are not refused")
	}
}
