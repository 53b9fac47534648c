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
type chunks struct {
	budget   *budget
	counters *counters
	wake     chan struct{}

	mu     sync.Mutex
	closed bool
	queue  fifo[chunk]
	bytes  int
}

func (c *chunks) push(k chunk) bool {
	c.mu.Lock()
	ok := !c.closed && len(k.data) <= TransferBytesMax && c.queue.len() < transferQueueMax && c.bytes+len(k.data) <= transferQueueBytesMax
	if ok {
		c.queue.push(k)
		c.bytes += len(k.data)
	}
	c.mu.Unlock()
	if !ok {
		c.counters.dropped.Add(1)
		return false
	}
	signal(c.wake)
	return true
}

func (c *chunks) fill(w *frameWriter) (time.Duration, bool) {
	filled := 0
	for filled < frameTargetBytes {
		if pause := c.budget.pause(time.Now()); pause > 0 {
			return pause, filled > 0
		}
		c.mu.Lock()
		if c.queue.len() == 0 {
			c.mu.Unlock()
			break
		}
		k := c.queue.pop()
		c.bytes -= len(k.data)
		c.mu.Unlock()
		c.budget.spend(time.Now(), len(k.data))
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
	c.counters.dropped.Add(uint64(c.queue.len()))
	c.queue, c.bytes, c.closed = fifo[chunk]{}, 0, true
}

func (c *chunks) resume() {
	c.mu.Lock()
	c.closed = false
	c.mu.Unlock()
}

func (c *chunks) waiting() (messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len(), c.bytes
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
