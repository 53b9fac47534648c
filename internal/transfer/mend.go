package transfer

import (
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/wal"
)

// MendLog is what mending needs of a log. *wal.Log is one.
type MendLog interface {
	Read(shard wal.ShardID, index uint64) (wal.Entry, error)
	// Held is the index up to which the log certainly holds what the group committed.
	Held(shard wal.ShardID) uint64
	Wanted(shard wal.ShardID, from uint64, count int) []wal.Name
	Mend(shard wal.ShardID, e *wal.Entry) error
	GiveUp(shard wal.ShardID, index uint64)
	NoteDamage(shard wal.ShardID, index uint64) <-chan struct{}
}

// PeerID names a peer for its owner; a Mender only compares it.
type PeerID uint64

// Mender asks the peers of one shard for the entries that are damaged here, one peer after the other. It is a step machine, used by
// one goroutine at a time. What is lost on the way is asked for again.
type Mender struct {
	shard wal.ShardID
	log   MendLog

	number  uint64 // of the last request
	asked   PeerID // whom
	names   []wal.Name
	until   time.Duration // an answer is waited for; 0: none is
	rest    time.Duration // nothing is asked before
	turn    int           // of the peers
	from    uint64        // where the names asked for begin
	entries map[uint64]*mending
	barren  bool // see Barren
	stats   MendStats
}

// mending is what is known of one damaged entry.
type mending struct {
	since time.Duration
	lost  bool     // it was given up once
	none  []PeerID // who do not have it
	hurt  int      // of these, to whom it is damaged too
}

// MendStats counts what a Mender did.
type MendStats struct {
	Requests, Mended, Refused, GivenUp uint64
}

// NewMender makes a Mender that has nothing to do.
func NewMender(shard wal.ShardID, log MendLog) *Mender {
	return &Mender{shard: shard, log: log, entries: make(map[uint64]*mending)}
}

// Rest says that nothing is wanted any more.
func (m *Mender) Rest() {
	if len(m.entries) > 0 {
		clear(m.entries)
		m.until, m.from = 0, 0
	}
	m.barren = false
}

// Barren reports whether all peers have answered that they do not have what was asked for last, and nothing came since.
func (m *Mender) Barren() bool { return m.barren }

// Stats returns what was done so far.
func (m *Mender) Stats() MendStats { return m.stats }

// Next returns a request and whom to send it to; false when there is none to be sent now. peers are all other members.
func (m *Mender) Next(now time.Duration, peers []PeerID) (to PeerID, request []byte, ok bool) {
	if now < m.until || now < m.rest || len(peers) == 0 {
		return 0, nil, false
	}
	m.until = 0
	wanted := m.log.Wanted(m.shard, m.from, mendNamesMax)
	if len(wanted) == 0 && m.from > 0 {
		m.from = 0
		wanted = m.log.Wanted(m.shard, 0, mendNamesMax)
	}
	if len(wanted) == 0 {
		m.Rest()
		return 0, nil, false
	}
	m.watch(now, wanted, peers)
	for range peers {
		m.turn++
		to = peers[m.turn%len(peers)]
		m.names = slices.DeleteFunc(slices.Clone(wanted), func(n wal.Name) bool {
			return slices.Contains(m.entries[n.Index].none, to)
		})
		if len(m.names) > 0 {
			m.number++
			m.asked, m.until = to, now+MendTimeout
			m.stats.Requests++
			return to, appendWant(nil, m.shard, m.number, m.names), true
		}
	}
	// Nobody has any of these. The next ones may fare better; and who is damaged or behind now may not be later.
	for i := range wanted {
		e := m.entries[wanted[i].Index]
		e.none, e.hurt = nil, 0
	}
	m.barren = true
	m.rest = now + MendPause
	m.from = wanted[len(wanted)-1].Index + 1
	return 0, nil, false
}

// watch gives up what is damaged on every peer, or nobody could say for too long: whoever waits for it must not wait for ever.
func (m *Mender) watch(now time.Duration, wanted []wal.Name, peers []PeerID) {
	for i := range wanted {
		index := wanted[i].Index
		e := m.entries[index]
		if e == nil {
			e = &mending{since: now}
			m.entries[index] = e
		}
		if !e.lost && (e.hurt >= len(peers) || now-e.since > MendGiveUp) {
			e.lost = true
			m.stats.GivenUp++
			m.log.GiveUp(m.shard, index)
		}
	}
}

// Pause is how long there is nothing to do; false when that is until damage is noted.
func (m *Mender) Pause(now time.Duration) (time.Duration, bool) {
	if len(m.entries) == 0 {
		return 0, false
	}
	return max(m.until-now, m.rest-now, 0), true
}

// Accept takes an answer. One that is malformed is an error to be dropped; one that is late or was not asked for changes
// nothing.
func (m *Mender) Accept(now time.Duration, answer []byte) error {
	c, err := decode(answer)
	if err == nil && (c.kind != KindHave || c.shard != m.shard) {
		err = fmt.Errorf("%w: a chunk of kind %s of shard %d where an answer is due", ErrMalformed, c.kind, c.shard)
	}
	if err != nil {
		return err
	}
	if m.until == 0 || c.transfer != m.number {
		return nil
	}
	m.until = 0
	if len(c.entries) == 0 {
		m.rest = now + MendTimeout
		return nil
	}
	for i := range c.entries {
		e := &c.entries[i]
		if !slices.ContainsFunc(m.names, func(n wal.Name) bool { return n.Index == e.Index }) {
			continue // It was not asked for.
		}
		err := wal.ErrNotNamed
		if e.flags == 0 {
			err = m.log.Mend(m.shard, &e.Entry)
		}
		switch {
		case err == nil:
			m.stats.Mended++
			m.barren = false
		case errors.Is(err, wal.ErrBacklogged):
			m.rest = now + MendTimeout
		case errors.Is(err, wal.ErrNotNamed):
			m.stats.Refused++
			if known := m.entries[e.Index]; known != nil && !slices.Contains(known.none, m.asked) {
				known.none = append(known.none, m.asked)
				if e.flags == flagDamaged {
					known.hurt++
				}
			}
		default:
			return nil // The log is closed.
		}
	}
	return nil
}

// Serve answers a request with what this log has, up to about maxBytes; what is left out is asked for again. It reads the
// log, and may run on any goroutine. Errors: ErrMalformed and *VersionError, and the request is to be dropped.
//
// An entry is sent when it has the very name, or when it is committed here: both are what the other one lost. Nothing is sent
// that does not read back whole.
func Serve(shard wal.ShardID, log MendLog, request []byte, maxBytes int) ([]byte, error) {
	c, err := decode(request)
	if err == nil && (c.kind != KindWant || c.shard != shard) {
		err = fmt.Errorf("%w: a chunk of kind %s of shard %d where a request is due", ErrMalformed, c.kind, c.shard)
	}
	if err != nil {
		return nil, err
	}
	held := log.Held(shard)
	c.header.kind = KindHave
	b := appendHaveHead(nil, &c.header)
	count := 0
	for i := range c.names {
		e := serveOne(shard, log, &c.names[i], held)
		if count > 0 && len(b)+entryWireBytes(len(e.Data)) > min(maxBytes, ChunkBytesMax) {
			break
		}
		b = appendEntry(b, &e)
		count++
	}
	setHave(b, count)
	return finish(b), nil
}

func serveOne(shard wal.ShardID, log MendLog, n *wal.Name, held uint64) entry {
	read, err := log.Read(shard, n.Index)
	absent := entry{Entry: wal.Entry{Index: n.Index}, flags: flagAbsent}
	if wal.IsDamage(err) {
		log.NoteDamage(shard, n.Index)
		absent.flags = flagDamaged
	}
	if err != nil {
		return absent
	}
	crc := crc32.Checksum(read.Data, castagnoli)
	if n.Term == 0 && n.Index > held || !n.Names(&read, crc) {
		return absent
	}
	return entry{Entry: read, crc: crc}
}
