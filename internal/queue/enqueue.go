package queue

// applyEnqueue applies an enqueue header and the jobs under it, and returns how many items that were.
func (m *Machine) applyEnqueue(index uint64, i int, items [][]byte) int {
	r := reader{b: items[i][itemHeaderBytes:]}
	e, ok := r.enqueue()
	if !ok {
		// How many jobs are under it is unknown; applied alone they could be applied twice, without the session.
		n := 1
		for i+n < len(items) && len(items[i+n]) > 0 && itemType(items[i+n][0]) == itemJob {
			n++
		}
		m.refuse(n, CodeMalformed)
		return n
	}
	jobs := items[i+1:]
	if len(jobs) < e.jobs {
		m.refuse(1+len(jobs), CodeMalformed)
		return 1 + len(jobs)
	}
	jobs = jobs[:e.jobs]
	first := MakePos(index, i+1)
	if i+e.jobs >= ItemsPerEntryMax {
		m.refuse(1+e.jobs, CodeMalformed)
		return 1 + e.jobs
	}
	if e.session == (SessionID{}) {
		m.enqueueJobs(first, jobs, e.atomic)
		return 1 + e.jobs
	}
	switch s, known, verdict := m.admitSession(&e); verdict {
	case CodeOK:
		from := len(m.out.Items)
		m.enqueueJobs(first, jobs, e.atomic)
		m.remember(s, &e, first, m.out.Items[from+1:])
		m.noteAnswered(jobs)
	case CodeDuplicate:
		m.repeat(&known, jobs)
		m.noteAnswered(jobs)
	default:
		m.refuse(1+e.jobs, verdict)
	}
	return 1 + e.jobs
}

// enqueueJobs answers a header and its jobs. The first job has position first, the others follow.
func (m *Machine) enqueueJobs(first Pos, items [][]byte, atomic bool) {
	if atomic && !m.admitAll(first, items) {
		return
	}
	m.answer(CodeOK)
	for k, item := range items {
		m.applyJob(first+Pos(k), item)
	}
}

// admitAll reports whether every job would be accepted. If not it answers the command: the culprits by their own code.
func (m *Machine) admitAll(first Pos, items [][]byte) bool {
	clear(m.pending)
	clear(m.claimed)
	header := len(m.out.Items)
	m.answer(CodeAborted)
	admitted := true
	for _, item := range items {
		code := m.admit(item, true)
		switch code {
		case CodeOK:
			code = CodeAborted
			m.pending[m.job.queue]++
			if m.job.flags&jobHasUnique != 0 {
				m.claimed[m.unique.hash] = struct{}{}
			}
		case CodeExists:
			code = CodeAborted // with the others; alone it refuses nothing
		default:
			admitted = false
		}
		m.answer(code)
	}
	if admitted {
		m.out.Items = m.out.Items[:header]
	}
	return admitted
}

// admit decodes a job item into m.job and says whether it may be enqueued; atomic: beside those pending.
func (m *Machine) admit(item []byte, atomic bool) Code {
	if !decodeJob(item, &m.job, &m.unique) {
		return CodeMalformed
	}
	if m.job.expiresAt != 0 && (m.job.expiresAt <= m.now || m.job.expiresAt <= m.job.runAt) {
		return CodeExpired
	}
	q := m.peek(m.job.queue)
	if q == nil {
		return CodeNoQueue
	}
	if q.settings.Closed {
		return CodeMoved
	}
	unique := m.job.flags&jobHasUnique != 0
	if unique {
		if m.findHolder() {
			return CodeExists
		}
		if _, claimed := m.claimed[m.unique.hash]; claimed && atomic {
			return CodeExists // by one before it
		}
	}
	depth := q.live
	if atomic {
		depth += m.pending[m.job.queue]
	}
	if depth >= q.settings.DepthMax {
		return CodeQueueFull
	}
	if unique && !m.roomForKey(atomic) {
		return CodeLimit
	}
	return CodeOK
}

// roomForKey reports whether one more key may be held; atomic: beside those that the command would take.
func (m *Machine) roomForKey(atomic bool) bool {
	n := len(m.keys)
	if atomic {
		n += len(m.claimed)
	}
	return n < m.keysMax
}

// applyJob enqueues one job at p.
func (m *Machine) applyJob(p Pos, item []byte) {
	code := m.admit(item, false)
	if code != CodeOK && code != CodeExists {
		m.answer(code)
		return
	}
	j := &m.job
	q := m.mutate(m.peek(j.queue))
	if code == CodeExists {
		q.totals.deduplicated++
		m.answerExisting(m.holder)
		return
	}
	q.totals.enqueued++
	size := largeBytes(item)
	if j.runAt <= m.now && j.flags&(jobOverrides|jobHasUnique) == 0 && size == 0 {
		m.count(q, StateUnknown, StateReady)
		m.enterReady(q, p, j.priority, true)
		m.answerJob(CodeOK, StateReady, p)
		return
	}
	rec := record{queue: q.id, priority: j.priority}
	if j.flags&jobHasUnique != 0 {
		rec.flags = flagUnique
		m.claimKey(p)
	}
	if j.flags&jobOverrides != 0 || size != 0 {
		rec.flags |= flagExtra
		m.putExtra(p, extra{
			maxAttempts: j.maxAttempts, timeoutMillis: j.timeoutMillis, expiresAt: j.expiresAt, retry: j.retry, bytes: size,
		})
	}
	to := StateReady
	if j.runAt > m.now {
		to = StateScheduled
	}
	m.wait(q, p, &rec, to, j.runAt, true)
	m.answerJob(CodeOK, rec.state, p)
}

// largeBytes is what is kept of a job's size: nothing, when it is small.
func largeBytes(item []byte) uint32 {
	if len(item) <= SmallJobBytes {
		return 0
	}
	return uint32(len(item))
}

func (m *Machine) applyConfigure(r *reader) {
	c, ok := r.configure()
	if !ok || c.settings.Validate() != nil {
		m.answer(CodeMalformed)
		return
	}
	q := m.peek(c.queue)
	if q == nil {
		if m.queues.Len() >= QueuesMax {
			m.answer(CodeLimit)
			return
		}
		q = &queueState{id: c.queue, epoch: m.epoch}
		m.queues.Set(c.queue, q)
		m.byID[c.queue] = q
	} else if c.version <= q.version {
		m.answer(CodeOK)
		return
	}
	q = m.mutate(q)
	q.version, q.settings = c.version, c.settings.WithDefaults()
	q.becameReady = true // a queue that is no longer paused offers its jobs
	m.trimEnded(q, endedSlack)
	m.answer(CodeOK)
}
