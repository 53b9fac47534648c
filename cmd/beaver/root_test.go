package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"testing"

	"github.com/beaver-raft/beaver"
)

// TestHungNodeIsLeft: of the nodes that a command is given one may stand still: it takes connections and says nothing. The command goes to
// another one, whichever it asks first.
func TestHungNodeIsLeft(t *testing.T) {
	t.Parallel()
	hung, err := net.Listen("tcp", "127.0.0.1:0") // the system takes connections for it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hung.Close() })
	s := newStation(t, secretFile(t, "s"))
	one := launch(t, s.args("--shards", "1")...)
	one.says("is ready")
	addr := hung.Addr().String() + "," + s.public
	for i := range 6 {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			for _, args := range [][]string{{"enqueue", "q", "1"}, {"queues", "list"}} {
				if text, status := run(t, append(args, "--addr", addr)...); status != exitOK {
					t.Errorf("%v ends with %d: %s", args, status, text)
				}
			}
		})
	}
}

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
