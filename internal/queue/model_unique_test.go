package queue

// What the model does with unique keys.

type modelKey struct {
	queue            QueueID
	ordering, unique string
}

// modelHold says who holds a key, and by what: the job, its window, or both.
type modelHold struct {
	pos   Pos
	byJob bool
	until Millis // the end of the window; 0: none
}

func keyOf(s *Spec) modelKey { return modelKey{s.Queue, s.OrderingKey, s.UniqueKey} }

// holder finds the job that holds a spec's key.
func (m *model) holder(s *Spec, hint JobID) (JobID, bool) {
	if s.UniqueKey == "" {
		return JobID{}, false
	}
	if h := m.keys[keyOf(s)]; h != nil {
		return JobID{Shard: modelShard, Pos: h.pos}, true
	}
	return hint, hint != JobID{}
}

// take gives a job its key.
func (m *model) take(j *modelJob, until Millis) {
	if j.own.UniqueKey == "" {
		return
	}
	h := m.keys[keyOf(&j.own)]
	if h == nil {
		h = &modelHold{pos: j.info.Pos, until: until}
		m.keys[keyOf(&j.own)] = h
	}
	h.byJob = true
}

// give takes a job's key from it, and reports whether the job held it.
func (m *model) give(j *modelJob) bool {
	h := m.keys[keyOf(&j.own)]
	if j.own.UniqueKey == "" || h == nil || h.pos != j.info.Pos || !h.byJob {
		return false
	}
	if h.byJob = false; h.until == 0 {
		delete(m.keys, keyOf(&j.own))
	}
	return true
}

// started is what a lease does to a job's key.
func (m *model) started(j *modelJob) {
	if j.own.UniqueUntil == UniqueUntilStarted && m.give(j) {
		j.released = j.info.Token
	}
}

// unstarted is what it does when a lease is taken back.
func (m *model) unstarted(j *modelJob) {
	if j.own.UniqueKey != "" && j.released == j.info.Token && m.mayTake(j) == CodeOK {
		m.take(j, 0)
	}
}

// mayTake says whether a job may hold its key again.
func (m *model) mayTake(j *modelJob) Code {
	switch h := m.keys[keyOf(&j.own)]; {
	case m.queues[j.info.Queue].info.Settings.Closed:
		return CodeKeyElsewhere
	case h != nil && h.pos != j.info.Pos:
		return CodeKeyHeld
	}
	return CodeOK
}

// passWindows ends the windows that are over.
func (m *model) passWindows() {
	for k, h := range m.keys {
		if h.until == 0 || h.until > m.now {
			continue
		}
		if h.until = 0; !h.byJob {
			delete(m.keys, k)
		}
	}
}

// unique counts a queue's keys.
func (m *model) unique(id QueueID) (n uint64) {
	for k := range m.keys {
		if k.queue == id {
			n++
		}
	}
	return n
}

// existing answers a job with the one that holds its key.
func (m *model) existing(holder JobID) {
	r := Result{Code: CodeExists, Shard: holder.Shard, Pos: holder.Pos}
	if j := m.jobs[holder.Pos]; j != nil && holder.Shard == modelShard && !j.plain() {
		r.State = j.info.State
	}
	m.out.Items = append(m.out.Items, r)
}
