package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// shardCount is how many data shards the cluster has: as many as at its founding, or at this node's joining, until the catalog says more.
func (p *peers) shardCount(c *cluster.Catalog) int { return max(p.membership().Shards, c.Shards()) }

// grow runs this node's replicas of the data shards that came since it started, one after the other: so the shards of a data directory
// have no gap, whenever the node stops. It also passes on the wish of whoever started the node with more shards.
func (k *keeper) grow(ctx context.Context) {
	p, now := k.p, time.Now()
	if now.Before(k.growAgain) {
		return
	}
	k.wishShards(ctx)
	for id := shard.ID(1); int(id) <= k.shards; id++ {
		if _, runs := p.host.Load().LeadershipOf(id); runs || p.host.Load().Lost(id) != nil {
			continue // One that is lost is no new one: its leader says who follows it.
		}
		r, known := k.newReplica(id)
		if !known {
			return // its leader will say
		}
		if err := p.engine.Load().AddReplica(ctx, r); err != nil {
			k.growAgain = now.Add(retryPause)
			p.logger.Error("a replica of a new shard cannot be run yet", "shard", id, "err", err)
			return
		}
		p.grew(int(id))
		p.logger.Info("runs a new shard", "shard", id, "replica", r.ID.String())
	}
}

// newReplica is this node's replica of a shard that came later: one of its founders, or one that its leader has told this node of.
func (k *keeper) newReplica(id shard.ID) (r host.Replica, known bool) {
	self := shard.NodeID(k.p.membership().Node)
	r = host.Replica{Shard: id}
	if g := k.growths[id]; slices.Contains(g.Founders, self) {
		r.ID = shard.NewReplicaID(self, 0)
		for _, n := range g.Founders {
			r.Founders = append(r.Founders, shard.NewReplicaID(n, 0))
		}
		return r, true
	}
	k.p.mu.Lock()
	defer k.p.mu.Unlock()
	r.ID, r.Join = k.p.adopted[id], true
	return r, r.ID != 0
}

// wishShards asks for the shards that this node was started with, if the cluster has less.
func (k *keeper) wishShards(ctx context.Context) {
	p, record := k.p, k.p.membership()
	active := slices.ContainsFunc(k.nodes, func(n cluster.Node) bool { return uint64(n.ID) == record.Node && n.State == cluster.NodeActive })
	if p.shards <= k.shards || !active {
		return
	}
	code, err := p.engine.Load().ChangeCatalog(ctx, func(dst []byte) []byte { return cluster.AppendGrow(dst, record.Shards, p.shards) })
	switch {
	case err != nil:
		p.logger.Debug("the cluster was not asked for more shards", "err", err)
	case code == cluster.CodeOK:
		p.logger.Info("the cluster gets more shards, as this node was started with", "shards", p.shards)
		k.wake()
	}
}

// grew records that a replica of a shard has run that came after the founding: should its record be missing one day, it was lost, and it
// must not be founded again.
func (p *peers) grew(count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if count <= max(p.record.Shards, p.record.Grown) || isRemoved(p.removed) {
		return
	}
	record := *p.record
	record.Grown = count
	if err := founding.Write(vfs.OS(), p.dir, &record); err != nil {
		p.logger.Error("it could not be recorded that the node has a new shard", "shard", count, "err", err)
		return
	}
	p.record = &record
}

// shardsAlone is how many data shards a node has that is alone: as many as it was told, or else as it has; 0: it has nothing yet.
func (s *Server) shardsAlone() (int, error) {
	count := 0
	replicas, err := host.ReadRecords(vfs.OS(), s.opts.DataDir)
	for _, r := range replicas {
		if r.State != host.Retired {
			count = max(count, int(r.Shard))
		}
	}
	if err == nil && s.opts.Shards != 0 && s.opts.Shards < count {
		err = &founding.StartError{Reason: fmt.Sprintf("the data directory has %d data shards, and --shards is %d: it cannot shrink", count, s.opts.Shards)}
	}
	return max(count, s.opts.Shards), err
}

// shardsHere is how many data shards the data directory has something of that counts. A replica that was about to found its group
// has told nobody anything: it goes on when the catalog has said who the other founders are.
func shardsHere(record *founding.Record, replicas []host.Record) int {
	count := max(record.Shards, record.Grown)
	for _, r := range replicas {
		if r.State == host.Joining || r.State == host.Member {
			count = max(count, int(r.Shard))
		}
	}
	return count
}
