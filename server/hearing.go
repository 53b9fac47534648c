package server

import (
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/transport"
)

// heardLately is how long ago a node may have been heard of and count as there. In an election, however it goes, the voters that are
// there hear of each other within this time; and a leader that hears of none for so long has lost the lead.
const heardLately = 2 * time.Second

// hearing is when each of the other nodes last said something about a shard.
type hearing struct {
	mu   sync.Mutex
	last map[uint64]time.Time // REQUIRES: mu
}

// note says that a node was heard.
func (h *hearing) note(node uint64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil {
		h.last = make(map[uint64]time.Time)
	}
	h.last[node] = now
}

// majority reports whether those of the peers that were heard of lately, and this node, are more than half of all.
func (h *hearing) majority(peers []transport.PeerStats, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	there := 1
	for _, p := range peers {
		if last, ok := h.last[p.Node]; ok && now.Sub(last) < heardLately {
			there++
		}
	}
	return 2*there > len(peers)+1
}
