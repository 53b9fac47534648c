package queue

// Cursor is where a List goes on. The zero value is the start, and the end.
type Cursor struct {
	Priority uint8
	Pos      Pos // the last one visited
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
	Workers  int // workers that hold leases
}

// ReadyCount is how many jobs of a queue a fetch could get now: 0 when the queue is paused or unknown.
func (m *Machine) ReadyCount(q QueueID) uint64 { return 0 }

// Job returns a job. q and priority are those of its spec: they find a ready job that has no record.
func (m *Machine) Job(p Pos, q QueueID, priority uint8) (JobInfo, bool) { return JobInfo{}, false }

// List returns a page of a queue's jobs in a state. The listing goes on at the cursor returned until that is zero; a
// page may be short, even empty, before the end.
func (m *Machine) List(q QueueID, st State, after Cursor, limit int) ([]JobInfo, Cursor) {
	return nil, Cursor{}
}

// Queue returns a queue's counters.
func (m *Machine) Queue(q QueueID) (QueueInfo, bool) { return QueueInfo{}, false }

// Queues returns the counters of all queues, by id.
func (m *Machine) Queues() []QueueInfo { return nil }

// WorkerLeases returns what a worker holds, by age of the job.
func (m *Machine) WorkerLeases(w WorkerID) []Lease { return nil }

// Workers returns the registered workers that hold leases, by id.
func (m *Machine) Workers() []WorkerCount { return nil }

// Holds reports whether the lease is live and the worker's.
func (m *Machine) Holds(w WorkerID, p Pos, t Token) bool { return false }

// Totals returns the shard's counts.
func (m *Machine) Totals() Totals { return Totals{} }
