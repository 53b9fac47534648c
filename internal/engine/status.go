package engine

import (
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// QueueStatus is a queue as the catalog and its shard know it.
type QueueStatus struct {
	Name          string
	Shard         uint16
	Info          queue.QueueInfo
	OldestReadyAt time.Time // when the oldest ready job was stored; zero: none is ready
}

// WorkerStatus is a registered worker as this node sees it.
type WorkerStatus struct {
	ID           WorkerID
	Info         WorkerInfo
	RegisteredAt time.Time
	LastBeat     time.Time // the last sign of life this node has seen
	TTL          time.Duration
	Running      int // leases held, over all shards
	State        WorkerState
}

// NodeStatus describes this node.
type NodeStatus struct {
	Node      uint64
	ClusterID string
	Version   string
	StartedAt time.Time
	Ready     bool
	Reason    string // why not ready
	DiskFull  bool   // enqueues are refused until there is room
	Queues    int
	Workers   int
	Shards    []ShardStatus
}

// ShardStatus describes one shard's replica on this node.
type ShardStatus struct {
	ID            uint16
	Leading       bool
	Term          uint64
	Applied       uint64
	SnapshotIndex uint64
	SnapshotBytes int64
	Fingerprint   uint64
	Problem       string // why the shard does not serve; empty: it does
}
