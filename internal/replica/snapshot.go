package replica

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// snapshotState is what a replica knows of its snapshots.
type snapshotState struct {
	index     uint64        // of the newest durable one
	bytes     uint64        // bytes applied (Shard.Applied) when it was taken
	running   bool          // one is being stored
	wanted    bool          // by the log
	notBefore time.Duration // the last one found no room

	wantedAfter time.Duration // when the log's next wish is granted

	closing bool // one was begun since the replica is closing

	bringing []bringing // wishes that wait for one
	kept     uint64     // the log has all behind this index
	keeps    bool       // the one that is due makes it forget nothing
}

// SnapshotJob is a frozen state on its way to the disk. Store it from any one goroutine.
type SnapshotJob struct {
	Shard shard.ID
	Meta  snapshot.Meta

	fs    vfs.FS
	dir   string
	disk  string
	log   Log
	image shard.Image
	bytes uint64 // as snapshotState.bytes
	since uint64 // the log keeps all behind this index: no more than that of the snapshot before it, which stays
	bulk  int64  // size of that one's file
}

// SnapshotResult is what became of a job.
type SnapshotResult struct {
	Took time.Duration // as the owner measured it
	Err  error         // NoSpace(Err): nothing is broken, and it is tried again later

	meta  snapshot.Meta
	bytes uint64
	since uint64
	size  int64
}

// Storing reports whether a job is out.
func (r *Replica) Storing() bool { return r.snap.running }

// WantSnapshot says that the log cannot let go of a file before this replica has taken a snapshot.
func (r *Replica) WantSnapshot() { r.snap.wanted = true }

// snapshot says when a snapshot is due: after so much log, when the log cannot recycle a file without it, and at the end.
func (r *Replica) snapshot() error {
	if r.snap.running || r.snap.closing || r.barred() { // the one that a closing replica begins is its last
		return nil
	}
	applied, _, bytes := r.sh.Applied()
	wanted := r.snap.wanted && r.now.Mono >= r.snap.wantedAfter
	due := wanted || bytes-r.snap.bytes >= uint64(r.cfg.SnapshotBytes) || r.closingSnapshot()
	r.snap.keeps = !due // It is only to be brought to a member.
	if !due && len(r.snap.bringing) == 0 || r.now.Mono < r.snap.notBefore {
		return nil
	}
	if applied == r.snap.index {
		return r.advance()
	}
	r.eff.Snapshot = true
	return nil
}

// Freeze takes the snapshot that Effects asked for. Only freezing the state happens here; encoding and writing, which is
// the job, do not stop the machine. One job is out at a time: SnapshotStored ends it.
func (r *Replica) Freeze() (SnapshotJob, error) {
	conf, err := r.sh.ConfState()
	if err != nil {
		return SnapshotJob{}, fmt.Errorf("shard %d: encode configuration: %w", r.cfg.Shard, err)
	}
	applied, term, bytes := r.sh.Applied()
	since := r.snap.index
	if r.snap.keeps {
		since = r.snap.kept
	}
	image := r.cfg.Driver.Snapshot()
	r.snap.wanted, r.snap.running, r.snap.closing = false, true, r.closing
	return SnapshotJob{
		Shard: r.cfg.Shard,
		Meta: snapshot.Meta{
			Shard:       uint16(r.cfg.Shard),
			Index:       applied,
			Term:        term,
			ConfState:   conf,
			Fingerprint: image.Fingerprint(),
		},
		fs: r.cfg.FS, dir: r.cfg.SnapshotDir, disk: r.cfg.DiskDir, log: r.cfg.Log,
		image: image, bytes: bytes, since: since, bulk: r.count.SnapshotBytes,
	}, nil
}

// advance moves an idle shard's index by an empty entry: a sealed file that holds the entries up to the newest snapshot
// may go only when that one is the older of two. A follower, whose files fill with the entries of other shards at another
// pace than the leader's, asks the leader for it.
func (r *Replica) advance() error {
	if r.closing || r.snap.index == 0 || r.sh.Last() > r.snap.index {
		return nil // In the last case one is under way.
	}
	if !r.leading {
		r.snap.wantedAfter = r.now.Mono + NudgePause
	}
	return r.sh.Nudge()
}

// closingSnapshot says that the replica is closing, nothing is in flight, and a snapshot would spare the next start some
// replay. One is enough: a group that goes on under load has something new to be applied whenever one is stored.
func (r *Replica) closingSnapshot() bool {
	_, _, bytes := r.sh.Applied()
	return r.closing && !r.snap.closing && !r.barred() && len(r.inflight) == 0 && bytes > r.snap.bytes
}

// SnapshotStored tells what became of the job that is out. at is the node's wall clock when it was done.
func (r *Replica) SnapshotStored(now Instant, res SnapshotResult) {
	r.snap.running = false
	if res.Err != nil {
		r.snap.closing = false
		r.cfg.Logger.Warn("snapshot waits for disk space", "shard", r.cfg.Shard, "error", res.Err)
		r.snap.notBefore = now.Mono + SnapshotRetry
		r.count.SnapshotsFailed++
		return
	}
	r.snap.wantedAfter = now.Mono + WantedPause
	m := &res.meta
	r.sh.Snapshotted(shard.Restored{Index: m.Index, Term: m.Term, ConfState: m.ConfState}, res.since+1)
	r.snap.index, r.snap.bytes, r.snap.kept = m.Index, res.bytes, res.since
	r.count.SnapshotIndex, r.count.SnapshotBytes = m.Index, res.size
	r.count.SnapshotMillis = now.Millis
	r.count.SnapshotSeconds = res.Took.Seconds()
	r.count.Snapshots++
}

// Store makes a snapshot durable, and only then tells the log what it may forget. When NoSpace reports true of the
// result's error, nothing is broken; any other error is final.
func (j *SnapshotJob) Store() SnapshotResult {
	res := SnapshotResult{meta: j.Meta, bytes: j.bytes, since: j.since}
	res.size, res.Err = j.write()
	for NoSpace(res.Err) && j.log.ReleaseReserve() {
		// This is what the reserve is for: without snapshots the log cannot shrink.
		res.size, res.Err = j.write()
	}
	if res.Err != nil {
		return res
	}
	j.log.Retain(j.Shard, wal.Retention{Snapshot: j.Meta.Index, KeepFrom: j.since + 1, Live: j.image.Live()})
	res.Err = snapshot.Prune(j.fs, j.dir, SnapshotsKept)
	return res
}

// write writes a snapshot, but not when it is likely to fill the disk: a flush that needs a new file meanwhile would find
// no room, which ends the node.
func (j *SnapshotJob) write() (int64, error) {
	if u, err := j.fs.Usage(j.disk); err == nil && u.Free < uint64(j.bulk+j.bulk/8) {
		return 0, fmt.Errorf("%w: %d bytes are free, the last snapshot has %d", wal.ErrDiskFull, u.Free, j.bulk)
	}
	return snapshot.Write(j.fs, j.dir, j.Meta, writerOf(j.image))
}

// writerOf is an image's encoder as package snapshot wants it.
func writerOf(image shard.Image) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := image.WriteTo(w)
		return err
	}
}

// NoSpace reports whether an error only says that the disk or a quota is full: then what was there is intact and another
// try may do.
func NoSpace(err error) bool {
	return errors.Is(err, wal.ErrDiskFull) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
