package host

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/wal"
)

// histogramBuckets is the number of a Histogram's buckets.
const histogramBuckets = 40

// Histogram counts values in powers of two: bucket i holds values v with 2^(i-1) <= v < 2^i, bucket 0 holds zero.
type Histogram struct {
	Buckets [histogramBuckets]uint64
	Count   uint64
	Sum     uint64
}

// histogram is a Histogram that many goroutines may add to.
type histogram struct {
	buckets [histogramBuckets]atomic.Uint64
	count   atomic.Uint64
	sum     atomic.Uint64
}

func (h *histogram) add(v uint64) {
	h.buckets[min(bits.Len64(v), histogramBuckets-1)].Add(1)
	h.count.Add(1)
	h.sum.Add(v)
}

func (h *histogram) read() Histogram {
	r := Histogram{Count: h.count.Load(), Sum: h.sum.Load()}
	for i := range h.buckets {
		r.Buckets[i] = h.buckets[i].Load()
	}
	return r
}

// ShardStats describes one shard at one moment.
type ShardStats = replica.Stats

// Stats describes the host. It is cheap to take.
type Stats struct {
	Node, Cluster   uint64
	Shards          []ShardStats // in the order of Options.Shards
	Log             wal.Stats
	Recovery        wal.Recovery // what opening the log found
	RecoverySeconds float64      // all of Open

	FlushMicros Histogram // write and sync of one group commit
	BatchBytes  Histogram // sealed batches
	BatchItems  Histogram

	Transfers []TransferStats // snapshots on their way to other members
	Incoming  []IncomingStats // snapshots being taken in

	// TransfersEnded counts transfers to other members that are over, TransferBytes what was sent in them, and
	// TransferFullBytes what full snapshots would have sent.
	TransfersEnded, TransferBytes, TransferFullBytes uint64

	MessagesDropped uint64 // of other nodes, for want of room or because they were not what they said
	ChunksDropped   uint64 // of snapshots, for want of room
}

// micros is a duration as a histogram counts it.
func micros(d time.Duration) uint64 { return uint64(max(0, d.Microseconds())) }
