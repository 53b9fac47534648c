package server

import (
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/transport"
)

func TestHearing(t *testing.T) {
	now := time.Now()
	peers := func(nodes ...uint64) (list []transport.PeerStats) {
		for _, n := range nodes {
			list = append(list, transport.PeerStats{Node: n})
		}
		return list
	}
	for name, c := range map[string]struct {
		peers []transport.PeerStats
		heard map[uint64]time.Duration // how long ago
		want  bool
	}{
		"alone":                {nil, nil, true},
		"two, one silent":      {peers(2), nil, false},
		"two":                  {peers(2), map[uint64]time.Duration{2: 0}, true},
		"three, one silent":    {peers(2, 3), map[uint64]time.Duration{3: heardLately - 1}, true},
		"three, both long ago": {peers(2, 3), map[uint64]time.Duration{2: heardLately, 3: time.Hour}, false},
		"five, one there":      {peers(2, 3, 4, 5), map[uint64]time.Duration{2: 0}, false},
		"five, two there":      {peers(2, 3, 4, 5), map[uint64]time.Duration{2: 0, 5: 0}, true},
		"who is gone":          {peers(2, 3), map[uint64]time.Duration{9: 0}, false},
	} {
		var h hearing
		for node, ago := range c.heard {
			h.note(node, now.Add(-ago))
		}
		if got := h.majority(c.peers, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
