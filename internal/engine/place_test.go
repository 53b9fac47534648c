package engine

import (
	"fmt"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestRate: what happened in the last minute counts, whenever that was, and a clock that jumps spoils nothing.
func TestRate(t *testing.T) {
	var r rate
	r.add(60_000, 100)
	r.add(90_000, 20)
	for _, step := range []struct {
		now  int64
		want uint64
	}{{90_000, 120}, {119_999, 120}, {120_000, 120}, {150_000, 60}, {179_999, 0}, {180_000, 0}, {60_000, 0}} {
		if got := r.of(step.now); got != step.want {
			t.Errorf("at %d: %d, want %d", step.now, got, step.want)
		}
	}
	r.add(600_000, 7)
	r.add(500_000, 1) // backwards
	if got := r.of(600_000); got != 8 {
		t.Errorf("after a jump: %d", got)
	}
}

// TestQueuesArePlacedByLoad: queues that come together are spread, and a shard that has much to do gets none while others have less.
func TestQueuesArePlacedByLoad(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	var all []NewJob
	for i := range 8 {
		all = append(all, jobs(fmt.Sprint("q", i), 1)...)
	}
	enqueue(t, e, all...)
	homes := make(map[uint16]int)
	for i := range 8 {
		homes[uint16(e.routes.byName(fmt.Sprint("q", i)).homes[0].pump.shard)]++
	}
	for _, p := range e.data() {
		if homes[uint16(p.shard)] != 8/e.Shards() {
			t.Fatalf("8 queues that were made together are on %v", homes)
		}
	}
	busy := e.routes.byName("q0").homes[0].pump
	for range 30 {
		enqueue(t, e, jobs("q0", 1000)...)
	}
	e.placement.at = e.placement.at.Add(-loadsFresh)
	for i := range 6 {
		name := fmt.Sprint("late", i)
		enqueue(t, e, jobs(name, 1)...)
		if e.routes.byName(name).homes[0].pump == busy {
			t.Fatalf("%s came to the shard that has the most to do", name)
		}
	}
}
