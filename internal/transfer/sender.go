package transfer

import (
	"errors"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/wal"
)

// ErrOutdated: the leader's log has forgotten an entry that this snapshot refers to, since a newer one does not. Make a
// Sender of the newest snapshot.
var ErrOutdated = errors.New("a newer snapshot has replaced the one being sent")

// Entries is what a Sender reads of the leader's log. *wal.Log is one.
type Entries interface {
	Read(shard wal.ShardID, index uint64) (wal.Entry, error)
}

// SenderConfig says what to send.
type SenderConfig struct {
	Transfer uint64 // names this Sender among all that ever send to the follower: node and a random number, say; not 0
	Term     uint64 // the term in which this node leads

	// Snapshot is durable here; the Sender closes it. The shard is its Meta's.
	Snapshot *snapshot.Loaded
	// Live is what the snapshot refers to, as wal.Log.Retained told for this very snapshot. It is not changed.
	Live *roaring64.Bitmap
	Log  Entries

	// FullBytes is what all live entries have (wal.Log.LiveBytes), for Stats; 0 when nobody asks.
	FullBytes int64

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
	EntryBytes    uint64 // of entries in chunks, with their headers
	HotBytes      uint64
	Resends       uint64
	FullBytes     uint64 // what a full snapshot would have sent: the hot state and all live entries
}

// Sender sends one snapshot to one follower. It must be used by one goroutine at a time.
type Sender struct {
	cfg   SenderConfig
	stats Stats
}

// NewSender checks what is to be sent. It owns cfg.Snapshot from here on, also when there is an error.
func NewSender(cfg SenderConfig) (*Sender, error) {
	return &Sender{cfg: cfg}, errors.ErrUnsupported
}

// Next returns the next chunk to send, of about maxBytes, or nothing when an acknowledgement is due before. The chunk is
// the caller's. Errors: ErrOutdated, or that the snapshot cannot be read.
func (s *Sender) Next(maxBytes int) ([]byte, error) { return nil, errors.ErrUnsupported }

// Acked takes what the follower answered. An acknowledgement that is malformed, late or not for this Sender changes nothing
// and is reported as the progress there was.
func (s *Sender) Acked(ack []byte) Progress { return Failed }

// Resend begins again behind what was acknowledged: something was lost on the way.
func (s *Sender) Resend() {}

// Reason says why the follower waits or the transfer failed.
func (s *Sender) Reason() string { return "" }

// Index is the snapshot's, for the report to the group's leader.
func (s *Sender) Index() uint64 { return s.cfg.Snapshot.Meta.Index }

// Stats returns what was sent so far.
func (s *Sender) Stats() Stats { return s.stats }

// Close closes the snapshot.
func (s *Sender) Close() error { return s.cfg.Snapshot.Close() }
