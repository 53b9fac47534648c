package queue

import (
	"math/rand/v2"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// TestLiveSet compares what is gathered in windows with what is added range by range.
func TestLiveSet(t *testing.T) {
	for name, ranges := range map[string][][2]uint64{
		"none":            {},
		"one":             {{5, 5}},
		"a whole window":  {{0, liveWindow - 1}},
		"several windows": {{liveWindow - 1, 3 * liveWindow}},
		"word boundaries": {{63, 64}, {127, 127}, {128, 191}, {192, 192}},
		"overlapping":     {{10, 20}, {15, 30}, {30, 31}, {10, 10}},
		"out of order":    {{3 * liveWindow, 3*liveWindow + 9}, {1, 2}, {3*liveWindow + 10, 3*liveWindow + 12}},
		"the last index":  {{indexMax - 3, indexMax}},
	} {
		t.Run(name, func(t *testing.T) { compareLive(t, ranges) })
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var ranges [][2]uint64
		at, gap := random.Uint64N(2*liveWindow), 1+random.Uint64N(500)
		for range random.IntN(2000) {
			length := random.Uint64N(1 + random.Uint64N(200))
			ranges = append(ranges, [2]uint64{at, at + length})
			if at += random.Uint64N(gap); random.IntN(100) == 0 {
				at = random.Uint64N(4 * liveWindow)
			}
		}
		compareLive(t, ranges)
	}
}

func compareLive(t *testing.T, ranges [][2]uint64) {
	t.Helper()
	got, want := liveSet{set: roaring64.New()}, roaring64.New()
	for _, r := range ranges {
		got.add(r[0], r[1])
		want.Add(r[1])
		want.AddRange(r[0], r[1])
	}
	got.flush()
	if !got.set.Equals(want) {
		t.Errorf("of %d ranges %d indexes were gathered, %d are there", len(ranges), got.set.GetCardinality(), want.GetCardinality())
	}
}

// BenchmarkLive gathers the entries of a backlog of which every other holds live jobs.
func BenchmarkLive(b *testing.B) {
	const entries = 100_000
	for b.Loop() {
		s := liveSet{set: roaring64.New()}
		for i := range uint64(entries) {
			s.add(2*i, 2*i)
		}
		s.flush()
	}
}
