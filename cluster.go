package beaver

import (
	"context"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// ClusterInfo is the cluster that a node is one of, as far as its nodes could be asked.
type ClusterInfo struct {
	ClusterID string
	NodeID    uint64 // of the node that answered
	Nodes     []ClusterNode
	Shards    []ClusterShard
	Transfers []ClusterTransfer
}

// ClusterNode is a node. The last ones that were removed are listed too.
type ClusterNode struct {
	ID            uint64
	State         string // expected, joining, active, draining, leaving or removed
	PeerAddress   string // for the other nodes
	PublicAddress string // for clients
	Zone          string
	Version       string
	Since         time.Time // when it came to its state
	Replaces      uint64    // the node whose place it takes; 0: none
	Reachable     bool      // it told what it knows just now
	Problem       string    // why it does not serve; empty: it does, or it is not known
	// Heartbeat is heard, silent (nothing for 5 s) or unknown: it tells nothing of itself, as earlier versions do not, or there was no time for it
	// yet. Nodes tell each other about once a second. Empty: the node is expected or removed.
	Heartbeat string
	HeardAt   time.Time // when the node that answered heard of it last, by the client's clock; zero: not since that one started
	Load      *NodeLoad // as the node told last; nil: it has told nothing
}

// NodeLoad is what a node tells of itself: what it has, how much of it is left, and what it does. Rates are of the last 5 seconds.
type NodeLoad struct {
	Processors      int     // that the process may use
	ProcessorShare  float64 // of these in use; 0: not known, or idle
	DiskBytes       uint64  // of the disk that holds the data directory
	DiskFreeBytes   uint64
	DiskFull        bool    // new jobs are refused
	DataBytes       uint64  // of all files in the data directory
	Leads           int     // shards, the catalog too
	StoredPerSecond float64 // jobs, on the shards that it leads
	EndedPerSecond  float64 // attempts, likewise
	Workers         int     // connected to it
	WorkerSlots     int     // jobs that these run at once
}

// ClusterShard is a shard and the replicas that hold it.
type ClusterShard struct {
	ID              int
	LeaderNodeID    uint64 // 0: none is known
	Term            uint64
	PreferredNodeID uint64 // whom an operator wants to lead it; 0: nobody said
	Members         []ClusterMember
	Waiting         string // what a change of its members waits for
}

// ClusterMember is one replica of a shard.
type ClusterMember struct {
	NodeID        uint64
	Replica       string
	Role          string // leader, follower, learner, outgoing, outside or blank
	AppliedIndex  uint64 // as the node itself says; 0: it did not answer
	LastIndex     uint64
	MatchIndex    uint64 // as the leader knows; 0: it does not
	SnapshotIndex uint64
	Reachable     bool // its leader has heard of it lately
}

// ClusterTransfer is a snapshot on its way to a member that lacks what the log forgot.
type ClusterTransfer struct {
	Shard         int
	FromNodeID    uint64
	ToNodeID      uint64
	SnapshotIndex uint64
	Bytes         uint64
	FullBytes     uint64 // what a snapshot with all payloads would take
}

// Cluster returns the cluster, as the first node of those that Config.Addr names describes it which can be reached.
func (c *Client) Cluster(ctx context.Context) (*ClusterInfo, error) {
	res, err := call(ofOperator(ctx), c, c.cluster.GetCluster, &beaverv1.GetClusterRequest{})
	if err != nil {
		return nil, err
	}
	return clusterInfoOf(res), nil
}

// AddNode gives an id to a node that will join from a peer address, and returns it. replaces is the node whose place it takes, or 0.
// A node may also join without that; its id is then known when it has joined.
func (c *Client) AddNode(ctx context.Context, peerAddress string, replaces uint64) (uint64, error) {
	res, err := change(ctx, c, c.cluster.AddNode, &beaverv1.AddNodeRequest{PeerAddress: peerAddress, Replaces: replaces})
	return res.GetNodeId(), err
}

// RemoveNode takes a node out of every shard, and then out of the cluster, for good. It returns when that is decided; Cluster shows
// how far it is.
func (c *Client) RemoveNode(ctx context.Context, node uint64) error {
	_, err := change(ctx, c, c.cluster.RemoveNode, &beaverv1.RemoveNodeRequest{NodeId: node})
	return err
}

// DrainNode moves what a node leads to others, or with undo ends that.
func (c *Client) DrainNode(ctx context.Context, node uint64, undo bool) error {
	_, err := call(ctx, c, c.cluster.DrainNode, &beaverv1.DrainNodeRequest{NodeId: node, Undo: undo})
	return err
}

// TransferLead makes a node the leader of a shard, whenever it can be. It returns when that is decided. Node 0 takes back what was
// wished before: the cluster shares the leads out.
func (c *Client) TransferLead(ctx context.Context, shard int, node uint64) error {
	_, err := call(ctx, c, c.cluster.TransferLead, &beaverv1.TransferLeadRequest{Shard: uint32(shard), NodeId: node})
	return err
}

// AddShards adds data shards to the cluster, and returns how many it has then. have is how many it has now, as Cluster shows it, without
// the catalog: it may be repeated with the same numbers, and adds no more. When the cluster has another number than one of the two, nothing is
// done. 0 adds to whatever there is. It returns when that is decided; new queues come to live on the new shards as soon as those have leaders.
func (c *Client) AddShards(ctx context.Context, count, have int) (int, error) {
	res, err := change(ctx, c, c.cluster.AddShards, &beaverv1.AddShardsRequest{Count: uint32(count), Have: uint32(have)})
	return int(res.GetShards()), err
}

func clusterInfoOf(res *beaverv1.GetClusterResponse) *ClusterInfo {
	info := &ClusterInfo{ClusterID: res.GetClusterId(), NodeID: res.GetNodeId()}
	for _, n := range res.GetNodes() {
		node := ClusterNode{
			ID: n.GetId(), State: n.GetState(), PeerAddress: n.GetPeerAddress(), PublicAddress: n.GetPublicAddress(), Zone: n.GetZone(),
			Version: n.GetVersion(), Since: timeOf(n.GetSince()), Replaces: n.GetReplaces(), Reachable: n.GetReachable(), Problem: n.GetProblem(),
			Heartbeat: n.GetHeartbeat(), Load: nodeLoadOf(n.GetLoad()),
		}
		if n.GetHeardAgo() != nil {
			node.HeardAt = time.Now().Add(-n.GetHeardAgo().AsDuration())
		}
		info.Nodes = append(info.Nodes, node)
	}
	for _, s := range res.GetShards() {
		shard := ClusterShard{
			ID: int(s.GetId()), LeaderNodeID: s.GetLeaderNodeId(), Term: s.GetTerm(), PreferredNodeID: s.GetPreferredNodeId(), Waiting: s.GetWaiting(),
		}
		for _, m := range s.GetMembers() {
			shard.Members = append(shard.Members, ClusterMember{
				NodeID: m.GetNodeId(), Replica: m.GetReplica(), Role: m.GetRole(), AppliedIndex: m.GetAppliedIndex(), LastIndex: m.GetLastIndex(),
				MatchIndex: m.GetMatchIndex(), SnapshotIndex: m.GetSnapshotIndex(), Reachable: m.GetReachable(),
			})
		}
		info.Shards = append(info.Shards, shard)
	}
	for _, t := range res.GetTransfers() {
		info.Transfers = append(info.Transfers, ClusterTransfer{
			Shard: int(t.GetShard()), FromNodeID: t.GetFromNodeId(), ToNodeID: t.GetToNodeId(), SnapshotIndex: t.GetSnapshotIndex(),
			Bytes: t.GetBytes(), FullBytes: t.GetFullBytes(),
		})
	}
	return info
}

func nodeLoadOf(l *beaverv1.NodeLoad) *NodeLoad {
	if l == nil {
		return nil
	}
	return &NodeLoad{
		Processors: int(l.GetProcessors()), ProcessorShare: l.GetProcessorShare(),
		DiskBytes: l.GetDiskBytes(), DiskFreeBytes: l.GetDiskFreeBytes(), DiskFull: l.GetDiskFull(), DataBytes: l.GetDataBytes(),
		Leads: int(l.GetLeads()), StoredPerSecond: l.GetStoredPerSecond(), EndedPerSecond: l.GetEndedPerSecond(),
		Workers: int(l.GetWorkers()), WorkerSlots: int(l.GetWorkerSlots()),
	}
}
