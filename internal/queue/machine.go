package queue

import (
	"github.com/tidwall/btree"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// Machine is the state of one shard. It must be used by one goroutine at a time.
//
// What a snapshot must hold lies in copy-on-write trees and in queueStates that are cloned before the first write after
// a snapshot; all else is derived from it and rebuilt by Restore.
type Machine struct {
	shard   uint16
	applied uint64
	epoch   uint64 // grows with each snapshot: queueStates of older epochs are frozen

	// The state.
	now           Millis
	tokens        Token  // the last granted
	sessionSerial uint64 // the last given
	holdUntil     Millis // no deadline of a running job passes before
	queues        *btree.Map[QueueID, *queueState]
	records       *btree.Map[Pos, record]
	extras        *btree.Map[Pos, extra]
	errors        *btree.Map[Pos, errorList]
	sessions      *btree.Map[uint64, session] // by serial
	answers       *btree.Map[uint64, answer]  // by serial and sequence number modulo the window
	claims        *btree.Map[Pos, claim]

	// Derived from the state.
	sum         uint64 // the fingerprint
	clockHash   uint64 // what the clock and the counters add to sum
	byID        map[QueueID]*queueState
	last        *queueState // the one looked up last
	sessionByID map[SessionID]uint64
	keys        map[UniqueHash]Pos // the keys held, and by whom
	timers      *btree.BTreeG[timer]
	leases      leaseTable
	counts      [stateCount]uint64
	past        [VerifyWindow]pastFingerprint // at index modulo the window
	verified    Verification
	keysMax     int // UniqueKeysMax; a test lowers it

	// Of the Apply under way.
	out     *Results
	dirty   []*queueState
	pending map[QueueID]uint64 // jobs an atomic command would add
	job     jobItem
	unique  uniqueItem // of job, when it has one
	fetched [FetchQueuesMax]*queueState
	lost    []Pos
	claimed map[UniqueHash]struct{} // the keys that an atomic command would take
	holder  JobID                   // of the key of job
	hashed  []byte
}

type pastFingerprint struct{ index, sum uint64 }

const recordDegree = 32

// New returns the empty machine of a shard.
func New(shard uint16) *Machine {
	m := &Machine{
		shard:       shard,
		queues:      btree.NewMap[QueueID, *queueState](0),
		records:     btree.NewMap[Pos, record](recordDegree),
		extras:      btree.NewMap[Pos, extra](recordDegree),
		errors:      btree.NewMap[Pos, errorList](recordDegree),
		sessions:    btree.NewMap[uint64, session](recordDegree),
		answers:     btree.NewMap[uint64, answer](recordDegree),
		claims:      btree.NewMap[Pos, claim](recordDegree),
		byID:        make(map[QueueID]*queueState),
		sessionByID: make(map[SessionID]uint64),
		timers:      newTimers(),
		leases:      newLeaseTable(),
		pending:     make(map[QueueID]uint64),
		keys:        make(map[UniqueHash]Pos),
		claimed:     make(map[UniqueHash]struct{}),
		keysMax:     UniqueKeysMax,
	}
	m.clockHash = m.hashClock()
	m.sum = m.clockHash
	return m
}

// Apply applies the items of one committed entry at the entry's stamp and writes what came of it into out. Indexes must
// grow. Due timers fire first, at the entry's stamp. No item, whatever its bytes, makes Apply fail.
func (m *Machine) Apply(index uint64, now Millis, items [][]byte, out *Results) {
	invariant.Check(index > m.applied && index <= indexMax, "entry %d applied after %d", index, m.applied)
	out.Items, out.Leases, out.Events = out.Items[:0], out.Leases[:0], out.Events[:0]
	m.out = out
	m.now = max(m.now, min(now, millisMax))
	m.applyHold(items)
	m.fireTimers()
	for i := 0; i < len(items); {
		if i >= ItemsPerEntryMax {
			m.refuse(len(items)-i, CodeMalformed)
			break
		}
		i += m.applyItem(index, i, items)
	}
	m.finishApply(index)
	invariant.Check(len(out.Items) == len(items), "%d results for %d items", len(out.Items), len(items))
	m.out = nil
}

// finishApply settles what is kept per Apply: the fingerprint, and which queues got ready jobs.
func (m *Machine) finishApply(index uint64) {
	for i, q := range m.dirty {
		h := q.fingerprint()
		m.sum += h - q.hash
		q.hash = h
		if q.becameReady && q.counts[StateReady] > 0 && !q.settings.Paused {
			m.out.Events = append(m.out.Events, Event{Kind: EventReady, Queue: q.id})
		}
		q.dirty, q.becameReady = false, false
		m.dirty[i] = nil
	}
	m.dirty = m.dirty[:0]
	h := m.hashClock()
	m.sum += h - m.clockHash
	m.clockHash = h
	m.applied = index
	m.past[index%VerifyWindow] = pastFingerprint{index, m.sum}
}

func (m *Machine) hashClock() uint64 {
	return finish(step(step(step(step(hashSeedClock, uint64(m.now)), uint64(m.tokens)), m.sessionSerial), uint64(m.holdUntil)))
}

// applyItem applies the item at i, or the enqueue command that starts there, and returns how many items that took.
func (m *Machine) applyItem(index uint64, i int, items [][]byte) int {
	item := items[i]
	if len(item) < itemHeaderBytes || item[1] != itemVersion {
		m.refuse(1, CodeMalformed)
		return 1
	}
	pos := MakePos(index, i)
	r := reader{b: item[itemHeaderBytes:]}
	switch itemType(item[0]) {
	case itemEnqueue:
		return m.applyEnqueue(index, i, items)
	case itemJob:
		m.applyJob(pos, item)
	case itemFetch:
		m.applyFetch(&r)
	case itemAck, itemFail, itemRelease, itemExtend, itemProgress, itemDamaged, itemTakeBack:
		m.applyToLease(itemType(item[0]), pos, &r)
	case itemConfigure:
		m.applyConfigure(&r)
	case itemCancel:
		m.applyCancel(&r)
	case itemRetryDead, itemDiscardDead:
		m.applyToDead(itemType(item[0]), &r)
	case itemWorkerLost, itemWorkerGone:
		m.applyWorker(itemType(item[0]) == itemWorkerLost, &r)
	case itemTick:
		m.answer(codeIf(r.done(), CodeOK))
	case itemVerify:
		m.applyVerify(&r)
	case itemHold:
		_, ok := r.hold()
		m.answer(codeIf(ok && i == 0, CodeOK)) // what it does was done before the timers fired
	default:
		m.refuse(1, CodeMalformed)
	}
	return 1
}

func codeIf(wellFormed bool, code Code) Code {
	if !wellFormed {
		return CodeMalformed
	}
	return code
}

func (m *Machine) answer(code Code) { m.out.Items = append(m.out.Items, Result{Code: code}) }

func (m *Machine) answerJob(code Code, st State, p Pos) {
	m.out.Items = append(m.out.Items, Result{Code: code, State: st, Pos: p})
}

func (m *Machine) refuse(items int, code Code) {
	for range items {
		m.answer(code)
	}
}

func (m *Machine) event(kind EventKind, q QueueID, w WorkerID, p Pos, t Token) {
	m.out.Events = append(m.out.Events, Event{Kind: kind, Queue: q, Worker: w, Pos: p, Token: t})
}

// peek returns a queue for reading, or nil.
func (m *Machine) peek(id QueueID) *queueState {
	if m.last != nil && m.last.id == id {
		return m.last
	}
	q := m.byID[id]
	if q != nil {
		m.last = q
	}
	return q
}

// mutable returns a queue that exists, for writing during this Apply.
func (m *Machine) mutable(id QueueID) *queueState {
	q := m.peek(id)
	invariant.Check(q != nil, "queue %d is gone", id)
	return m.mutate(q)
}

func (m *Machine) mutate(q *queueState) *queueState {
	if q.dirty {
		return q // written before in this Apply
	}
	if q.epoch != m.epoch {
		q = q.clone(m.epoch)
		m.queues.Set(q.id, q)
		m.byID[q.id] = q
		m.last = q
	}
	q.dirty = true
	m.dirty = append(m.dirty, q)
	return q
}

// count moves one job between states in the counters; StateUnknown is no state.
func (m *Machine) count(q *queueState, from, to State) {
	if from != StateUnknown {
		invariant.Check(q.counts[from] > 0, "queue %d has no job in state %d", q.id, from)
		q.counts[from]--
		m.counts[from]--
		if !from.ended() {
			q.live--
		}
	}
	if to != StateUnknown {
		q.counts[to]++
		m.counts[to]++
		if !to.ended() {
			q.live++
		}
	}
}

func (m *Machine) putRecord(p Pos, r *record) {
	if prev, replaced := m.records.Set(p, *r); replaced {
		m.sum -= prev.hash(p)
	}
	m.sum += r.hash(p)
}

func (m *Machine) dropRecord(p Pos) {
	if prev, ok := m.records.Delete(p); ok {
		m.sum -= prev.hash(p)
	}
}

func (m *Machine) putExtra(p Pos, e extra) {
	if prev, replaced := m.extras.Set(p, e); replaced {
		m.sum -= prev.hash(p)
	}
	m.sum += e.hash(p)
}

func (m *Machine) dropExtra(p Pos, r *record) {
	if !r.has(flagExtra) {
		return
	}
	if prev, ok := m.extras.Delete(p); ok {
		m.sum -= prev.hash(p)
	}
	r.flags &^= flagExtra
}

// extraOf returns a job's own settings; the zero extra when it has none.
func (m *Machine) extraOf(p Pos, r *record) extra {
	if !r.has(flagExtra) {
		return extra{}
	}
	e, _ := m.extras.Get(p)
	return e
}

func (m *Machine) addError(p Pos, r *record, at Pos) {
	list, had := m.errors.Get(p)
	if had {
		m.sum -= list.hash(p)
	}
	list.add(at)
	m.errors.Set(p, list)
	m.sum += list.hash(p)
	r.flags |= flagErrors
}

func (m *Machine) applyVerify(r *reader) {
	index := r.uvarint()
	sum := r.u64()
	code := codeIf(r.done(), CodeOK)
	past := m.past[index%VerifyWindow]
	if code == CodeOK && past.index == index && index != 0 {
		m.verified = Verification{Index: index, Logged: sum, Own: past.sum}
	}
	if code == CodeOK && past.index == index && index != 0 && past.sum != sum {
		code = CodeWrongState
		m.event(EventDiverged, 0, 0, MakePos(index&indexMax, 0), 0)
	}
	m.answer(code)
}

// Verification is a fingerprint of the log, beside the machine's own.
type Verification struct {
	Index       uint64 // after which entry
	Logged, Own uint64
}

// Verified is what the last AppendVerify compared that was applied and could be; the zero Verification when there was none. It
// is no part of the state.
func (m *Machine) Verified() Verification { return m.verified }

// Now is the shard's clock: the greatest stamp applied.
func (m *Machine) Now() Millis { return m.now }

// Applied is the index of the last entry applied.
func (m *Machine) Applied() uint64 { return m.applied }

// Fingerprint is the running hash of the state, as it was when the last Apply returned.
func (m *Machine) Fingerprint() uint64 { return m.sum }
