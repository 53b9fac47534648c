package history

import (
	"fmt"
	"math"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// Label names a job in a history. Its producer puts it into the payload.
type Label uint64

// NoLabel is of a payload that could not be read.
const NoLabel = Label(math.MaxUint64)

// Kind is what a client asked of one job.
type Kind uint8

// The kinds. A Lease is one job of what a fetch brought; a Get is also what a list shows of a job.
const (
	Enqueue Kind = iota
	Lease
	Ack
	Fail
	Release
	Extend
	Progress
	Cancel
	Retry
	Discard
	Get
)

func (k Kind) String() string {
	return [...]string{"enqueue", "lease", "ack", "fail", "release", "extend", "progress", "cancel", "retry", "discard", "get"}[k]
}

// Forever is when a call returns that was never answered: it may have taken effect at any time, or not at all.
const Forever = time.Duration(math.MaxInt64)

// Operation is what one client asked of one job, and what it was told.
type Operation struct {
	Kind         Kind
	Call, Return time.Duration
	Unanswered   bool // no answer came; Return is Forever
	Expires      bool // of an enqueue: the job has a time to expire
	Stale        bool // of a get: any past state will do, and Call is 0
	Untold       bool // the answer did not tell the job's state; of an ack: nor whether it was a repeat

	Code    queue.Code
	State   queue.State
	Pos     queue.Pos
	Token   queue.Token // of the lease that is used, or granted, or seen
	Attempt uint32
	Found   bool // of a get
	Wished  bool // of a get: it is to be cancelled
}

// Lose takes note that no answer came.
func (o *Operation) Lose() { o.Unanswered, o.Return = true, Forever }

// See takes what a read said of the job.
func (o *Operation) See(j *queue.JobInfo) {
	o.Found, o.State, o.Token, o.Attempt, o.Wished = true, j.State, j.Token, j.Attempt, j.CancelRequested
}

func (o *Operation) String() string {
	returned := "never"
	if o.Return != Forever {
		returned = fmt.Sprintf("%.6f", o.Return.Seconds())
	}
	text := fmt.Sprintf("%12.6f … %-12s %-8s token %d", o.Call.Seconds(), returned, o.Kind, o.Token)
	if o.Unanswered {
		return text + ": not answered"
	}
	text += fmt.Sprintf(": code %d state %d attempt %d job %d.%d", o.Code, o.State, o.Attempt, o.Pos.Index(), o.Pos.Ordinal())
	if o.Kind == Get && !o.Found {
		text += ", not there"
	}
	if o.Stale {
		text += ", may be old"
	}
	return text
}
