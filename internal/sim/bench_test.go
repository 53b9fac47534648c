package sim_test

import (
	"testing"

	"github.com/beaver-raft/beaver/internal/sim"
)

// BenchmarkSeeds tells how many simulated seconds one core runs a second, over seeds of all kinds.
func BenchmarkSeeds(b *testing.B) {
	simulated := 0.0
	seed := uint64(0)
	for b.Loop() {
		seed++
		r := sim.Run(sim.Options{Seed: seed})
		if r.Err != nil {
			b.Fatalf("seed %d: %v", seed, r.Err)
		}
		simulated += r.Simulated.Seconds()
	}
	b.ReportMetric(simulated/b.Elapsed().Seconds(), "simulated-s/s")
}
