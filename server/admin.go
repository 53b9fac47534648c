package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/rpc"
	"github.com/beaver-raft/beaver/internal/shard"
)

var _ rpc.Cluster = (*peers)(nil)

// AddNode implements rpc.Cluster.
func (p *peers) AddNode(ctx context.Context, peer string, replaces uint64) (uint64, error) {
	g, err := p.wish(ctx, &wish{Kind: wishAdd, Address: peer, Node: shard.NodeID(replaces)})
	return uint64(g.Node), err
}

// RemoveNode implements rpc.Cluster.
func (p *peers) RemoveNode(ctx context.Context, node uint64) error {
	_, err := p.wish(ctx, &wish{Kind: wishRemove, Node: shard.NodeID(node)})
	return err
}

// DrainNode implements rpc.Cluster.
func (p *peers) DrainNode(ctx context.Context, node uint64, undo bool) error {
	_, err := p.wish(ctx, &wish{Kind: wishDrain, Node: shard.NodeID(node), Undo: undo})
	return err
}

// TransferLead implements rpc.Cluster.
func (p *peers) TransferLead(ctx context.Context, id uint16, node uint64) error {
	_, err := p.wish(ctx, &wish{Kind: wishTransfer, Shard: shard.ID(id), Node: shard.NodeID(node)})
	return err
}

// AddShards implements rpc.Cluster.
func (p *peers) AddShards(ctx context.Context, count, have int) (int, error) {
	g, err := p.wish(ctx, &wish{Kind: wishGrow, Count: count, Have: have})
	return g.Shards, err
}

// Describe implements rpc.Cluster.
func (p *peers) Describe(ctx context.Context) (*beaverv1.GetClusterResponse, error) {
	record := p.membership()
	var nodes []cluster.Node
	var preferred []shard.NodeID
	if err := p.engine.Load().ReadCatalog(ctx, func(c *cluster.Catalog) {
		for n := range c.Nodes() {
			nodes = append(nodes, *n)
		}
		preferred = make([]shard.NodeID, p.shardCount(c)+1)
		for i := range preferred {
			preferred[i] = c.Preferred(shard.ID(i))
		}
	}); err != nil {
		return nil, err
	}
	reports := p.reports(ctx, nodes)
	out := &beaverv1.GetClusterResponse{ClusterId: fmt.Sprintf("%016x", record.Cluster), NodeId: record.Node}
	for i := range nodes {
		out.Nodes = append(out.Nodes, p.describeNode(&nodes[i], reports[i]))
		if r := reports[i]; r != nil {
			for _, t := range r.Sending {
				out.Transfers = append(out.Transfers, &beaverv1.ClusterTransfer{
					Shard: uint32(t.Shard), FromNodeId: uint64(r.Node), ToNodeId: uint64(t.To.Node()), SnapshotIndex: t.Snapshot, Bytes: t.Bytes, FullBytes: t.FullBytes,
				})
			}
		}
	}
	for i := range preferred {
		s := describeShard(shard.ID(i), reports)
		s.PreferredNodeId = uint64(preferred[i])
		out.Shards = append(out.Shards, s)
	}
	return out, nil
}

func (p *peers) describeNode(n *cluster.Node, r *nodeReport) *beaverv1.ClusterNode {
	out := &beaverv1.ClusterNode{
		Id: uint64(n.ID), State: n.State.String(), PeerAddress: n.Info.Peer, PublicAddress: n.Info.Public, Zone: n.Info.Zone,
		Version: n.Info.Version, Since: timestamppb.New(time.UnixMilli(int64(n.Since))), Replaces: uint64(n.Replaces),
	}
	if n.State != cluster.NodeExpected && n.State != cluster.NodeRemoved {
		heard := p.engine.Load().Heard(uint64(n.ID))
		rpc.TellHeard(out, &heard)
	}
	if r != nil {
		out.Reachable, out.Version = true, r.Version
		if !r.Ready {
			out.Problem = r.Reason
		}
	}
	return out
}

// describeShard puts together what the nodes say of a shard. Of two that say they lead it, the later term is right.
func describeShard(id shard.ID, reports []*nodeReport) *beaverv1.ClusterShard {
	out := &beaverv1.ClusterShard{Id: uint32(id)}
	var leader *shardReport
	own := make(map[shard.NodeID]*shardReport)
	for _, r := range reports {
		if r == nil {
			continue
		}
		for i := range r.Shards {
			s := &r.Shards[i]
			if s.Shard != id {
				continue
			}
			own[r.Node] = s
			if s.Leading && (leader == nil || s.Term > leader.Term) {
				leader = s
			}
		}
	}
	if leader != nil {
		out.LeaderNodeId, out.Term, out.Waiting = uint64(leader.Replica.Node()), leader.Term, leader.Waiting
	}
	if leader == nil || leader.Members == nil {
		for node, s := range own { // nobody leads, or who does could not say more: there is nothing but what each knows of itself
			out.Members = append(out.Members, &beaverv1.ClusterMember{
				NodeId: uint64(node), Replica: s.Replica.String(), Role: s.Role, AppliedIndex: s.Applied, LastIndex: s.Last, SnapshotIndex: s.Snapshot,
			})
		}
		sortMembers(out)
		return out
	}
	m := leader.Members
	for _, set := range []struct {
		role     string
		replicas []shard.ReplicaID
	}{{"follower", m.Voters}, {"outgoing", m.Outgoing}, {"learner", m.Learners}} {
		for _, r := range set.replicas {
			if set.role == "outgoing" && slices.Contains(m.Voters, r) {
				continue
			}
			out.Members = append(out.Members, describeMember(leader, own[r.Node()], r, set.role))
		}
	}
	sortMembers(out)
	return out
}

func sortMembers(s *beaverv1.ClusterShard) {
	slices.SortFunc(s.Members, func(a, b *beaverv1.ClusterMember) int { return int(a.NodeId) - int(b.NodeId) })
}

func describeMember(leader, own *shardReport, r shard.ReplicaID, role string) *beaverv1.ClusterMember {
	out := &beaverv1.ClusterMember{NodeId: uint64(r.Node()), Replica: r.String(), Role: role}
	if own != nil && own.Replica == r {
		out.AppliedIndex, out.LastIndex, out.SnapshotIndex = own.Applied, own.Last, own.Snapshot
	}
	if r == leader.Replica {
		out.Role, out.MatchIndex, out.Reachable = "leader", leader.Last, true
		return out
	}
	for _, p := range leader.Peers {
		if p.Replica == r {
			out.MatchIndex, out.Reachable = p.Match, p.Active
		}
	}
	return out
}
