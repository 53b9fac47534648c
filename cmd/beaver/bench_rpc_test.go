package main

import (
	"strings"
	"testing"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestUnlessMoved: what a lead that goes to another node may cause ends no measurement of a cluster, be it of a call or of one job in it.
func TestUnlessMoved(t *testing.T) {
	for code, moved := range map[string]bool{"unavailable": true, "aborted": true, "resource_exhausted": false, "": false, "no code": false} {
		err := refusal("an ack", &beaverv1.JobError{Code: code, Message: "it is so"})
		if !strings.Contains(err.Error(), "an ack was refused: it is so") {
			t.Errorf("%q: %v", code, err)
		}
		for _, b := range []*benchRun{{}, {fleet: new(fleet)}} {
			if _, got := b.unlessMoved(0, err); (got == nil) != (moved && b.fleet != nil) {
				t.Errorf("%q, code %v, in a cluster %t: %v", code, connect.CodeOf(err), b.fleet != nil, got)
			}
		}
	}
}
