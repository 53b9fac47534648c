package rpc

import (
	"context"
	"math"
	"net"
	"strconv"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// Cluster is what the front door needs of the cluster that a node is one of. Its errors are *engine.Error.
type Cluster interface {
	// Describe tells what the nodes know, as far as they can be asked.
	Describe(ctx context.Context) (*beaverv1.GetClusterResponse, error)
	// AddNode expects a node at a peer address, in the place of another unless that is 0, and returns its id.
	AddNode(ctx context.Context, peer string, replaces uint64) (uint64, error)
	RemoveNode(ctx context.Context, node uint64) error
	DrainNode(ctx context.Context, node uint64, undo bool) error
	TransferLead(ctx context.Context, shard uint16, node uint64) error
	// AddShards adds data shards, and returns how many there are then. have is how many the caller knows of, so that a repeat adds no
	// more, or 0.
	AddShards(ctx context.Context, count, have int) (int, error)
}

// reasonNoPeers is the reason of a change of a cluster that the node has none of.
const reasonNoPeers = "NO_PEERS"

// cluster is the cluster that the node is one of.
func (h *Handler) cluster() (Cluster, error) {
	if c := h.others.Load(); c != nil {
		return *c, nil
	}
	return nil, &engine.Error{
		Code: engine.CodeFailedPrecondition, Reason: reasonNoPeers,
		Message: "the node is alone: start it with --peer-listen HOST:PORT so that others can join it",
	}
}

func (h *Handler) getCluster(ctx context.Context, e Engine, _ *beaverv1.GetClusterRequest) (*beaverv1.GetClusterResponse, error) {
	if c, err := h.cluster(); err == nil {
		return c.Describe(ctx)
	}
	s, err := e.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := &beaverv1.GetClusterResponse{
		ClusterId: s.ClusterID, NodeId: s.Node,
		Nodes: []*beaverv1.ClusterNode{{Id: s.Node, State: "active", Version: s.Version, Reachable: true, Problem: s.Reason, Since: pbInstant(s.StartedAt)}},
	}
	TellHeard(out.Nodes[0], &engine.NodeHeard{Hearing: engine.HearingHeard, Ever: true, Load: &s.Load})
	for i := range s.Shards {
		sh := &s.Shards[i]
		out.Shards = append(out.Shards, &beaverv1.ClusterShard{
			Id: uint32(sh.ID), LeaderNodeId: sh.Leader, Term: sh.Term,
			Members: []*beaverv1.ClusterMember{{
				NodeId: s.Node, Role: pbShard(sh).GetRole(), AppliedIndex: sh.Applied, LastIndex: sh.Last, MatchIndex: sh.Last,
				SnapshotIndex: sh.SnapshotIndex, Reachable: true,
			}},
		})
	}
	return out, nil
}

func (h *Handler) addNode(ctx context.Context, _ Engine, in *beaverv1.AddNodeRequest) (*beaverv1.AddNodeResponse, error) {
	c, err := h.cluster()
	if err != nil {
		return nil, err
	}
	if in.GetPeerAddress() == "" {
		return nil, invalid("peer_address", "want host:port, where the new node will listen to its peers")
	}
	if !dialable(in.GetPeerAddress()) {
		return nil, invalid("peer_address", "is %.140q: want host:port, where the new node will listen to its peers", in.GetPeerAddress())
	}
	if host, _, _ := net.SplitHostPort(in.GetPeerAddress()); net.ParseIP(host).IsUnspecified() {
		return nil, invalid("peer_address", "is %.140q, which no other node can dial: want the address of the new node's machine", in.GetPeerAddress())
	}
	node, err := c.AddNode(ctx, in.GetPeerAddress(), in.GetReplaces())
	return &beaverv1.AddNodeResponse{NodeId: node}, err
}

// dialable reports whether an address has a host and a port.
func dialable(address string) bool {
	host, port, err := net.SplitHostPort(address)
	n, bad := strconv.ParseUint(port, 10, 16)
	return err == nil && host != "" && bad == nil && n > 0
}

func (h *Handler) removeNode(ctx context.Context, _ Engine, in *beaverv1.RemoveNodeRequest) (*beaverv1.RemoveNodeResponse, error) {
	c, err := h.cluster()
	if err != nil {
		return nil, err
	}
	if in.GetNodeId() == 0 {
		return nil, errNoNode()
	}
	return &beaverv1.RemoveNodeResponse{}, c.RemoveNode(ctx, in.GetNodeId())
}

func (h *Handler) drainNode(ctx context.Context, _ Engine, in *beaverv1.DrainNodeRequest) (*beaverv1.DrainNodeResponse, error) {
	c, err := h.cluster()
	if err != nil {
		return nil, err
	}
	if in.GetNodeId() == 0 {
		return nil, errNoNode()
	}
	return &beaverv1.DrainNodeResponse{}, c.DrainNode(ctx, in.GetNodeId(), in.GetUndo())
}

func (h *Handler) transferLead(ctx context.Context, _ Engine, in *beaverv1.TransferLeadRequest) (*beaverv1.TransferLeadResponse, error) {
	c, err := h.cluster()
	if err != nil {
		return nil, err
	}
	if in.GetShard() > math.MaxUint16 {
		return nil, invalid("shard", "%d is no shard", in.GetShard())
	}
	return &beaverv1.TransferLeadResponse{}, c.TransferLead(ctx, uint16(in.GetShard()), in.GetNodeId())
}

func (h *Handler) addShards(ctx context.Context, _ Engine, in *beaverv1.AddShardsRequest) (*beaverv1.AddShardsResponse, error) {
	c := h.others.Load()
	if c == nil {
		return nil, &engine.Error{
			Code: engine.CodeFailedPrecondition, Reason: reasonNoPeers, Message: "the node is alone: restart it with --shards N to give it more shards",
		}
	}
	if n := in.GetCount(); n == 0 || n > engine.ShardsMax {
		return nil, invalid("count", "%d shards cannot be added; want 1 to %d", n, engine.ShardsMax)
	}
	shards, err := (*c).AddShards(ctx, int(in.GetCount()), int(in.GetHave()))
	return &beaverv1.AddShardsResponse{Shards: uint32(shards)}, err
}

func errNoNode() *engine.Error { return invalid("node_id", "want the id of a node, 1 or more") }
