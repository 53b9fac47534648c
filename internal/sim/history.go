package sim

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/beaver-raft/beaver/internal/queue"
)

// label names a job in the clients' history: its producer puts it into the payload, so that a job whose enqueue was never
// answered is known when somebody is handed it.
type label uint64

// noLabel is of a payload that could not be read.
const noLabel = label(math.MaxUint64)

// opKind is what a client asked of one job.
type opKind uint8

const (
	opEnqueue opKind = iota
	opLease
	opAck
	opFail
	opRelease
	opExtend
	opProgress
	opCancel
	opRetry
	opDiscard
	opGet
)

func (k opKind) String() string {
	return [...]string{"enqueue", "lease", "ack", "fail", "release", "extend", "progress", "cancel", "retry", "discard", "get"}[k]
}

// forever is when a call returns that was never answered: it may have taken effect at any time, or not at all.
const forever = time.Duration(math.MaxInt64)

// operation is what one client asked of one job, and what it was told.
type operation struct {
	kind      opKind
	call, ret time.Duration
	unknown   bool // no answer came
	expires   bool // of an enqueue: the job has a time to expire
	stale     bool // of a get: any past state will do

	code    queue.Code
	state   queue.State
	pos     queue.Pos
	token   queue.Token // of the lease that is used, or granted, or seen
	attempt uint32
	found   bool // of a get
	wished  bool // of a get: it is to be cancelled
}

func (o *operation) String() string {
	returned := "never"
	if o.ret != forever {
		returned = fmt.Sprintf("%.6f", o.ret.Seconds())
	}
	text := fmt.Sprintf("%12.6f … %-12s %-8s token %d", o.call.Seconds(), returned, o.kind, o.token)
	if o.unknown {
		return text + ": not answered"
	}
	text += fmt.Sprintf(": code %d state %d attempt %d job %d.%d", o.code, o.state, o.attempt, o.pos.Index(), o.pos.Ordinal())
	if o.kind == opGet && !o.found {
		text += ", not there"
	}
	if o.stale {
		text += ", may be old"
	}
	return text
}

// asked is one item of a call that the history follows.
type asked struct {
	label label
	item  int // in the call
	op    operation
}

// history is what clients asked and were told, job by job. A job's label is its place in jobs.
type history struct {
	jobs [][]operation
	undecided,
	steps uint64
}

// newLabel names a job that is about to be enqueued.
func (h *history) newLabel() label {
	h.jobs = append(h.jobs, nil)
	return label(len(h.jobs) - 1)
}

func (h *history) add(l label, o operation) {
	if uint64(l) < uint64(len(h.jobs)) {
		h.jobs[l] = append(h.jobs[l], o)
	}
}

// answered records what became of a call that was asked at a moment. What certainly did not happen is no operation.
func (h *history) answered(k *call, at, now time.Duration, a *answer) {
	for i := range k.asked {
		w := &k.asked[i]
		o := w.op
		o.call, o.ret = at, now
		switch {
		case a.outcome == outcomeUnknown && o.kind != opGet:
			o.unknown, o.ret = true, forever
		case a.outcome != outcomeDone:
			continue
		case o.kind == opGet:
			o.seen(a.jobs)
			if o.stale {
				o.call = 0
			}
		default:
			r := a.results[w.item]
			o.code, o.state = r.Code, r.State
		}
		h.add(w.label, o)
	}
}

// seen takes what a read said of the job.
func (o *operation) seen(jobs []queue.JobInfo) {
	at := slices.IndexFunc(jobs, func(j queue.JobInfo) bool { return j.Pos == o.pos })
	if at < 0 {
		return
	}
	j := &jobs[at]
	o.found, o.state, o.token, o.attempt, o.wished = true, j.State, j.Token, j.Attempt, j.CancelRequested
}

// stepsMax bounds what a job's history may cost to check. One that is dearer counts as undecided, and is counted.
const stepsMax = 200_000

// check has porcupine look for an order of each job's operations that the model allows and real time does not forbid. It
// returns what is wrong with the first job that has none.
func (h *history) check() error {
	m := porcupine.Model{
		Init:  func() any { return modelState{phases: phaseAbsent} },
		Equal: func(a, b any) bool { return a.(modelState) == b.(modelState) },
		Hash:  func(s any) uint64 { return s.(modelState).hash() },
	}
	for l, ops := range h.jobs {
		steps := 0
		m.Step = func(s, in, _ any) (bool, any) {
			if steps++; steps > stepsMax {
				return false, s
			}
			next := s.(modelState).step(in.(*operation))
			return next.phases != 0, next
		}
		var list []porcupine.Operation
		for i := range ops {
			o := &ops[i]
			list = append(list, porcupine.Operation{Input: o, Call: int64(o.call), Return: int64(o.ret)})
		}
		good := porcupine.CheckOperations(m, list)
		h.steps += uint64(steps)
		switch {
		case good:
		case steps > stepsMax:
			h.undecided++
		default:
			return historyError(label(l), ops)
		}
	}
	return nil
}

func historyError(l label, ops []operation) error {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "history: no order of what clients did to job %d explains what they were told:", l)
	for i := range ops {
		_, _ = fmt.Fprintf(&b, "\n  %s", ops[i].String())
	}
	return &violation{b.String()}
}
