package engine

import "github.com/beaver-raft/beaver/internal/queue"

// Stats are the figures for metrics. Taking them costs a visit to each shard and no log entry.
type Stats struct {
	Queues        []QueueStats // at most QueueLabelsMax, by name
	QueuesOmitted int          // queues beyond that
	Shards        []ShardStats
	Workers       int    // registered
	WorkersLost   uint64 // since start
	JobsDamaged   uint64 // payloads found damaged since start
	DiskFull      bool
}

// QueueStats are one queue's figures.
type QueueStats struct {
	Name           string
	Info           queue.QueueInfo
	OldestReadyAge float64        // seconds; 0: none is ready
	Enqueue        HistogramStats // call to answer
	Wait           HistogramStats // ready to leased
	Run            HistogramStats // leased to ended
}

// ShardStats are the figures of one shard's pump.
type ShardStats struct {
	ID            uint16
	WaitingCalls  int   // commands not yet proposed
	WaitingBytes  int64 // of these
	InFlight      int   // entries proposed and not yet applied
	ParkedFetches int
	Overloaded    uint64 // calls refused since the pump was full
	HandedOff     uint64 // fetches that rode in the entry of the enqueue that fed them
	Batches       uint64
	BatchedItems  uint64
	Running       uint64
}

// HistogramStats is a latency histogram: Counts[i] observations were at most Bounds[i] seconds and more than
// Bounds[i-1]; the last of Counts is what was over all bounds.
type HistogramStats struct {
	Bounds []float64
	Counts []uint64
	Count  uint64
	Sum    float64 // seconds
}
