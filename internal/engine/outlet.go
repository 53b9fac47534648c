package engine

import (
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// outlet is where a desk's calls wait that this node does not lead the shard of. What waits goes to the leader's node together,
// in one call between nodes, while few are under way: they are batched by the pace of the answers, and not by a timer. A call that
// another node certainly did not carry out goes to whoever leads next, until its patience is over.
//
// There is one for each shard, so that a shard without a leader holds up no other; what goes to the same node at the same
// time shares frames below.
type outlet struct {
	engine *Engine
	desk   *desk
	bodies sync.Pool // of *[]byte: the memory of messages that were answered

	mu      sync.Mutex
	waiting []*call // REQUIRES: mu; in order
	senders int     // REQUIRES: mu; goroutines that send, at most OutletSendersMax
}

// push takes a call whose desk is closed here. The desk has counted it.
func (o *outlet) push(calls ...*call) {
	patience := time.Now().Add(LeaderWaitMax)
	for _, c := range calls {
		c.patience = patience
	}
	o.mu.Lock()
	o.waiting = append(o.waiting, calls...)
	start := len(o.waiting) > 0 && o.senders < OutletSendersMax
	if start {
		o.senders++
	}
	o.mu.Unlock()
	if start && !o.engine.spawn(o.send) {
		for !o.done() { // what comes meanwhile starts no sender
			o.refuse(errStopping())
		}
	}
}

// done ends a sender when nothing waits.
func (o *outlet) done() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) > 0 {
		return false
	}
	o.senders--
	return true
}

// send is the goroutine of a sender.
func (o *outlet) send() {
	s := o.engine.search(o.desk.shard)
	for !o.done() {
		s.until = o.oldest()
		node, here, err := s.next(o.engine.background)
		switch {
		case o.engine.background.Err() != nil:
			o.refuse(errStopping())
			continue
		case err != nil && asError(err).Reason == ReasonCutOff:
			o.refuse(asError(err))
			continue
		case err != nil:
			o.expire(err)
			s.found()
			continue
		}
		var again []*call
		if here {
			again, err = o.comeHome()
		} else {
			again, err = o.exchange(node)
		}
		if len(again) == 0 {
			s.found()
			continue
		}
		s.failed(err)
		o.putBack(again)
	}
}

// oldest is until when the first call waits.
func (o *outlet) oldest() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.waiting) == 0 {
		return time.Now()
	}
	return o.waiting[0].patience
}

// take takes out the calls of one message, or all, and marks them as under way. Those whose callers left are dropped, and those that waited
// for too long are answered so: to the other node they would be new. Commands that an
// older node does not take go in messages of their own, since it refuses the whole.
func (o *outlet) take(all bool) (calls []*call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	taken, bytes, items := 0, 0, 0
	now := o.desk.reading()
	for _, c := range o.waiting {
		size := c.items.Size()
		if !all && len(calls) > 0 && (c.items.Version != calls[0].items.Version || bytes+size > forwardTargetBytes || items+c.items.Len() > forwardItemsMax || len(calls) == forwardCallsMax) {
			break
		}
		taken++
		o.desk.uncount(c)
		if c.waited(now) && c.state.CompareAndSwap(callWaiting, callFlying) {
			o.desk.reply(c, errWaited())
			continue
		}
		if c.state.CompareAndSwap(callWaiting, callFlying) {
			calls = append(calls, c)
			bytes, items = bytes+size, items+c.items.Len()
		}
	}
	o.waiting = append(o.waiting[:0], o.waiting[taken:]...)
	clear(o.waiting[len(o.waiting):cap(o.waiting)])
	return calls
}

// putBack has calls that were taken and did not happen wait again, before all others.
func (o *outlet) putBack(calls []*call) {
	kept := calls[:0]
	for _, c := range calls {
		if c.state.CompareAndSwap(callFlying, callWaiting) {
			o.desk.count(c)
			kept = append(kept, c)
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waiting = append(kept, o.waiting...)
}

// refuse answers all calls that wait: nothing of theirs happened.
func (o *outlet) refuse(why *Error) {
	for _, c := range o.take(true) {
		o.desk.reply(c, why)
	}
}

// expire answers the calls whose patience is over.
func (o *outlet) expire(err error) {
	now := time.Now()
	var rest []*call
	for _, c := range o.take(true) {
		if now.Before(c.patience) {
			rest = append(rest, c)
			continue
		}
		o.desk.reply(c, err)
	}
	o.putBack(rest)
}

// comeHome hands all that waits to the desk, whose shard this node leads now. It returns what the desk does not take yet.
func (o *outlet) comeHome() (again []*call, failed error) {
	for _, c := range o.take(true) {
		switch err := o.desk.resubmit(c); {
		case err == nil:
		case nothingHappened(err):
			again, failed = append(again, c), err
		default:
			o.desk.reply(c, err)
		}
	}
	return again, failed
}

// exchange sends what waits to a node and answers the calls with its answers. It returns those that certainly did not happen there
// and may elsewhere.
func (o *outlet) exchange(node uint64) (again []*call, failed error) {
	calls := o.take(false)
	if len(calls) == 0 {
		return nil, nil
	}
	body, _ := o.bodies.Get().(*[]byte)
	if body == nil {
		body = new([]byte)
	}
	*body = appendCommands((*body)[:0], o.desk.shard, calls)
	r, untouched, err := o.engine.callLeader(o.engine.calls, o.desk.shard, node, callCommands, *body)
	if err == nil && cap(*body) <= callKeepBytes {
		o.bodies.Put(body)
	}
	switch {
	case untouched:
		return calls, err
	case err != nil:
		o.replyAll(calls, err)
		return nil, nil
	}
	answers := make([]commandAnswer, len(calls))
	if !r.commandAnswers(answers, calls) {
		o.replyAll(calls, errUnknownOutcome(errForwardVersion(node)))
		return nil, nil
	}
	for i, c := range calls {
		a := &answers[i]
		switch {
		case a.err == nil:
			c.stamp, c.index = a.stamp, a.index
			c.results, c.catalog = append(c.results[:0], a.results...), append(c.catalog[:0], a.catalog...)
			o.desk.reply(c, nil)
		case nothingHappened(a.err) && time.Now().Before(c.patience):
			again, failed = append(again, c), a.err
		default:
			o.desk.reply(c, a.err)
		}
	}
	return again, failed
}

func (o *outlet) replyAll(calls []*call, err error) {
	for _, c := range calls {
		o.desk.reply(c, err)
	}
}

// reply answers a call that is under way outside of the shard's goroutine.
func (d *desk) reply(c *call, err error) {
	c.err = err
	d.wakeCaller(c)
}

// count and uncount keep account of a call that waits.
func (d *desk) count(c *call) {
	d.waiting.Add(1)
	d.bytes.Add(int64(c.items.Size()))
}

func (d *desk) uncount(c *call) {
	d.waiting.Add(-1)
	d.bytes.Add(-int64(c.items.Size()))
}

// deskOf returns the desk of a shard; nil when the node has no such shard.
func (e *Engine) deskOf(id shard.ID) *desk {
	if id == catalogShard {
		return &e.catalog.desk
	}
	if p := e.pump(id); p != nil {
		return &p.desk
	}
	return nil
}
