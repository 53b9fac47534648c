package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// existing is an answer to an enqueue: that another job holds its unique key.
type existing struct {
	label     history.Label // of the job that was not stored
	holder    beaver.JobID
	call, ret time.Duration
}

// existed records that a job was not stored, since another held its unique key.
func (r *recorder) existed(l history.Label, name string, call time.Duration, holder beaver.JobID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ret := r.now()
	r.log.Add(l, history.Operation{Kind: history.Enqueue, Call: call, Return: ret, Code: queue.CodeExists})
	r.existing = append(r.existing, existing{l, holder, call, ret})
	r.bookLocked(name).existed++
}

// hold is a time throughout which a job certainly held its unique key.
type hold struct {
	label    history.Label
	from, to time.Duration
}

// uniqueness holds what clients were told against the promise that at most one job holds a unique key at any time. They see neither when
// a job takes its key nor when it lets go of it, only calls in which that happens. So what may be concluded is:
//
//   - A job that keeps its key until it ends holds it from the answer to its enqueue, or the first lease that somebody was told of, at
//     least until the first call is made that may have ended it; and likewise from the answer to a retry that made it wait again. No
//     two such times of one key overlap.
//   - Within such a time, no other job with the key was stored: none was whose enqueue began and was answered within it.
//   - A job that is said to hold a key was sent before that was said, and has the same keys. It was not known then, when the enqueue
//     began, that the job had let go of it: had completed or been cancelled, or started if it keeps it no longer.
type uniqueness struct {
	jobs     []jobOf // by label
	log      *history.Log
	labels   map[beaver.JobID]history.Label
	existing []existing
	wrong    []string
}

func (u *uniqueness) refuse(format string, args ...any) {
	u.wrong = append(u.wrong, fmt.Sprintf(format, args...))
}

// mayEnd reports whether a job may have let go of its key for an operation.
func mayEnd(o *history.Operation) bool {
	switch o.Kind {
	case history.Ack, history.Cancel:
		return o.Unanswered || o.Code == queue.CodeOK || o.Code == queue.CodeDuplicate || o.Code == queue.CodeCancelRequested
	case history.Fail:
		return o.Unanswered || o.Code == queue.CodeOK && (o.Untold || o.State == queue.StateDead || o.State == queue.StateCancelled)
	default: // a released job was cancelled before, and a discarded one dead
		return false
	}
}

// holds are the times in which a job certainly held its key.
func (u *uniqueness) holds(l history.Label) (all []hold) {
	if u.jobs[l].started {
		return nil // perhaps it was leased at once, and nobody was told
	}
	ops := u.log.Of(l)
	until := func(from, since time.Duration) time.Duration {
		to := history.Forever
		for i := range ops {
			if o := &ops[i]; mayEnd(o) && o.Return >= since {
				to = min(to, o.Call)
			}
		}
		return max(to, from)
	}
	from := history.Forever
	for i := range ops {
		switch o := &ops[i]; {
		case o.Kind == history.Enqueue && !o.Unanswered && o.Code == queue.CodeOK, o.Kind == history.Lease:
			from = min(from, o.Return)
		case o.Kind == history.Retry && !o.Unanswered && o.Code == queue.CodeOK:
			all = append(all, hold{l, o.Return, until(o.Return, o.Call)})
		default:
		}
	}
	if from < history.Forever {
		all = append(all, hold{l, from, until(from, 0)})
	}
	return slices.DeleteFunc(all, func(h hold) bool { return h.from >= h.to })
}

// letGo reports whether it was known at a time that a job had let go of its key for good.
func (u *uniqueness) letGo(l history.Label, at time.Duration) bool {
	gone := false
	for _, o := range u.log.Of(l) {
		before := !o.Unanswered && o.Return < at
		switch o.Kind {
		case history.Retry:
			return false
		case history.Ack:
			gone = gone || before && (o.Code == queue.CodeOK || o.Code == queue.CodeDuplicate)
		case history.Cancel:
			gone = gone || before && o.Code == queue.CodeOK
		case history.Lease:
			gone = gone || before && u.jobs[l].started
		default:
		}
	}
	return gone
}

// judge looks for what must not be.
func (u *uniqueness) judge() {
	byKey := make(map[jobOf][]history.Label)
	for l, of := range u.jobs {
		if of.unique != "" {
			of.started = false // both kinds share their keys
			byKey[of] = append(byKey[of], history.Label(l))
		}
	}
	for of, labels := range byKey {
		var holds []hold
		for _, l := range labels {
			holds = append(holds, u.holds(l)...)
		}
		slices.SortFunc(holds, func(a, b hold) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(holds); i++ {
			if a, b := holds[i-1], holds[i]; b.from < a.to && a.label != b.label {
				u.refuse("jobs %d and %d of %s held the unique key %q at once: from %.3f to %.3f s, and from %.3f to %.3f s",
					a.label, b.label, of.queue, of.unique, a.from.Seconds(), a.to.Seconds(), b.from.Seconds(), b.to.Seconds())
			}
		}
		for _, l := range labels {
			u.judgeStored(l, holds)
		}
	}
	for _, e := range u.existing {
		u.judgeExisting(e)
	}
}

// judgeStored looks for a time, of those in which jobs held a key, within which another one with it was stored.
func (u *uniqueness) judgeStored(l history.Label, holds []hold) {
	for _, o := range u.log.Of(l) {
		if o.Kind != history.Enqueue || o.Unanswered || o.Code != queue.CodeOK {
			continue
		}
		at := sort.Search(len(holds), func(i int) bool { return holds[i].from >= o.Call }) - 1
		if at >= 0 && holds[at].to > o.Return && holds[at].label != l {
			u.refuse("job %d was stored between %.3f and %.3f s with the unique key of job %d, which held it from %.3f to %.3f s",
				l, o.Call.Seconds(), o.Return.Seconds(), holds[at].label, holds[at].from.Seconds(), holds[at].to.Seconds())
		}
	}
}

// judgeExisting looks whether the job that is said to hold a key can have held it.
func (u *uniqueness) judgeExisting(e existing) {
	holder, known := u.labels[e.holder]
	if !known {
		u.refuse("job %d was not stored, since %s held its unique key: there is no such job", e.label, e.holder)
		return
	}
	of, with := u.jobs[e.label], u.jobs[holder]
	of.started, with.started = false, false
	sent := slices.ContainsFunc(u.log.Of(holder), func(o history.Operation) bool { return o.Kind == history.Enqueue && o.Call < e.ret })
	if of != with || !sent || u.letGo(holder, e.call) {
		u.refuse("job %d, of %v, was not stored between %.3f and %.3f s, since job %d, of %v, held its unique key: that was sent before: %t; it was known to have let go of it: %t",
			e.label, of, e.call.Seconds(), e.ret.Seconds(), holder, with, sent, u.letGo(holder, e.call))
	}
}

// alone judges all that was told of unique keys.
func (r *recorder) alone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := &uniqueness{jobs: r.jobs, log: &r.log, labels: r.labels, existing: r.existing}
	u.judge()
	for _, wrong := range u.wrong {
		r.violateLocked("%s", wrong)
	}
}

// TestUniqueness: what must not be is found, and what may be is let pass.
func TestUniqueness(t *testing.T) {
	type op = history.Operation
	const ms = time.Millisecond
	stored := func(call, ret time.Duration) op { return op{Kind: history.Enqueue, Call: call * ms, Return: ret * ms} }
	lost := func(call time.Duration) op {
		return op{Kind: history.Enqueue, Call: call * ms, Return: history.Forever, Unanswered: true}
	}
	did := func(k history.Kind, call, ret time.Duration) op {
		return op{Kind: k, Call: call * ms, Return: ret * ms, Untold: true}
	}
	failed := func(call, ret time.Duration, st queue.State) op {
		return op{Kind: history.Fail, Call: call * ms, Return: ret * ms, State: st}
	}
	none := time.Duration(-1)
	tests := map[string]struct {
		jobs     [][]op
		started  bool          // of all but the first
		existing time.Duration // when an enqueue began that took 2 ms and was told that the first job holds the key; -1: there was none
		wrong    int
	}{
		"one after the other":                  {jobs: [][]op{{stored(1, 2), did(history.Ack, 5, 6)}, {stored(7, 8)}}, existing: none},
		"the second while the first may end":   {jobs: [][]op{{stored(1, 2), did(history.Ack, 5, 9)}, {stored(6, 7)}}, existing: none},
		"the second before the first can end":  {jobs: [][]op{{stored(1, 2), did(history.Ack, 9, 10)}, {stored(3, 4)}}, existing: none, wrong: 2},
		"that one lets go when it starts":      {jobs: [][]op{{stored(1, 2), did(history.Ack, 9, 10)}, {stored(3, 4)}}, started: true, existing: none, wrong: 1},
		"both at once":                         {jobs: [][]op{{stored(1, 5), did(history.Ack, 9, 10)}, {stored(2, 6), did(history.Ack, 9, 10)}}, existing: none, wrong: 1},
		"both at once, and ended at once":      {jobs: [][]op{{stored(1, 5), did(history.Ack, 5, 10)}, {stored(2, 6)}}, existing: none},
		"of which no answer came, leased":      {jobs: [][]op{{lost(1), did(history.Lease, 0, 4), did(history.Ack, 9, 10)}, {stored(5, 6)}}, existing: none, wrong: 2},
		"of which no answer came, later":       {jobs: [][]op{{lost(1), did(history.Lease, 0, 7), did(history.Ack, 9, 10)}, {stored(5, 6), did(history.Ack, 6, 8)}}, existing: none},
		"failed, and backing off":              {jobs: [][]op{{stored(1, 2), failed(3, 4, queue.StateBackoff)}, {stored(5, 6)}}, existing: none, wrong: 2},
		"failed, and dead":                     {jobs: [][]op{{stored(1, 2), failed(3, 4, queue.StateDead)}, {stored(5, 6)}}, existing: none},
		"retried while another one holds it":   {jobs: [][]op{{stored(1, 2), failed(3, 4, queue.StateDead), did(history.Retry, 7, 8)}, {stored(5, 6)}}, existing: none, wrong: 1},
		"retried, and another one stored":      {jobs: [][]op{{stored(1, 2), failed(3, 4, queue.StateDead), did(history.Retry, 7, 8)}, {stored(9, 10)}}, existing: none, wrong: 2},
		"an ack that nobody answered":          {jobs: [][]op{{stored(1, 2), {Kind: history.Ack, Call: 3 * ms, Return: history.Forever, Unanswered: true}}, {stored(5, 6)}}, existing: none},
		"an ack that was refused":              {jobs: [][]op{{stored(1, 2), {Kind: history.Ack, Call: 3 * ms, Return: 4 * ms, Code: queue.CodeStale}}, {stored(5, 6)}}, existing: none, wrong: 2},
		"exists":                               {jobs: [][]op{{stored(1, 2), did(history.Ack, 5, 6)}}, existing: 3},
		"exists, and may just end":             {jobs: [][]op{{stored(1, 2), did(history.Ack, 5, 6)}}, existing: 6},
		"has ended, and exists":                {jobs: [][]op{{stored(1, 2), did(history.Ack, 5, 6)}}, existing: 7, wrong: 1},
		"was cancelled, and exists":            {jobs: [][]op{{stored(1, 2), did(history.Cancel, 5, 6)}}, existing: 7, wrong: 1},
		"is dead, and was retried, and exists": {jobs: [][]op{{stored(1, 2), did(history.Lease, 3, 4), failed(5, 6, queue.StateDead), did(history.Retry, 6, 9)}}, existing: 7},
		"exists before it was sent":            {jobs: [][]op{{stored(10, 12)}}, existing: 7, wrong: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			u := &uniqueness{log: &history.Log{}, labels: map[beaver.JobID]history.Label{"first": 0}}
			for i, ops := range tc.jobs {
				l := u.log.NewLabel()
				for _, o := range ops {
					u.log.Add(l, o)
				}
				u.jobs = append(u.jobs, jobOf{queue: "q", unique: "k", started: tc.started && i > 0})
			}
			if tc.existing != none {
				u.existing = []existing{{label: u.log.NewLabel(), holder: "first", call: tc.existing * ms, ret: (tc.existing + 2) * ms}}
				u.jobs = append(u.jobs, jobOf{queue: "q", unique: "k"})
			}
			if u.judge(); len(u.wrong) != tc.wrong {
				t.Errorf("found %d, want %d: %q", len(u.wrong), tc.wrong, u.wrong)
			}
		})
	}
}
