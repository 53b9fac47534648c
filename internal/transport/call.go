package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

// status is how a call was answered.
type status uint8

const (
	statusOK     status = iota
	statusFailed        // the handler's error; the body is its text
	statusBusy          // the handler did not see it
	statusEnded         // its context ended before the handler was done; nobody knows what came of it
)

// call is one that this node makes.
type call struct {
	id     uint64
	kind   uint8
	body   []byte
	until  time.Time // zero for ever
	result chan result
	sent   bool // from here on nobody knows whether it was served
	over   bool // it has its result, or nobody wants it
}

type result struct {
	body []byte
	err  error
}

// caller holds the calls to one peer: those that wait to be sent, and those that wait for their answers.
type caller struct {
	node     uint64
	counters *counters
	wake     chan struct{}

	mu      sync.Mutex
	closed  error // why nothing can be sent now
	last    uint64
	queue   fifo[*call]
	bytes   int // of the bodies in queue
	sent    map[uint64]*call
	cancels []uint64 // sent calls that nobody waits for any more, to be told
}

// do makes a call and waits for its end.
func (c *caller) do(ctx context.Context, kind uint8, body []byte) ([]byte, error) {
	if len(body) > CallBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, %d are possible", ErrTooLarge, len(body), CallBytesMax)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	k := &call{kind: kind, body: body, result: make(chan result, 1)}
	k.until, _ = ctx.Deadline()
	if err := c.push(k); err != nil {
		return nil, err
	}
	select {
	case r := <-k.result:
		return r.body, r.err
	case <-ctx.Done():
		return c.abandon(k, ctx.Err())
	}
}

func (c *caller) push(k *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, c.closed)
	case c.queue.len()+len(c.sent) >= callsMax || c.bytes+len(k.body) > callQueueBytesMax:
		c.counters.dropped.Add(1)
		return fmt.Errorf("%w: %d calls to node %d have no answer yet", ErrBusy, c.queue.len()+len(c.sent), c.node)
	}
	c.last++
	k.id = c.last
	c.queue.push(k)
	c.bytes += len(k.body)
	signal(c.wake)
	return nil
}

// abandon ends a call whose context ended first.
func (c *caller) abandon(k *call, cause error) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case k.over:
		r := <-k.result
		return r.body, r.err
	case !k.sent:
		k.over = true // fill passes it over
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	k.over = true
	delete(c.sent, k.id)
	c.cancels = append(c.cancels, k.id)
	signal(c.wake)
	return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, cause)
}

// end gives a call its result. REQUIRES: c.mu; the call is not over.
func (k *call) end(body []byte, err error) {
	k.over = true
	k.result <- result{body, err}
}

func (c *caller) fill(w *frameWriter) (time.Duration, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	filled := 0
	for c.queue.len() > 0 && filled < frameTargetBytes {
		k := c.queue.pop()
		c.bytes -= len(k.body)
		left, ok := timeLeft(k.until)
		if k.over {
			continue
		}
		if !ok {
			k.end(nil, fmt.Errorf("%w: %w", ErrUnreachable, context.DeadlineExceeded))
			continue
		}
		k.sent = true
		c.sent[k.id] = k
		w.begin(frameRequest, requestHeadBytes+len(k.body))
		w.buffer = binary.LittleEndian.AppendUint64(w.buffer, k.id)
		w.buffer = binary.LittleEndian.AppendUint32(w.buffer, left)
		w.buffer = append(w.buffer, k.kind, 0, 0, 0)
		w.data(k.body)
		c.counters.messagesOut.Add(1)
		filled += frameHeadBytes + requestHeadBytes + len(k.body)
	}
	for _, id := range c.cancels {
		w.begin(frameCancel, cancelBytes)
		w.buffer = binary.LittleEndian.AppendUint64(w.buffer, id)
	}
	any := filled > 0 || len(c.cancels) > 0
	c.cancels = c.cancels[:0]
	return 0, any
}

// timeLeft is how long a call may take from now on, in milliseconds; 0 is for ever. It is not ok when the time is over. Clocks of
// nodes differ, so a moment would mean nothing to the other one. The wall clock counts too: the other one stands still while the machine is
// suspended, and a call that waited here meanwhile must not go on as if it were new.
func timeLeft(until time.Time) (millis uint32, ok bool) {
	if until.IsZero() {
		return 0, true
	}
	now := time.Now()
	left := min(until.Sub(now), until.Round(0).Sub(now.Round(0)))
	if left <= 0 {
		return 0, false
	}
	return uint32(min((left+time.Millisecond-1)/time.Millisecond, math.MaxUint32)), true
}

func (c *caller) take(r *frameReader, kind frameKind, length int) error {
	if kind != frameAnswer {
		return malformed("a frame of kind %d", kind)
	}
	head, err := r.fixed(answerHeadBytes)
	if err != nil {
		return err
	}
	id, s := binary.LittleEndian.Uint64(head), status(head[8])
	length -= answerHeadBytes
	if s > statusEnded {
		return malformed("an answer of status %d", s)
	}
	c.counters.messagesIn.Add(1)
	c.mu.Lock()
	k := c.sent[id]
	c.mu.Unlock()
	if k == nil {
		return r.skip(length) // nobody waits any more
	}
	body, err := r.body(length)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.over {
		return nil
	}
	delete(c.sent, id)
	switch s {
	case statusOK:
		k.end(body, nil)
	case statusFailed:
		k.end(nil, &RemoteError{c.node, string(body)})
	case statusBusy:
		k.end(nil, fmt.Errorf("%w: node %d works on as many as it may", ErrBusy, c.node))
	case statusEnded:
		k.end(nil, fmt.Errorf("%w: %w at node %d", ErrUnknownOutcome, context.DeadlineExceeded, c.node))
	}
	return nil
}

// fail ends all calls. Those that were not sent are known not to be.
func (c *caller) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.queue.len() > 0 {
		if k := c.queue.pop(); !k.over {
			k.end(nil, fmt.Errorf("%w: %w", ErrUnreachable, cause))
			c.counters.dropped.Add(1)
		}
	}
	for _, k := range c.sent {
		k.end(nil, fmt.Errorf("%w: %w", ErrUnknownOutcome, cause))
	}
	clear(c.sent)
	c.queue, c.bytes, c.cancels = fifo[*call]{}, 0, nil
	c.closed = cause
	if !errors.Is(cause, ErrClosed) && !errors.Is(cause, errRemoved) {
		c.closed = fmt.Errorf("%w: %w", errPausing, cause)
	}
}

func (c *caller) resume() {
	c.mu.Lock()
	c.closed = nil
	c.mu.Unlock()
}

func (c *caller) waiting() (messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len(), c.bytes
}
