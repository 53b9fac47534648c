package engine

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/shard"
)

// desk takes the commands of one shard from their callers and pairs the answers with them: the half that a pump of jobs
// and the catalog's pump share.
//
// A caller fills a call on its own goroutine and hands it in; the shard's goroutine gathers all that waits into the next
// entry, remembers who sits in it, and answers when it is applied. A call is refused at once when too much waits.
type desk struct {
	shard shard.ID
	node  uint64
	wake  func()         // tells the shard's goroutine that something waits
	clock func() Reading // nil: what waits never gets too old
	away  *outlet        // takes the calls while another node leads the shard; nil: there is no other node

	mu       sync.Mutex
	incoming []*call
	closed   *Error // why nothing is taken; nil: open

	spareCalls sync.Pool // of *call

	waiting    atomic.Int64 // calls not yet proposed
	bytes      atomic.Int64 // of these
	inFlight   atomic.Int64
	overloaded atomic.Uint64
	batches    atomic.Uint64
	items      atomic.Uint64

	// The rest belongs to the shard's goroutine.
	pending []*call // taken from incoming, in order
	next    int     // first of pending that is not yet in an entry
	flights []*flight
	spare   []*flight
	last    uint64 // sequence of the newest flight
	landed  []*call
}

// rider is who waits for some items of an entry: a call or a part of a fetch.
type rider struct {
	call         *call
	part         *part
	first, count int
}

// flight is an entry that was proposed and not yet applied.
type flight struct {
	sequence uint64
	stamp    int64
	riders   []rider
	adds     []laneCount // jobs it brings
	takes    []laneCount // jobs its fetches may take
	holds    bool        // it begins with a hold of deadlines
}

func (f *flight) reset() {
	clear(f.riders)
	f.riders, f.adds, f.takes, f.holds = f.riders[:0], f.adds[:0], f.takes[:0], false
}

// submit hands a call in, or says why not. While another node leads the shard, the call goes there.
func (d *desk) submit(c *call) error {
	err := d.submitHere(c)
	if err != nil && d.away != nil && !c.foreign && err.Reason == ReasonNotLeader {
		return d.sendAway(c)
	}
	if err != nil {
		return err
	}
	return nil
}

// submitHere hands a call in that goes to no other node.
func (d *desk) submitHere(c *call) *Error {
	size := int64(c.items.Size())
	callsMax, bytesMax := int64(WaitingCallsMax), int64(WaitingBytesMax)
	if c.urgent {
		callsMax, bytesMax = 2*callsMax, 2*bytesMax
	}
	d.mu.Lock()
	if d.closed != nil {
		err := d.closed
		d.mu.Unlock()
		return err
	}
	if d.waiting.Load() >= callsMax || d.bytes.Load()+size > bytesMax {
		d.mu.Unlock()
		return d.overload(callsMax, bytesMax)
	}
	d.count(c)
	c.state.Store(callWaiting)
	first := len(d.incoming) == 0
	d.incoming = append(d.incoming, c)
	d.mu.Unlock()
	if first { // else whoever came first has woken the shard, which has not looked since
		d.wake()
	}
	return nil
}

func (d *desk) overload(callsMax, bytesMax int64) *Error {
	d.overloaded.Add(1)
	return newError(CodeResourceExhausted, ReasonOverloaded,
		"shard %d has as many requests waiting as it takes (%d requests or %d MiB); slow down and try again",
		d.shard, callsMax, bytesMax>>20)
}

// sendAway hands a call in that another node has to carry out.
func (d *desk) sendAway(c *call) error {
	callsMax, bytesMax := int64(WaitingCallsMax), int64(WaitingBytesMax)
	if c.urgent {
		callsMax, bytesMax = 2*callsMax, 2*bytesMax
	}
	if d.waiting.Load() >= callsMax || d.bytes.Load()+int64(c.items.Size()) > bytesMax {
		return d.overload(callsMax, bytesMax)
	}
	d.count(c)
	c.state.Store(callWaiting)
	d.away.push(c)
	return nil
}

// resubmit hands a call in that was under way elsewhere and did not happen there. It was admitted before.
func (d *desk) resubmit(c *call) *Error {
	d.mu.Lock()
	if d.closed != nil {
		err := d.closed
		d.mu.Unlock()
		return err
	}
	if !c.state.CompareAndSwap(callFlying, callWaiting) {
		d.mu.Unlock()
		return nil // its caller left
	}
	d.count(c)
	d.incoming = append(d.incoming, c)
	d.mu.Unlock()
	d.wake()
	return nil
}

// do hands a call in and waits for its answer. With an error that is not the command's own outcome the call must not be
// used again: it may still be on its way.
func (d *desk) do(ctx context.Context, c *call) error {
	if err := d.submit(c); err != nil {
		return err
	}
	return d.wait(ctx, c)
}

// wait waits for the answer of a submitted call.
func (d *desk) wait(ctx context.Context, c *call) error {
	if ctx.Done() == nil {
		<-c.done
		return c.err
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
	}
	for c.state.Load() != callDone { // a call that another node did not carry out waits again
		switch {
		case c.state.CompareAndSwap(callWaiting, callGone):
			return contextError(ctx.Err())
		case c.state.CompareAndSwap(callFlying, callGone):
			return errUnknownOutcome(ctx.Err())
		}
	}
	<-c.done // the answer came first
	return c.err
}

// collect takes what came in.
func (d *desk) collect() {
	if d.next > 0 && d.next == len(d.pending) {
		d.pending, d.next = d.pending[:0], 0
	}
	d.mu.Lock()
	d.pending = append(d.pending, d.incoming...)
	clear(d.incoming)
	d.incoming = d.incoming[:0]
	d.mu.Unlock()
}

// gather moves pending calls into the entry while they fit, in order. The entry has its stamp already: whatever happens to the node from
// here on, it is as of now that its commands are done. So it is here that a call must not be too old.
func (d *desk) gather(b *shard.BatchBuilder, f *flight) {
	var now Reading
	if d.more() {
		now = d.reading()
	}
	for d.next < len(d.pending) {
		c := d.pending[d.next]
		if c.state.Load() == callWaiting && !b.Fits(&c.items) {
			if d.next >= len(d.pending)/2 && d.next > 64 { // keep the slice from creeping through memory
				n := copy(d.pending, d.pending[d.next:])
				clear(d.pending[n:])
				d.pending, d.next = d.pending[:n], 0
			}
			return
		}
		d.pending[d.next] = nil
		d.next++
		d.uncount(c)
		if !c.state.CompareAndSwap(callWaiting, callFlying) {
			continue // its caller left: nothing happened
		}
		if c.waited(now) {
			d.reply(c, errWaited()) // now: if nothing else goes into the entry, nothing is settled
			continue
		}
		count := c.items.Len()
		f.riders = append(f.riders, rider{call: c, first: b.Add(&c.items), count: count})
		f.adds = append(f.adds, c.adds...)
	}
}

// requeue puts a call that nobody waits for behind what is pending.
func (d *desk) requeue(c *call) {
	c.state.Store(callWaiting)
	d.count(c)
	d.pending = append(d.pending, c)
}

// reading is what the clocks say; nothing, if calls may wait as long as they want.
func (d *desk) reading() Reading {
	if d.clock == nil {
		return Reading{}
	}
	return d.clock()
}

// more reports whether calls wait that the last entry had no room for.
func (d *desk) more() bool { return d.next < len(d.pending) }

func (d *desk) newFlight(now int64) *flight {
	if n := len(d.spare); n > 0 {
		f := d.spare[n-1]
		d.spare = d.spare[:n-1]
		f.stamp = now
		return f
	}
	return &flight{stamp: now}
}

// launch remembers a flight under a fresh sequence number.
func (d *desk) launch(f *flight, items int) uint64 {
	d.last++
	f.sequence = d.last
	d.flights = append(d.flights, f)
	d.inFlight.Store(int64(len(d.flights)))
	d.batches.Add(1)
	d.items.Add(uint64(items))
	return f.sequence
}

// land finds the flight of an applied or dropped entry and forgets it; nil when it is not ours.
func (d *desk) land(sequence uint64) *flight {
	for i, f := range d.flights {
		if f.sequence == sequence {
			d.flights = append(d.flights[:i], d.flights[i+1:]...)
			d.inFlight.Store(int64(len(d.flights)))
			return f
		}
	}
	return nil
}

func (d *desk) retire(f *flight) {
	f.reset()
	d.spare = append(d.spare, f)
}

// answer ends a call; its caller is woken by settle.
func (d *desk) answer(c *call, err error) {
	c.err = err
	d.landed = append(d.landed, c)
}

// settle wakes the callers of all answered calls.
func (d *desk) settle() {
	for i, c := range d.landed {
		d.landed[i] = nil
		d.wakeCaller(c)
	}
	d.landed = d.landed[:0]
}

func (d *desk) wakeCaller(c *call) {
	if c.state.CompareAndSwap(callFlying, callDone) {
		c.done <- struct{}{} // never blocks: one token, and only this transition brings it
	}
}

// leaderless returns an error when this node does not lead the shard.
func (d *desk) leaderless() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed != nil && d.closed.Reason == ReasonNotLeader {
		return d.closed
	}
	return nil
}

// setClosed lets calls in (nil), or refuses them with why. Those that wait go to the node that leads now, if there are other nodes;
// else they are answered, as are those that came from another node: nothing of theirs happened.
func (d *desk) setClosed(why *Error) {
	d.mu.Lock()
	if d.closed != nil && d.closed.Reason == ReasonStopping {
		why = d.closed // for good
	}
	d.closed = why
	d.mu.Unlock()
	if why == nil {
		return
	}
	d.collect()
	elsewhere := d.away != nil && why.Reason == ReasonNotLeader
	var moving []*call
	for ; d.next < len(d.pending); d.next++ {
		c := d.pending[d.next]
		d.pending[d.next] = nil
		if elsewhere && !c.foreign {
			moving = append(moving, c)
			continue
		}
		d.uncount(c)
		if c.state.CompareAndSwap(callWaiting, callFlying) {
			d.answer(c, why)
		}
	}
	d.settle()
	if len(moving) > 0 {
		d.away.push(moving...)
	}
}
