package transport

import (
	"encoding/binary"
	"sync"
	"time"
)

// chunk is a chunk or an acknowledgement of a transfer.
type chunk struct {
	shard uint16
	kind  uint8
	data  []byte
}

// chunks holds those that wait for a peer. Over its bounds nothing is taken: the sender of a snapshot comes again.
//
// Small ones, such as acknowledgements, overtake those of other shards and do not wait for the budget: else a snapshot that this node sends
// would hold up the one that it is brought, and senders take silence for loss. Those of one shard keep their order: a receiver takes what
// overtook the rest for a loss of the rest.
type chunks struct {
	budget   *budget
	counters *counters
	wake     chan struct{}

	mu     sync.Mutex
	closed bool
	small  fifo[chunk] // of transferSmallBytesMax at most
	large  fifo[chunk]
	bytes  int // of those in large
	shards map[uint16]waiting
}

// waiting is how many chunks of a shard wait.
type waiting struct{ small, large int }

func (c *chunks) push(k chunk) bool {
	c.mu.Lock()
	row, bytes, of := &c.large, len(k.data), c.shards[k.shard]
	if bytes <= transferSmallBytesMax && of.large == 0 {
		row, bytes = &c.small, 0
		of.small++
	} else {
		of.large++
	}
	ok := !c.closed && len(k.data) <= TransferBytesMax && row.len() < transferQueueMax && (bytes == 0 || c.bytes+bytes <= transferQueueBytesMax)
	if ok {
		row.push(k)
		c.bytes += bytes
		c.shards[k.shard] = of
	}
	c.mu.Unlock()
	if !ok {
		c.counters.dropped.Add(1)
		return false
	}
	signal(c.wake)
	return true
}

// next takes out what is to be sent next. If that has to wait for the budget, it says for how long.
func (c *chunks) next() (k chunk, ok bool, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, of := time.Now(), waiting{}
	switch {
	case c.small.len() > 0:
		k = c.small.pop()
		of = c.shards[k.shard]
		of.small--
	case c.large.len() == 0:
		return k, false, 0
	default:
		if pause = c.budget.pause(now); pause > 0 {
			return k, false, pause
		}
		k = c.large.pop()
		c.bytes -= len(k.data)
		of = c.shards[k.shard]
		of.large--
	}
	c.budget.spend(now, len(k.data))
	if c.shards[k.shard] = of; of == (waiting{}) {
		delete(c.shards, k.shard)
	}
	return k, true, 0
}

func (c *chunks) fill(w *frameWriter) (time.Duration, bool) {
	filled := 0
	for filled < frameTargetBytes {
		k, ok, pause := c.next()
		if !ok {
			return pause, filled > 0
		}
		w.begin(frameTransfer, transferHeadBytes+len(k.data))
		w.buffer = binary.LittleEndian.AppendUint16(w.buffer, k.shard)
		w.buffer = append(w.buffer, k.kind, 0)
		w.data(k.data)
		c.counters.messagesOut.Add(1)
		filled += frameHeadBytes + transferHeadBytes + len(k.data)
	}
	return 0, filled > 0
}

func (c *chunks) fail(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counters.dropped.Add(uint64(c.small.len() + c.large.len()))
	c.small, c.large, c.bytes, c.closed = fifo[chunk]{}, fifo[chunk]{}, 0, true
	clear(c.shards)
}

func (c *chunks) resume() {
	c.mu.Lock()
	c.closed = false
	c.mu.Unlock()
}

func (c *chunks) waiting() (messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.small.len() + c.large.len(), c.bytes
}

// wait reports whether there are any of a shard.
func (c *chunks) wait(shard uint16) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.shards[shard] != waiting{}
}

func (c *chunks) take(_ *frameReader, kind frameKind, _ int) error {
	return malformed("a frame of kind %d", kind)
}

// budget is the bytes that transfers may send, to all peers together. Whoever finds it above zero may send one chunk of any size; the
// next one waits until the debt is paid. So the rate holds on average, and a large chunk is not split.
type budget struct {
	rate int // bytes a second; negative is no limit

	mu   sync.Mutex
	left float64 // bytes; what is not used is kept for budgetKeep
	at   time.Time
}

// budgetKeep is how long unused budget is kept.
const budgetKeep = 50 * time.Millisecond

// pause is how long to wait before the next chunk; 0 for none.
func (b *budget) pause(now time.Time) time.Duration {
	if b.rate < 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	if b.left > 0 {
		return 0
	}
	return time.Duration((1-b.left)/float64(b.rate)*float64(time.Second)) + time.Microsecond
}

func (b *budget) spend(now time.Time, bytes int) {
	if b.rate < 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill(now)
	b.left -= float64(bytes)
}

// refill adds what has accrued. REQUIRES: b.mu.
func (b *budget) refill(now time.Time) {
	b.left = min(b.left+now.Sub(b.at).Seconds()*float64(b.rate), max(1, budgetKeep.Seconds()*float64(b.rate)))
	b.at = now
}
