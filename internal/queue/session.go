package queue

// A session remembers the answers to a client's last SessionWindow sequence numbers, so that a repeated enqueue is
// told from a new one.
type session struct {
	id       SessionID
	high     uint64 // the greatest sequence number seen; those at most high-SessionWindow are forgotten
	lastUsed Millis
	timerAt  Millis // when to look whether it is idle: moved only when that fires
}

func (s *session) hash(serial uint64) uint64 {
	h := hashBytes(step(hashSeedSession, serial), s.id[:])
	return finish(step(step(step(h, s.high), uint64(s.lastUsed)), uint64(s.timerAt)))
}

// An answer is what an enqueue command got.
type answer struct {
	seq     uint64
	first   Pos // of its jobs
	jobs    uint32
	shape   uint32 // of the command; 0: it told none
	refused string // a code for each job; empty: all were accepted
	holders string // of the unique keys of those whose code is CodeExists; see appendHolder
}

func (a *answer) hash(key uint64) uint64 {
	h := step(step(step(step(hashSeedAnswer, key), a.seq), uint64(a.first)), uint64(a.shape)<<32|uint64(a.jobs))
	h = hashBytes(h, a.refused)
	if a.holders != "" {
		h = hashBytes(h^hashSeedClaim, a.holders)
	}
	return finish(h)
}

func answerKey(serial, seq uint64) uint64 { return serial*SessionWindow + seq%SessionWindow }

// admitSession finds or makes the session of an enqueue. CodeOK: the sequence number is new; CodeDuplicate: known is
// its answer. Any other code changed nothing.
func (m *Machine) admitSession(e *enqueueItem) (serial uint64, known answer, code Code) {
	serial, ok := m.sessionByID[e.session]
	if !ok {
		if m.sessions.Len() >= SessionsMax {
			return 0, answer{}, CodeLimit
		}
		m.sessionSerial++
		serial = m.sessionSerial
		s := session{id: e.session, high: e.seq, lastUsed: m.now, timerAt: m.now + SessionIdleMillis}
		m.sessionByID[e.session] = serial
		m.sessions.Set(serial, s)
		m.sum += s.hash(serial)
		m.arm(s.timerAt, Pos(serial), timerSession)
		return serial, answer{}, CodeOK
	}
	s, _ := m.sessions.Get(serial)
	if s.high >= SessionWindow && e.seq <= s.high-SessionWindow {
		return serial, answer{}, CodeSessionTooOld
	}
	known, code = answer{}, CodeOK
	if a, found := m.answers.Get(answerKey(serial, e.seq)); found && a.seq == e.seq {
		if !a.fits(e) {
			return 0, answer{}, CodeRepeatDiffers
		}
		known, code = a, CodeDuplicate
	}
	m.sum -= s.hash(serial)
	s.lastUsed = m.now
	s.high = max(s.high, e.seq)
	m.sessions.Set(serial, s)
	m.sum += s.hash(serial)
	return serial, known, code
}

// fits reports whether a command has as many jobs as the one answered, and the same of its message: else the answers
// would be given to the wrong jobs.
func (a *answer) fits(e *enqueueItem) bool {
	return int(a.jobs) == e.jobs && (a.shape == e.shape || a.shape == 0 || e.shape == 0)
}

// Remembered is what a machine remembers of a session's sequence number.
type Remembered struct {
	Known  bool   // it has answered it
	TooOld bool   // it left the session's window: nobody knows
	Jobs   int    // of the command that it has answered
	Shape  uint32 // of that; 0: it told none
}

// Remembers tells whether a session's sequence number was seen. It changes nothing, and does not count as a use of the session.
func (m *Machine) Remembers(id SessionID, seq uint64) Remembered {
	serial, ok := m.sessionByID[id]
	if !ok {
		return Remembered{}
	}
	s, _ := m.sessions.Get(serial)
	if s.high >= SessionWindow && seq <= s.high-SessionWindow {
		return Remembered{TooOld: true}
	}
	if a, found := m.answers.Get(answerKey(serial, seq)); found && a.seq == seq {
		return Remembered{Known: true, Jobs: int(a.jobs), Shape: a.shape}
	}
	return Remembered{}
}

// remember keeps the answer to a command for its repeats.
func (m *Machine) remember(serial uint64, e *enqueueItem, first Pos, results []Result) {
	a := answer{seq: e.seq, first: first, jobs: uint32(e.jobs), shape: e.shape}
	for i := range results {
		if results[i].Code == CodeOK {
			continue
		}
		codes := make([]byte, len(results))
		var holders []byte
		for k := range results {
			codes[k] = byte(results[k].Code)
			if results[k].Code == CodeExists {
				holders = appendHolder(holders, &results[k])
			}
		}
		a.refused, a.holders = string(codes), string(holders)
		break
	}
	key := answerKey(serial, e.seq)
	if prev, replaced := m.answers.Set(key, a); replaced {
		m.sum -= prev.hash(key)
	}
	m.sum += a.hash(key)
}

// repeat gives the answer of the first time. A job that was refused then gets its refusal again, and one whose key was held the
// job that held it.
func (m *Machine) repeat(a *answer, items [][]byte) {
	m.answer(CodeDuplicate)
	holders := reader{b: []byte(a.holders)}
	for k, item := range items {
		switch {
		case a.refused != "" && Code(a.refused[k]) == CodeExists:
			m.answerExisting(holders.holder())
		case a.refused != "" && Code(a.refused[k]) != CodeOK:
			m.answer(Code(a.refused[k]))
		default:
			p := a.first + Pos(k)
			m.answerJob(CodeDuplicate, m.stateOf(p, item), p)
		}
	}
}

// stateOf is the state of the job at p, whose item it is; StateUnknown when it ended and is no longer kept.
func (m *Machine) stateOf(p Pos, item []byte) State {
	queue, priority, err := SpecQueue(item)
	if err != nil {
		return StateUnknown
	}
	info, _ := m.Job(p, queue, priority)
	return info.State
}

// expireSession forgets a session that was idle for SessionIdleMillis, or looks again when it may be.
func (m *Machine) expireSession(serial uint64) {
	s, ok := m.sessions.Get(serial)
	if !ok {
		return
	}
	m.sum -= s.hash(serial)
	if idleAt := s.lastUsed + SessionIdleMillis; idleAt > m.now {
		s.timerAt = idleAt
		m.sessions.Set(serial, s)
		m.sum += s.hash(serial)
		m.arm(idleAt, Pos(serial), timerSession)
		return
	}
	m.sessions.Delete(serial)
	delete(m.sessionByID, s.id)
	for slot := range uint64(SessionWindow) {
		key := answerKey(serial, slot)
		if a, had := m.answers.Delete(key); had {
			m.sum -= a.hash(key)
		}
	}
}
