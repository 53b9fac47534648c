package history_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// at is when an operation was called and answered, in seconds.
func at(call, answered int, o history.Operation) history.Operation {
	o.Call, o.Return = time.Duration(call)*time.Second, time.Duration(answered)*time.Second
	o.Pos = job
	return o
}

// unanswered is an operation that got no answer.
func unanswered(call int, o history.Operation) history.Operation {
	o = at(call, call, o)
	o.Lose()
	return o
}

var job = queue.MakePos(7, 1)

// told is what an operation of a lease was told.
func told(k history.Kind, token queue.Token, code queue.Code, st queue.State) history.Operation {
	return history.Operation{Kind: k, Token: token, Code: code, State: st}
}

func stored() history.Operation { return history.Operation{Kind: history.Enqueue} }

func leased(token queue.Token, attempt uint32) history.Operation {
	return history.Operation{Kind: history.Lease, Token: token, Attempt: attempt}
}

func acked(token queue.Token) history.Operation {
	return told(history.Ack, token, queue.CodeOK, queue.StateCompleted)
}

// untoldAck is an ack that was taken, for the first time or again.
func untoldAck(token queue.Token) history.Operation {
	return history.Operation{Kind: history.Ack, Token: token, Untold: true}
}

// refused is the refusal of a lease that does not tell the job's state.
func refused(k history.Kind, token queue.Token) history.Operation {
	return history.Operation{Kind: k, Token: token, Code: queue.CodeStale, Untold: true}
}

func seen(st queue.State, token queue.Token, attempt uint32) history.Operation {
	return history.Operation{Kind: history.Get, Found: true, State: st, Token: token, Attempt: attempt}
}

func TestCheck(t *testing.T) {
	untoldRelease := history.Operation{Kind: history.Release, Token: 1, Untold: true}
	for _, test := range []struct {
		name string
		ops  []history.Operation
		good bool
	}{
		{"a job's life", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, acked(1)), at(6, 7, seen(queue.StateCompleted, 1, 1))}, true},
		{"leased while the enqueue is under way", []history.Operation{at(0, 9, stored()), at(2, 3, leased(1, 1)), at(4, 5, acked(1))}, true},
		{"stored without an answer", []history.Operation{unanswered(0, stored()), at(2, 3, leased(1, 1))}, true},
		{"leased before it was enqueued", []history.Operation{at(5, 6, stored()), at(2, 3, leased(1, 1))}, false},
		{"acknowledged, and lost", []history.Operation{at(0, 1, stored()), at(2, 3, history.Operation{Kind: history.Get})}, false},
		{"a lease that was lost, and a late ack", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, leased(2, 2)), at(6, 7, refused(history.Ack, 1)), at(6, 7, acked(2))}, true},
		{"two leases under one token", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, leased(1, 2))}, false},
		{"a stale ack that is taken", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, leased(2, 2)), at(6, 7, acked(1))}, false},
		{"completed twice", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, leased(2, 2)), at(6, 7, acked(2)), at(8, 9, acked(1))}, false},
		{"handed out after its end", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, acked(1)), at(6, 7, leased(2, 2))}, false},
		{"an ack without an answer, and another lease", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), unanswered(4, acked(1)), at(6, 7, leased(2, 2)), at(8, 9, acked(2))}, true},
		{"completed by a lease that nobody saw", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, seen(queue.StateCompleted, 2, 2))}, false},
		{"completed, and seen to wait", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, acked(1)), at(6, 7, seen(queue.StateReady, 1, 1))}, false},
		{"a lease that nobody heard of, taken back", []history.Operation{
			at(0, 1, stored()), at(2, 3, seen(queue.StateRunning, 1, 1)), at(4, 5, seen(queue.StateReady, 0, 0)), at(6, 7, seen(queue.StateRunning, 2, 1)),
			at(8, 9, leased(3, 1)), at(10, 11, seen(queue.StateRunning, 3, 1)), at(12, 13, acked(3)),
		}, true},
		{"an attempt that began, begun again", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, leased(2, 1))}, false},
		{"running under a token of before", []history.Operation{at(0, 1, stored()), at(2, 3, seen(queue.StateRunning, 2, 1)), at(4, 5, seen(queue.StateRunning, 1, 1))}, false},
		{"leased under a token of before", []history.Operation{at(0, 1, stored()), at(2, 3, seen(queue.StateRunning, 2, 1)), at(4, 5, leased(1, 1))}, false},
		{"forgotten to have begun", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, seen(queue.StateReady, 0, 0))}, false},
		{"released, and what became of it is not told", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, untoldRelease), at(6, 7, leased(2, 2))}, true},
		{"released, and held", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, untoldRelease), at(6, 7, acked(1))}, false},
		{"a lease that is refused while it is held", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, refused(history.Extend, 1)), at(6, 7, acked(1))}, false},
		{"acknowledged twice under one lease", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, untoldAck(1)), at(6, 7, untoldAck(1))}, true},
		{"acknowledged twice under two leases", []history.Operation{at(0, 1, stored()), at(2, 3, leased(1, 1)), at(4, 5, untoldAck(1)), at(6, 7, leased(2, 2)), at(8, 9, untoldAck(2))}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var h history.Log
			h.NewLabel() // another job, of which nothing is known
			l := h.NewLabel()
			for _, o := range test.ops {
				h.Add(l, o)
			}
			h.Add(history.NoLabel, acked(9))
			err := h.Check()
			if (err == nil) != test.good || h.Undecided != 0 {
				t.Fatalf("Check says %v, with %d undecided", err, h.Undecided)
			}
			wrong, ok := errors.AsType[*history.Error](err)
			if !test.good && (!ok || wrong.Label != l || len(strings.Split(err.Error(), "\n")) != len(test.ops)+1) {
				t.Errorf("Check says %v", err)
			}
		})
	}
}

// TestUndecided: what would take too long to judge is counted, and is no violation.
func TestUndecided(t *testing.T) {
	var h history.Log
	l := h.NewLabel()
	h.Add(l, at(0, 1, stored()))
	for token := range queue.Token(24) { // any order of these is possible, and none explains the last
		h.Add(l, unanswered(2, leased(1+token, uint32(1+token))))
		h.Add(l, unanswered(2, told(history.Fail, 1+token, queue.CodeOK, queue.StateBackoff)))
	}
	h.Add(l, at(50, 51, acked(99)))
	if err := h.Check(); err != nil || h.Undecided != 1 || h.Steps <= history.StepsMax {
		t.Errorf("Check says %v after %d steps, with %d undecided", err, h.Steps, h.Undecided)
	}
}
