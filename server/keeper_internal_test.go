package server

import (
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// TestLeadIsNotPressedOnAnybody: a node that does not take a lead is offered it less and less often, since commands wait meanwhile; another node is
// offered it at once.
func TestLeadIsNotPressedOnAnybody(t *testing.T) {
	l, now := &lead{}, time.Now()
	if !l.mayHand(now, 2) {
		t.Fatal("the first try waits")
	}
	for try, pause := range []time.Duration{2, 4, 8, 16, 32, 60, 60} {
		l.stayed(now, 2)
		pause *= time.Second
		if l.mayHand(now.Add(pause-1), 2) || !l.mayHand(now.Add(pause), 2) {
			t.Errorf("the pause after try %d is not %v", try, pause)
		}
		if !l.mayHand(now, 3) {
			t.Error("another node waits too")
		}
		now = now.Add(pause)
	}
	l.stayed(now, shard.NodeID(3))
	if l.mayHand(now.Add(retryPause-1), 3) || !l.mayHand(now.Add(retryPause), 3) {
		t.Error("another node's pause is not the shortest")
	}
}
