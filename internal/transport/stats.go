package transport

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"
)

// counters count what a peer's connections for one purpose carried, in both directions, since the peer became known.
type counters struct {
	framesOut, framesIn     atomic.Uint64
	messagesOut, messagesIn atomic.Uint64
	bytesOut, bytesIn       atomic.Uint64
	dropped                 atomic.Uint64
}

// Stats are facts about the connections.
type Stats struct {
	Refused uint64 // connections that were accepted and did not get through the handshake
	Peers   []PeerStats
}

// PeerStats are facts about one peer. Peers are listed by node.
type PeerStats struct {
	Node      uint64
	Address   string
	RoundTrip time.Duration // smoothed; 0 when none was measured
	Messages  StreamStats
	Transfers StreamStats
	Calls     StreamStats
}

// StreamStats are facts about what goes for one purpose to a peer and comes from it. Bytes are those of frames, before TLS.
type StreamStats struct {
	Connected               bool // to the peer; the peer's own connection is its own
	FramesOut, FramesIn     uint64
	MessagesOut, MessagesIn uint64 // Raft messages; chunks and acknowledgements; requests and answers
	BytesOut, BytesIn       uint64
	Dropped                 uint64 // not taken, or dropped before they were written; calls of the peer that were refused
	QueuedMessages          int
	QueuedBytes             int // of entry data, chunks or bodies
}

// Stats returns the facts of now.
func (t *Transport) Stats() Stats {
	s := Stats{Refused: t.refused.Load()}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range t.peers {
		ps := PeerStats{Node: p.node, Messages: p.stream(forMessages), Transfers: p.stream(forTransfers), Calls: p.stream(forCalls)}
		p.mu.Lock()
		ps.Address, ps.RoundTrip = p.at, p.roundTrip
		p.mu.Unlock()
		s.Peers = append(s.Peers, ps)
	}
	slices.SortFunc(s.Peers, func(a, b PeerStats) int { return cmp.Compare(a.Node, b.Node) })
	return s
}

func (p *peer) stream(of purpose) StreamStats {
	c, l := &p.counters[of], p.lanes[of]
	s := StreamStats{
		Connected: l.connected.Load(), FramesOut: c.framesOut.Load(), FramesIn: c.framesIn.Load(),
		MessagesOut: c.messagesOut.Load(), MessagesIn: c.messagesIn.Load(),
		BytesOut: c.bytesOut.Load(), BytesIn: c.bytesIn.Load(), Dropped: c.dropped.Load(),
	}
	s.QueuedMessages, s.QueuedBytes = l.source.waiting()
	return s
}
