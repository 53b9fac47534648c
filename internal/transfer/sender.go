package transfer

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/wal"
)

// ErrOutdated: the leader's log has forgotten an entry that this snapshot refers to, since a newer one does not. Make a
// Sender of the newest snapshot.
var ErrOutdated = errors.New("a newer snapshot has replaced the one being sent")

// Log is what a Sender reads of the leader's log. *wal.Log is one.
type Log interface {
	// Read returns an entry: wal.ErrCompacted when it is dead, a *wal.CorruptError when it is damaged.
	Read(shard wal.ShardID, index uint64) (wal.Entry, error)
	// LiveBytes counts entries and the bytes of their data.
	LiveBytes(shard wal.ShardID, set *roaring64.Bitmap) (entries, bytes uint64)
	// NoteDamage is told of what is damaged.
	NoteDamage(shard wal.ShardID, index uint64) <-chan struct{}
}

// SenderConfig says what to send.
type SenderConfig struct {
	Term     uint64 // the term in which this node leads
	Transfer uint64 // greater than that of any Sender before it in the same term; not 0

	// Snapshot is durable here; the Sender closes it. The shard is its Meta's.
	Snapshot *snapshot.Loaded
	// Live is what the snapshot refers to, as wal.Log.Retained told for this very snapshot. It is not changed.
	Live *roaring64.Bitmap
	Log  Log

	WindowBytes int // most bytes under way; 0 is WindowBytesDefault
}

// Progress is what has become of a transfer, as its Sender knows it.
type Progress uint8

// What Acked reports.
const (
	Sending   Progress = 1 // call Next
	Waiting   Progress = 2 // the follower has no room: call Resend after some seconds, or give up
	Installed Progress = 3 // the follower has installed the snapshot
	NotNeeded Progress = 4 // the follower's log is further already
	Failed    Progress = 5 // see Reason
)

// Stats counts what a Sender did.
type Stats struct {
	Chunks, Bytes uint64 // all that Next returned, repeats too
	Entries       uint64
	EntryBytes    uint64 // of these entries, with their headers
	HotBytes      uint64
	Resends       uint64 // how often it began again behind what was acknowledged
	FullBytes     uint64 // what a full snapshot would have sent: the hot state and all live entries, without headers of chunks
}

// position is how far a transfer is: entries first, then the hot state.
type position struct {
	through uint64 // entries up to here
	hot     uint64 // bytes of the hot state
}

func (p position) before(q position) bool {
	return p.through < q.through || p.through == q.through && p.hot < q.hot
}

// flight is a chunk under way.
type flight struct {
	end   position
	bytes int
}

// Sender sends one snapshot to one follower. It must be used by one goroutine at a time.
type Sender struct {
	cfg   SenderConfig
	head  header
	total uint64 // bytes of the hot state

	offered bool // the offer is under way
	begun   bool // the offer was acknowledged
	acked   position
	sent    position
	flights []flight
	flying  int // bytes of flights

	ahead  *entry // read, and did not fit in the last chunk
	live   roaring64.IntPeekable64
	state  Progress
	reason string
	stats  Stats
}

// NewSender checks what is to be sent. It owns cfg.Snapshot from here on, also when there is an error. It counts the live
// entries, which takes a second for some ten million.
func NewSender(cfg SenderConfig) (*Sender, error) {
	m := cfg.Snapshot.Meta
	var err error
	switch {
	case cfg.Transfer == 0:
		err = errors.New("a transfer needs a name that is not 0")
	case m.Index == 0:
		err = errors.New("there is no snapshot at index 0")
	case !cfg.Live.IsEmpty() && cfg.Live.Maximum() > m.Index:
		err = fmt.Errorf("the live set has entry %d, and is not of snapshot %d", cfg.Live.Maximum(), m.Index)
	case cfg.Snapshot.Bytes > hotBytesMax:
		err = fmt.Errorf("the snapshot has %d bytes, at most %d can be sent", cfg.Snapshot.Bytes, int64(hotBytesMax))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("send snapshot %d of shard %d: %w", m.Index, m.Shard, err), cfg.Snapshot.Close())
	}
	if cfg.WindowBytes <= 0 {
		cfg.WindowBytes = WindowBytesDefault
	}
	s := &Sender{
		cfg:   cfg,
		head:  header{shard: wal.ShardID(m.Shard), transfer: cfg.Transfer, term: cfg.Term, index: m.Index},
		total: uint64(cfg.Snapshot.Bytes),
		state: Sending,
	}
	entries, bytes := cfg.Log.LiveBytes(s.head.shard, cfg.Live)
	s.stats.FullBytes = s.total + bytes + entries*entryHeadBytes
	return s, nil
}

// Next returns the next chunk to send, of about maxBytes, or nothing when an acknowledgement is due before. It is larger when
// one entry is. The chunk is the caller's. Errors: ErrOutdated, or that the snapshot or the log cannot be read.
func (s *Sender) Next(maxBytes int) (b []byte, err error) {
	maxBytes = min(max(maxBytes, ChunkBytesMin), ChunkBytesMax)
	switch {
	case s.state != Sending || s.offered:
	case !s.begun:
		s.offered = true
		b = s.offer()
	case s.flying > 0 && s.flying+maxBytes > s.cfg.WindowBytes:
	case s.sent.through < s.head.index:
		b, err = s.nextEntries(maxBytes)
	case s.sent.hot < s.total:
		b, err = s.nextHot(maxBytes)
	}
	if err != nil {
		s.live, s.ahead = nil, nil // what was read for this chunk was not sent
		return nil, err
	}
	if b == nil {
		return nil, nil
	}
	if s.begun {
		s.flights = append(s.flights, flight{s.sent, len(b)})
		s.flying += len(b)
	}
	s.stats.Chunks++
	s.stats.Bytes += uint64(len(b))
	return b, nil
}

func (s *Sender) offer() []byte {
	m := s.cfg.Snapshot.Meta
	s.head.kind = KindOffer
	return appendOffer(nil, &s.head, &offer{
		snapshotTerm: m.Term, fingerprint: m.Fingerprint, hotBytes: s.total, machineVersion: m.MachineVersion,
	})
}

// nextEntries makes a chunk of the live entries behind what was sent.
func (s *Sender) nextEntries(maxBytes int) ([]byte, error) {
	s.head.kind = KindEntries
	b := appendEntriesHead(make([]byte, 0, min(maxBytes, ChunkBytesDefault)), &s.head, s.sent.through)
	count, through := 0, s.head.index
	for {
		e, err := s.nextEntry()
		if err != nil {
			return nil, err
		}
		if e == nil {
			break
		}
		if count > 0 && len(b)+entryWireBytes(len(e.Data)) > maxBytes {
			s.ahead, through = e, e.Index-1
			break
		}
		b = appendEntry(b, e)
		count++
		s.stats.Entries++
		s.stats.EntryBytes += uint64(entryWireBytes(len(e.Data)))
	}
	setEntries(b, through, count)
	s.sent.through = through
	return finish(b), nil
}

// nextEntry reads the next live entry; nil when there are no more.
func (s *Sender) nextEntry() (*entry, error) {
	if e := s.ahead; e != nil {
		s.ahead = nil
		return e, nil
	}
	if s.live == nil {
		s.live = s.cfg.Live.Iterator()
		s.live.AdvanceIfNeeded(s.sent.through + 1)
	}
	if !s.live.HasNext() {
		return nil, nil
	}
	index := s.live.Next()
	read, err := s.cfg.Log.Read(s.head.shard, index)
	_, damaged := errors.AsType[*wal.CorruptError](err)
	switch {
	case err == nil:
		return &entry{Entry: read, crc: crc32.Checksum(read.Data, castagnoli)}, nil
	case errors.Is(err, wal.ErrCompacted):
		return nil, fmt.Errorf("entry %d of snapshot %d: %w", index, s.head.index, ErrOutdated)
	case damaged, errors.Is(err, syscall.EIO):
		s.cfg.Log.NoteDamage(s.head.shard, index)
		return &entry{Entry: wal.Entry{Index: index}, flags: flagDamaged}, nil
	}
	return nil, fmt.Errorf("send entry %d of shard %d: %w", index, s.head.shard, err)
}

// nextHot makes a chunk of the snapshot's file.
func (s *Sender) nextHot(maxBytes int) ([]byte, error) {
	s.head.kind = KindHot
	size := int(min(s.total-s.sent.hot, uint64(maxBytes-headerBytes-hotHeadBytes)))
	b := appendHotHead(make([]byte, 0, headerBytes+hotHeadBytes+size), &s.head, s.sent.hot)
	at := len(b)
	b = b[:at+size]
	if n, err := s.cfg.Snapshot.ReadAt(b[at:], int64(s.sent.hot)); n < size {
		return nil, fmt.Errorf("send snapshot %d of shard %d: %w", s.head.index, s.head.shard, errors.Join(err, io.ErrUnexpectedEOF))
	}
	s.sent.hot += uint64(size)
	s.stats.HotBytes += uint64(size)
	return finish(b), nil
}

// Acked takes what the follower answered. An acknowledgement that is malformed, late or not for this Sender changes nothing.
func (s *Sender) Acked(ack []byte) Progress {
	a, err := DecodeAck(ack)
	h := a.header
	if err != nil || h.shard != s.head.shard || h.transfer != s.head.transfer || h.index != s.head.index || h.term != s.head.term {
		return s.state
	}
	switch {
	case a.Status == StatusInstalled:
		s.state = Installed
	case a.Status == StatusHave && a.Held >= s.head.index:
		s.state = NotNeeded
	case s.state >= Installed || h.round != s.head.round:
	case a.Status == StatusRefused:
		s.state, s.reason = Failed, a.Text
	case a.Status == StatusLater:
		s.state, s.reason = Waiting, a.Text
	case a.Status == StatusUnknown:
		s.Resend()
	case a.Status == StatusMore:
		s.move(position{a.Through, a.Hot}, a.OutOfOrder)
	}
	return s.state
}

// move takes the position that the follower tells.
func (s *Sender) move(at position, outOfOrder bool) {
	if at.through > s.head.index || at.hot > s.total || at.hot > 0 && at.through < s.head.index {
		return // It cannot be.
	}
	switch {
	case !s.begun:
		s.begun, s.offered = true, false
		s.rewind(at)
	case outOfOrder:
		s.head.round++
		s.stats.Resends++
		s.rewind(at)
	case s.sent.before(at):
		s.rewind(at) // Forward: it has what was thought lost.
	case s.acked.before(at):
		s.acked = at
		for len(s.flights) > 0 && !at.before(s.flights[0].end) {
			s.flying -= s.flights[0].bytes
			s.flights = s.flights[1:]
		}
	}
}

// rewind goes on sending at a position.
func (s *Sender) rewind(at position) {
	s.acked, s.sent = at, at
	s.flights, s.flying = nil, 0
	s.live, s.ahead = nil, nil
}

// Resend begins again with the offer, and then behind what the follower has: something was lost on the way, the
// follower began anew, or had no room.
func (s *Sender) Resend() {
	if s.state >= Installed {
		return
	}
	s.state, s.reason = Sending, ""
	s.head.round++
	s.stats.Resends++
	s.offered, s.begun = false, false
}

// Reason says why the follower waits or the transfer failed.
func (s *Sender) Reason() string { return s.reason }

// Index is the snapshot's.
func (s *Sender) Index() uint64 { return s.head.index }

// Stats returns what was sent so far.
func (s *Sender) Stats() Stats { return s.stats }

// Close closes the snapshot.
func (s *Sender) Close() error { return s.cfg.Snapshot.Close() }
