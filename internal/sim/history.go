package sim

import (
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// asked is one item of a call that the history follows.
type asked struct {
	label history.Label
	item  int // in the call
	op    history.Operation
}

// record takes into the history what became of a call that was asked at a moment. What certainly did not happen is no
// operation.
func record(h *history.Log, k *call, at, now time.Duration, a *answer) {
	for i := range k.asked {
		w := &k.asked[i]
		o := w.op
		o.Call, o.Return = at, now
		switch {
		case a.outcome == outcomeUnknown && o.Kind != history.Get:
			o.Lose()
		case a.outcome != outcomeDone:
			continue
		case o.Kind == history.Get:
			see(&o, a.jobs)
			if o.Stale {
				o.Call = 0
			}
		default:
			r := a.results[w.item]
			o.Code, o.State = r.Code, r.State
		}
		h.Add(w.label, o)
	}
}

// see has a get take what a read said of its job, if anything.
func see(o *history.Operation, jobs []queue.JobInfo) {
	if at := slices.IndexFunc(jobs, func(j queue.JobInfo) bool { return j.Pos == o.Pos }); at >= 0 {
		o.See(&jobs[at])
	}
}
