package server

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/metrics"
)

// figuresWait bounds how long a scrape waits for the shards that this node leads.
const figuresWait = 2 * time.Second

// figures tells metrics of the other nodes. A node that was removed is none any more. A shard that does not answer in time is left
// out.
func (p *peers) figures() []metrics.Peer {
	stats := p.transport.Stats().Peers
	all := make([]metrics.Peer, len(stats))
	for i := range stats {
		all[i] = metrics.Peer{
			Node: stats[i].Node, Connected: stats[i].Messages.Connected, RoundTrip: stats[i].RoundTrip, Behind: make(map[uint16]uint64),
		}
	}
	h, e := p.host.Load(), p.engine.Load()
	if h == nil || e == nil {
		return all
	}
	for i := range all {
		heard := e.Heard(all[i].Node)
		all[i].Silent = heard.Hearing == engine.HearingSilent
		if all[i].Told = heard.Ever; heard.Ever {
			all[i].HeardAgo = heard.Ago
		}
	}
	ctx, cancel := context.WithTimeout(p.ctx, figuresWait)
	defer cancel()
	for _, s := range h.Stats().Shards {
		if !s.Leading {
			continue
		}
		_, followers, err := h.Members(ctx, s.ID)
		if err != nil {
			continue // it lost the lead, or the node stops
		}
		for _, f := range followers {
			for i := range all {
				if all[i].Node == uint64(f.Replica.Node()) {
					all[i].Behind[uint16(s.ID)] = s.Last - min(s.Last, f.Match)
				}
			}
		}
	}
	return all
}
