package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// A fetch's state. One shard at a time may claim it; whoever moves it to done or gone has the last word.
const (
	fetchParked      uint32 = iota // waits on its shards
	fetchClaimed                   // in an entry of one shard
	fetchClaimedLast               // the same, and its wait is over: it is answered even when it gets nothing
	fetchDone                      // answered
	fetchGone                      // the caller left
)

// fetch is one caller that wants jobs. It is parked on every shard that has one of its queues.
type fetch struct {
	pool  *sync.Pool
	state atomic.Uint32
	once  bool // it does not wait at all
	max   int
	parts []*part
	open  atomic.Int32  // parts whose shard serves; of a fetch on several shards
	done  chan struct{} // one token, from whoever moved state to fetchDone
	timer *time.Timer

	// The answer.
	from   *pump
	stamp  int64
	leases []queue.Lease
	err    error
}

// part is a fetch on one shard.
type part struct {
	fetch  *fetch
	pump   *pump
	items  shard.Items // the fetch command
	queues []queue.QueueID
	nodes  []node // one per queue
	listed bool   // REQUIRES: pump.mu
	asleep bool   // REQUIRES: pump.mu; one of several, and its shard does not serve at the moment
}

func (ft *fetch) several() bool { return len(ft.parts) > 1 }

// doze says that one part more of a fetch has to wait for its shard to serve, and reports whether others are left.
func (ft *fetch) doze() bool { return ft.open.Add(-1) > 0 }

// node is a part's place in a lane.
type node struct {
	part       *part
	lane       *lane
	prev, next *node
}

// lane is the line of parked fetches of one queue, oldest first, and what the entries in flight will do to the queue.
type lane struct {
	queue      queue.QueueID
	head, tail *node // REQUIRES: pump.mu
	dirty      bool  // REQUIRES: pump.mu; in pump.dirty: look whether jobs wait for its fetches

	// The pump's own.
	arriving int // jobs that entries in flight bring
	promised int // jobs that fetches in flight may take
}

func (l *lane) pushBack(n *node) {
	n.lane, n.prev, n.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = n
	} else {
		l.head = n
	}
	l.tail = n
}

func (l *lane) pushFront(n *node) {
	n.lane, n.prev, n.next = l, nil, l.head
	if l.head != nil {
		l.head.prev = n
	} else {
		l.tail = n
	}
	l.head = n
}

func (l *lane) remove(n *node) {
	if n.prev != nil {
		n.prev.next = n.next
	} else {
		l.head = n.next
	}
	if n.next != nil {
		n.next.prev = n.prev
	} else {
		l.tail = n.prev
	}
	n.lane, n.prev, n.next = nil, nil, nil
}

// lane finds or makes a queue's lane. REQUIRES: p.mu.
func (p *pump) lane(q queue.QueueID) *lane {
	l := p.lanes[q]
	if l == nil {
		l = &lane{queue: q}
		p.lanes[q] = l
	}
	return l
}

// stir has the next Gather look at a lane. REQUIRES: p.mu.
func (p *pump) stir(l *lane) {
	if !l.dirty && l.head != nil {
		l.dirty = true
		p.dirty = append(p.dirty, l)
	}
}

// park puts a part into the lanes of its queues and has the pump look at it, or says why not. The part of a fetch on several
// shards is parked on one that does not serve too, asleep until it does; park then reports so.
func (p *pump) park(pt *part) (asleep bool, err error) {
	p.mu.Lock()
	if why := p.closed; why != nil {
		if asleep = pt.fetch.several() && why.Reason != ReasonStopping && p.parked < ParkedFetchesMax; asleep {
			p.list(pt, false)
			pt.asleep = true
		}
		p.mu.Unlock()
		return asleep, why
	}
	if p.parked >= ParkedFetchesMax {
		p.mu.Unlock()
		p.overloaded.Add(1)
		return false, newError(CodeResourceExhausted, ReasonOverloaded,
			"shard %d has as many fetches waiting as it takes (%d); use fewer connections with more jobs each", p.shard, ParkedFetchesMax)
	}
	p.list(pt, false)
	if pt.fetch.once {
		p.onces = append(p.onces, pt)
	}
	p.mu.Unlock()
	p.wake()
	return false, nil
}

// rouse has the pump look at all parked fetches again, those too that slept while the shard did not serve.
func (p *pump) rouse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lanes {
		for n := l.head; n != nil; n = n.next {
			if pt := n.part; pt.asleep {
				pt.asleep = false
				pt.fetch.open.Add(1)
			}
		}
		p.stir(l)
	}
}

// list links a part's nodes, at the front when it had its turn and got nothing. REQUIRES: p.mu, not listed.
func (p *pump) list(pt *part, front bool) {
	pt.listed = true
	p.parked++
	for i := range pt.nodes {
		l := p.lane(pt.queues[i])
		if front {
			l.pushFront(&pt.nodes[i])
			continue
		}
		l.pushBack(&pt.nodes[i])
		p.stir(l)
	}
}

// unlist unlinks a part. REQUIRES: p.mu.
func (p *pump) unlist(pt *part) {
	if !pt.listed {
		return
	}
	pt.listed = false
	p.parked--
	for i := range pt.nodes {
		pt.nodes[i].lane.remove(&pt.nodes[i])
	}
}

// unpark takes a part out of its lanes, from its caller's goroutine.
func (p *pump) unpark(pt *part) {
	p.mu.Lock()
	p.unlist(pt)
	if pt.fetch.once {
		for i, o := range p.onces {
			if o == pt {
				p.onces = append(p.onces[:i], p.onces[i+1:]...)
				break
			}
		}
	}
	p.mu.Unlock()
}

// recheck looks at a part again that another shard had claimed and could not feed.
func (p *pump) recheck(pt *part) {
	p.mu.Lock()
	if pt.listed {
		for i := range pt.nodes {
			p.stir(pt.nodes[i].lane)
		}
	}
	p.mu.Unlock()
	p.wake()
}

// available is how many jobs of a lane's queue a fetch at the end of the entry being gathered could get.
func (p *pump) available(l *lane) int {
	ready := min(p.machine.ReadyCount(l.queue), 1<<40)
	return int(ready) + l.arriving - l.promised
}

// handOff puts parked fetches into the entry: for each stirred lane, oldest first, while there are jobs for them. When it
// is the last look before the entry leaves, and the entry had room for all, it answers those that do not wait.
func (p *pump) handOff(b *shard.BatchBuilder, f *flight, last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.dirty) > 0 {
		l := p.dirty[len(p.dirty)-1]
		for n := l.head; n != nil && p.available(l) > 0; {
			pt := n.part
			n = n.next
			if !b.Fits(&pt.items) {
				return
			}
			if pt.fetch.state.CompareAndSwap(fetchParked, fetchClaimed) {
				p.board(pt, b, f)
			}
		}
		l.dirty = false
		p.dirty = p.dirty[:len(p.dirty)-1]
	}
	if last {
		p.endOnces()
	}
}

// board puts one claimed part into the entry. REQUIRES: p.mu.
func (p *pump) board(pt *part, b *shard.BatchBuilder, f *flight) {
	want := pt.fetch.max
	for _, q := range pt.queues {
		l := p.lanes[q]
		if take := min(want, p.available(l)); take > 0 {
			l.promised += take
			want -= take
			f.takes = append(f.takes, laneCount{queue: q, jobs: take})
		}
	}
	p.unlist(pt)
	f.riders = append(f.riders, rider{part: pt, first: b.Add(&pt.items), count: 1})
}

// endOnces answers the fetches that do not wait and found nothing.
// REQUIRES: p.mu, held since all stirred lanes were looked at: else one that came since would be answered unseen.
func (p *pump) endOnces() {
	for i, pt := range p.onces {
		p.onces[i] = nil
		if pt.fetch.state.CompareAndSwap(fetchParked, fetchDone) {
			p.unlist(pt)
			pt.fetch.done <- struct{}{}
		}
	}
	p.onces = p.onces[:0]
}

// serve gives a fetch what its item was granted. A fetch that got nothing takes its old place in the lanes again.
func (p *pump) serve(pt *part, stamp int64, r queue.Result, leases []queue.Lease) {
	ft := pt.fetch
	if err := refusal(r); err != nil {
		ft.err = err
		p.served = append(p.served, pt)
		return
	}
	if len(leases) == 0 {
		p.putBack(pt)
		return
	}
	ft.from, ft.stamp = p, stamp
	ft.leases = append(ft.leases[:0], leases...)
	p.served = append(p.served, pt)
}

// putBack parks a claimed fetch again, at the front, or ends it when its wait is over.
func (p *pump) putBack(pt *part) {
	ft := pt.fetch
	if ft.once {
		p.served = append(p.served, pt)
		return
	}
	several := ft.several()
	p.mu.Lock()
	if p.closed != nil && !(several && ft.doze()) {
		ft.err = p.closed
		p.mu.Unlock()
		p.served = append(p.served, pt)
		return
	}
	p.list(pt, true)
	pt.asleep = p.closed != nil
	p.mu.Unlock()
	switch {
	case ft.state.CompareAndSwap(fetchClaimed, fetchParked):
		// From here on a lone part is its caller's again; several parts are never reused.
		switch {
		case !several:
		case ft.open.Load() <= 0 && ft.state.CompareAndSwap(fetchParked, fetchClaimed): // the others closed meanwhile
			ft.err = errNotLeader()
			p.unpark(pt)
			p.served = append(p.served, pt)
		default:
			p.freed = append(p.freed, pt)
		}
	case ft.state.Load() == fetchClaimedLast:
		p.unpark(pt)
		p.served = append(p.served, pt)
	default: // its caller left
		p.unpark(pt)
	}
}

// settleFetches wakes the callers of served fetches, and takes back what was granted to those who left.
func (p *pump) settleFetches() {
	for i, pt := range p.served {
		p.served[i] = nil
		ft := pt.fetch
		if ft.state.CompareAndSwap(fetchClaimed, fetchDone) || ft.state.CompareAndSwap(fetchClaimedLast, fetchDone) {
			ft.done <- struct{}{}
			continue
		}
		if len(ft.leases) > 0 && ft.err == nil {
			p.requeue(p.takeBackCall(ft.leases))
			p.wake()
		}
	}
	p.served = p.served[:0]
	for i, pt := range p.freed {
		p.freed[i] = nil
		for _, other := range pt.fetch.parts {
			if other != pt {
				other.pump.recheck(other)
			}
		}
	}
	p.freed = p.freed[:0]
}

// takeBackCall takes leases back of which nobody was told.
func (p *pump) takeBackCall(leases []queue.Lease) *call {
	return p.leaseCall(queue.AppendTakeBack, leases)
}

// releaseCall gives back leases that a worker does not know of, though it may have been told of them.
func (p *pump) releaseCall(leases []queue.Lease) *call {
	return p.leaseCall(queue.AppendRelease, leases)
}

// leaseCall has an urgent item for each of some leases.
func (p *pump) leaseCall(item func([]byte, queue.Pos, queue.Token) []byte, leases []queue.Lease) *call {
	c := p.newCall()
	c.urgent = true
	for _, l := range leases {
		c.items.Commit(item(c.items.Buf(), l.Pos, l.Token))
	}
	return c
}
