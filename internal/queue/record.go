package queue

// A record is what the machine holds of a job that is not plainly ready. It has no pointer and a fixed size.
type record struct {
	queue       QueueID
	slot        uint32 // of the lease in the slab; derived, no part of the state
	attempt     uint32
	failures    uint16
	crashes     uint16
	state       State
	priority    uint8
	flags       recordFlags
	reason      DeadReason
	percent     uint8
	token       Token
	worker      WorkerID
	at          Millis // scheduled, backoff: gets ready; running: deadline or 0; dead, ended: since when
	startedAt   Millis
	resultPos   Pos
	progressPos Pos
}

type recordFlags uint8

const (
	flagCancel recordFlags = 1 << iota // cancellation was asked for
	flagExtra                          // an extra exists
	flagErrors                         // an errorList exists
	flagUnique                         // a claim exists
	flagsAll   = 1<<iota - 1
)

func (r *record) has(f recordFlags) bool { return r.flags&f != 0 }

// plain reports whether the ready set alone says all there is to say of the job, once ready.
func (r *record) plain() bool { return r.attempt == 0 && r.flags == 0 }

// ended reports whether the job is over and only kept for reading.
func (s State) ended() bool { return s >= StateCompleted && s < stateCount }

// waiting reports whether a job in the state waits for its time or a worker, and may expire.
func (s State) waiting() bool { return s == StateScheduled || s == StateReady || s == StateBackoff }

func (r *record) hash(p Pos) uint64 {
	word1 := uint64(r.queue)<<32 | uint64(r.attempt)
	word2 := uint64(r.failures)<<48 | uint64(r.crashes)<<32 | uint64(r.percent)<<24 |
		uint64(r.reason)<<16 | uint64(r.flags)<<8 | uint64(r.state)<<4 | uint64(r.priority)
	// The products do not wait for each other.
	h := mix(uint64(p)^hashSeedRecord, word1^hashSeedExtra) +
		mix(word2^hashSeedErrors, uint64(r.token)^hashSeedQueue) +
		mix(uint64(r.worker)^hashSeedSession, uint64(r.at)^hashSeedAnswer) +
		mix(uint64(r.startedAt)^hashSeedClock, uint64(r.resultPos)^hashSeedEnded)
	return finish(step(step(h, uint64(r.progressPos)), uint64(p)))
}

// readyHash is what a member of a ready set adds to the fingerprint.
func readyHash(p Pos, q QueueID, priority uint8) uint64 {
	return hash3(hashSeedReady, uint64(p), uint64(q)<<8|uint64(priority))
}

// An extra holds what a job sets for itself, apart from its queue, and the size of a large one. Its list is never changed.
type extra struct {
	maxAttempts   uint32 // 0: the queue's
	timeoutMillis int64  // -1: none; 0: the queue's
	expiresAt     Millis
	retry         Retry  // Kind RetryDefault: the queue's
	bytes         uint32 // of the job's item, when over SmallJobBytes; else 0
}

func (e *extra) hash(p Pos) uint64 {
	h := step(step(hashSeedExtra, uint64(p)), uint64(e.maxAttempts))
	h = step(step(h, uint64(e.timeoutMillis)), uint64(e.expiresAt))
	h = step(h, uint64(e.bytes))
	return finish(hashRetry(h, &e.retry))
}

func hashRetry(h uint64, r *Retry) uint64 {
	h = step(h, uint64(r.Kind)<<8|uint64(r.JitterPercent))
	h = step(step(h, uint64(r.BaseMillis)), uint64(r.MaxMillis))
	h = step(h, uint64(len(r.List)))
	for _, d := range r.List {
		h = step(h, uint64(d))
	}
	return h
}

// An errorList names the last failures of a job in the log, oldest first; 0 is an attempt that timed out.
type errorList struct {
	count uint8
	pos   [ErrorsKeptMax]Pos
}

func (l *errorList) add(p Pos) {
	if l.count == ErrorsKeptMax {
		copy(l.pos[:], l.pos[1:])
		l.count--
	}
	l.pos[l.count] = p
	l.count++
}

func (l *errorList) hash(p Pos) uint64 {
	h := step(step(hashSeedErrors, uint64(p)), uint64(l.count))
	for _, e := range l.pos[:l.count] {
		h = step(h, uint64(e))
	}
	return finish(h)
}
