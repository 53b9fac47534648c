package queue

// Answered is when a queue last answered for jobs of a session's request while it took jobs, by the shard's clock; 0: it never did. A queue
// that is closed and has not answered for longer than clients repeat has nothing that anybody could repeat.
//
// It is no part of the state. After a Restore it may be later than it was, and is never earlier: an image does not tell it.
func (m *Machine) Answered(id QueueID) Millis {
	if q := m.byID[id]; q != nil {
		return q.answered
	}
	return 0
}

// noteAnswered notes that a session's request was answered, whose jobs these are.
func (m *Machine) noteAnswered(items [][]byte) {
	last := QueueID(0)
	for _, item := range items {
		id, _, err := SpecQueue(item)
		if err != nil || id == last {
			continue
		}
		last = id
		if q := m.peek(id); q != nil && !q.settings.Closed && q.answered != m.now {
			m.mutate(q).answered = m.now
		}
	}
}

// assumeAnswered is for a machine that an image tells of sessions, but not with which queues' jobs they came.
func (m *Machine) assumeAnswered() {
	if m.sessions.Len() == 0 {
		return
	}
	for _, q := range m.byID {
		q.answered = m.now
	}
}
