package queue

// applyToLease applies an item of a worker on a job it holds. A stale token changes nothing, and so does the ack of an
// attempt that completed the job: a repeat.
func (m *Machine) applyToLease(t itemType, pos Pos, r *reader) {
	var (
		fail   failItem
		extend extendItem
		prog   progressItem
		held   leaseItem
		ok     bool
	)
	switch t {
	case itemAck:
		var a ackItem
		a, ok = r.ack()
		held = a.leaseItem
	case itemFail:
		fail, ok = r.failItem()
		held = fail.leaseItem
	case itemExtend:
		extend, ok = r.extend()
		held = extend.leaseItem
	case itemProgress:
		prog, ok = r.progress()
		held = prog.leaseItem
	default:
		held = r.lease()
		ok = r.done()
	}
	if !ok {
		m.answer(CodeMalformed)
		return
	}
	p := held.pos
	rec, found := m.records.Get(p)
	if !found || rec.state != StateRunning || rec.token != held.token {
		code := CodeStale
		if t == itemAck && found && rec.state == StateCompleted && rec.token == held.token {
			code = CodeDuplicate // by the same attempt: its answer was lost
		}
		m.answerJob(code, rec.state, p)
		return
	}
	q := m.mutable(rec.queue)
	switch t {
	case itemAck:
		m.unlease(q, p, &rec)
		m.end(q, p, &rec, StateCompleted, pos)
	case itemFail:
		m.failAttempt(q, p, &rec, pos, &fail)
	case itemRelease:
		m.releaseAttempt(q, p, &rec)
	case itemTakeBack:
		m.takeBackLease(q, p, &rec)
	case itemExtend:
		m.extendTo(q, p, &rec, extend.leaseMillis)
		m.out.Items = append(m.out.Items, Result{State: rec.state, Pos: p, At: rec.at})
		return
	case itemProgress:
		rec.percent, rec.progressPos = prog.percent, pos
		m.putRecord(p, &rec)
	default:
		m.unlease(q, p, &rec)
		m.die(q, p, &rec, DeadDamaged)
	}
	m.answerJob(CodeOK, rec.state, p)
}

// failAttempt ends the attempt of a running job with a failure, told at errorPos in the log; 0: it timed out.
func (m *Machine) failAttempt(q *queueState, p Pos, r *record, errorPos Pos, f *failItem) {
	m.unlease(q, p, r)
	r.failures++
	q.totals.failed++
	m.addError(p, r, errorPos)
	e := m.extraOf(p, r)
	retry, maxAttempts := &q.settings.Retry, q.settings.MaxAttempts
	if e.retry.Kind != RetryDefault {
		retry = &e.retry
	}
	if e.maxAttempts != 0 {
		maxAttempts = e.maxAttempts
	}
	switch {
	case r.has(flagCancel):
		m.end(q, p, r, StateCancelled, 0)
		return
	case f.final:
		m.die(q, p, r, DeadFinal)
		return
	case uint32(r.failures) >= maxAttempts || retry.Kind == RetryNever:
		m.die(q, p, r, DeadAttempts)
		return
	}
	delay := f.delay
	if delay == 0 {
		delay = retry.delay(p, uint32(r.failures))
	}
	if delay == 0 {
		m.wait(q, p, r, StateReady, 0, false)
		return
	}
	m.wait(q, p, r, StateBackoff, m.now+Millis(delay), false)
}

// crashAttempt ends the attempt of a running job whose worker was lost.
func (m *Machine) crashAttempt(q *queueState, p Pos, r *record) {
	m.unlease(q, p, r)
	r.crashes++
	q.totals.crashed++
	switch {
	case r.has(flagCancel):
		m.end(q, p, r, StateCancelled, 0)
	case uint32(r.crashes) >= q.settings.PoisonLimit:
		m.die(q, p, r, DeadPoison)
	default:
		m.wait(q, p, r, StateReady, 0, false)
	}
}

// releaseAttempt gives a running job back: neither a failure nor a crash.
func (m *Machine) releaseAttempt(q *queueState, p Pos, r *record) {
	m.unlease(q, p, r)
	if r.has(flagCancel) {
		m.end(q, p, r, StateCancelled, 0)
		return
	}
	m.wait(q, p, r, StateReady, 0, false)
}

// takeBackLease takes a lease back of which nobody was told: the job is as it was before, and at its old place.
func (m *Machine) takeBackLease(q *queueState, p Pos, r *record) {
	m.unlease(q, p, r)
	if r.has(flagUnique) {
		m.restartClaim(q, p, r.token)
	}
	r.attempt--
	r.percent, r.progressPos = 0, 0
	if r.attempt == 0 {
		r.token, r.worker, r.startedAt = 0, 0, 0
	}
	if r.has(flagCancel) {
		m.end(q, p, r, StateCancelled, 0)
		return
	}
	m.wait(q, p, r, StateReady, 0, false)
	if r.state == StateReady && r.plain() {
		m.dropRecord(p)
	}
}

// applyWorker takes all leases from a worker, by age of the job.
func (m *Machine) applyWorker(lost bool, r *reader) {
	w := WorkerID(r.uvarint())
	if !r.done() || w == 0 {
		m.answer(CodeMalformed)
		return
	}
	m.lost = m.leases.appendPositions(m.lost[:0], w)
	for _, p := range m.lost {
		rec, _ := m.records.Get(p)
		q := m.mutable(rec.queue)
		if lost {
			m.crashAttempt(q, p, &rec)
		} else {
			m.releaseAttempt(q, p, &rec)
		}
	}
	m.answer(CodeOK)
}

func (m *Machine) applyCancel(r *reader) {
	c, ok := r.cancel()
	if !ok {
		m.answer(CodeMalformed)
		return
	}
	rec, found := m.records.Get(c.pos)
	if !found {
		m.cancelPlain(&c)
		return
	}
	switch {
	case rec.state.ended():
		m.answerJob(CodeWrongState, rec.state, c.pos)
		return
	case rec.state == StateRunning:
		if !rec.has(flagCancel) {
			rec.flags |= flagCancel
			m.putRecord(c.pos, &rec)
			m.event(EventCancel, rec.queue, rec.worker, c.pos, rec.token)
		}
		m.answerJob(CodeCancelRequested, rec.state, c.pos)
		return
	}
	q := m.mutable(rec.queue)
	if rec.state.waiting() {
		m.unwait(q, c.pos, &rec)
	} else {
		m.count(q, rec.state, StateUnknown)
	}
	m.end(q, c.pos, &rec, StateCancelled, 0)
	m.answerJob(CodeOK, rec.state, c.pos)
}

// cancelPlain cancels a ready job that has no record.
func (m *Machine) cancelPlain(c *cancelItem) {
	q := m.peek(c.queue)
	if q == nil || q.ready[c.priority] == nil || !q.ready[c.priority].contains(c.pos) {
		m.answer(CodeNoJob)
		return
	}
	q = m.mutate(q)
	m.leaveReady(q, c.pos, c.priority)
	m.count(q, StateReady, StateUnknown)
	rec := record{queue: q.id, priority: c.priority}
	m.end(q, c.pos, &rec, StateCancelled, 0)
	m.answerJob(CodeOK, rec.state, c.pos)
}

// applyToDead retries or discards a dead job. Its entry in the log was live all the while: what is dead in the log
// stays dead, though a dead job may come back.
func (m *Machine) applyToDead(t itemType, r *reader) {
	p := Pos(r.u64())
	if !r.done() {
		m.answer(CodeMalformed)
		return
	}
	rec, found := m.records.Get(p)
	if !found {
		m.answer(CodeNoJob)
		return
	}
	if rec.state != StateDead {
		m.answerJob(CodeWrongState, rec.state, p)
		return
	}
	q := m.mutable(rec.queue)
	if t == itemDiscardDead {
		m.count(q, StateDead, StateUnknown)
		m.end(q, p, &rec, StateDiscarded, 0)
		m.answerJob(CodeOK, rec.state, p)
		return
	}
	if rec.has(flagUnique) {
		switch code := m.reclaim(q, p); code {
		case CodeOK:
		case CodeKeyHeld:
			m.out.Items = append(m.out.Items, Result{Code: code, State: StateDead, Shard: m.holder.Shard, Pos: m.holder.Pos})
			return
		default:
			m.answerJob(code, StateDead, p)
			return
		}
	}
	m.count(q, StateDead, StateUnknown)
	q.totals.retried++
	rec.failures, rec.crashes, rec.reason, rec.flags = 0, 0, DeadNot, rec.flags&^flagCancel
	// Who retries it wants it to run: an expiry that would end it now is forgotten.
	if e := m.extraOf(p, &rec); e.expiresAt != 0 {
		e.expiresAt = 0
		m.putExtra(p, e)
	}
	m.wait(q, p, &rec, StateReady, 0, false)
	m.answerJob(CodeOK, rec.state, p)
}
