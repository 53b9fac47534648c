package transport

import (
	"context"
	"time"
)

// Talks reports whether a process talks to this node as a peer: it has a connection, by which something comes. It waits for that, no
// longer than a ping and a half takes; without a connection it knows at once. It answers who asks whether a node that is about
// to start runs already.
func (t *Transport) Talks(ctx context.Context, node uint64) bool {
	frames, connected := t.framesFrom(node)
	if !connected {
		return false
	}
	late := time.NewTimer(t.config.PingInterval * 3 / 2)
	defer late.Stop()
	look := time.NewTicker(t.config.PingInterval / talkShare)
	defer look.Stop()
	for first := true; ; first = false {
		select {
		case <-look.C:
		case <-late.C:
			return false
		case <-ctx.Done():
			return false
		}
		now, connected := t.framesFrom(node)
		switch {
		case !connected:
			return false
		case first:
			frames = now // what came until then may have been sent by a process that has ended since
		case now != frames:
			return true
		}
	}
}

// framesFrom is how many frames came from a peer so far, and whether it has a connection to this node.
func (t *Transport) framesFrom(node uint64) (frames uint64, connected bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.peers[node]
	if p == nil {
		return 0, false
	}
	for purpose := forMessages; purpose < purposeEnd; purpose++ {
		frames += p.counters[purpose].framesIn.Load()
		connected = connected || t.inbounds[inboundKey{node, purpose}] != nil
	}
	return frames, connected
}
