package engine

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestPartitionOf holds which partition a job goes to: jobs that are stored are where this said, so it says the same for ever.
func TestPartitionOf(t *testing.T) {
	for _, c := range []struct {
		count int
		key   string
		turn  uint64
		want  int
	}{
		{1, "", 7, 0},
		{1, "customer-1", 7, 0},
		{4, "", 0, 0},
		{4, "", 7, 3},
		{4, "", 1<<64 - 1, 3},
		{4, "customer-1", 0, 1},
		{4, "customer-1", 3, 1},
		{4, "customer-2", 0, 3},
		{4, "a", 0, 1},
		{4, "b", 0, 0},
		{64, "customer-1", 0, 33},
		{64, "\x00", 0, 38},
	} {
		if got := partitionOf(c.count, &Spec{OrderingKey: c.key}, c.turn); got != c.want {
			t.Errorf("of %d partitions key %q at turn %d goes to %d, want %d", c.count, c.key, c.turn, got, c.want)
		}
	}
}

// TestPartitionsAreEven: keys that differ little are spread, and requests without keys go round.
func TestPartitionsAreEven(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		count := rapid.IntRange(1, 64).Draw(rt, "partitions")
		key := rapid.StringN(1, 32, 100).Draw(rt, "key")
		turn := rapid.Uint64().Draw(rt, "turn")
		at := partitionOf(count, &Spec{OrderingKey: key}, turn)
		if at < 0 || at >= count || at != partitionOf(count, &Spec{OrderingKey: key, Priority: 3, Kind: "k"}, turn+1) {
			rt.Fatalf("key %q goes to %d of %d, and not always", key, at, count)
		}
		keyed, round := make([]int, count), make([]int, count)
		for i := range 100 * count {
			keyed[partitionOf(count, &Spec{OrderingKey: fmt.Sprint(key, i)}, turn)]++
			round[partitionOf(count, &Spec{}, uint64(i))]++
		}
		for i := range count {
			if keyed[i] < 40 || keyed[i] > 180 || round[i] != 100 {
				rt.Fatalf("of %d keys %d came to partition %d of %d, and %d requests", 100*count, keyed[i], i, count, round[i])
			}
		}
	})
}
