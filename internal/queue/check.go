package queue

import (
	"errors"
	"fmt"
	"slices"
)

// ErrInvariant is what every error of CheckInvariants wraps.
var ErrInvariant = errors.New("invariant violated")

func violated(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvariant, fmt.Sprintf(format, args...))
}

// CheckInvariants walks the whole state and reports the first thing that does not hold: every counter, every timer,
// every lease and the fingerprint are made anew and compared, and a job must be in exactly one state.
func (m *Machine) CheckInvariants() error { return m.check(true) }

// check is CheckInvariants; overlap asks for the dear part, that no job is ready in two queues.
func (m *Machine) check(overlap bool) error {
	c := &checker{m: m, counts: make(map[QueueID]*queueCheck, m.queues.Len())}
	c.sum = m.hashClock()
	for _, part := range []func(){c.queues, c.records, c.extras, c.claims, c.sessions, c.leases, c.totals} {
		if part(); c.err != nil {
			return c.err
		}
	}
	if overlap {
		c.overlaps()
	}
	return c.err
}

// A checker makes anew what the machine keeps. The first violation sticks.
type checker struct {
	m      *Machine
	counts map[QueueID]*queueCheck
	sum    uint64
	timers int
	extra  int
	errors int
	claim  int
	err    error
}

type queueCheck struct {
	counts       [stateCount]uint64
	readyRecords uint64
	unique       uint64
}

func (c *checker) fail(format string, args ...any) bool {
	if c.err == nil {
		c.err = violated(format, args...)
	}
	return false
}

func (c *checker) queues() {
	if len(c.m.byID) != c.m.queues.Len() {
		c.fail("%d queues by id, %d in the tree", len(c.m.byID), c.m.queues.Len())
	}
	c.m.queues.Scan(func(id QueueID, q *queueState) bool {
		qc := &queueCheck{}
		c.counts[id] = qc
		if q.id != id || c.m.byID[id] != q || q.dirty {
			return c.fail("queue %d is not itself", id)
		}
		h := q.fingerprint()
		if h != q.hash {
			return c.fail("hash of queue %d is stale", id)
		}
		c.sum += h
		for priority, s := range q.ready {
			if s != nil && !c.readySet(q, uint8(priority), s, qc) {
				return false
			}
			if has := s != nil && s.count > 0; has != (q.nonEmpty&(1<<priority) != 0) {
				return c.fail("queue %d priority %d: mask says otherwise", id, priority)
			}
		}
		q.ended.all(func(seq uint64, p Pos) bool {
			c.sum += endedHash(id, seq, p)
			r, ok := c.m.records.Get(p)
			if !ok || !r.state.ended() || r.queue != id {
				return c.fail("ended job %d of queue %d has no record", p, id)
			}
			return true
		})
		return c.err == nil
	})
}

func (c *checker) readySet(q *queueState, priority uint8, s *runSet, qc *queueCheck) bool {
	var (
		end   Pos
		count uint64
	)
	s.runs(0, func(r run) bool {
		if r.start < end || r.count == 0 {
			return c.fail("queue %d priority %d: runs overlap at %d", q.id, priority, r.start)
		}
		for p := r.start; p < r.end(); p++ {
			c.sum += readyHash(p, q.id, priority)
		}
		end = r.end()
		count += uint64(r.count)
		return true
	})
	if count != s.count {
		return c.fail("queue %d priority %d: counts %d, has %d", q.id, priority, s.count, count)
	}
	qc.counts[StateReady] += count
	return c.err == nil
}

func (c *checker) records() {
	c.m.records.Scan(func(p Pos, r record) bool {
		qc, q := c.counts[r.queue], c.m.byID[r.queue]
		if q == nil {
			return c.fail("job %d is in no queue", p)
		}
		c.sum += r.hash(p)
		inSet := q.ready[r.priority] != nil && q.ready[r.priority].contains(p)
		if inSet != (r.state == StateReady) {
			return c.fail("job %d: state %d, in the ready set: %v", p, r.state, inSet)
		}
		if r.state == StateReady {
			qc.readyRecords++
		} else {
			qc.counts[r.state]++
		}
		return c.record(p, &r)
	})
}

func (c *checker) record(p Pos, r *record) bool {
	switch {
	case r.state == StateReady && r.plain():
		return c.fail("job %d: plainly ready, yet with a record", p)
	case r.state == StateRunning && (r.token == 0 || r.token > c.m.tokens || r.attempt == 0):
		return c.fail("job %d: running without a lease", p)
	case (r.state == StateDead) && r.reason == DeadNot:
		return c.fail("job %d: dead for no reason", p)
	case r.state.ended() && r.flags&(flagExtra|flagUnique) != 0:
		return c.fail("job %d: ended, yet with settings or a unique key", p)
	case r.state == StateReady && r.at != 0, (r.state == StateScheduled || r.state == StateBackoff) && r.at == 0:
		return c.fail("job %d: state %d at %d", p, r.state, r.at)
	}
	c.m.timersOf(p, r, func(at Millis, p Pos, kind timerKind) {
		c.timers++
		if _, ok := c.m.timers.Get(timer{at, p, kind}); !ok {
			c.fail("job %d: no timer %d at %d", p, kind, at)
		}
	})
	if r.has(flagExtra) {
		c.extra++
		e, ok := c.m.extras.Get(p)
		if !ok {
			return c.fail("job %d: settings are gone", p)
		}
		c.sum += e.hash(p)
	}
	if r.has(flagUnique) {
		c.claim++
		if cl, ok := c.m.claims.Get(p); !ok || cl.queue != r.queue {
			return c.fail("job %d: its claim is gone", p)
		}
	}
	if r.has(flagErrors) {
		c.errors++
		l, ok := c.m.errors.Get(p)
		if !ok || l.count == 0 {
			return c.fail("job %d: errors are gone", p)
		}
		c.sum += l.hash(p)
	}
	return c.err == nil
}

func (c *checker) extras() {
	if c.extra != c.m.extras.Len() || c.errors != c.m.errors.Len() {
		c.fail("%d settings and %d errors, but jobs name %d and %d", c.m.extras.Len(), c.m.errors.Len(), c.extra, c.errors)
	}
}

// claims checks that each is of a job that may hold its key again, or keeps it for a while, and that a key is held once.
func (c *checker) claims() {
	keys := 0
	c.m.claims.Scan(func(p Pos, cl claim) bool {
		c.sum += cl.hash(p)
		rec, ok := c.m.records.Get(p)
		qc := c.counts[cl.queue]
		switch live := ok && rec.has(flagUnique); {
		case qc == nil:
			return c.fail("claim of job %d: no queue %d", p, cl.queue)
		case live:
			c.claim--
		case cl.until == 0 || cl.flags&claimHeld != 0 || cl.released != 0:
			return c.fail("claim of job %d, which ended: %+v", p, cl)
		}
		if cl.flags&claimHeld != 0 && rec.state == StateDead {
			return c.fail("job %d: dead, yet it holds its key", p)
		}
		if cl.until != 0 {
			c.timers++
			if _, ok := c.m.timers.Get(timer{cl.until, p, timerUnique}); !ok {
				return c.fail("claim of job %d: no timer at %d", p, cl.until)
			}
		}
		if cl.holds() {
			keys++
			qc.unique++
			if c.m.keys[cl.key] != p {
				return c.fail("job %d holds a key that is job %d's", p, c.m.keys[cl.key])
			}
		}
		return true
	})
	if c.err == nil && (c.claim != 0 || keys != len(c.m.keys)) {
		c.fail("%d claims are missing; %d keys are listed, %d held", c.claim, len(c.m.keys), keys)
	}
}

func (c *checker) sessions() {
	if len(c.m.sessionByID) != c.m.sessions.Len() {
		c.fail("%d sessions by id, %d in the tree", len(c.m.sessionByID), c.m.sessions.Len())
	}
	c.m.sessions.Scan(func(serial uint64, s session) bool {
		c.sum += s.hash(serial)
		c.timers++
		if _, ok := c.m.timers.Get(timer{s.timerAt, Pos(serial), timerSession}); !ok || c.m.sessionByID[s.id] != serial {
			return c.fail("session %d has no timer or name", serial)
		}
		return true
	})
	c.m.answers.Scan(func(key uint64, a answer) bool {
		c.sum += a.hash(key)
		if _, ok := c.m.sessions.Get(key / SessionWindow); !ok || answerKey(key/SessionWindow, a.seq) != key {
			return c.fail("answer %d has no session", key)
		}
		if !a.holdersFit() {
			return c.fail("answer %d names other holders than it has jobs", key)
		}
		return true
	})
}

func (c *checker) leases() {
	listed := 0
	for w, l := range c.m.leases.workers {
		if l.worker != w || l.count == 0 {
			c.fail("worker %d is not itself", w)
			return
		}
		count := 0
		for slot := l.first; slot != 0 && count <= l.count; slot = c.m.leases.slots[slot].next {
			count++
			r, ok := c.m.records.Get(c.m.leases.slots[slot].pos)
			if !ok || r.state != StateRunning || r.worker != w || r.slot != slot {
				c.fail("worker %d lists a job it does not hold", w)
				return
			}
		}
		if count != l.count {
			c.fail("worker %d counts %d leases, lists %d", w, l.count, count)
		}
		listed += count
	}
	anonymous := 0
	c.m.records.Scan(func(_ Pos, r record) bool {
		if r.state == StateRunning && r.worker == 0 {
			anonymous++
		}
		return true
	})
	if uint64(listed+anonymous) != c.m.counts[StateRunning] {
		c.fail("%d leases listed, %d jobs running", listed+anonymous, c.m.counts[StateRunning])
	}
}

func (c *checker) totals() {
	var all [stateCount]uint64
	c.m.queues.Scan(func(id QueueID, q *queueState) bool {
		qc := c.counts[id]
		var live, ended uint64
		for st, n := range qc.counts {
			all[st] += n
			if State(st).ended() {
				ended += n
			} else {
				live += n
			}
		}
		if qc.counts != q.counts || qc.readyRecords != q.readyRecords || qc.unique != q.unique || live != q.live || ended != q.ended.len() {
			return c.fail("queue %d counts %v (%d live), has %v", id, q.counts, q.live, qc.counts)
		}
		return true
	})
	switch {
	case all != c.m.counts:
		c.fail("the shard counts %v, has %v", c.m.counts, all)
	case c.timers != c.m.timers.Len():
		c.fail("%d timers, jobs and sessions ask for %d", c.m.timers.Len(), c.timers)
	case c.sum != c.m.sum:
		c.fail("fingerprint %016x, the state's is %016x", c.m.sum, c.sum)
	}
}

// overlaps checks that no job is in two ready sets.
func (c *checker) overlaps() {
	var runs []run
	sets := 0
	c.m.queues.Scan(func(_ QueueID, q *queueState) bool {
		for _, s := range q.ready {
			if s != nil && s.count > 0 {
				sets++
				s.runs(0, func(r run) bool {
					runs = append(runs, r)
					return true
				})
			}
		}
		return true
	})
	if sets < 2 {
		return
	}
	slices.SortFunc(runs, func(a, b run) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	for i := 1; i < len(runs); i++ {
		if runs[i].start < runs[i-1].end() {
			c.fail("job %d is ready twice", runs[i].start)
			return
		}
	}
}
