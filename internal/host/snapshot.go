package host

import (
	"fmt"
	"io"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// snapshotRetry is how long a snapshot that found no room waits.
	snapshotRetry = 10 * time.Second
	// wantedPause lies between two snapshots of a shard that the maintainer wants, so that a log that asks again and
	// again does not keep an idle shard busy.
	wantedPause = 100 * time.Millisecond
)

// snapshotState is what a shard's loop knows of its snapshots.
type snapshotState struct {
	index     uint64    // of the newest durable one
	bytes     uint64    // bytes applied (Shard.Applied) when it was taken
	running   bool      // the snapshotter has one
	notBefore time.Time // the last one found no room

	wantedAfter time.Time // when the maintainer's next wish is granted
}

// snapshotJob is a frozen state on its way to the disk.
type snapshotJob struct {
	r     *replica
	meta  snapshot.Meta
	image shard.Image
	bytes uint64 // as snapshotState.bytes
	since uint64 // index of the snapshot before it, which stays
	bulk  int64  // size of that one's file
}

// snapshotResult is what became of a job.
type snapshotResult struct {
	index, bytes uint64
	size         int64
	took         time.Duration
	err          error
}

// snapshot takes a snapshot when one is due: after so much log, when the log cannot recycle a file without it, and at
// the end. Only freezing the state happens here; encoding and writing do not stop the machine.
func (r *replica) snapshot() error {
	r.takeStored()
	if r.snap.running {
		return nil
	}
	applied, term, bytes := r.sh.Applied()
	wanted := r.wanted.Load() && !time.Now().Before(r.snap.wantedAfter)
	due := wanted || bytes-r.snap.bytes >= uint64(r.h.opts.SnapshotBytes) || r.closingSnapshot()
	if !due || time.Now().Before(r.snap.notBefore) {
		return nil
	}
	if applied == r.snap.index {
		return r.advance()
	}
	conf, err := r.sh.ConfState()
	if err != nil {
		return fmt.Errorf("shard %d: encode configuration: %w", r.id, err)
	}
	started := time.Now()
	image := r.driver.Snapshot()
	r.count.SnapshotPause = time.Since(started).Seconds()
	r.wanted.Store(false)
	r.snap.running = true
	r.h.snapshots <- snapshotJob{ // Never blocks: each shard has one job at most.
		r: r,
		meta: snapshot.Meta{
			Shard:       uint16(r.id),
			Index:       applied,
			Term:        term,
			ConfState:   conf,
			Fingerprint: image.Fingerprint(),
		},
		image: image,
		bytes: bytes,
		since: r.snap.index,
		bulk:  r.count.SnapshotBytes,
	}
	return nil
}

// advance moves an idle shard's index by an empty entry: a sealed file that holds the entries up to the newest snapshot
// may go only when that one is the older of two.
func (r *replica) advance() error {
	if !r.leading || r.h.closing.Load() {
		return nil
	}
	if _, term, _ := r.sh.Applied(); term == 0 || r.sh.Last() > r.snap.index {
		return nil // One is under way.
	}
	if err := r.sh.Propose(nil); err != nil {
		return nil //nolint:nilerr // Dropped: the maintainer asks again.
	}
	r.poke()
	return nil
}

// closingSnapshot says that the loop is closing, nothing is in flight, and a snapshot would spare the next start some
// replay.
func (r *replica) closingSnapshot() bool {
	_, _, bytes := r.sh.Applied()
	return r.h.closing.Load() && len(r.inflight) == 0 && bytes > r.snap.bytes
}

// finished says that a closing loop may end.
func (r *replica) finished() bool {
	if !r.h.closing.Load() || len(r.inflight) > 0 || len(r.waits) > 0 || r.snap.running {
		return false
	}
	return !r.closingSnapshot() || time.Now().Before(r.snap.notBefore)
}

// takeStored looks at what the snapshotter finished.
func (r *replica) takeStored() {
	r.mu.Lock()
	res := r.stored
	r.stored = nil
	r.mu.Unlock()
	if res == nil {
		return
	}
	r.snap.running = false
	if res.err != nil {
		r.h.opts.Logger.Warn("snapshot waits for disk space", "shard", r.id, "error", res.err)
		r.snap.notBefore = time.Now().Add(snapshotRetry)
		return
	}
	r.snap.wantedAfter = time.Now().Add(wantedPause)
	r.sh.Compacted(r.snap.index + 1)
	r.snap.index, r.snap.bytes = res.index, res.bytes
	r.count.SnapshotIndex, r.count.SnapshotBytes = res.index, res.size
	r.count.SnapshotMillis = r.h.opts.Clock.NowMillis()
	r.count.SnapshotSeconds = res.took.Seconds()
	r.count.Snapshots++
}

// storeSnapshots is the snapshotter.
func (h *Host) storeSnapshots() {
	for {
		select {
		case job := <-h.snapshots:
			res := h.storeSnapshot(job)
			if res.err != nil && !noSpace(res.err) {
				h.fail(fmt.Errorf("shard %d: write snapshot: %w", job.r.id, res.err))
				return
			}
			job.r.mu.Lock()
			job.r.stored = &res
			job.r.mu.Unlock()
			job.r.poke()
			h.kickMaintainer()
		case <-h.aborted:
			return
		case <-h.stop:
			return
		}
	}
}

// storeSnapshot makes a snapshot durable, and only then tells the log what it may forget.
func (h *Host) storeSnapshot(job snapshotJob) snapshotResult {
	res := snapshotResult{index: job.meta.Index, bytes: job.bytes}
	started := time.Now()
	dir := SnapshotDir(h.opts.Dir, job.r.id)
	res.size, res.err = h.writeSnapshot(dir, job)
	for noSpace(res.err) && h.log.ReleaseReserve() {
		// This is what the reserve is for: without snapshots the log cannot shrink.
		res.size, res.err = h.writeSnapshot(dir, job)
	}
	if res.err != nil {
		return res
	}
	h.log.Retain(job.r.id, wal.Retention{Snapshot: job.meta.Index, KeepFrom: job.since + 1, Live: job.image.Live()})
	h.kickWriter() // Files may go when this is durable too, and nobody else may write for long.
	res.err = snapshot.Prune(h.opts.FS, dir, SnapshotsKept)
	res.took = time.Since(started)
	return res
}

// writeSnapshot writes a snapshot, but not when it is likely to fill the disk: a flush that needs a new file meanwhile
// would find no room, which ends the node.
func (h *Host) writeSnapshot(dir string, job snapshotJob) (int64, error) {
	if u, err := h.opts.FS.Usage(h.opts.Dir); err == nil && u.Free < uint64(job.bulk+job.bulk/8) {
		return 0, fmt.Errorf("%w: %d bytes are free, the last snapshot has %d", wal.ErrDiskFull, u.Free, job.bulk)
	}
	return snapshot.Write(h.opts.FS, dir, job.meta, func(w io.Writer) error {
		_, err := job.image.WriteTo(w)
		return err
	})
}

// retainRestored tells the log what the snapshots refer to that the shards were restored from: until it knows, it can
// drop nothing.
func (h *Host) retainRestored() {
	for _, r := range h.replicas {
		h.log.Retain(r.id, r.restored)
		r.restored = wal.Retention{}
	}
}
