package sim

import (
	"io"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
)

// workerTTL is how long a worker may be silent until it has lost its jobs.
const workerTTL = 5 * time.Second

// placed is a call in an entry.
type placed struct {
	call  *call
	first int // ordinal of its first item
}

// flight is an entry that was proposed.
type flight struct {
	sequence uint64
	calls    []placed
	holds    bool // it begins with a hold
}

// driver stands in the engine's place: it gathers the calls that wait into entries, and answers them when they are applied.
type driver struct {
	m        *member
	machine  *queue.Machine
	out      queue.Results
	leads    bool
	tookOver bool // and has proposed nothing yet
	sequence uint64
	waiting  []*call // neither in an entry nor answered
	flights  []flight
	unread   []unread // answers that wait for payloads
	heard    map[queue.WorkerID]time.Duration
	verified uint64
	items    shard.Items
	last     shard.Image // for a deliberate bug
	strays   bool        // it goes wrong with the next entry that lets it

	early map[uint64]uint64 // fingerprints of a wrong state, of entries that no other has applied
}

func newDriver(m *member) *driver {
	return &driver{
		m: m, machine: queue.New(uint16(m.group.id)), sequence: uint64(m.n.life)<<40 | uint64(m.n.w.now.Milliseconds()),
		heard: make(map[queue.WorkerID]time.Duration), early: make(map[uint64]uint64),
	}
}

// take takes a call.
func (d *driver) take(c *call) {
	if c.worker != 0 {
		d.heard[c.worker] = d.m.n.instant().Mono
	}
	if c.beat {
		d.release(c)
		c.reply(answer{outcome: outcomeDone})
		return
	}
	d.waiting = append(d.waiting, c)
}

// release gives back what a worker holds and does not know of: an answer to its fetch was lost.
func (d *driver) release(c *call) {
	back := newCall(d.m.n.w, int(d.m.group.id))
	for _, l := range d.machine.WorkerLeases(c.worker) {
		info, _ := d.machine.Job(l.Pos, l.Queue, l.Priority)
		old := d.m.n.wall()-int64(info.StartedAt) > fetchWait.Milliseconds()*2
		if old && !slices.Contains(c.held, l.Token) {
			back.items.Commit(queue.AppendRelease(back.items.Buf(), l.Pos, l.Token))
		}
	}
	if back.items.Len() > 0 {
		d.waiting = append(d.waiting, back)
	}
}

// Gather implements replica.Driver.
func (d *driver) Gather(b *shard.BatchBuilder, now int64) uint64 {
	d.expire() // before it is granted what nobody waits for
	d.sequence++
	f := flight{sequence: d.sequence}
	if d.m.n.writesNewer() {
		f.sequence |= newerSequence
	}
	if d.tookOver {
		d.m.n.w.oracles[d.m.group.id].takesOver(uint64(d.m.n.id), now, d.machine.Applied())
	}
	f.holds = d.hold(b, now)
	left := d.waiting[:0]
	for _, late := range []bool{false, true} { // fetches behind what they may fetch
		for _, c := range d.waiting {
			if c.fetch != late {
				continue
			}
			if !b.Fits(&c.items) || (c.fetch && b.Items() == 0 && !d.ready(c)) {
				continue
			}
			f.calls = append(f.calls, placed{c, b.Add(&c.items)})
			c.taken = true
			if d.m.n.w.bug.is(BugAckBeforeCommit) && !c.fetch {
				c.reply(guess(c, d.m.rep.Last()+1, f.calls[len(f.calls)-1].first))
			}
		}
	}
	for _, c := range d.waiting {
		if !c.taken {
			left = append(left, c)
		}
	}
	d.waiting = left
	d.own(b, now)
	if b.Items() > 0 {
		d.flights = append(d.flights, f)
	}
	return f.sequence
}

// hold begins the first entry of a lead with a hold when deadlines are over or near: nobody could end or extend a lease
// while the shard had no leader.
func (d *driver) hold(b *shard.BatchBuilder, now int64) bool {
	if !d.tookOver {
		return false
	}
	d.tookOver = false
	if d.m.n.w.bug.is(BugNoHold) {
		return false
	}
	const ttl = int64(workerTTL / time.Millisecond)
	if next, ok := d.machine.NextTimer(); ok && int64(next) <= now+ttl && d.machine.Totals().Leases > 0 {
		return d.add(b, func(dst []byte) []byte { return queue.AppendHold(dst, ttl) })
	}
	return false
}

// add adds an item of the leader's own, if there is room.
func (d *driver) add(b *shard.BatchBuilder, item func(dst []byte) []byte) bool {
	d.items.Reset()
	d.items.Add(item)
	fits := b.Fits(&d.items)
	if fits {
		b.Add(&d.items)
	}
	return fits
}

func (d *driver) ready(c *call) bool {
	return slices.ContainsFunc(c.queues, func(q queue.QueueID) bool { return d.machine.ReadyCount(q) > 0 })
}

// own adds the leader's own items: ticks, lost workers, fingerprints.
func (d *driver) own(b *shard.BatchBuilder, now int64) {
	for _, w := range d.silent() {
		delete(d.heard, w)
		d.add(b, func(dst []byte) []byte { return queue.AppendWorkerLost(dst, w) })
	}
	if applied := d.machine.Applied(); applied >= d.verified+d.m.n.w.plan.verifyEntries && b.Items() > 0 || d.verifyHealing() {
		d.verified = applied
		sum := d.machine.Fingerprint()
		d.add(b, func(dst []byte) []byte { return queue.AppendVerify(dst, applied, sum) })
	}
	if at, ok := d.machine.NextTimer(); ok && int64(at) <= now && b.Items() == 0 && !d.m.n.w.bug.is(BugNoTimers) {
		d.add(b, queue.AppendTick)
	}
}

// silent returns the workers that hold jobs and were not heard of for their TTL.
func (d *driver) silent() []queue.WorkerID {
	var silent []queue.WorkerID
	if d.m.n.w.bug.is(BugWorkersLiveForever) {
		return nil
	}
	now := d.m.n.instant().Mono
	for _, c := range d.machine.Workers() {
		heard, known := d.heard[c.Worker]
		switch {
		case !known:
			d.heard[c.Worker] = now
		case now-heard > workerTTL:
			silent = append(silent, c.Worker)
		}
	}
	return silent
}

// Wakeup implements replica.Driver.
func (d *driver) Wakeup() int64 {
	wall := d.m.n.wall()
	at := int64(0)
	if next, ok := d.machine.NextTimer(); ok && !d.m.n.w.bug.is(BugNoTimers) {
		at = max(int64(next), wall)
	}
	if d.machine.Totals().Workers > 0 || d.verifyHealing() {
		if look := wall + 1000; at == 0 || look < at {
			at = look
		}
	}
	return at
}

// Apply implements shard.StateMachine.
func (d *driver) Apply(index uint64, h shard.Header, items [][]byte) {
	w := d.m.n.w
	stamp, given := w.bug.apply(d, h.Stamp, items)
	given = d.stray(index, given)
	before := d.machine.Now()
	d.machine.Apply(index, queue.Millis(stamp), given, &d.out)
	if d.machine.Now() < before {
		w.fail("%s: the shard's clock ran back at %d", d.m.name, index)
	}
	w.oracles[d.m.group.id].applied(d, index, h, items, stamp, given)
	if h.Proposer != uint64(d.m.id) && h.Proposer != uint64(d.m.n.id) {
		return
	}
	if len(d.flights) == 0 || d.flights[0].sequence != h.Sequence {
		return
	}
	f := d.flights[0]
	d.flights = d.flights[1:]
	for _, p := range f.calls {
		d.answer(p, index)
	}
}

// answer answers a call that was applied.
func (d *driver) answer(p placed, index uint64) {
	a := answer{outcome: outcomeDone, index: index}
	if d.unheard(p.call) {
		return
	}
	results := d.out.Items[p.first : p.first+p.call.items.Len()]
	a.results = slices.Clone(results)
	if p.call.fetch {
		r := results[0]
		if r.Lo == r.Hi && r.Code == queue.CodeOK && d.leads && d.m.n.w.now < p.call.until {
			p.call.taken = false
			d.waiting = append(d.waiting, p.call)
			return
		}
		for _, l := range d.out.Leases[r.Lo:r.Hi] {
			if w := d.m.n.w; !w.healing && d.m.n.chance.permille(w.plan.damagePermille) {
				d.damaged(l)
				continue
			}
			a.leases = append(a.leases, granted{Lease: l})
		}
		if len(a.leases) > 0 && uint64(a.leases[0].Token)%leaveEvery == 0 {
			d.takeBack(a.leases)
			a.leases = nil
		}
		if !d.payloads(&a) {
			d.unread = append(d.unread, unread{p.call, a})
			return
		}
		d.m.n.w.bug.mislay(d, a)
		d.m.n.w.bug.reuse(d, a)
	}
	p.call.reply(a)
}

// damaged sends a job to the dead as one whose payload cannot be read, as the engine does. Here only chance says so.
func (d *driver) damaged(l queue.Lease) {
	c := newCall(d.m.n.w, int(d.m.group.id))
	c.items.Commit(queue.AppendDamaged(c.items.Buf(), l.Pos, l.Token))
	d.waiting = append(d.waiting, c)
}

// leaveEvery is of how many leases about one is granted to a fetch whose caller has left meanwhile.
const leaveEvery = 50

// takeBack takes leases back of which nobody will hear.
func (d *driver) takeBack(leases []granted) {
	c := newCall(d.m.n.w, int(d.m.group.id))
	for _, l := range leases {
		c.items.Commit(queue.AppendTakeBack(c.items.Buf(), l.Pos, l.Token))
	}
	d.waiting = append(d.waiting, c)
}

// Dropped implements replica.Driver.
func (d *driver) Dropped(sequence uint64, unknown bool) {
	at := slices.IndexFunc(d.flights, func(f flight) bool { return f.sequence == sequence })
	if at < 0 {
		return
	}
	f := d.flights[at]
	d.flights = slices.Delete(d.flights, at, at+1)
	if d.tookOver = d.tookOver || f.holds; !unknown {
		d.m.n.w.counts.Refused++
		d.m.n.w.trace.printf(d.m.name, "is refused a batch of %d calls", len(f.calls))
	}
	for _, p := range f.calls {
		outcome := outcomeUnavailable
		if unknown {
			outcome = outcomeUnknown
		}
		p.call.reply(answer{outcome: outcome})
	}
}

// Settled implements replica.Driver.
func (d *driver) Settled() { d.expire() }

// expire answers the fetches that have waited long enough.
func (d *driver) expire() {
	left := d.waiting[:0]
	for _, c := range d.waiting {
		if c.fetch && d.m.n.w.now >= c.until {
			c.reply(answer{outcome: outcomeDone})
			continue
		}
		left = append(left, c)
	}
	d.waiting = left
}

// Stamp implements replica.Driver.
func (d *driver) Stamp() int64 { return int64(d.machine.Now()) }

// Leadership implements replica.Driver.
func (d *driver) Leadership(leading bool, _ uint64) {
	d.leads, d.tookOver = leading, leading
	clear(d.heard)
	if !leading {
		for _, c := range d.waiting {
			d.m.refuse(c)
		}
		d.waiting = nil
	}
}

// Verified implements replica.Driver.
func (d *driver) Verified() replica.Verification {
	if d.m.n.w.bug.is(BugIgnoreFingerprint) {
		return replica.Verification{}
	}
	return replica.Verification(d.machine.Verified())
}

// Doubted implements replica.Driver.
func (d *driver) Doubted(doubt replica.Doubt) {
	d.m.n.w.trace.printf(d.m.name, "state is %v, differed at %d", doubt.Trust, doubt.Index)
}

// abandon forgets all calls: nobody is there to answer them.
func (d *driver) abandon() {
	for _, c := range d.waiting {
		c.lost()
	}
	for _, f := range d.flights {
		for _, p := range f.calls {
			p.call.lost()
		}
	}
	for _, u := range d.unread {
		u.call.lost()
	}
	d.waiting, d.flights, d.unread = nil, nil, nil
}

// Snapshot implements shard.StateMachine.
func (d *driver) Snapshot() shard.Image {
	img := d.machine.Snapshot()
	if d.m.n.w.bug.is(BugStaleImage) {
		old := d.last
		d.last = img
		if old != nil {
			return old
		}
	}
	return img
}

// Restore implements shard.StateMachine.
func (d *driver) Restore(r io.Reader) error {
	machine, err := queue.Restore(uint16(d.m.group.id), r)
	if err == nil {
		d.machine = machine
	}
	return err
}

// Fingerprint implements shard.StateMachine.
func (d *driver) Fingerprint() uint64 { return d.machine.Fingerprint() }
