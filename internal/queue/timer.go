package queue

import "github.com/tidwall/btree"

// A timer fires at the first entry whose stamp reaches it. Timers are derived: a job's follow from its record, a
// session's from the session.
type timer struct {
	at   Millis
	pos  Pos // of the job; of a session the serial
	kind timerKind
}

type timerKind uint8

// The kinds, in the order in which they fire at one time for one position.
const (
	timerRun      timerKind = iota // scheduled or backoff: gets ready
	timerDeadline                  // running: the attempt or the anonymous lease is over
	timerExpire                    // waiting: expires
	timerSession                   // may be idle for too long
	timerUnique                    // the window of a unique key is over
)

func newTimers() *btree.BTreeG[timer] {
	return btree.NewBTreeGOptions(func(a, b timer) bool {
		if a.at != b.at {
			return a.at < b.at
		}
		if a.pos != b.pos {
			return a.pos < b.pos
		}
		return a.kind < b.kind
	}, btree.Options{NoLocks: true, Degree: recordDegree})
}

// NextTimer is the time of the earliest timer: once it has passed, an entry with that stamp should be proposed.
func (m *Machine) NextTimer() (Millis, bool) {
	t, ok := m.timers.Min()
	return t.at, ok
}

// fireTimers fires what is due, at most TimersPerEntry.
func (m *Machine) fireTimers() {
	for n := 0; ; n++ {
		t, ok := m.timers.Min()
		if !ok || t.at > m.now {
			return
		}
		if n == TimersPerEntry {
			m.event(EventUnfinished, 0, 0, 0, 0)
			return
		}
		m.timers.PopMin()
		m.fire(t)
	}
}

func (m *Machine) fire(t timer) {
	switch t.kind {
	case timerSession:
		m.expireSession(uint64(t.pos))
		return
	case timerUnique:
		m.passWindow(t.pos)
		return
	default:
	}
	rec, _ := m.records.Get(t.pos)
	if t.kind == timerDeadline && m.now < m.holdUntil {
		rec.at = m.holdUntil
		m.putRecord(t.pos, &rec)
		m.arm(rec.at, t.pos, timerDeadline)
		return
	}
	q := m.mutable(rec.queue)
	switch t.kind {
	case timerRun:
		m.runNow(q, t.pos, &rec)
	case timerExpire:
		m.unwait(q, t.pos, &rec)
		m.end(q, t.pos, &rec, StateExpired, 0)
	case timerDeadline:
		if rec.worker == 0 {
			m.crashAttempt(q, t.pos, &rec)
			return
		}
		m.event(EventLeaseLost, q.id, rec.worker, t.pos, rec.token)
		m.failAttempt(q, t.pos, &rec, 0, &failItem{})
	case timerSession, timerUnique:
	}
}

// applyHold does what a hold at the head of an entry asks for. Deadlines that it moves are moved when they would pass.
func (m *Machine) applyHold(items [][]byte) {
	if len(items) == 0 {
		return
	}
	r, err := open(items[0], itemHold)
	if err != nil {
		return
	}
	if d, ok := r.hold(); ok {
		m.holdUntil = max(m.holdUntil, m.now+d)
	}
}

func (m *Machine) arm(at Millis, p Pos, kind timerKind) {
	m.timers.Set(timer{at: at, pos: p, kind: kind})
}

func (m *Machine) disarm(at Millis, p Pos, kind timerKind) {
	m.timers.Delete(timer{at: at, pos: p, kind: kind})
}
