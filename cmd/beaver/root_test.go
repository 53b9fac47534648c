package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/beaver-raft/beaver"
)

// TestJudge: a script can tell by the exit status what is refused, and so was not done, from what may be tried again.
func TestJudge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want int
	}{
		"anything else":           {errors.New("no"), exitFailure},
		"no such file":            {fmt.Errorf("open: %w", fs.ErrNotExist), exitNotFound},
		"a wrong argument":        {&beaver.Error{Code: beaver.CodeInvalidArgument}, exitUsage},
		"no such job":             {&beaver.Error{Code: beaver.CodeNotFound}, exitNotFound},
		"no server":               {&beaver.Error{Code: beaver.CodeUnavailable}, exitUnavailable},
		"no leader":               {&beaver.Error{Code: beaver.CodeUnavailable, Reason: "NO_LEADER"}, exitUnavailable},
		"no answer in time":       {&beaver.Error{Code: beaver.CodeDeadlineExceeded}, exitUnavailable},
		"its outcome is unknown":  {&beaver.Error{Code: beaver.CodeAborted, Reason: beaver.ErrOutcomeUnknown.Reason}, exitUnavailable},
		"a repeat that is late":   {&beaver.Error{Code: beaver.CodeUnknown, Reason: beaver.ErrOutcomeUnknown.Reason}, exitUnavailable},
		"a conflict":              {&beaver.Error{Code: beaver.CodeAborted, Reason: "CONFLICT"}, exitPrecondition},
		"a state":                 {&beaver.Error{Code: beaver.CodeFailedPrecondition}, exitPrecondition},
		"a limit":                 {fmt.Errorf("enqueue: %w", &beaver.Error{Code: beaver.CodeResourceExhausted}), exitPrecondition},
		"the caller went away":    {&beaver.Error{Code: beaver.CodeCanceled}, exitFailure},
		"what was printed before": {statusError{context.Canceled, exitNotFound}, exitNotFound},
	} {
		if got, _ := (&app{}).judge(c.err); got != c.want {
			t.Errorf("%s: exit status %d, want %d", name, got, c.want)
		}
	}
}
