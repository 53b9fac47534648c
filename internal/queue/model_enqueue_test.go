package queue

import "slices"

// What the model does with new jobs.

func (m *model) admit(s *Spec, hint JobID, pending map[QueueID]uint64, claimed map[modelKey]bool) Code {
	q := m.queues[s.Queue]
	switch {
	case s.ExpiresAt != 0 && (s.ExpiresAt <= m.now || s.ExpiresAt <= s.RunAt):
		return CodeExpired
	case q == nil:
		return CodeNoQueue
	case q.info.Settings.Closed:
		return CodeMoved
	}
	if _, held := m.holder(s, hint); held || claimed[keyOf(s)] {
		return CodeExists
	}
	depth := pending[s.Queue]
	for st, n := range q.info.ByState {
		if !State(st).ended() {
			depth += n
		}
	}
	if depth >= q.info.Settings.DepthMax {
		return CodeQueueFull
	}
	return CodeOK
}

func (m *model) enqueue(index uint64, c *command) {
	remember := func([]Result) {}
	if c.header && c.session != (SessionID{}) {
		s := m.sessions[c.session]
		if s == nil {
			s = &modelSession{high: c.seq, answers: map[uint64][]Result{}, shapes: map[uint64]uint32{}}
			m.sessions[c.session] = s
		}
		if c.seq+SessionWindow <= s.high {
			m.result(CodeSessionTooOld, 0, 0)
			for range c.jobs {
				m.result(CodeSessionTooOld, 0, 0)
			}
			return
		}
		known, ok := s.answers[c.seq]
		if was := s.shapes[c.seq]; ok && (len(known) != len(c.jobs) || was != 0 && c.shape != 0 && was != c.shape) {
			for range 1 + len(c.jobs) {
				m.result(CodeRepeatDiffers, 0, 0)
			}
			return
		}
		s.lastUsed = m.now
		s.high = max(s.high, c.seq)
		if ok {
			m.repeat(c, known)
			return
		}
		remember = func(r []Result) { s.answers[c.seq], s.shapes[c.seq] = slices.Clone(r), c.shape }
	}
	if c.header {
		m.result(CodeOK, 0, 0)
	}
	from := len(m.out.Items)
	if c.header && c.atomic && !m.admitAll(c, from) {
		remember(m.out.Items[from:])
		return
	}
	for i := range c.jobs {
		m.enqueueOne(MakePos(index, len(m.out.Items)), &c.jobs[i], c.hint(i))
	}
	remember(m.out.Items[from:])
}

func (m *model) admitAll(c *command, from int) bool {
	pending, claimed := map[QueueID]uint64{}, map[modelKey]bool{}
	admitted := true
	var codes []Code
	for i := range c.jobs {
		code := m.admit(&c.jobs[i], c.hint(i), pending, claimed)
		switch code {
		case CodeOK:
			pending[c.jobs[i].Queue]++
			if c.jobs[i].UniqueKey != "" {
				claimed[keyOf(&c.jobs[i])] = true
			}
			code = CodeAborted
		case CodeExists:
			code = CodeAborted
		default:
			admitted = false
		}
		codes = append(codes, code)
	}
	if admitted {
		return true
	}
	m.out.Items[from-1].Code = CodeAborted
	for _, code := range codes {
		m.result(code, 0, 0)
	}
	return false
}

func (m *model) repeat(c *command, known []Result) {
	m.result(CodeDuplicate, 0, 0)
	for i := range c.jobs {
		switch {
		case known[i].Code == CodeExists:
			m.existing(JobID{Shard: known[i].Shard, Pos: known[i].Pos})
		case known[i].Code != CodeOK:
			m.result(known[i].Code, 0, 0)
		default:
			var st State
			s := &c.jobs[i] // a repeat that is none, with other jobs, does not find a plainly ready one
			if j := m.jobs[known[i].Pos]; j != nil && (!j.plain() || s.Queue == j.info.Queue && s.Priority == j.info.Priority) {
				st = j.info.State
			}
			m.result(CodeDuplicate, st, known[i].Pos)
		}
	}
}

func (m *model) enqueueOne(p Pos, s *Spec, hint JobID) {
	switch code := m.admit(s, hint, nil, nil); code {
	case CodeOK:
	case CodeExists:
		holder, _ := m.holder(s, hint)
		m.queues[s.Queue].info.Deduplicated++
		m.existing(holder)
		return
	default:
		m.result(code, 0, 0)
		return
	}
	j := &modelJob{info: JobInfo{Pos: p, Queue: s.Queue, Priority: s.Priority}, expiresAt: s.ExpiresAt, own: *s, bytes: len(AppendJob(nil, s))}
	m.jobs[p] = j
	m.queues[s.Queue].info.Enqueued++
	until := Millis(0)
	if s.UniqueForMillis > 0 {
		until = m.now + Millis(s.UniqueForMillis)
	}
	m.take(j, until)
	if s.RunAt > m.now {
		m.wait(j, StateScheduled, s.RunAt)
	} else {
		m.wait(j, StateReady, 0)
	}
	m.result(CodeOK, j.info.State, p)
}
