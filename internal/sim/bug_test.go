package sim_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/sim"
)

// seedsPerBug is within how many seeds every deliberate bug must be found.
const seedsPerBug = 1500

// rare are bugs that few seeds show, with one that does. An ordinary run of the test begins there, to be short; with
// BEAVER_SEEDS set it begins at 1. A change to what a plan draws moves them: search again with go run ./cmd/sim -bug NAME.
var rare = map[sim.Bug]uint64{
	sim.BugStaleRead: 446, sim.BugIgnoreSyncError: 673, sim.BugPromiseUnsynced: 173,
	sim.BugClaimTooMuch: 6, sim.BugServeDamaged: 454,
}

// What violations say.
const (
	otherState   = "has fingerprint"
	otherResults = "has other results of entry"
	otherEntry   = "a committed entry was lost"
	otherTail    = "a committed entry was replaced"
	otherLeader  = "has another state than its leader had"
	neverApplied = "a client was answered from entry"
	notInLog     = "was acknowledged and is not in the log"
	notHealed    = "not healed after"
	unended      = "has jobs that did not end"
	fencing      = "under token"
	wrongState   = "leaves it in state"
	wrongChange  = "is taken, known is"
	handedTwice  = "which worker"
	staleRead    = "was acknowledged before it was asked for"
	otherVote    = "and has voted for"
	forgotten    = "and has promised"
	otherLive    = "is live, and another one than was applied"
	history      = "history: no order"
	lostPayload  = "the payload of job"
	unreadable   = "is live and cannot be read"
	missingLive  = "that the log does not have"
	missingEntry = "no file holds this entry, though its jobs are live"
	refusedLog   = "failed: open log: data/log/"
	refusedSnaps = "every snapshot is damaged"
	refusedEntry = "failed: shard 0: read log entry"
	lostData     = "data of this node was lost"
	lostDir      = "the data directory lost what was durable"
	twoHolders   = "hold one unique key"
)

// found is what each deliberate bug must be found by. What finds it otherwise is a mistake of the simulator, or another bug.
var found = map[sim.Bug][]string{
	sim.BugAckBeforeDurable:   {forgotten, otherEntry, lostData, lostDir, fencing, notHealed, "the replay from the start is at"},
	sim.BugAckBeforeCommit:    {neverApplied, notInLog},
	sim.BugSkipSync:           {forgotten, refusedLog, otherEntry, lostData, lostDir},
	sim.BugSkipSnapshotSync:   {forgotten, refusedSnaps, refusedLog},
	sim.BugSkipDirSync:        {forgotten, refusedLog, otherEntry, lostData, lostDir},
	sim.BugForgetVote:         {forgotten, otherVote, staleRead, otherEntry, otherTail, otherState, otherResults, notHealed},
	sim.BugForgetTerm:         {forgotten, otherVote, staleRead, otherEntry, otherTail, otherState, otherResults, notHealed, "the replay from the start is at"},
	sim.BugCompactLive:        {lostPayload, missingLive, missingEntry, unreadable, notHealed},
	sim.BugLoseEntryData:      {otherState, otherResults, lostPayload, otherLive},
	sim.BugStaleRead:          {staleRead},
	sim.BugIgnoreFencing:      {fencing},
	sim.BugDropSession:        {"was applied twice in shard"},
	sim.BugLocalClock:         {otherState},
	sim.BugReorderItems:       {otherState, otherResults, wrongState, wrongChange},
	sim.BugSkipItem:           {otherState, otherResults, wrongState, wrongChange},
	sim.BugWrongHands:         {handedTwice, history},
	sim.BugStaleImage:         {otherState, otherResults, staleRead},
	sim.BugNoTimers:           {unended},
	sim.BugWorkersLiveForever: {unended},
	sim.BugReuseIdentity:      {forgotten, lostData, otherEntry},
	sim.BugCorruptMessage:     {otherEntry, otherLeader},
	sim.BugIgnoreSyncError:    {forgotten, refusedLog},
	sim.BugReuseToken:         {handedTwice, history},
	sim.BugServeDamaged:       {lostPayload},
	sim.BugDropMends:          {notHealed},
	sim.BugVoteWithHole:       {refusedEntry, "failed: shard 1: read log entry"},
	sim.BugIgnoreFingerprint:  {notHealed, "has a wrong state", "after a leader took over: nobody could keep it"},
	sim.BugPromiseUnsynced:    {forgotten, otherEntry, fencing, lostData},
	sim.BugSendTooLittle:      {missingLive, missingEntry, unreadable, lostPayload},
	sim.BugMendWrongly:        {lostPayload, otherLive},
	sim.BugVoteUnsynced:       {forgotten, otherVote},
	sim.BugClaimTooMuch:       {otherLive, lostPayload, notHealed},
	sim.BugSplitKeys:          {twoHolders},
	sim.BugLeaveKeys:          {twoHolders},
	sim.BugKeepKeys:           {"and has let go of it"},
	sim.BugNoHold:             {"after a leader took over: nobody could keep it"},
}

// TestDeliberateBugs tests the simulator: a bug that it cannot find would be as well hidden if it were not deliberate, and one that
// is found by something else than what it breaks is not found but noticed.
func TestDeliberateBugs(t *testing.T) {
	for _, bug := range sim.Bugs() {
		t.Run(bug.String(), func(t *testing.T) {
			first := uint64(1)
			if from := rare[bug]; from != 0 && os.Getenv("BEAVER_SEEDS") == "" {
				first = from
			}
			for seed := first; seed < first+seedsPerBug; seed++ {
				r := sim.Run(sim.Options{Seed: seed, Bug: bug})
				// A panic may be the hook's own: it is no check that found something.
				if r.Err == nil || strings.HasPrefix(r.Err.Error(), "panic") {
					continue
				}
				said := r.Err.Error()
				if !slices.ContainsFunc(found[bug], func(want string) bool { return strings.Contains(said, want) }) {
					t.Errorf("seed %d: noticed by %q, and should be found by one of %q", seed, said, found[bug])
				}
				t.Logf("%-20s seed %4d  %s", bug, seed, said)
				return
			}
			t.Errorf("not found in %d seeds from %d", seedsPerBug, first)
		})
	}
}

// rareStaleRead is a seed in which a client notices that a read was stale, rather than the check of indexes; as rare is.
const rareStaleRead = 531

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
