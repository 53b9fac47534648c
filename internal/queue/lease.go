package queue

import (
	"math"
	"math/bits"
	"slices"
)

// A leaseTable lists the leases of each registered worker: a slab of doubly linked slots. It is derived from the
// records. Slot 0 is no slot.
type leaseTable struct {
	slots   []leaseSlot
	free    uint32
	workers map[WorkerID]*workerLeases
	last    *workerLeases // the one used last
}

type leaseSlot struct {
	pos        Pos
	prev, next uint32
}

type workerLeases struct {
	worker WorkerID
	first  uint32
	count  int
}

func newLeaseTable() leaseTable {
	return leaseTable{slots: make([]leaseSlot, 1), workers: make(map[WorkerID]*workerLeases)}
}

func (t *leaseTable) of(w WorkerID) *workerLeases {
	if t.last != nil && t.last.worker == w {
		return t.last
	}
	l := t.workers[w]
	if l != nil {
		t.last = l
	}
	return l
}

func (t *leaseTable) held(w WorkerID) int {
	if l := t.of(w); l != nil {
		return l.count
	}
	return 0
}

// add lists a lease and returns its slot.
func (t *leaseTable) add(w WorkerID, p Pos) uint32 {
	if w == 0 {
		return 0
	}
	l := t.of(w)
	if l == nil {
		l = &workerLeases{worker: w}
		t.workers[w] = l
		t.last = l
	}
	slot := t.free
	if slot != 0 {
		t.free = t.slots[slot].next
	} else {
		slot = uint32(len(t.slots))
		t.slots = append(t.slots, leaseSlot{})
	}
	t.slots[slot] = leaseSlot{pos: p, next: l.first}
	if l.first != 0 {
		t.slots[l.first].prev = slot
	}
	l.first = slot
	l.count++
	return slot
}

func (t *leaseTable) remove(w WorkerID, slot uint32) {
	if slot == 0 {
		return
	}
	l := t.of(w)
	s := t.slots[slot]
	if s.prev != 0 {
		t.slots[s.prev].next = s.next
	} else {
		l.first = s.next
	}
	if s.next != 0 {
		t.slots[s.next].prev = s.prev
	}
	t.slots[slot] = leaseSlot{next: t.free}
	t.free = slot
	if l.count--; l.count == 0 {
		delete(t.workers, w)
		t.last = nil
	}
}

// appendPositions appends what w holds, by age of the job.
func (t *leaseTable) appendPositions(dst []Pos, w WorkerID) []Pos {
	l := t.of(w)
	if l == nil {
		return dst
	}
	from := len(dst)
	for slot := l.first; slot != 0; slot = t.slots[slot].next {
		dst = append(dst, t.slots[slot].pos)
	}
	slices.Sort(dst[from:])
	return dst
}

func (m *Machine) applyFetch(r *reader) {
	f, ok := r.fetch()
	if !ok {
		m.answer(CodeMalformed)
		return
	}
	lo := uint32(len(m.out.Leases))
	code := m.grant(&f)
	m.out.Items = append(m.out.Items, Result{Code: code, Lo: lo, Hi: uint32(len(m.out.Leases))})
}

// grant leases jobs: lowest priority number over all queues first, then the queues in their order, then by age.
func (m *Machine) grant(f *fetchItem) Code {
	room := f.max
	room = min(room, LeasesMax-int(m.counts[StateRunning]))
	if f.worker != 0 {
		room = min(room, WorkerLeasesMax-m.leases.held(f.worker))
	}
	if room <= 0 {
		return CodeLimit
	}
	ids := reader{b: f.queues}
	n := 0
	var nonEmpty uint16
	for range f.queueCount {
		q := m.peek(ids.queueID())
		if q == nil || q.settings.Paused || q.nonEmpty == 0 {
			continue
		}
		m.fetched[n] = m.mutate(q)
		nonEmpty |= q.nonEmpty
		n++
	}
	bytes := f.bytesMax
	if bytes == 0 {
		bytes = math.MaxInt
	}
	for ; nonEmpty != 0 && room > 0; nonEmpty &= nonEmpty - 1 {
		priority := uint8(bits.TrailingZeros16(nonEmpty))
		for _, q := range m.fetched[:n] {
			for ; room > 0 && q.nonEmpty&(1<<priority) != 0; room-- {
				size := m.lease(q, priority, f, bytes)
				if size == 0 {
					room = 0 // a smaller one behind it must not overtake it
					break
				}
				bytes -= size
			}
		}
	}
	clear(m.fetched[:n])
	return CodeOK
}

// lease gives the oldest ready job of a queue and priority to a worker and returns how many bytes it counts: 0 when that
// would be more than bytesMax, and it was not given. The first job of a fetch is given in any case.
func (m *Machine) lease(q *queueState, priority uint8, f *fetchItem, bytesMax int) int {
	s := q.ready[priority]
	size := SmallJobBytes
	rec := record{queue: q.id, priority: priority}
	timeout := q.settings.TimeoutMillis
	if q.readyRecords > 0 {
		p, _ := s.first()
		if old, ok := m.records.Get(p); ok {
			e := m.extraOf(p, &old)
			size = max(size, int(e.bytes))
			if size > bytesMax && bytesMax != f.bytesMax {
				return 0
			}
			rec = old
			q.readyRecords--
			if e.timeoutMillis != 0 {
				timeout = max(e.timeoutMillis, 0)
			}
			if e.expiresAt != 0 {
				m.disarm(e.expiresAt, p, timerExpire)
			}
		}
	}
	if size > bytesMax && bytesMax != f.bytesMax {
		return 0
	}
	p := s.pop()
	if s.count == 0 {
		q.nonEmpty &^= 1 << priority
	}
	m.sum -= readyHash(p, q.id, priority)
	m.count(q, StateReady, StateRunning)

	m.tokens++
	rec.state = StateRunning
	rec.token, rec.worker, rec.startedAt = m.tokens, f.worker, m.now
	rec.attempt++
	rec.percent, rec.progressPos = 0, 0
	if rec.has(flagUnique) {
		m.startClaim(p, rec.token)
	}
	rec.at = m.deadline(f, timeout)
	rec.slot = m.leases.add(f.worker, p)
	if rec.at != 0 {
		m.arm(rec.at, p, timerDeadline)
	}
	m.putRecord(p, &rec)
	m.out.Leases = append(m.out.Leases, Lease{
		Pos: p, Token: rec.token, Queue: q.id, Attempt: rec.attempt, Failures: uint32(rec.failures),
		Crashes: uint32(rec.crashes), Priority: priority, Deadline: rec.at,
	})
	return size
}

// deadline is when an attempt that starts now is over: 0 is never, as long as the worker lives.
func (m *Machine) deadline(f *fetchItem, timeout int64) Millis {
	if f.worker != 0 {
		if timeout == 0 {
			return 0
		}
		return m.now + Millis(timeout)
	}
	lease := f.leaseMillis
	if lease == 0 {
		lease = LeaseMillisDefault
	}
	if timeout != 0 {
		lease = min(lease, timeout)
	}
	return m.now + Millis(lease)
}

// unlease takes a running job from its worker. The record stays for the caller to put.
func (m *Machine) unlease(q *queueState, p Pos, r *record) {
	m.count(q, StateRunning, StateUnknown)
	m.leases.remove(r.worker, r.slot)
	r.slot = 0
	if r.at != 0 {
		m.disarm(r.at, p, timerDeadline)
		r.at = 0
	}
}

// extendTo moves the deadline of a running job, and never beyond the attempt's timeout, whoever holds it: it bounds one
// attempt, however healthy the worker. A timeout that was shortened meanwhile counts as it is now.
func (m *Machine) extendTo(q *queueState, p Pos, r *record, leaseMillis int64) {
	at := m.now + Millis(leaseMillis)
	timeout := q.settings.TimeoutMillis
	if e := m.extraOf(p, r); e.timeoutMillis != 0 {
		timeout = max(e.timeoutMillis, 0)
	}
	if timeout != 0 {
		at = min(at, max(r.startedAt+Millis(timeout), m.holdUntil, m.now))
	}
	if r.at != 0 {
		m.disarm(r.at, p, timerDeadline)
	}
	r.at = at
	m.arm(at, p, timerDeadline)
	m.putRecord(p, r)
}
