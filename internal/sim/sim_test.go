package sim_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/sim"
)

// seeds is how many seeds a test runs: BEAVER_SEEDS, or a few.
func seeds(t *testing.T, few uint64) uint64 {
	t.Helper()
	text := os.Getenv("BEAVER_SEEDS")
	if text == "" {
		return few
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("BEAVER_SEEDS: %v", err)
	}
	return n
}

func TestSeeds(t *testing.T) {
	var sum sim.Counts
	for seed := uint64(1); seed <= seeds(t, 12); seed++ {
		r := sim.Run(sim.Options{Seed: seed})
		if r.Err != nil {
			t.Errorf("seed %d: %v\nreplay: go run ./cmd/sim -seed %d", seed, r.Err, seed)
		}
		sum.Add(&r.Counts)
	}
	if sum.Deduplicated == 0 {
		t.Errorf("of %d jobs none had a unique key that another one held", sum.Jobs)
	}
}

// TestSameSeedSameTrace runs seeds twice: the traces must be equal to the byte, and nobody reading must change nothing.
func TestSameSeedSameTrace(t *testing.T) {
	for _, seed := range []uint64{3, 6, 8} {
		var first, second bytes.Buffer
		a := sim.Run(sim.Options{Seed: seed, Trace: &first})
		b := sim.Run(sim.Options{Seed: seed, Trace: &second})
		c := sim.Run(sim.Options{Seed: seed})
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("seed %d: two traces differ", seed)
		}
		if a.Hash != b.Hash || a.Hash != c.Hash || fmt.Sprint(a.Counts) != fmt.Sprint(c.Counts) {
			t.Errorf("seed %d: hashes %016x, %016x and %016x", seed, a.Hash, b.Hash, c.Hash)
		}
		if first.Len() == 0 {
			t.Errorf("seed %d: no trace", seed)
		}
	}
}

// TestScenarios keeps what once failed, each as the faults that brought it about, since a seed means another run as soon as
// the simulator draws anything else: some seeds of the right kind find it again, if it comes back.
func TestScenarios(t *testing.T) {
	for _, s := range []struct {
		name    string
		options sim.Options
	}{
		// A snapshot's job of an earlier life of a member was stored.
		{"stores of replicas that were opened again", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultWipe, sim.FaultDiskFull, sim.FaultKill}}},
		// A node that had stood still answered old appends, and was brought a snapshot that it did not need.
		{"answers to the appends of an earlier term", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultPause, sim.FaultIsolate}}},
		// A failed sync left a page stale, and the power went while the next start wrote it again.
		{"power cuts in the start behind a failed sync", sim.Options{Nodes: 1, Faults: []sim.Fault{sim.FaultDiskError, sim.FaultMidWrite}}},
		// Nodes meet entries of a newer format before and after they are upgraded, also in their replay.
		{"upgrades while leaders change", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultUpgrade, sim.FaultHandOver, sim.FaultKill}}},
		// States that go wrong are found out and replaced, also a leader's.
		{"states that go wrong", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultDiverge, sim.FaultHandOver}}},
		// Nobody tells when a lease without a worker runs out, and a takeover puts its deadline off.
		{"leases without workers over changes of the leader", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultClock, sim.FaultHandOver}}},
		// A log went on in a new file behind damage, and the next start took the state with which that begins for certain.
		{"starts behind damage", sim.Options{Nodes: 3, Faults: []sim.Fault{
			sim.FaultDiskFull, sim.FaultPause, sim.FaultPartition, sim.FaultBitRot, sim.FaultWipe,
		}}},
		// A replica out of its group knew the members of before a change, and not the leader.
		{"damage while members change", sim.Options{Nodes: 3, Faults: []sim.Fault{sim.FaultBitRot, sim.FaultUpgrade, sim.FaultMembers}}},
	} {
		t.Run(s.name, func(t *testing.T) {
			for seed := uint64(1); seed <= seeds(t, 4); seed++ {
				s.options.Seed = seed
				r := sim.Run(s.options)
				if r.Err != nil {
					faults := strings.ReplaceAll(strings.Trim(fmt.Sprint(s.options.Faults), "[]"), " ", ",")
					t.Errorf("seed %d: %v\nreplay: go run ./cmd/sim -seed %d -nodes %d -faults %s", seed, r.Err, seed, s.options.Nodes, faults)
				}
				if r.Counts.Needless > r.Counts.Transfers/2+2 {
					t.Errorf("seed %d: %d of %d snapshots were needless", seed, r.Counts.Needless, r.Counts.Transfers)
				}
			}
		})
	}
}

// TestRareEvents holds that what only some plans bring about does happen.
func TestRareEvents(t *testing.T) {
	var sum sim.Counts
	stops := uint64(0)
	for seed := uint64(1); seed <= seeds(t, 3); seed++ {
		r := sim.Run(sim.Options{Seed: seed, Nodes: 3, Faults: []sim.Fault{sim.FaultMembers, sim.FaultStop, sim.FaultHandOver}})
		if r.Err != nil {
			t.Errorf("seed %d: %v\nreplay: go run ./cmd/sim -seed %d -nodes 3 -faults members,stop,hand-over", seed, r.Err, seed)
		}
		sum.Add(&r.Counts)
		stops += r.Faults[sim.FaultStop]
	}
	if sum.Joint == 0 || sum.Stops == 0 || sum.Stops > stops {
		t.Errorf("%d changes by joint consensus, %d of %d processes that were told to stop did", sum.Joint, sum.Stops, stops)
	}
}
