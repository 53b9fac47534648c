package transfer

import (
	"errors"
	"fmt"
	"io"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// State is what a hot state turned out to be.
type State struct {
	Fingerprint uint64
	Live        *roaring64.Bitmap
}

// ReceiverConfig describes a follower's side.
type ReceiverConfig struct {
	FS          vfs.FS
	Shard       wal.ShardID
	Dir         string // where the shard's stage is; created when missing. See Dir
	SnapshotDir string // the shard's snapshots
	Log         *wal.Log

	// Verify restores a hot state in a scratch machine, and says what it is. It must not touch the serving one.
	Verify func(m snapshot.Meta, content io.Reader) (State, error)
}

// Receiver takes in snapshots for one shard, one at a time. It must be used by one goroutine at a time, which may be another
// than the shard's: it may wait for the disk.
type Receiver struct {
	cfg ReceiverConfig
}

// NewReceiver goes on with what an earlier process staged, as far as that is certain. REQUIRES: Recover was called.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	return &Receiver{cfg: cfg}, errors.ErrUnsupported
}

// Accept takes one chunk, and returns the acknowledgement to send back. A chunk that is not due is acknowledged as out of
// order and changes nothing. Errors: ErrMalformed and *VersionError, which say that the chunk should be dropped and changed
// nothing; any other may be a failed sync, and is final.
func (r *Receiver) Accept(chunk []byte) (Ack, error) { return Ack{}, errors.ErrUnsupported }

// Install decides to install what Accept called ready, moves it into place, and tells the log. The installation is durable
// when the log is flushed up to the position; then call Installed. An error is final.
func (r *Receiver) Install() (snapshot.Meta, wal.Position, error) {
	return snapshot.Meta{}, 0, errors.ErrUnsupported
}

// Installed ends the installation. REQUIRES: the log was flushed up to what Install returned.
func (r *Receiver) Installed() (Ack, error) { return Ack{}, errors.ErrUnsupported }

// Discard removes whatever is staged and not decided to be installed: the follower catches up in another way.
func (r *Receiver) Discard() error { return errors.ErrUnsupported }

// ReceiverStats counts what a Receiver took in.
type ReceiverStats struct {
	Chunks, Bytes uint64 // accepted
	Refused       uint64 // malformed, late or out of order
	Entries       uint64
	HotBytes      uint64
	Installed     uint64
}

// Stats returns what was taken in so far.
func (r *Receiver) Stats() ReceiverStats { return ReceiverStats{} }

// Dir is where the stage of a shard is in a node's data directory.
func Dir(root string, shard wal.ShardID) string { return fmt.Sprintf("%s/incoming/%05d", root, shard) }

// Recover completes the installation that a crash interrupted, if there is one, and reports what is installed. It needs no
// Verify. Call it after wal.Open, before any shard is restored; it flushes the log, so nobody else may yet.
func Recover(cfg ReceiverConfig) (m snapshot.Meta, installed bool, err error) {
	return snapshot.Meta{}, false, errors.ErrUnsupported
}
