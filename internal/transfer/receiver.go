package transfer

import (
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// State is what a hot state turned out to be.
type State struct {
	Fingerprint uint64
	Live        *roaring64.Bitmap
}

// FollowerLog is what a Receiver needs of the follower's log. *wal.Log is one; what its methods promise is said there.
type FollowerLog interface {
	State(shard wal.ShardID) wal.ShardState
	Term(shard wal.ShardID, index uint64) (uint64, error)
	Held(shard wal.ShardID) uint64
	Missing(shard wal.ShardID, set *roaring64.Bitmap, upTo uint64) (count, first uint64)
	NextReceived(shard wal.ShardID) uint64
	Full() bool
	Received(wal.Installation) (moved bool, err error)
	Install(wal.Installation) (wal.Position, error)
	Flush() (wal.Position, error)
}

var (
	_ FollowerLog = (*wal.Log)(nil)
	_ LeaderLog   = (*wal.Log)(nil)
)

// ReceiverConfig describes a follower's side.
type ReceiverConfig struct {
	FS          vfs.FS
	Shard       wal.ShardID
	Dir         string // where the shard's stage is; created when missing. See Dir
	SnapshotDir string // the shard's snapshots
	Log         FollowerLog

	// SegmentBytes and SyncBytes are those of wal.IntakeOptions; 0 is their default.
	SegmentBytes, SyncBytes int64

	// Verify restores a hot state in a scratch machine, and says what it is. It must not touch the serving one.
	Verify func(m snapshot.Meta, content io.Reader) (State, error)
}

// Dir is where the stage of a shard is in a node's data directory.
func Dir(root string, shard wal.ShardID) string { return fmt.Sprintf("%s/incoming/%05d", root, shard) }

// ReceiverStats counts what a Receiver took in.
type ReceiverStats struct {
	Chunks, Bytes uint64 // that were due
	Refused       uint64 // malformed, repeated, out of order or of nobody
	Entries       uint64
	HotBytes      uint64
	Restarts      uint64 // stages thrown away because the log lacked what it should hold
	Installed     uint64
}

// phase is what a Receiver is about.
type phase uint8

const (
	phaseOpen    phase = iota // takes what comes
	phaseReady                // all is here and checked
	phaseDecided              // the decision is made
)

// Receiver takes in snapshots for one shard, one at a time. It must be used by one goroutine at a time, which may be another
// than the shard's: it may wait for the disk.
type Receiver struct {
	cfg   ReceiverConfig
	phase phase

	// What is staged of entries outlives the transfer that brought it. in is nil when nothing is staged.
	stage   stage
	in      *wal.Intake
	through uint64 // all entries from stage.held up to here are staged

	// The transfer that is listened to; its transfer number is 0 when there is none.
	bound header
	offer offer
	hot   uint64
	file  vfs.File // of the hot state; nil before its first byte

	segments []string // of a complete stage
	stats    ReceiverStats

	renewing bool   // the state here is wrong, so nothing that it called dead was; see Renew
	above    uint64 // what the state up to here became is wrong
}

// NewReceiver goes on with what an earlier process staged, as far as that is certain. REQUIRES: Recover was called.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	r := &Receiver{cfg: cfg}
	if err := r.resume(); err != nil {
		return nil, fmt.Errorf("open the stage of shard %d: %w", cfg.Shard, err)
	}
	return r, nil
}

// resume finds what is staged.
func (r *Receiver) resume() error {
	b, err := readFile(r.cfg.FS, r.path(installName), installBytesMax)
	if err != nil {
		return err
	}
	invariant.Check(b == nil, "shard %d: an installation was decided, and not completed by Recover", r.cfg.Shard)
	b, err = readFile(r.cfg.FS, r.path(stageName), stageBytes)
	if err != nil && !errors.Is(err, syscall.EIO) { // what cannot be read is as good as nothing
		return err
	}
	s, ok := decodeStage(b, r.cfg.Shard)
	if !ok {
		return clean(r.cfg.FS, r.cfg.Dir, func(string) bool { return false })
	}
	staged := func(name string) bool {
		return name == stageName || strings.HasPrefix(name, "r") && !strings.HasSuffix(name, tempSuffix)
	}
	if err := clean(r.cfg.FS, r.cfg.Dir, staged); err != nil {
		return err
	}
	return r.open(s)
}

func (r *Receiver) path(name string) string { return r.cfg.Dir + "/" + name }

// open opens the segments of a stage.
func (r *Receiver) open(s stage) (err error) {
	r.stage = s
	r.in, err = wal.OpenIntake(wal.IntakeOptions{
		FS: r.cfg.FS, Dir: r.cfg.Dir, Shard: r.cfg.Shard, Next: s.next, Replace: s.replace,
		SegmentBytes: r.cfg.SegmentBytes, SyncBytes: r.cfg.SyncBytes,
	})
	if err == nil {
		r.through = max(s.held, r.in.Last())
	}
	return err
}

// Renew says that the shard's state is wrong, and so are the snapshots taken here up to an index. From then on a snapshot above it is
// needed however far the log is, and all that it refers to is asked for. The log was told to Distrust what it knew.
func (r *Receiver) Renew(above uint64) { r.renewing, r.above = true, above }

// needs reports whether a snapshot would help, and up to where the log is good enough without.
func (r *Receiver) needs(index uint64) (held uint64, needed bool) {
	if held = r.cfg.Log.Held(r.cfg.Shard); r.renewing {
		return held, index > r.above
	}
	return held, index > held
}

// Stats returns what was taken in so far.
func (r *Receiver) Stats() ReceiverStats { return r.stats }

// Incoming describes a snapshot that is being taken in.
type Incoming struct {
	Index              uint64 // of the snapshot
	Through            uint64 // all entries that it refers to are here up to this one
	HotBytes, HotTotal uint64
}

// Incoming tells of the snapshot that is being taken in, if there is one.
func (r *Receiver) Incoming() (in Incoming, ok bool) {
	return Incoming{r.bound.index, r.through, r.hot, r.offer.hotBytes}, r.bound.transfer != 0
}

// Ready reports whether a snapshot waits for Install.
func (r *Receiver) Ready() bool { return r.phase == phaseReady }

// Accept takes one chunk, and returns the acknowledgement to send back. A chunk that is not due changes nothing, and is
// acknowledged by what is. Errors: ErrMalformed and *VersionError, which say that the chunk changed nothing and is to be
// dropped; any other may be a failed sync, and is final.
func (r *Receiver) Accept(b []byte) (Ack, error) {
	c, err := decode(b)
	if err == nil && (c.shard != r.cfg.Shard || c.kind >= KindAck) {
		err = fmt.Errorf("%w: %s of shard %d for the receiver of shard %d", ErrMalformed, c.kind, c.shard, r.cfg.Shard)
	}
	if err != nil {
		r.stats.Refused++
		return Ack{}, err
	}
	mine := r.bound.transfer == c.transfer && r.bound.term == c.term && r.bound.index == c.index
	if r.phase != phaseOpen {
		if mine {
			return r.ack(&c, StatusReady), nil
		}
		return r.later(&c, "an installation is under way"), nil
	}
	done := r.progress()
	var a Ack
	switch {
	case c.kind == KindOffer:
		a, err = r.acceptOffer(&c, mine)
	case !mine:
		a = r.ack(&c, StatusUnknown)
	case c.kind == KindEntries:
		a, err = r.acceptEntries(&c)
	default:
		a, err = r.acceptHot(&c)
	}
	if errors.Is(err, wal.ErrDiskFull) {
		a, err = r.later(&c, err.Error()), nil
	}
	if err != nil {
		return Ack{}, fmt.Errorf("shard %d: receive snapshot %d: %w", r.cfg.Shard, c.index, err)
	}
	if r.progress() == done && c.kind != KindOffer {
		r.stats.Refused++
	} else {
		r.stats.Chunks++
		r.stats.Bytes += uint64(len(b))
	}
	return a, nil
}

func (r *Receiver) progress() position { return position{r.through, r.hot} }

// ack answers a chunk with where the stage is.
func (r *Receiver) ack(c *chunk, status Status) Ack {
	return Ack{Status: status, Held: r.stage.held, Through: r.through, Hot: r.hot, header: c.header}
}

func (r *Receiver) later(c *chunk, why string) Ack {
	a := r.ack(c, StatusLater)
	a.Text = why
	return a
}

func (r *Receiver) refused(c *chunk, why string) Ack {
	a := r.ack(c, StatusRefused)
	a.Text = why
	return a
}

// outOfOrder answers a chunk behind which something is missing.
func (r *Receiver) outOfOrder(c *chunk) Ack {
	a := r.ack(c, StatusMore)
	a.OutOfOrder = true
	return a
}

// acceptOffer listens to a transfer from here on, unless a better one is under way or it is not needed.
func (r *Receiver) acceptOffer(c *chunk, mine bool) (Ack, error) {
	held, needed := r.needs(c.index)
	switch {
	case !needed:
		a := r.ack(c, StatusHave)
		a.Held = held
		return a, nil
	case mine:
		return r.ack(c, StatusMore), nil
	case c.term < r.bound.term, c.term == r.bound.term && c.transfer < r.bound.transfer:
		return r.refused(c, fmt.Sprintf("a leader of term %d sends snapshot %d", r.bound.term, r.bound.index)), nil
	case r.cfg.Log.Full():
		return r.later(c, wal.ErrDiskFull.Error()), nil
	}
	if err := r.dropHot(); err != nil {
		return Ack{}, err
	}
	// What is staged serves every snapshot that is not older. When the log holds as much by now, it serves nobody.
	s := r.stage
	useful := r.in != nil && c.index >= s.asOf && (r.through > held && !r.renewing || s.replace && r.through > 0)
	switch {
	case !useful:
		s = stage{held: held, asOf: c.index, next: r.cfg.Log.NextReceived(r.cfg.Shard)}
		if r.renewing {
			s.held, s.replace = 0, true
		}
		if err := r.begin(s); err != nil {
			return Ack{}, err
		}
	case c.index > s.asOf:
		s.asOf = c.index
		if err := r.writeStage(s); err != nil {
			return Ack{}, err
		}
		r.stage = s
	}
	r.bound, r.offer = c.header, c.offer
	return r.ack(c, StatusMore), nil
}

// begin throws away what is staged, and begins a new stage.
func (r *Receiver) begin(s stage) error {
	if err := r.drop(); err != nil {
		return err
	}
	if err := r.cfg.FS.MkdirAll(r.cfg.Dir); err != nil {
		return full(fmt.Errorf("make the stage: %w", err))
	}
	// What was dropped must not come back beside a stage file that it does not belong to. The directory may be there without
	// a durable name, since a process was killed.
	if err := errors.Join(syncDir(r.cfg.FS, path.Dir(r.cfg.Dir)), syncDir(r.cfg.FS, r.cfg.Dir)); err != nil {
		return err
	}
	if err := r.writeStage(s); err != nil {
		return err
	}
	return r.open(s)
}

// writeStage makes durable what entries are staged for, before the first of them is.
func (r *Receiver) writeStage(s stage) error {
	return full(writeFile(r.cfg.FS, r.cfg.Dir, stageName, s.encode(r.cfg.Shard)))
}

// drop throws away what is staged, and the transfer with it.
func (r *Receiver) drop() error {
	if err := r.dropHot(); err != nil {
		return err
	}
	if r.in != nil {
		if err := r.in.Remove(); err != nil {
			return err
		}
	}
	r.in, r.stage, r.through, r.segments = nil, stage{}, 0, nil
	return clean(r.cfg.FS, r.cfg.Dir, func(name string) bool { return name == installName })
}

// dropHot throws away the hot state, and listens to nobody.
func (r *Receiver) dropHot() error {
	r.bound, r.offer, r.hot = header{}, offer{}, 0
	if r.file != nil {
		_ = r.file.Close() // of no use
		r.file = nil
	}
	return clean(r.cfg.FS, r.cfg.Dir, func(name string) bool { return !strings.HasSuffix(name, snapshotSuffix) })
}

// acceptEntries stages the entries that are due.
func (r *Receiver) acceptEntries(c *chunk) (Ack, error) {
	switch {
	case c.after > r.through:
		return r.outOfOrder(c), nil
	case c.after < r.through:
		return r.ack(c, StatusMore), nil
	case r.cfg.Log.Full():
		return r.later(c, wal.ErrDiskFull.Error()), nil
	}
	for i := range c.entries {
		e := &c.entries[i]
		if err := r.in.Add(&e.Entry, e.flags == flagDamaged); err != nil {
			r.through = max(r.stage.held, r.in.Last())
			return Ack{}, err
		}
	}
	r.through = c.through
	r.stats.Entries += uint64(len(c.entries))
	return r.ack(c, StatusMore), nil
}

// acceptHot stages the piece of the hot state that is due, and checks everything after the last.
func (r *Receiver) acceptHot(c *chunk) (Ack, error) {
	switch {
	case r.through < c.index || c.offset > r.hot:
		return r.outOfOrder(c), nil
	case c.offset < r.hot:
		return r.ack(c, StatusMore), nil
	case c.offset+uint64(len(c.hot)) > r.offer.hotBytes:
		return r.refused(c, "the snapshot is longer than was offered"), nil
	case r.cfg.Log.Full():
		return r.later(c, wal.ErrDiskFull.Error()), nil
	}
	if r.file == nil {
		f, err := r.cfg.FS.Create(r.path(snapshot.FileName(c.index)))
		if err != nil {
			return Ack{}, full(fmt.Errorf("stage the hot state: %w", err))
		}
		r.file = f
	}
	if _, err := r.file.WriteAt(c.hot, int64(c.offset)); err != nil {
		return Ack{}, full(fmt.Errorf("stage the hot state: %w", err))
	}
	r.hot += uint64(len(c.hot))
	r.stats.HotBytes += uint64(len(c.hot))
	if r.hot < r.offer.hotBytes {
		return r.ack(c, StatusMore), nil
	}
	return r.complete(c)
}

// Discard throws away what is staged and not decided to be installed: the follower has caught up in another way.
func (r *Receiver) Discard() error {
	if r.phase == phaseDecided {
		return nil
	}
	r.phase = phaseOpen
	return r.drop()
}

const snapshotSuffix = ".snapshot"

// full marks an error for want of room; nothing that counts was changed.
func full(err error) error {
	if (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) && !errors.Is(err, errFinal) {
		return fmt.Errorf("%w: %w", wal.ErrDiskFull, err)
	}
	return err
}
