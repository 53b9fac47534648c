package sim_test

import (
	"os"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/sim"
)

// seedsPerBug is within how many seeds every deliberate bug must be found.
const seedsPerBug = 1500

// rare are bugs that few seeds show, with one that does. An ordinary run of the test begins there, to be short; with
// BEAVER_SEEDS set it begins at 1. A change to what a plan draws moves them: search again with go run ./cmd/sim -bug NAME.
var rare = map[sim.Bug]uint64{sim.BugForgetVote: 713, sim.BugForgetTerm: 200, sim.BugStaleRead: 58, sim.BugIgnoreSyncError: 14}

// TestDeliberateBugs tests the simulator: a bug that it cannot find would be as well hidden if it were not deliberate.
func TestDeliberateBugs(t *testing.T) {
	for _, bug := range sim.Bugs() {
		t.Run(bug.String(), func(t *testing.T) {
			first := uint64(1)
			if from := rare[bug]; from != 0 && os.Getenv("BEAVER_SEEDS") == "" {
				first = from
			}
			for seed := first; seed < first+seedsPerBug; seed++ {
				// A panic may be the hook's own: it is no check that found something.
				r := sim.Run(sim.Options{Seed: seed, Bug: bug})
				if r.Err != nil && !strings.HasPrefix(r.Err.Error(), "panic") {
					t.Logf("seed %d: %v", seed, r.Err)
					return
				}
			}
			t.Errorf("not found in %d seeds from %d", seedsPerBug, first)
		})
	}
}

// rareStaleRead is a seed in which a client notices that a read was stale, rather than the check of indexes; as rare is.
const rareStaleRead = 795

// TestHistoryFindsBugs tests the clients' history and its model by themselves: what clients are told must be enough to find
// what breaks a promise made to them, with every other check off.
func TestHistoryFindsBugs(t *testing.T) {
	for _, bug := range []sim.Bug{sim.BugReuseToken, sim.BugStaleRead, sim.BugAckBeforeCommit, sim.BugIgnoreFencing} {
		t.Run(bug.String(), func(t *testing.T) {
			first := uint64(1)
			if bug == sim.BugStaleRead && os.Getenv("BEAVER_SEEDS") == "" {
				first = rareStaleRead
			}
			for seed := first; seed < first+seedsPerBug; seed++ {
				r := sim.Run(sim.Options{Seed: seed, Bug: bug, HistoryOnly: true})
				if r.Err != nil && strings.HasPrefix(r.Err.Error(), "history: ") {
					t.Logf("seed %d: %v", seed, r.Err)
					return
				}
			}
			t.Errorf("not found in %d seeds from %d", seedsPerBug, first)
		})
	}
}
