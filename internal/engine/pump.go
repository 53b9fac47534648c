package engine

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// pump drives the job machine of one data shard: commands in, entries out, answers back. It is the host's driver: all
// methods but those of handoff.go and desk.go that say otherwise run on the shard's goroutine.
type pump struct {
	desk
	machine *queue.Machine
	results queue.Results
	hooks   pumpHooks

	leading  bool
	tookOver bool                  // the lead is new, and no entry was proposed yet
	diverged atomic.Pointer[Error] // the state is not trusted, and there is no other replica to serve the shard
	doubted  atomic.Pointer[Error] // the state is not trusted, and others serve

	dropped    bool  // the last entry was not taken: let some time pass
	unfinished bool  // timers are due that the last entry did not get to
	lastGather int64 // stamp
	rate       rate  // of what is applied
	verified   uint64
	verifiedAt int64 // stamp
	holdMillis int64 // for how long a new lead holds deadlines

	lanes  map[queue.QueueID]*lane // REQUIRES: mu to add or to look at from outside
	dirty  []*lane                 // REQUIRES: mu
	onces  []*part                 // REQUIRES: mu
	parked int                     // REQUIRES: mu
	served []*part
	freed  []*part // un-claimed fetches that other shards may feed
	handed atomic.Uint64

	stored, ended atomic.Uint64 // jobs and attempts, while this node led
}

// pumpHooks are what a pump tells the engine. They are called on the shard's goroutine and must not block.
type pumpHooks struct {
	event func(shard shard.ID, e queue.Event)
	ran   func(q queue.QueueID, d time.Duration)
}

var _ host.Driver = (*pump)(nil)

func newPump(id shard.ID, node, firstSequence uint64, wake func(), hooks pumpHooks) *pump {
	return &pump{
		desk:    desk{shard: id, node: node, wake: wake, last: firstSequence, closed: errNotLeader()},
		machine: queue.New(uint16(id)),
		hooks:   hooks,
		lanes:   make(map[queue.QueueID]*lane),
	}
}

// renew begins with an empty machine. REQUIRES: no replica runs with it.
func (p *pump) renew() { p.machine = queue.New(uint16(p.shard)) }

// Gather implements host.Driver. Fetches that jobs wait for go first, so that a stream of enqueues cannot starve them;
// then the commands; then the fetches that those feed.
func (p *pump) Gather(b *shard.BatchBuilder, now int64) uint64 {
	if !p.leading || p.diverged.Load() != nil {
		return 0
	}
	p.dropped, p.lastGather = false, now
	f := p.newFlight(now)
	p.holdDeadlines(b, f, now)
	p.collect()
	p.handOff(b, f, false)
	p.gather(b, f)
	calls := len(f.riders)
	p.announce(f)
	p.handOff(b, f, true)
	if len(f.adds) > 0 {
		p.handed.Add(uint64(len(f.riders) - calls))
	}
	p.keepHouse(b, f, now)
	if b.Items() == 0 {
		p.retire(f)
		return 0
	}
	return p.launch(f, b.Items())
}

// holdDeadlines begins the first entry of a lead with a hold when a job's deadline may be over or near: while the shard had no
// leader, nobody could end its attempt or extend its lease.
func (p *pump) holdDeadlines(b *shard.BatchBuilder, f *flight, now int64) {
	if !p.tookOver {
		return
	}
	p.tookOver = false
	next, ok := p.machine.NextTimer()
	if ok && int64(next) <= now+p.holdMillis && p.machine.Totals().Leases > 0 {
		f.holds = p.add(b, func(dst []byte) []byte { return queue.AppendHold(dst, p.holdMillis) })
	}
}

// announce counts the jobs that the entry brings and stirs the lanes they come to.
func (p *pump) announce(f *flight) {
	if len(f.adds) == 0 {
		return
	}
	p.mu.Lock()
	for _, a := range f.adds {
		l := p.lane(a.queue)
		l.arriving += a.jobs
		p.stir(l)
	}
	p.mu.Unlock()
}

// keepHouse adds the pump's own commands: a fingerprint now and then, and a tick when a timer is due and nothing else
// moves the clock.
func (p *pump) keepHouse(b *shard.BatchBuilder, f *flight, now int64) {
	applied := p.machine.Applied()
	due := applied >= p.verified+verifyEntries || (now-p.verifiedAt >= verifyMillis && b.Items() > 0)
	if due && applied > p.verified && p.add(b, func(dst []byte) []byte {
		return queue.AppendVerify(dst, applied, p.machine.Fingerprint())
	}) {
		p.verified, p.verifiedAt = applied, now
	}
	if b.Items() == 0 && p.tickDue(now) {
		p.add(b, queue.AppendTick)
	}
}

// add puts one item of the pump's own into the entry if it fits.
func (p *pump) add(b *shard.BatchBuilder, encode func([]byte) []byte) bool {
	c := p.newCall()
	defer c.free()
	c.items.Add(encode)
	if !b.Fits(&c.items) {
		return false
	}
	b.Add(&c.items)
	return true
}

// tickDue reports whether a timer waits for the clock. One that an entry in flight will fire does not.
func (p *pump) tickDue(now int64) bool {
	if len(p.flights) > 0 {
		return false
	}
	if p.unfinished {
		return true
	}
	next, ok := p.machine.NextTimer()
	return ok && int64(next) <= now
}

// Wakeup implements host.Driver.
func (p *pump) Wakeup() int64 {
	if !p.leading || len(p.flights) > 0 || p.diverged.Load() != nil {
		return 0
	}
	if p.dropped {
		return p.lastGather + droppedMillis
	}
	if p.unfinished {
		return 1 // now
	}
	next, ok := p.machine.NextTimer()
	if !ok {
		return 0
	}
	return int64(next)
}

// Apply implements shard.StateMachine.
func (p *pump) Apply(index uint64, h shard.Header, items [][]byte) {
	p.machine.Apply(index, queue.Millis(h.Stamp), items, &p.results)
	p.rate.add(h.Stamp, len(items))
	p.tally(items)
	p.unfinished = false
	var f *flight
	if h.Proposer == p.node {
		f = p.land(h.Sequence)
	}
	if f != nil {
		p.deliver(f, h.Stamp)
	}
	p.observe()
	if f != nil {
		p.retire(f)
	}
}

// tally counts what an entry did, if this node leads: so each job is counted on one node.
func (p *pump) tally(items [][]byte) {
	if !p.leading {
		return
	}
	stored, ended := uint64(0), uint64(0)
	for i, item := range items {
		switch s, d := queue.Counts(item, p.results.Items[i]); {
		case s:
			stored++
		case d:
			ended++
		}
	}
	p.stored.Add(stored)
	p.ended.Add(ended)
}

// deliver copies to each rider of an applied entry its part of the results.
func (p *pump) deliver(f *flight, stamp int64) {
	p.undo(f)
	fed := true
	for _, r := range f.riders {
		if r.part != nil {
			res := p.results.Items[r.first]
			leases := p.results.Leases[res.Lo:res.Hi]
			fed = fed && len(leases) > 0
			p.serve(r.part, stamp, res, leases)
			continue
		}
		c := r.call
		c.stamp = stamp
		c.results = append(c.results[:0], p.results.Items[r.first:r.first+r.count]...)
		if c.ends {
			p.sampleRun(c.results[0])
		}
		p.answer(c, nil)
	}
	// What the entry brought or freed may be more than its fetches took. A fetch that got nothing is a sign that it is
	// not: then the next event of the queue stirs its lane.
	if fed {
		p.stirAll(f)
	}
}

func (p *pump) stirAll(f *flight) {
	if len(f.takes) == 0 && len(f.adds) == 0 {
		return
	}
	p.mu.Lock()
	for _, t := range f.takes {
		p.stir(p.lanes[t.queue])
	}
	for _, a := range f.adds {
		p.stir(p.lanes[a.queue])
	}
	p.mu.Unlock()
}

// undo takes a flight's expectations back: what it did shows in the machine now, or did not happen.
func (p *pump) undo(f *flight) {
	if len(f.adds) == 0 && len(f.takes) == 0 {
		return
	}
	p.mu.Lock()
	for _, a := range f.adds {
		p.lanes[a.queue].arriving -= a.jobs
	}
	for _, t := range f.takes {
		p.lanes[t.queue].promised -= t.jobs
	}
	p.mu.Unlock()
}

// sampleRun measures one ended attempt.
func (p *pump) sampleRun(r queue.Result) {
	if r.Code != queue.CodeOK {
		return
	}
	if info, ok := p.machine.Job(r.Pos, 0, 0); ok && info.StartedAt > 0 {
		p.hooks.ran(info.Queue, time.Duration(p.machine.Now()-info.StartedAt)*time.Millisecond)
	}
}

// observe acts on the events of an entry, whoever proposed it.
func (p *pump) observe() {
	for _, e := range p.results.Events {
		switch e.Kind {
		case queue.EventReady:
			p.mu.Lock()
			if l := p.lanes[e.Queue]; l != nil {
				p.stir(l)
			}
			p.mu.Unlock()
		case queue.EventUnfinished:
			p.unfinished = true
		case queue.EventCancel, queue.EventLeaseLost:
			if p.leading {
				p.hooks.event(p.shard, e)
			}
		case queue.EventDiverged: // the replica hears of it from Verified
		}
	}
}

// Dropped implements host.Driver.
func (p *pump) Dropped(sequence uint64, unknown bool) {
	f := p.land(sequence)
	if f == nil {
		return
	}
	p.dropped = !unknown
	p.tookOver = p.tookOver || f.holds
	p.undo(f)
	for _, r := range f.riders {
		switch {
		case r.part != nil && unknown:
			r.part.fetch.err = errUnknownOutcome(nil)
			p.served = append(p.served, r.part)
		case r.part != nil:
			p.putBack(r.part)
		case unknown:
			p.answer(r.call, errUnknownOutcome(nil))
		default:
			p.answer(r.call, newError(CodeUnavailable, ReasonDropped, "the shard could not take the request just now; nothing happened; try again"))
		}
	}
	p.stirAll(f)
	p.retire(f)
}

// Stamp implements host.Driver.
func (p *pump) Stamp() int64 { return int64(p.machine.Now()) }

// Settled implements host.Driver.
func (p *pump) Settled() {
	p.settle()
	p.settleFetches()
	p.mu.Lock()
	stirred := len(p.dirty) > 0
	p.mu.Unlock()
	if (stirred || p.more()) && !p.dropped {
		p.wake()
	}
}

// Leadership implements host.Driver.
func (p *pump) Leadership(leading bool, _ uint64) {
	p.leading, p.tookOver = leading, leading
	if leading {
		p.verified, p.verifiedAt = p.machine.Applied(), 0
		p.setClosed(p.diverged.Load())
		if p.diverged.Load() == nil {
			p.rouse()
		}
		return
	}
	p.close(errNotLeader())
}

// close refuses everything from now on and answers all that waits, but for fetches that other shards serve. Entries in flight are still answered by Apply or
// Dropped.
func (p *pump) close(why *Error) {
	p.setClosed(why)
	p.endParked(why)
}

// endParked answers the parked fetches with an error. Those that other shards serve go on waiting there, and here until the
// shard serves again.
func (p *pump) endParked(why *Error) {
	p.mu.Lock()
	var parked []*part
	for _, l := range p.lanes {
		for n := l.head; n != nil; n = n.next {
			pt, ft := n.part, n.part.fetch
			if pt.asleep {
				continue
			}
			if ft.several() {
				if pt.asleep = true; ft.doze() {
					continue
				}
			}
			if ft.state.CompareAndSwap(fetchParked, fetchClaimed) {
				ft.err = why
				parked = append(parked, pt)
			}
		}
	}
	for _, pt := range parked {
		p.unlist(pt)
	}
	p.onces = p.onces[:0]
	p.mu.Unlock()
	p.served = append(p.served, parked...)
	p.settleFetches()
}

// drain refuses everything from now on and ends the parked fetches; commands that wait may still be proposed.
func (p *pump) drain() {
	p.mu.Lock()
	p.closed = errStopping()
	p.mu.Unlock()
	p.endParked(errStopping())
}

// abort answers everything, in flight or not, after the host has stopped and no goroutine of its own runs any more.
func (p *pump) abort() {
	for len(p.flights) > 0 {
		p.Dropped(p.flights[0].sequence, true)
	}
	p.close(errStopping())
}

// Verified implements host.Driver.
func (p *pump) Verified() host.Verification { return host.Verification(p.machine.Verified()) }

// Doubted implements host.Driver: a state that is not trusted is not served from. When others can serve, Leadership says so, and
// callers go there.
func (p *pump) Doubted(d host.Doubt) {
	err := divergence(p.shard, d)
	if d.Judged {
		p.doubted.Store(err)
		err = nil
	} else {
		p.doubted.Store(nil)
	}
	stopped := p.diverged.Swap(err) != nil
	switch {
	case err != nil:
		p.close(err)
	case stopped && p.leading:
		p.setClosed(nil)
		p.rouse()
	}
}

// divergence is what callers are told of a state that is in doubt; nil when it is not.
func divergence(id shard.ID, d host.Doubt) *Error {
	switch {
	case d.Trust == host.Trusted:
		return nil
	case d.Trust == host.Wrong:
		return newError(CodeDataLoss, ReasonDiverged,
			"this node's replica of shard %d is being rebuilt: after entry %d its state differed from that of a majority; other nodes serve the shard",
			id, d.Index)
	case d.Judged:
		return newError(CodeDataLoss, ReasonDiverged,
			"this node's replica of shard %d does not serve: after entry %d its state differs from the fingerprint in the log, and it is not known yet which is wrong; other nodes serve the shard",
			id, d.Index)
	default:
		return newError(CodeDataLoss, ReasonDiverged,
			"shard %d has stopped: after entry %d its state differs from the fingerprint in its log; keep a copy of the data directory for examination, then restart the node, which rebuilds the state from snapshot and log",
			id, d.Index)
	}
}

// Snapshot implements shard.StateMachine.
func (p *pump) Snapshot() shard.Image { return p.machine.Snapshot() }

// Fingerprint implements shard.StateMachine.
func (p *pump) Fingerprint() uint64 { return p.machine.Fingerprint() }

// Restore implements shard.StateMachine.
func (p *pump) Restore(r io.Reader) error {
	m, err := queue.Restore(uint16(p.shard), r)
	if err != nil {
		return fmt.Errorf("restore shard %d: %w", p.shard, err)
	}
	p.machine = m
	return nil
}
