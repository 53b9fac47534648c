package server

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
)

// lostAnswer tells a shard's leader whether a replica must never speak again.
type lostAnswer struct {
	Lost bool `json:"lost"`
}

// lost answers a shard's leader.
func (p *peers) lost(a *adoption) (any, error) {
	h := p.host.Load()
	if h == nil {
		return nil, errStarting
	}
	lost := h.Lost(a.Shard)
	return lostAnswer{lost != nil && lost.Replica == a.Replica}, nil
}

// askLost asks the nodes of members that do not answer, though they are connected, whether they must not. What they said once stays so.
func (k *keeper) askLost(ctx context.Context, l *lead, v *cluster.View) {
	v.Lost = l.lost
	now := time.Now()
	if now.Before(l.asked) {
		return
	}
	l.asked = now.Add(retryPause)
	for i := range v.Peers {
		q := &v.Peers[i]
		if q.Active || !k.p.connected(q.Replica.Node()) || v.HasLost(q.Replica) {
			continue
		}
		answer, err := ask[lostAnswer](ctx, k.p, q.Replica.Node(), callLost, &adoption{v.Shard, q.Replica})
		if err == nil && answer.Lost {
			k.p.logger.Warn("a member may have lost what it promised, and is replaced", "shard", v.Shard, "replica", q.Replica.String())
			l.lost = append(l.lost, q.Replica)
		}
	}
	v.Lost = l.lost
}

// succeed runs the replica that takes the place of one that must not be run.
func (p *peers) succeed(h *host.Host, id shard.ID, r shard.ReplicaID) {
	lost := h.Lost(id)
	if lost == nil || r.Birth() <= lost.Replica.Birth() {
		return
	}
	if err := h.AddReplica(p.ctx, host.Replica{Shard: id, ID: r, Join: true}); err != nil {
		p.logger.Error("a replica did not take the place of one that lost what it promised", "shard", id, "replica", r.String(), "err", err)
		return
	}
	p.logger.Info("a replica takes the place of one that lost what it promised", "shard", id, "replica", r.String(), "lost", lost.Replica.String())
}
