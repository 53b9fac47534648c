package engine

import (
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestGivenUpSearchNamesTheLeader: who cannot be served hears who leads, if anybody else does.
func TestGivenUpSearchNamesTheLeader(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	for leader, want := range map[uint64]uint64{0: 0, e.opts.Node: 0, e.opts.Node + 2: e.opts.Node + 2} {
		err := asError(e.search(1).giveUp(leader))
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		if err.Leader != want || strings.Contains(err.Message, "ask that node") != (want != 0) {
			t.Errorf("led by %d: %+v", leader, err)
		}
	}
}
