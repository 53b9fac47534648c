package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrImage is what every error of Restore about the image's content wraps.
var ErrImage = errors.New("damaged image")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrImage, fmt.Sprintf(format, args...))
}

// Restore reads what WriteTo wrote and rebuilds the machine. The fingerprint of what was read is compared with the
// image's, and every invariant is checked. Whatever the bytes, it returns an error rather than a wrong machine.
func Restore(shard uint16, r io.Reader) (*Machine, error) {
	return restore(shard, r, RestoreJobsMax)
}

func restore(shard uint16, r io.Reader, jobsMax uint64) (*Machine, error) {
	l := &loader{m: New(shard), jobsLeft: jobsMax}
	if err := l.read(r); err != nil {
		return nil, err
	}
	l.m.rebuild()
	l.m.assumeAnswered()
	if err := l.m.check(false); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrImage, err)
	}
	l.m.past[l.m.applied%VerifyWindow] = pastFingerprint{l.m.applied, l.m.sum}
	return l.m, nil
}

type loader struct {
	m        *Machine
	jobsLeft uint64
	header   bool
}

func (l *loader) read(r io.Reader) error {
	var head [len(imageMagic) + 1]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return damaged("no header: %v", err)
	}
	if string(head[:len(imageMagic)]) != imageMagic {
		return damaged("not an image of a job machine")
	}
	if head[len(imageMagic)] != imageFormat {
		return damaged("format %d is not known to this version; use the version that wrote it", head[len(imageMagic)])
	}
	var body []byte
	for {
		var frame [sectionHeadBytes]byte
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return damaged("cut short: %v", err)
		}
		tag, size := frame[0], binary.LittleEndian.Uint32(frame[1:])
		if size > sectionBytesMax {
			return damaged("section %d of %d bytes", tag, size)
		}
		if cap(body) < int(size) {
			body = make([]byte, size)
		}
		body = body[:size]
		if _, err := io.ReadFull(r, body); err != nil {
			return damaged("section %d cut short: %v", tag, err)
		}
		if tag == sectionEnd {
			if !l.header || size != 0 {
				return damaged("bad end")
			}
			return nil
		}
		if err := l.section(tag, &reader{b: body}); err != nil {
			return err
		}
	}
}

func (l *loader) section(tag byte, r *reader) error {
	if l.header == (tag == sectionHeader) {
		return damaged("the header must come first, and once")
	}
	var load func(*reader) error
	switch tag {
	case sectionHeader:
		load = l.loadHeader
	case sectionQueues:
		load = l.loadQueues
	case sectionEnded:
		load = l.loadEnded
	case sectionReady:
		load = l.loadReady
	case sectionRecords:
		load = l.loadRecords
	case sectionExtras:
		load = l.loadExtras
	case sectionErrors:
		load = l.loadErrors
	case sectionSessions:
		load = l.loadSessions
	case sectionAnswers:
		load = l.loadAnswers
	case sectionClaims:
		load = l.loadClaims
	case sectionDeduplicated:
		load = l.loadDeduplicated
	case sectionHolders:
		load = l.loadHolders
	default:
		return damaged("section %d is not known to this version; use the version that wrote it", tag)
	}
	if err := load(r); err != nil {
		return err
	}
	if !r.done() {
		return damaged("section %d does not decode", tag)
	}
	return nil
}

func (l *loader) loadHeader(r *reader) error {
	shard := r.upTo(1<<16 - 1)
	l.m.applied = r.upTo(indexMax)
	l.m.now = r.millis()
	l.m.tokens = Token(r.uvarint())
	l.m.sessionSerial = r.upTo(1 << 57)
	l.m.holdUntil = Millis(r.upTo(2 * millisMax))
	l.m.sum = r.u64()
	l.m.clockHash = l.m.hashClock()
	l.header = true
	if shard != uint64(l.m.shard) {
		return damaged("image of shard %d, wanted shard %d", shard, l.m.shard)
	}
	return nil
}

func (l *loader) loadQueues(r *reader) error {
	for len(r.b) > 0 {
		q := &queueState{id: r.queueID(), version: r.uvarint()}
		q.settings = r.settings()
		for _, n := range q.totals.words() {
			*n = r.uvarint()
		}
		q.ended.first = r.upTo(1 << 62)
		q.ended.next = q.ended.first
		if last, _, ok := l.m.queues.Max(); r.bad || q.id == 0 || ok && q.id <= last {
			return damaged("queue %d", q.id)
		}
		if q.settings.Validate() != nil || l.m.queues.Len() >= QueuesMax {
			return damaged("settings of queue %d", q.id)
		}
		q.settings = q.settings.WithDefaults()
		l.m.queues.Set(q.id, q)
		l.m.byID[q.id] = q
	}
	return nil
}

func (l *loader) queue(r *reader) (*queueState, error) {
	id := r.queueID()
	q := l.m.byID[id]
	if q == nil {
		return nil, damaged("no queue %d", id)
	}
	return q, nil
}

func (l *loader) loadEnded(r *reader) error {
	q, err := l.queue(r)
	if err != nil {
		return err
	}
	var last int64
	for len(r.b) > 0 {
		last += r.varint()
		q.ended.push(Pos(last))
	}
	return nil
}

func (l *loader) loadReady(r *reader) error {
	q, err := l.queue(r)
	if err != nil {
		return err
	}
	priority := r.u8()
	if priority >= PriorityCount {
		return damaged("priority %d", priority)
	}
	s := q.ready[priority]
	if s == nil {
		s = &runSet{}
		q.ready[priority] = s
	}
	var index uint64
	for len(r.b) > 0 {
		repeat, delta := r.uvarint(), r.upTo(indexMax)
		ordinal, length := r.upTo(ItemsPerEntryMax-1), r.upTo(runCountMax)
		if repeat == 0 || length == 0 || r.bad {
			return damaged("empty run")
		}
		for range repeat {
			index += delta
			if length > l.jobsLeft || index > l.m.applied {
				return damaged("too many jobs")
			}
			l.jobsLeft -= length
			next := run{MakePos(index, int(ordinal)), uint32(length)}
			if s.tail.count > 0 && next.start < s.tail.end() || next.end() < next.start {
				return damaged("runs out of order")
			}
			if s.tail.count > 0 {
				s.keep(s.tail)
			}
			s.tail = next
			s.count += length
		}
	}
	return nil
}

func (l *loader) loadRecords(r *reader) error {
	var p Pos
	for len(r.b) > 0 {
		p += Pos(r.uvarint())
		rec := l.record(r, p)
		last, _, ok := l.m.records.Max()
		if r.bad || ok && p <= last || p.Index() > l.m.applied || l.jobsLeft == 0 {
			return damaged("record %d", p)
		}
		l.jobsLeft--
		if l.m.byID[rec.queue] == nil || rec.state == StateUnknown || rec.state >= stateCount ||
			rec.priority >= PriorityCount || rec.flags&^flagsAll != 0 || rec.reason > DeadDamaged {
			return damaged("fields of record %d", p)
		}
		l.m.records.Load(p, rec)
	}
	return nil
}

func (l *loader) record(r *reader, p Pos) record {
	rec := record{queue: r.queueID()}
	b := r.u8()
	rec.state, rec.priority = State(b>>4), b&15
	fields := uint16(r.u8()) | uint16(r.u8())<<8
	if fields&^fieldsAll != 0 {
		r.fail()
	}
	unsigned := func(field uint16, limit uint64) uint64 {
		if fields&field == 0 {
			return 0
		}
		return r.upTo(limit)
	}
	signed := func(field uint16, base int64) int64 {
		if fields&field == 0 {
			return 0
		}
		return base + r.varint()
	}
	rec.flags = recordFlags(unsigned(fieldFlags, 1<<8-1))
	rec.reason = DeadReason(unsigned(fieldReason, 1<<8-1))
	rec.percent = uint8(unsigned(fieldPercent, percentMax))
	rec.attempt = uint32(unsigned(fieldAttempt, 1<<32-1))
	rec.failures = uint16(unsigned(fieldFailures, 1<<16-1))
	rec.crashes = uint16(unsigned(fieldCrashes, 1<<16-1))
	rec.token = Token(unsigned(fieldToken, 1<<64-1))
	rec.worker = WorkerID(unsigned(fieldWorker, 1<<64-1))
	rec.at = Millis(signed(fieldAt, int64(l.m.now)))
	rec.startedAt = Millis(signed(fieldStartedAt, int64(l.m.now)))
	rec.resultPos = Pos(signed(fieldResultPos, int64(p)))
	rec.progressPos = Pos(signed(fieldProgressPos, int64(p)))
	if rec.at < 0 || rec.at > 2*millisMax || rec.startedAt < 0 || rec.startedAt > millisMax {
		r.fail()
	}
	return rec
}

func (l *loader) loadExtras(r *reader) error {
	var p Pos
	for len(r.b) > 0 {
		p += Pos(r.uvarint())
		e := extra{
			maxAttempts:   uint32(r.upTo(MaxAttemptsMax)),
			timeoutMillis: int64(r.upTo(DelayMillisMax+1)) - 1,
			expiresAt:     r.millis(),
			bytes:         uint32(r.upTo(CommandBytesMax)),
		}
		e.retry = r.retry(true)
		if last, _, ok := l.m.extras.Max(); r.bad || ok && p <= last || e.bytes != 0 && e.bytes <= SmallJobBytes {
			return damaged("settings of job %d", p)
		}
		l.m.extras.Load(p, e)
	}
	return nil
}

func (l *loader) loadErrors(r *reader) error {
	var p Pos
	for len(r.b) > 0 {
		p += Pos(r.uvarint())
		list := errorList{count: uint8(r.upTo(ErrorsKeptMax))}
		for i := range list.count {
			list.pos[i] = Pos(r.uvarint())
		}
		if last, _, ok := l.m.errors.Max(); r.bad || list.count == 0 || ok && p <= last {
			return damaged("errors of job %d", p)
		}
		l.m.errors.Load(p, list)
	}
	return nil
}

func (l *loader) loadSessions(r *reader) error {
	var serial uint64
	for len(r.b) > 0 {
		serial += r.uvarint()
		var s session
		if len(r.b) < len(s.id) {
			return damaged("session %d", serial)
		}
		copy(s.id[:], r.b)
		r.b = r.b[len(s.id):]
		s.high, s.lastUsed, s.timerAt = r.uvarint(), r.millis(), Millis(r.upTo(2*millisMax))
		last, _, ok := l.m.sessions.Max()
		_, twice := l.m.sessionByID[s.id]
		if r.bad || twice || ok && serial <= last || serial > l.m.sessionSerial || l.m.sessions.Len() >= SessionsMax {
			return damaged("session %d", serial)
		}
		l.m.sessions.Load(serial, s)
		l.m.sessionByID[s.id] = serial
	}
	return nil
}

func (l *loader) loadAnswers(r *reader) error {
	var key uint64
	for len(r.b) > 0 {
		key += r.uvarint()
		a := answer{seq: r.uvarint(), first: Pos(r.uvarint()), jobs: uint32(r.upTo(EnqueueJobsMax))}
		a.shape = uint32(r.upTo(1<<32 - 1))
		a.refused = string(r.bytes(EnqueueJobsMax))
		last, _, ok := l.m.answers.Max()
		_, known := l.m.sessions.Get(key / SessionWindow)
		if r.bad || !known || ok && key <= last || a.refused != "" && len(a.refused) != int(a.jobs) {
			return damaged("answer %d", key)
		}
		l.m.answers.Load(key, a)
	}
	return nil
}

func (l *loader) loadClaims(r *reader) error {
	var p Pos
	for len(r.b) > 0 {
		p += Pos(r.uvarint())
		c := claim{queue: r.queueID()}
		if len(r.b) < len(c.key) {
			return damaged("unique key of job %d", p)
		}
		copy(c.key[:], r.b)
		r.b = r.b[len(c.key):]
		c.flags, c.until, c.released = claimFlags(r.u8()), Millis(r.upTo(2*millisMax)), Token(r.uvarint())
		last, _, ok := l.m.claims.Max()
		q, _ := l.m.queues.Get(c.queue)
		_, twice := l.m.keys[c.key]
		if r.bad || q == nil || twice && c.holds() || ok && p <= last || p.Index() > l.m.applied || c.flags&^claimFlagsAll != 0 {
			return damaged("unique key of job %d", p)
		}
		l.m.claims.Load(p, c)
		if c.holds() {
			l.m.keys[c.key] = p
			q.unique++
		}
		if len(l.m.keys) > UniqueKeysMax {
			return damaged("more than %d unique keys", UniqueKeysMax)
		}
	}
	return nil
}

func (l *loader) loadDeduplicated(r *reader) error {
	for len(r.b) > 0 {
		q, err := l.queue(r)
		if err != nil {
			return err
		}
		if q.totals.deduplicated = r.uvarint(); q.totals.deduplicated == 0 {
			return damaged("queue %d", q.id)
		}
	}
	return nil
}

func (l *loader) loadHolders(r *reader) error {
	var key uint64
	for len(r.b) > 0 {
		key += r.uvarint()
		a, ok := l.m.answers.Get(key)
		if a.holders != "" || !ok {
			return damaged("holders of answer %d", key)
		}
		if a.holders = string(r.bytes(EnqueueJobsMax * (binary.MaxVarintLen16 + binary.MaxVarintLen64))); a.holders == "" {
			return damaged("holders of answer %d", key)
		}
		l.m.answers.Set(key, a)
	}
	return nil
}

// rebuild derives what an image does not hold. check then proves that it fits.
func (m *Machine) rebuild() {
	m.queues.Scan(func(_ QueueID, q *queueState) bool {
		for priority, s := range q.ready {
			if s != nil && s.count > 0 {
				q.nonEmpty |= 1 << priority
				m.tally(q, StateReady, s.count)
			}
		}
		return true
	})
	m.records.Scan(func(p Pos, r record) bool {
		q := m.byID[r.queue]
		if r.state == StateReady {
			q.readyRecords++ // counted with its set
		} else {
			m.tally(q, r.state, 1)
		}
		m.timersOf(p, &r, m.arm)
		return true
	})
	m.relist()
	m.queues.Scan(func(_ QueueID, q *queueState) bool {
		q.hash = q.fingerprint()
		return true
	})
	m.sessions.Scan(func(serial uint64, s session) bool {
		m.arm(s.timerAt, Pos(serial), timerSession)
		return true
	})
	m.claims.Scan(func(p Pos, c claim) bool {
		if c.until != 0 {
			m.arm(c.until, p, timerUnique)
		}
		return true
	})
}

// relist lists the leases of the workers, and gives their records the slots.
func (m *Machine) relist() {
	var running []Pos
	m.records.Scan(func(p Pos, r record) bool {
		if r.state == StateRunning && r.worker != 0 {
			running = append(running, p)
		}
		return true
	})
	for _, p := range running {
		r, _ := m.records.Get(p)
		r.slot = m.leases.add(r.worker, p)
		m.records.Set(p, r)
	}
}

func (m *Machine) tally(q *queueState, st State, n uint64) {
	q.counts[st] += n
	m.counts[st] += n
	if !st.ended() {
		q.live += n
	}
}

// timersOf calls yield with each timer that a job's record asks for.
func (m *Machine) timersOf(p Pos, r *record, yield func(Millis, Pos, timerKind)) {
	switch r.state {
	case StateScheduled, StateBackoff:
		yield(r.at, p, timerRun)
	case StateRunning:
		if r.at != 0 {
			yield(r.at, p, timerDeadline)
		}
	case StateUnknown, StateReady, StateDead, StateCompleted, StateCancelled, StateExpired, StateDiscarded:
	}
	if r.state.waiting() {
		if e := m.extraOf(p, r); e.expiresAt != 0 {
			yield(e.expiresAt, p, timerExpire)
		}
	}
}
