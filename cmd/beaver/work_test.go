package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

func TestProgramRunner(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		payload      string
		cancel       bool
		want         *beaver.Failure // nil: done
		cause        error
	}{
		{name: "done", script: "cat"},
		{name: "does not read", script: "exit 0", payload: strings.Repeat("x", 1<<20)},
		{name: "fails", script: "echo first >&2; echo last >&2; exit 3", want: &beaver.Failure{Type: "exit status 3", Message: "first\nlast"}},
		{name: "is dead", script: "exit 100", want: &beaver.Failure{Type: "exit status 100", Message: "exit status 100", Final: true}},
		{name: "kills itself", script: "kill -9 $$", want: &beaver.Failure{Type: "signal: killed", Message: "signal: killed"}},
		{name: "long error", script: "yes é | head -c 9000 >&2; exit 1", want: &beaver.Failure{Type: "exit status 1"}},
		{name: "is cancelled", script: "echo begun; sleep 60 & wait", cancel: true, cause: beaver.ErrCancelled},
		{name: "is cancelled and stubborn", script: "trap '' TERM; echo begun; sleep 60", cancel: true, cause: beaver.ErrCancelled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var notes bytes.Buffer
			runner := &programRunner{
				app: &app{stderr: &notes}, path: "/bin/sh", args: []string{"-c", tc.script}, flags: &workFlags{killAfter: 100 * time.Millisecond},
			}
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			out := &notifier{begun: func() {}}
			if tc.cancel {
				out.begun = func() { cancel(beaver.ErrCancelled) }
			}
			job := &beaver.LeasedJob{Payload: []byte(tc.payload), Metadata: map[string]string{"key": "value"}}
			errs := &tail{max: errorBytesMax}
			begin := time.Now()
			err := runner.run(ctx, job, out, errs)
			if took := time.Since(begin); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
			switch failure, _ := errors.AsType[*beaver.Failure](err); {
			case tc.cause != nil:
				if !errors.Is(err, tc.cause) {
					t.Errorf("got %v, want %v", err, tc.cause)
				}
			case tc.want == nil:
				if err != nil {
					t.Error(err)
				}
			case failure == nil:
				t.Errorf("got %v, want %+v", err, tc.want)
			case failure.Type != tc.want.Type || failure.Final != tc.want.Final ||
				tc.want.Message != "" && failure.Message != tc.want.Message || len(failure.Message) > errorBytesMax:
				t.Errorf("got %+v, want %+v", failure, tc.want)
			}
		})
	}
}

// notifier calls begun at the first write.
type notifier struct{ begun func() }

func (n *notifier) Write(b []byte) (int, error) {
	n.begun()
	return len(b), nil
}

func TestResultLimit(t *testing.T) {
	for _, size := range []int{resultBytesMax, resultBytesMax + 1} {
		h := &head{max: resultBytesMax}
		for range size {
			if _, err := h.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		if h.cut != (size > resultBytesMax) || h.Len() != min(size, resultBytesMax) {
			t.Errorf("of %d bytes %d are kept, cut is %v", size, h.Len(), h.cut)
		}
	}
}

func TestShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Microsecond: "2ms", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 25 * time.Hour: "1d01h", time.Hour: "1h00m",
	} {
		if got := short(d); got != want {
			t.Errorf("short(%v) = %q, want %q", d, got, want)
		}
	}
}
