package sim_test

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
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
	for seed := uint64(1); seed <= seeds(t, 6); seed++ {
		if r := sim.Run(sim.Options{Seed: seed}); r.Err != nil {
			t.Errorf("seed %d: %v\nreplay: go run ./cmd/sim -seed %d", seed, r.Err, seed)
		}
	}
}

// TestSameSeedSameTrace runs seeds twice: the traces must be equal to the byte, and nobody reading must change nothing.
func TestSameSeedSameTrace(t *testing.T) {
	for _, seed := range []uint64{3, 6} {
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
