package host

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
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
type ShardStats struct {
	ID          shard.ID
	Applied     uint64
	Last        uint64 // the last index of the log, applied or not
	Fingerprint uint64 // of the state at Applied
	Term        uint64
	Leader      uint64 // node id; 0 when unknown
	Leading     bool   // this node leads and may propose

	Batches, BatchItems, BatchBytes uint64 // applied since Open
	Dropped                         uint64 // batches told to the driver as dropped

	SnapshotIndex   uint64
	SnapshotMillis  int64 // when the newest one was stored, by Options.Clock; 0 when that was before Open
	SnapshotBytes   int64
	SnapshotSeconds float64 // how long the newest one took in the background
	SnapshotPause   float64 // for how many seconds it stopped the machine
	Snapshots       uint64  // taken since Open

	RecoverySeconds float64
	EntriesReplayed uint64
	DamagedSnapshot uint64 // snapshots passed over by the recovery since they were damaged
}

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
}

// micros is a duration as a histogram counts it.
func micros(d time.Duration) uint64 { return uint64(max(0, d.Microseconds())) }
