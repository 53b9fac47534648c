package main

import (
	"time"

	"github.com/beaver-raft/beaver"
)

type clusterJSON struct {
	ClusterID string                `json:"clusterId"`
	NodeID    uint64                `json:"nodeId"`
	Nodes     []clusterNodeJSON     `json:"nodes"`
	Shards    []clusterShardJSON    `json:"shards"`
	Transfers []clusterTransferJSON `json:"transfers"`
}

type clusterNodeJSON struct {
	ID            uint64    `json:"id"`
	State         string    `json:"state"`
	PeerAddress   string    `json:"peerAddress"`
	PublicAddress string    `json:"publicAddress,omitempty"`
	Zone          string    `json:"zone,omitempty"`
	Version       string    `json:"version,omitempty"`
	Since         time.Time `json:"since,omitzero"`
	Replaces      uint64    `json:"replaces,omitempty"`
	Reachable     bool      `json:"reachable"`
	Problem       string    `json:"problem,omitempty"`

	Heartbeat string        `json:"heartbeat,omitempty"`
	HeardAt   time.Time     `json:"heardAt,omitzero"`
	Load      *nodeLoadJSON `json:"load,omitempty"`
}

type nodeLoadJSON struct {
	Processors      int     `json:"processors"`
	ProcessorShare  float64 `json:"processorShare"`
	DiskBytes       uint64  `json:"diskBytes"`
	DiskFreeBytes   uint64  `json:"diskFreeBytes"`
	DiskFull        bool    `json:"diskFull"`
	DataBytes       uint64  `json:"dataBytes"`
	Leads           int     `json:"leads"`
	StoredPerSecond float64 `json:"storedPerSecond"`
	EndedPerSecond  float64 `json:"endedPerSecond"`
	Workers         int     `json:"workers"`
	WorkerSlots     int     `json:"workerSlots"`
}

type clusterShardJSON struct {
	ID              int                 `json:"id"`
	LeaderNodeID    uint64              `json:"leaderNodeId"`
	Term            uint64              `json:"term"`
	PreferredNodeID uint64              `json:"preferredNodeId,omitempty"`
	Members         []clusterMemberJSON `json:"members"`
	Waiting         string              `json:"waiting,omitempty"`
}

type clusterMemberJSON struct {
	NodeID        uint64 `json:"nodeId"`
	Replica       string `json:"replica"`
	Role          string `json:"role"`
	AppliedIndex  uint64 `json:"appliedIndex"`
	LastIndex     uint64 `json:"lastIndex"`
	MatchIndex    uint64 `json:"matchIndex"`
	SnapshotIndex uint64 `json:"snapshotIndex"`
	Reachable     bool   `json:"reachable"`
}

type clusterTransferJSON struct {
	Shard         int    `json:"shard"`
	FromNodeID    uint64 `json:"fromNodeId"`
	ToNodeID      uint64 `json:"toNodeId"`
	SnapshotIndex uint64 `json:"snapshotIndex"`
	Bytes         uint64 `json:"bytes"`
	FullBytes     uint64 `json:"fullBytes"`
}

func clusterOutput(info *beaver.ClusterInfo) clusterJSON {
	out := clusterJSON{
		ClusterID: info.ClusterID, NodeID: info.NodeID,
		Nodes: []clusterNodeJSON{}, Shards: []clusterShardJSON{}, Transfers: []clusterTransferJSON{},
	}
	for _, n := range info.Nodes {
		out.Nodes = append(out.Nodes, clusterNodeJSON{
			n.ID, n.State, n.PeerAddress, n.PublicAddress, n.Zone, n.Version, n.Since, n.Replaces, n.Reachable, n.Problem,
			n.Heartbeat, n.HeardAt, (*nodeLoadJSON)(n.Load),
		})
	}
	for _, s := range info.Shards {
		members := []clusterMemberJSON{}
		for _, m := range s.Members {
			members = append(members, clusterMemberJSON(m))
		}
		out.Shards = append(out.Shards, clusterShardJSON{s.ID, s.LeaderNodeID, s.Term, s.PreferredNodeID, members, s.Waiting})
	}
	for _, t := range info.Transfers {
		out.Transfers = append(out.Transfers, clusterTransferJSON(t))
	}
	return out
}
