package history

import (
	"fmt"
	"strings"

	"github.com/anishathalye/porcupine"
)

// StepsMax bounds what a job's history may cost to judge. One that is dearer is undecided, and is counted.
const StepsMax = 2_000_000

// Log is what clients asked and were told, job by job. The zero value is an empty one.
type Log struct {
	jobs [][]Operation // by label

	Undecided uint64 // jobs whose history was too dear to judge
	Steps     uint64 // of the model, in all
}

// NewLabel names a job that is about to be enqueued.
func (h *Log) NewLabel() Label {
	h.jobs = append(h.jobs, nil)
	return Label(len(h.jobs) - 1)
}

// Add records an operation on a job. One that no NewLabel named is nobody's.
func (h *Log) Add(l Label, o Operation) {
	if uint64(l) < uint64(len(h.jobs)) {
		h.jobs[l] = append(h.jobs[l], o)
	}
}

// Jobs is how many labels were given: those below it.
func (h *Log) Jobs() int { return len(h.jobs) }

// Of returns what was recorded of a job. It belongs to the Log.
func (h *Log) Of(l Label) []Operation { return h.jobs[l] }

// Error says that what clients were told of a job cannot be.
type Error struct {
	Label      Label
	Operations []Operation
}

func (e *Error) Error() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "history: no order of what clients did to job %d explains what they were told:", e.Label)
	for i := range e.Operations {
		_, _ = fmt.Fprintf(&b, "\n  %s", e.Operations[i].String())
	}
	return b.String()
}

// Check has porcupine look for an order of each job's operations that the model allows and real time does not forbid. It
// returns an *Error for the first job that has none.
func (h *Log) Check() error {
	m := porcupine.Model{
		Init:  func() any { return modelState{phases: phaseAbsent} },
		Equal: func(a, b any) bool { return a.(modelState) == b.(modelState) },
		Hash:  func(s any) uint64 { return s.(modelState).hash() },
	}
	for l, ops := range h.jobs {
		steps := 0
		m.Step = func(s, in, _ any) (bool, any) {
			if steps++; steps > StepsMax {
				return false, s
			}
			next := s.(modelState).step(in.(*Operation))
			return next.phases != 0, next
		}
		var list []porcupine.Operation
		for i := range ops {
			o := &ops[i]
			list = append(list, porcupine.Operation{Input: o, Call: int64(o.Call), Return: int64(o.Return)})
		}
		good := porcupine.CheckOperations(m, list)
		h.Steps += uint64(steps)
		switch {
		case good:
		case steps > StepsMax:
			h.Undecided++
		default:
			return &Error{Label(l), ops}
		}
	}
	return nil
}
