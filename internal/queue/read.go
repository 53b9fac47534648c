package queue

import "slices"

// Cursor is where a List goes on. The zero value is the start, and the end.
type Cursor struct {
	Priority uint8
	Pos      Pos // the last one looked at
}

// WorkerCount is how many leases a worker holds.
type WorkerCount struct {
	Worker  WorkerID
	Running int
}

// Totals are counts over the whole shard.
type Totals struct {
	ByState  [stateCount]uint64 // jobs in each state; ended states: those kept
	Queues   int
	Sessions int
	Leases   int
	Timers   int
	Workers  int // registered workers that hold leases
}

// Live is how many jobs have not ended.
func (t *Totals) Live() uint64 {
	live := uint64(0)
	for st, n := range t.ByState {
		if !State(st).ended() {
			live += n
		}
	}
	return live
}

// Live is how many of the queue's jobs have not ended.
func (i *QueueInfo) Live() uint64 {
	t := Totals{ByState: i.ByState}
	return t.Live()
}

// Add adds what another shard counts of the same queue. Settings and version stay, and so does the oldest ready job, if there is one.
func (i *QueueInfo) Add(o *QueueInfo) {
	for st, n := range o.ByState {
		i.ByState[st] += n
	}
	i.Enqueued, i.Completed, i.Failed = i.Enqueued+o.Enqueued, i.Completed+o.Completed, i.Failed+o.Failed
	i.Crashed, i.Died, i.Cancelled = i.Crashed+o.Crashed, i.Died+o.Died, i.Cancelled+o.Cancelled
	i.Expired, i.Retried, i.Discarded = i.Expired+o.Expired, i.Retried+o.Retried, i.Discarded+o.Discarded
	i.Deduplicated, i.Unique = i.Deduplicated+o.Deduplicated, i.Unique+o.Unique
	if i.OldestReady == 0 {
		i.OldestReady = o.OldestReady
	}
}

// ReadyCount is how many jobs of a queue a fetch could get now: 0 when the queue is paused or unknown.
func (m *Machine) ReadyCount(q QueueID) uint64 {
	s := m.byID[q]
	if s == nil || s.settings.Paused {
		return 0
	}
	return s.counts[StateReady]
}

// Job returns a job. q and priority are those of its spec: they find a ready job that has no record.
func (m *Machine) Job(p Pos, q QueueID, priority uint8) (JobInfo, bool) {
	if rec, ok := m.records.Get(p); ok {
		return m.info(p, &rec), true
	}
	s := m.byID[q]
	if s == nil || priority >= PriorityCount || s.ready[priority] == nil || !s.ready[priority].contains(p) {
		return JobInfo{}, false
	}
	return JobInfo{Pos: p, Queue: q, State: StateReady, Priority: priority}, true
}

func (m *Machine) info(p Pos, r *record) JobInfo {
	info := JobInfo{
		Pos: p, Queue: r.queue, State: r.state, Priority: r.priority, CancelRequested: r.has(flagCancel),
		Attempt: r.attempt, Failures: uint32(r.failures), Crashes: uint32(r.crashes),
		Worker: r.worker, Token: r.token, StartedAt: r.startedAt,
		ProgressPercent: r.percent, ProgressPos: r.progressPos, ResultPos: r.resultPos, DeadReason: r.reason,
	}
	switch r.state {
	case StateScheduled, StateBackoff:
		info.RunAt = r.at
	case StateRunning:
		info.Deadline = r.at
	case StateDead, StateCompleted, StateCancelled, StateExpired, StateDiscarded:
		info.EndedAt = r.at
	case StateUnknown, StateReady:
	}
	if r.has(flagErrors) {
		list, _ := m.errors.Get(p)
		info.ErrorPos = slices.Clone(list.pos[:list.count])
	}
	return info
}

// List returns at most limit of a queue's jobs in a state: ready ones by priority and age, others by age. The listing
// goes on at the cursor returned until that is zero. A page may be short, even empty, before the end: one call looks at
// no more than ListScanMax records.
func (m *Machine) List(q QueueID, st State, after Cursor, limit int) ([]JobInfo, Cursor) {
	s := m.byID[q]
	limit = min(limit, ListMax)
	if s == nil || limit <= 0 || st == StateUnknown || st >= stateCount || after.Priority >= PriorityCount {
		return nil, Cursor{}
	}
	if st == StateReady {
		return m.listReady(s, after, limit)
	}
	if s.counts[st] == 0 {
		return nil, Cursor{}
	}
	var (
		page    []JobInfo
		next    Cursor
		scanned int
	)
	m.records.Ascend(after.Pos+1, func(p Pos, rec record) bool {
		if len(page) == limit || scanned == ListScanMax {
			return false
		}
		scanned++
		next.Pos = p
		if rec.queue == q && rec.state == st {
			page = append(page, m.info(p, &rec))
		}
		return true
	})
	if last, _, ok := m.records.Max(); !ok || next.Pos == last {
		next = Cursor{}
	}
	return page, next
}

func (m *Machine) listReady(s *queueState, after Cursor, limit int) ([]JobInfo, Cursor) {
	var page []JobInfo
	from := after.Pos + 1
	for priority := after.Priority; priority < PriorityCount; priority++ {
		full := false
		if s.ready[priority] != nil {
			s.ready[priority].runs(from, func(r run) bool {
				for p := r.start; p < r.end(); p++ {
					if len(page) == limit {
						full = true
						return false
					}
					info, _ := m.Job(p, s.id, priority)
					page = append(page, info)
				}
				return true
			})
		}
		if full {
			last := &page[len(page)-1]
			return page, Cursor{Priority: last.Priority, Pos: last.Pos}
		}
		from = 0
	}
	return page, Cursor{}
}

// Queue returns a queue's counters.
func (m *Machine) Queue(q QueueID) (QueueInfo, bool) {
	s := m.byID[q]
	if s == nil {
		return QueueInfo{}, false
	}
	return s.info(), true
}

// Queues returns the counters of all queues, by id.
func (m *Machine) Queues() []QueueInfo {
	infos := make([]QueueInfo, 0, m.queues.Len())
	m.queues.Scan(func(_ QueueID, q *queueState) bool {
		infos = append(infos, q.info())
		return true
	})
	return infos
}

// WorkerLeases returns what a registered worker holds, by age of the job.
func (m *Machine) WorkerLeases(w WorkerID) []Lease {
	held := m.leases.appendPositions(nil, w)
	leases := make([]Lease, 0, len(held))
	for _, p := range held {
		r, _ := m.records.Get(p)
		leases = append(leases, Lease{
			Pos: p, Token: r.token, Queue: r.queue, Attempt: r.attempt, Failures: uint32(r.failures),
			Crashes: uint32(r.crashes), Priority: r.priority, Deadline: r.at,
		})
	}
	return leases
}

// Workers returns the registered workers that hold leases, by id.
func (m *Machine) Workers() []WorkerCount {
	counts := make([]WorkerCount, 0, len(m.leases.workers))
	for w, l := range m.leases.workers {
		counts = append(counts, WorkerCount{Worker: w, Running: l.count})
	}
	slices.SortFunc(counts, func(a, b WorkerCount) int {
		if a.Worker < b.Worker {
			return -1
		}
		return 1
	})
	return counts
}

// Holds reports whether the lease is live and the worker's.
func (m *Machine) Holds(w WorkerID, p Pos, t Token) bool {
	r, ok := m.records.Get(p)
	return ok && r.state == StateRunning && r.worker == w && r.token == t
}

// Totals returns the shard's counts.
func (m *Machine) Totals() Totals {
	return Totals{
		ByState: m.counts, Queues: m.queues.Len(), Sessions: m.sessions.Len(),
		Leases: int(m.counts[StateRunning]), Timers: m.timers.Len(), Workers: len(m.leases.workers),
	}
}
