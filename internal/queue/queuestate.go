package queue

// queueState is one queue. Once frozen by a snapshot (its epoch is not the machine's) it is never written again: see
// Machine.mutable.
type queueState struct {
	id           QueueID
	epoch        uint64
	version      uint64
	settings     Settings // with defaults
	counts       [stateCount]uint64
	live         uint64 // jobs not ended
	readyRecords uint64 // ready jobs that have a record; derived
	unique       uint64 // unique keys held; derived
	totals       queueTotals
	ready        [PriorityCount]*runSet
	nonEmpty     uint16 // bit p: ready[p] has members; derived
	ended        posFIFO
	hash         uint64 // what the queue adds to the fingerprint now
	dirty        bool   // hash is to be renewed when the Apply ends
	becameReady  bool   // in this Apply
	answered     Millis // see Machine.Answered; no part of the state
}

// queueTotals count since the queue was made.
type queueTotals struct {
	enqueued, completed, failed, crashed, died, cancelled, expired, retried, discarded uint64
	deduplicated                                                                       uint64
}

// words are the totals but deduplicated, which came later: a queue that has none of that is as it was.
func (t *queueTotals) words() [9]*uint64 {
	return [9]*uint64{
		&t.enqueued, &t.completed, &t.failed, &t.crashed, &t.died, &t.cancelled, &t.expired, &t.retried, &t.discarded,
	}
}

func (q *queueState) clone(epoch uint64) *queueState {
	c := *q
	c.epoch = epoch
	c.ended = q.ended.clone()
	for i, s := range q.ready {
		if s != nil {
			c.ready[i] = s.clone()
		}
	}
	return &c
}

func (q *queueState) fingerprint() uint64 {
	s := &q.settings
	h := step(step(hashSeedQueue, uint64(q.id)), q.version)
	h = step(step(h, uint64(s.MaxAttempts)), uint64(s.TimeoutMillis))
	h = step(step(h, uint64(s.PoisonLimit)<<32|uint64(s.KeepEnded)), s.DepthMax)
	h = hashRetry(step(h, uint64(s.flags())), &s.Retry)
	for _, n := range q.counts {
		h = step(h, n)
	}
	for _, n := range q.totals.words() {
		h = step(h, *n)
	}
	h = step(step(h, q.ended.first), q.ended.next)
	if q.totals.deduplicated > 0 {
		h = step(h^hashSeedClaim, q.totals.deduplicated)
	}
	return finish(h)
}

// firstReady is the oldest ready job of any priority.
func (q *queueState) firstReady() Pos {
	var oldest Pos
	for _, s := range q.ready {
		if s == nil {
			continue
		}
		if p, ok := s.first(); ok && (oldest == 0 || p < oldest) {
			oldest = p
		}
	}
	return oldest
}

func (q *queueState) info() QueueInfo {
	t := &q.totals
	return QueueInfo{
		Queue: q.id, Settings: q.settings, Version: q.version, ByState: q.counts,
		Enqueued: t.enqueued, Completed: t.completed, Failed: t.failed, Crashed: t.crashed, Died: t.died,
		Cancelled: t.cancelled, Expired: t.expired, Retried: t.retried, Discarded: t.discarded,
		Deduplicated: t.deduplicated, Unique: q.unique, OldestReady: q.firstReady(),
	}
}
