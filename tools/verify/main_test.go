package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestCounts reads the output of go test in pieces, as a pipe delivers it.
func TestCounts(t *testing.T) {
	output := "=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/sub (0.00s)\n--- SKIP: TestB (0.00s)\nPASS\n" +
		"ok  \texample.com/a\t0.01s\n--- FAIL: TestC (0.00s)\nFAIL\nFAIL\texample.com/b\t0.02s\nFAIL\n"
	var c counts
	for piece := range strings.SplitSeq(output, "S") {
		for _, part := range []string{piece, "S"} {
			if _, err := c.Write([]byte(part)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got, want := c.String(), "1 packages passed, 1 failed; 2 tests passed, 1 failed, 1 skipped"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReport(t *testing.T) {
	var b strings.Builder
	good := outcome{step: step{name: "vet"}, took: time.Second}
	if !report(&b, []outcome{good}) || !strings.Contains(b.String(), "all passed") {
		t.Errorf("a passed run is reported as\n%s", b.String())
	}
	b.Reset()
	bad := outcome{step: step{name: "format", advice: "make fmt"}, err: errors.New("exit status 1")}
	if report(&b, []outcome{good, bad}) || !strings.Contains(b.String(), "to fix: make fmt") {
		t.Errorf("a failed run is reported as\n%s", b.String())
	}
}
