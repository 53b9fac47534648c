package server

import (
	"context"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/shard"
)

// reportWait is how long a node may take to tell what its replicas know.
const reportWait = time.Second

// nodeReport is what a node knows of its replicas.
type nodeReport struct {
	Node    shard.NodeID  `json:"node"`
	Version string        `json:"version"`
	Ready   bool          `json:"ready"`
	Reason  string        `json:"reason,omitempty"`
	Full    bool          `json:"full,omitempty"` // the disk: new jobs are refused
	Shards  []shardReport `json:"shards"`
	Sending []transferred `json:"sending,omitempty"`
}

// shardReport is what a replica knows of its shard.
type shardReport struct {
	Shard    shard.ID        `json:"shard"`
	Replica  shard.ReplicaID `json:"replica"`
	Role     string          `json:"role"`
	Leader   shard.NodeID    `json:"leader,omitempty"`
	Leading  bool            `json:"leading,omitempty"`
	Term     uint64          `json:"term"`
	Applied  uint64          `json:"applied"`
	Last     uint64          `json:"last"`
	Snapshot uint64          `json:"snapshot"`
	// What only a leader knows.
	Members *shard.Members `json:"members,omitempty"`
	Peers   []shard.Peer   `json:"peers,omitempty"`
	Waiting string         `json:"waiting,omitempty"`
}

// transferred is a snapshot on its way to another member.
type transferred struct {
	Shard     shard.ID        `json:"shard"`
	To        shard.ReplicaID `json:"to"`
	Snapshot  uint64          `json:"snapshot"`
	Bytes     uint64          `json:"bytes"`
	FullBytes uint64          `json:"full_bytes"`
}

// report tells what this node's replicas know.
func (p *peers) report(ctx context.Context) (*nodeReport, error) {
	h, e := p.host.Load(), p.engine.Load()
	if h == nil || e == nil {
		return nil, errStarting
	}
	stats := h.Stats()
	r := &nodeReport{Node: shard.NodeID(stats.Node), Version: p.version, Full: h.Full()}
	r.Ready, r.Reason = e.Ready()
	views := make([]*cluster.View, len(stats.Shards))
	for i := range stats.Shards {
		s := &stats.Shards[i]
		sr := shardReport{
			Shard: s.ID, Replica: s.Replica, Role: s.Role.String(), Leader: shard.NodeID(s.Leader), Leading: s.Leading, Term: s.Term,
			Applied: s.Applied, Last: s.Last, Snapshot: s.SnapshotIndex,
		}
		if v := p.view(ctx, s.ID); v != nil {
			sr.Members, sr.Peers = &v.Members, v.Peers
			views[i] = v
		}
		r.Shards = append(r.Shards, sr)
	}
	p.explain(ctx, r.Shards, views)
	for _, t := range stats.Transfers {
		r.Sending = append(r.Sending, transferred{t.Shard, t.To, t.Snapshot, t.Bytes, t.FullBytes})
	}
	return r, nil
}

// explain says what changes of the shards' members wait for: of those that have a view. It comes last, since the catalog may not be there to be read.
func (p *peers) explain(ctx context.Context, reports []shardReport, views []*cluster.View) {
	nodes, preferred, err := p.catalogNodes(ctx)
	if err != nil || len(nodes) == 0 {
		return
	}
	for i, v := range views {
		if v != nil {
			reports[i].Waiting = cluster.Plan(nodes, preferred[v.Shard], v).Waiting
		}
	}
}

// catalogNodes are the nodes, and who an operator wants to lead which shard.
func (p *peers) catalogNodes(ctx context.Context) (nodes []cluster.Node, preferred map[shard.ID]shard.NodeID, err error) {
	preferred = make(map[shard.ID]shard.NodeID)
	err = p.engine.Load().ReadCatalog(ctx, func(c *cluster.Catalog) {
		for n := range c.Nodes() {
			nodes = append(nodes, *n)
		}
		for id := range shard.ID(p.shardCount(c) + 1) {
			preferred[id] = c.Preferred(id)
		}
	})
	return nodes, preferred, err
}

// reports asks all nodes that have replicas at once. A node that does not answer in time has none.
func (p *peers) reports(ctx context.Context, nodes []cluster.Node) []*nodeReport {
	ctx, cancel := context.WithTimeout(ctx, reportWait)
	defer cancel()
	reports := make([]*nodeReport, len(nodes))
	var group sync.WaitGroup
	for i := range nodes {
		n := &nodes[i]
		if n.State == cluster.NodeExpected || n.State == cluster.NodeRemoved {
			continue
		}
		group.Go(func() {
			if uint64(n.ID) == p.membership().Node {
				reports[i], _ = p.report(ctx)
			} else {
				reports[i], _ = ask[nodeReport](ctx, p, n.ID, callReport, struct{}{})
			}
		})
	}
	group.Wait()
	return reports
}
