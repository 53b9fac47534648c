package queue

import (
	"crypto/sha256"
	"encoding/binary"
)

// A job with a unique key has a claim on it, which says whether the job holds the key, and keeps the key for when it may
// hold it again:
//
//	            ┌─ enqueue, retry ──────────────────────────┐
//	            ▼                                           │
//	the job holds the key ── ended, dead, or leased ──► it does not ── ended ──► no claim
//	            ▲                                           │          (and the window has passed)
//	            └───────────── that lease is taken back ────┘
//
// Besides, its window holds the key from the enqueue until it passes, though the job be ended and forgotten. The key is
// free when neither holds it. A closed queue grants no key, or two shards would: from then on they are granted elsewhere.

// UniqueHash stands for a queue, an ordering key and a unique key: of the jobs that have the same one, one holds it. It
// is the first half of a SHA-256, so that nobody finds two keys of one hash.
type UniqueHash [16]byte

// HashUnique hashes a queue's id u32, the length of the ordering key u32, that key, and the unique key.
func HashUnique(q QueueID, orderingKey, uniqueKey string) UniqueHash {
	_, key := appendUnique(nil, q, orderingKey, uniqueKey)
	return key
}

// appendUnique is HashUnique, with the memory for what is hashed.
func appendUnique[T ~string | ~[]byte](dst []byte, q QueueID, orderingKey, uniqueKey T) ([]byte, UniqueHash) {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(q))
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(orderingKey)))
	dst = append(append(dst, orderingKey...), uniqueKey...)
	sum := sha256.Sum256(dst)
	return dst, UniqueHash(sum[:len(UniqueHash{})])
}

// A claim is what a job has to do with its unique key.
type claim struct {
	key      UniqueHash
	queue    QueueID
	flags    claimFlags
	until    Millis // the end of its window; 0: it has none, or it has passed
	released Token  // of the lease for which the job gave the key up; 0: none
}

type claimFlags uint8

const (
	claimHeld     claimFlags = 1 << iota // by the job, which has not come to the point where it gives the key up
	claimStarted                         // that point is a lease
	claimFlagsAll = 1<<iota - 1
)

// holds reports whether nobody else can have the key.
func (c *claim) holds() bool { return c.flags&claimHeld != 0 || c.until != 0 }

func (c *claim) hash(p Pos) uint64 {
	h := step(step(hashSeedClaim, uint64(p)), uint64(c.queue)<<8|uint64(c.flags))
	h = step(step(h, binary.LittleEndian.Uint64(c.key[:])), binary.LittleEndian.Uint64(c.key[8:]))
	return finish(step(step(h, uint64(c.until)), uint64(c.released)))
}

func (m *Machine) putClaim(p Pos, c *claim) {
	prev, had := m.claims.Set(p, *c)
	if had {
		m.sum -= prev.hash(p)
	}
	m.sum += c.hash(p)
	m.listKey(p, c, had && prev.holds(), c.holds())
}

func (m *Machine) dropClaim(p Pos) {
	if prev, ok := m.claims.Delete(p); ok {
		m.sum -= prev.hash(p)
		m.listKey(p, &prev, prev.holds(), false)
	}
}

// listKey keeps account of who holds a key.
func (m *Machine) listKey(p Pos, c *claim, held, holds bool) {
	if held == holds {
		return
	}
	q := m.mutable(c.queue)
	if holds {
		m.keys[c.key] = p
		q.unique++
		return
	}
	delete(m.keys, c.key)
	q.unique--
}

// findHolder hashes the key of m.job and reports whether a job holds it, which m.holder then is: one of this machine, or
// the one that whoever sent the job found on a shard where the queue was before.
func (m *Machine) findHolder() bool {
	u := &m.unique
	m.hashed, u.hash = appendUnique(m.hashed[:0], m.job.queue, m.job.orderingKey, u.text)
	if p, held := m.keys[u.hash]; held {
		m.holder = JobID{Shard: m.shard, Pos: p}
		return true
	}
	m.holder = u.hint
	return m.holder != JobID{}
}

// answerExisting answers a job with the one that holds its key.
func (m *Machine) answerExisting(holder JobID) {
	r := Result{Code: CodeExists, Shard: holder.Shard, Pos: holder.Pos}
	if holder.Shard == m.shard {
		rec, _ := m.records.Get(holder.Pos)
		r.State = rec.state
	}
	m.out.Items = append(m.out.Items, r)
}

// claimKey gives the key of m.job to the job at p.
func (m *Machine) claimKey(p Pos) {
	u := &m.unique
	c := claim{key: u.hash, queue: m.job.queue, flags: claimHeld}
	if u.until == UniqueUntilStarted {
		c.flags |= claimStarted
	}
	if u.forMillis > 0 {
		c.until = m.now + Millis(u.forMillis)
		m.arm(c.until, p, timerUnique)
	}
	m.putClaim(p, &c)
}

// startClaim lets a job that is leased give its key up, if that is the point.
func (m *Machine) startClaim(p Pos, t Token) {
	c, _ := m.claims.Get(p)
	if c.flags == claimHeld|claimStarted {
		c.flags, c.released = claimStarted, t
		m.putClaim(p, &c)
	}
}

// restartClaim gives a job its key again whose lease is taken back, if it gave it up for that lease and nobody has taken it.
func (m *Machine) restartClaim(q *queueState, p Pos, t Token) {
	c, _ := m.claims.Get(p)
	if c.released != t {
		return
	}
	c.released = 0
	if m.mayClaim(q, p, &c) == CodeOK {
		c.flags |= claimHeld
	}
	m.putClaim(p, &c)
}

// reclaim gives a dead job that is retried its key again. Any other code than CodeOK changed nothing.
func (m *Machine) reclaim(q *queueState, p Pos) Code {
	c, _ := m.claims.Get(p)
	code := m.mayClaim(q, p, &c)
	if code == CodeOK {
		c.flags, c.released = c.flags|claimHeld, 0
		m.putClaim(p, &c)
	}
	return code
}

// mayClaim reports whether a job of before may hold its key again. If another one holds it, m.holder is that one.
func (m *Machine) mayClaim(q *queueState, p Pos, c *claim) Code {
	if q.settings.Closed {
		return CodeKeyElsewhere
	}
	switch holder, held := m.keys[c.key]; {
	case held && holder != p:
		m.holder = JobID{Shard: m.shard, Pos: holder}
		return CodeKeyHeld
	case !held && len(m.keys) >= m.keysMax:
		return CodeLimit
	}
	return CodeOK
}

// leaveClaim lets a job give its key up that is dead.
func (m *Machine) leaveClaim(p Pos) {
	c, _ := m.claims.Get(p)
	c.flags &^= claimHeld
	m.putClaim(p, &c)
}

// endClaim ends the claim of a job that ends, but for its window.
func (m *Machine) endClaim(p Pos, r *record) {
	r.flags &^= flagUnique
	c, _ := m.claims.Get(p)
	if c.until == 0 {
		m.dropClaim(p)
		return
	}
	c.flags, c.released = c.flags&^claimHeld, 0
	m.putClaim(p, &c)
}

// passWindow ends the window of a claim.
func (m *Machine) passWindow(p Pos) {
	c, _ := m.claims.Get(p)
	if rec, ok := m.records.Get(p); !ok || !rec.has(flagUnique) {
		m.dropClaim(p)
		return
	}
	c.until = 0
	m.putClaim(p, &c)
}

// Holder returns the job that holds a unique key.
func (m *Machine) Holder(key UniqueHash) (Pos, bool) {
	p, ok := m.keys[key]
	return p, ok
}

// The holders in an answer are, in the order of the jobs that they were the answer to, shard v and position v.

func appendHolder(dst []byte, r *Result) []byte {
	dst = binary.AppendUvarint(dst, uint64(r.Shard))
	return binary.AppendUvarint(dst, uint64(r.Pos))
}

func (r *reader) holder() JobID {
	return JobID{Shard: uint16(r.upTo(1<<16 - 1)), Pos: Pos(r.uvarint())}
}

// holdersFit reports whether an answer names a holder for each job that was answered with one.
func (a *answer) holdersFit() bool {
	r := reader{b: []byte(a.holders)}
	for i := range len(a.refused) {
		if Code(a.refused[i]) == CodeExists {
			r.holder()
		}
	}
	return r.done()
}
