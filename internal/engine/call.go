package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// A call's state. It decides who may touch the call: the caller until waiting and from done on, the pump in between.
const (
	callNew     uint32 = iota
	callWaiting        // in a desk, not yet proposed
	callFlying         // in an entry
	callDone           // answered
	callGone           // the caller left; the pump drops it
)

// laneCount says how many jobs of a queue a command brings or takes.
type laneCount struct {
	queue queue.QueueID
	jobs  int
}

// call is one command on its way through the log. Calls are pooled; a caller that leaves early hands its call over to
// the pump, which lets the garbage collector have it.
type call struct {
	pool     *sync.Pool
	items    shard.Items
	adds     []laneCount // jobs that are ready once the command is applied
	urgent   bool        // ends or tends jobs: admitted past the ordinary limit
	ends     bool        // its first item ends an attempt: a sample for the run histogram
	foreign  bool        // it goes to no other node, mostly since another one forwarded it
	patience time.Time   // until when it waits for a leader; for an outlet
	received Reading     // when an enqueue, or what another node sent, came to this node; zero: it may wait as long as it wants
	state    atomic.Uint32
	done     chan struct{} // one token per answer

	// The answer. Results has one per item.
	err     error
	stamp   int64
	index   uint64 // of the entry; for the catalog
	results []queue.Result
	catalog []cluster.Result
}

// waited reports whether a call has waited for too long to be proposed. Had its request been stored before it came, its session might be
// forgotten by the time of now.
func (c *call) waited(now Reading) bool {
	return c.received != Reading{} && now.Since(c.received) > StillMax
}

// callKeepBytes is the largest buffer a pooled call keeps.
const callKeepBytes = 1 << 20

// newCall takes a spare call or makes one. It must be used with this desk.
func (d *desk) newCall() *call {
	c, _ := d.spareCalls.Get().(*call)
	if c == nil {
		c = &call{pool: &d.spareCalls, done: make(chan struct{}, 1)}
	}
	c.items.Reset()
	c.adds = c.adds[:0]
	c.urgent, c.ends, c.foreign = false, false, false
	c.received = Reading{}
	c.err, c.stamp, c.index = nil, 0, 0
	c.results, c.catalog = c.results[:0], c.catalog[:0]
	c.state.Store(callNew)
	return c
}

// free gives a call back. Only its caller may, before it was submitted or after its answer was taken.
func (c *call) free() {
	if cap(c.items.Body) > callKeepBytes {
		c.items.Body = nil
	}
	c.pool.Put(c)
}

// addReady counts a job that the command makes ready.
func (c *call) addReady(q queue.QueueID) {
	if n := len(c.adds); n > 0 && c.adds[n-1].queue == q {
		c.adds[n-1].jobs++
		return
	}
	c.adds = append(c.adds, laneCount{queue: q, jobs: 1})
}
