package queue

// enterReady puts a job into its ready set, at its place by age. fresh: it is younger than any before.
func (m *Machine) enterReady(q *queueState, p Pos, priority uint8, fresh bool) {
	s := q.ready[priority]
	if s == nil {
		s = &runSet{}
		q.ready[priority] = s
	}
	if fresh {
		s.append(p)
	} else {
		s.insert(p)
	}
	q.nonEmpty |= 1 << priority
	q.becameReady = true
	m.sum += readyHash(p, q.id, priority)
}

// leaveReady takes a job out of its ready set and reports whether it was there.
func (m *Machine) leaveReady(q *queueState, p Pos, priority uint8) bool {
	s := q.ready[priority]
	if s == nil || !s.remove(p) {
		return false
	}
	if s.count == 0 {
		q.nonEmpty &^= 1 << priority
	}
	m.sum -= readyHash(p, q.id, priority)
	return true
}

// wait puts a job that is counted nowhere into a waiting state: ready, or until a time at. One whose time to expire
// has passed ends instead.
func (m *Machine) wait(q *queueState, p Pos, r *record, to State, at Millis, fresh bool) {
	if r.has(flagExtra) {
		if e := m.extraOf(p, r); e.expiresAt != 0 {
			if e.expiresAt <= m.now {
				m.end(q, p, r, StateExpired, 0)
				return
			}
			m.arm(e.expiresAt, p, timerExpire)
		}
	}
	m.count(q, StateUnknown, to)
	r.state, r.at = to, at
	if to != StateReady {
		m.arm(at, p, timerRun)
		m.putRecord(p, r)
		return
	}
	r.at = 0
	m.enterReady(q, p, r.priority, fresh)
	if !r.plain() {
		q.readyRecords++
		m.putRecord(p, r)
	}
}

// unwait takes a job that has a record out of its waiting state. The record stays for the caller to put.
func (m *Machine) unwait(q *queueState, p Pos, r *record) {
	if r.state == StateReady {
		m.leaveReady(q, p, r.priority)
		q.readyRecords--
	} else {
		m.disarm(r.at, p, timerRun)
	}
	m.disarmExpiry(p, r)
	m.count(q, r.state, StateUnknown)
}

func (m *Machine) disarmExpiry(p Pos, r *record) {
	if r.has(flagExtra) {
		if e := m.extraOf(p, r); e.expiresAt != 0 {
			m.disarm(e.expiresAt, p, timerExpire)
		}
	}
}

// runNow makes a scheduled or backing-off job ready, at its old place.
func (m *Machine) runNow(q *queueState, p Pos, r *record) {
	m.count(q, r.state, StateReady)
	r.state, r.at = StateReady, 0
	m.enterReady(q, p, r.priority, false)
	if r.plain() {
		m.dropRecord(p)
		return
	}
	q.readyRecords++
	m.putRecord(p, r)
}

// die makes a job that is counted nowhere dead.
func (m *Machine) die(q *queueState, p Pos, r *record, why DeadReason) {
	m.count(q, StateUnknown, StateDead)
	q.totals.died++
	if r.has(flagUnique) {
		m.leaveClaim(p)
	}
	r.state, r.reason, r.at = StateDead, why, m.now
	m.putRecord(p, r)
}

// end moves a job that is counted nowhere to the window of recent ends, and makes room there.
func (m *Machine) end(q *queueState, p Pos, r *record, to State, result Pos) {
	m.count(q, StateUnknown, to)
	switch to {
	case StateCompleted:
		q.totals.completed++
	case StateCancelled:
		q.totals.cancelled++
	case StateExpired:
		q.totals.expired++
	case StateDiscarded:
		q.totals.discarded++
	case StateUnknown, StateScheduled, StateReady, StateRunning, StateBackoff, StateDead:
	}
	m.dropExtra(p, r)
	if r.has(flagUnique) {
		m.endClaim(p, r)
	}
	r.state, r.at, r.resultPos = to, m.now, result
	m.putRecord(p, r)
	m.sum += endedHash(q.id, q.ended.push(p), p)
	m.trimEnded(q, endedTrim)
}

func endedHash(q QueueID, seq uint64, p Pos) uint64 {
	return finish(step(step(step(hashSeedEnded, uint64(q)), seq), uint64(p)))
}

// trimEnded evicts the oldest of the window of recent ends, at most limit.
func (m *Machine) trimEnded(q *queueState, limit int) {
	for range limit {
		if q.ended.len() <= uint64(q.settings.KeepEnded) {
			return
		}
		p, seq := q.ended.pop()
		m.sum -= endedHash(q.id, seq, p)
		rec, _ := m.records.Delete(p)
		m.sum -= rec.hash(p)
		m.count(q, rec.state, StateUnknown)
		if rec.has(flagErrors) {
			list, _ := m.errors.Delete(p)
			m.sum -= list.hash(p)
		}
	}
}
