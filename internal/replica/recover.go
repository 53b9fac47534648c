package replica

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// RestoreError says that a snapshot that is intact could not be restored, or gave another state than it was taken of.
type RestoreError struct {
	File   string
	Shard  shard.ID
	Reason error
}

func (e *RestoreError) Error() string {
	return fmt.Sprintf("shard %d: restore %s: %v", e.Shard, e.File, e.Reason)
}

// Unwrap returns the cause.
func (e *RestoreError) Unwrap() error { return e.Reason }

// Open restores the replica from its newest good snapshot, or makes the genesis of a new group, or waits to be brought a
// snapshot; see Config.Founders. Replay then applies what the log knows as committed. Errors: *RestoreError, *LostError, *shard.StateError,
// those of package snapshot; a *wal.CorruptError when the log of a replica that is alone is damaged.
func Open(cfg Config) (*Replica, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Replica{cfg: cfg, nextRead: 1, mender: transfer.NewMender(cfg.Shard, cfg.Log)}
	r.count.ID = cfg.Shard
	if err := cfg.Log.Lost(cfg.Shard); err != nil {
		return nil, r.lost(err)
	}
	snap, err := r.restore()
	if err != nil {
		return nil, r.stateless(err)
	}
	passed := r.passHoles(snap.Index)
	first := cfg.Log.State(cfg.Shard).First
	r.sh, err = shard.Open(shard.Config{
		ID:         cfg.Shard,
		Replica:    cfg.Replica,
		Log:        cfg.Log,
		Machine:    machine{cfg.Driver, r},
		CacheBytes: cfg.CacheBytes,

		ElectionTicks:    cfg.ElectionTicks,
		UncommittedBytes: cfg.UncommittedBytes,

		Logger: cfg.Logger.With("shard", cfg.Shard),
	}, snap)
	if err != nil {
		return nil, r.stateless(err)
	}
	wrong, err := r.acquit(snap.Index)
	if err != nil {
		return nil, r.stateless(fmt.Errorf("shard %d: %w", cfg.Shard, err))
	}
	// What a replica before this one appended in the same process is in the log and may not be durable: nothing that relies on
	// it may be promised before it is.
	if r.lastPos, err = cfg.Log.Append(cfg.Shard, nil, nil); err != nil {
		return nil, fmt.Errorf("shard %d: %w", cfg.Shard, err)
	}
	r.setMendable() // Before anybody can read a payload and take a damaged one for lost.
	if err := r.openHoles(passed); err != nil {
		return nil, err
	}
	r.snap.index, r.snap.kept = snap.Index, min(first, snap.Index+1)-1
	r.count.SnapshotIndex = snap.Index
	r.stamp = cfg.Driver.Stamp()
	if snap.Index == 0 {
		// Nothing is live. The log wants to know: it may have files with entries of an earlier replica of the shard.
		r.restored = wal.Retention{Live: cfg.Driver.Snapshot().Live()}
		r.setTrust(Trusted, 0)
		return r, nil
	}
	if wrong {
		r.setTrust(Wrong, r.doubts.Index) // and what is live is not known
		return r, nil
	}
	r.setTrust(Trusted, 0)
	// Which snapshot before this one is good is not known: nothing more is given up until there are two new ones.
	r.restored = wal.Retention{
		Snapshot: snap.Index, KeepFrom: min(first, snap.Index+1), Live: cfg.Driver.Snapshot().Live(),
		Fallback: r.count.DamagedSnapshot > 0,
	}
	return r, nil
}

// Replay carries out one step of applying what is known as committed, and reports whether there is more. What the log
// holds behind it follows once the replica leads. REQUIRES: no Turn before it.
func (r *Replica) Replay() (more bool, err error) {
	if r.holes.out {
		return false, nil
	}
	before, _, _ := r.sh.Applied()
	if r.sh.HasReady() {
		if err := r.process(); err != nil {
			return false, err
		}
		if err := r.apply(); err != nil {
			return false, err
		}
	}
	applied, _, _ := r.sh.Applied()
	r.count.EntriesReplayed += applied - before
	if more = r.sh.HasReady(); !more {
		r.settle = false
		r.cfg.Driver.Settled()
	}
	return more, nil
}

// Retention tells what the restored snapshot refers to: until the log knows, it can drop nothing. The owner gives it to
// the log's Retain before the first snapshot is stored. A replica that waits for a snapshot refers to nothing; of one whose
// state is wrong it is not known.
func (r *Replica) Retention() wal.Retention { return r.restored }

// restore gives the driver the state of the newest good snapshot, or makes the genesis of a new shard.
func (r *Replica) restore() (shard.Restored, error) {
	dir := r.cfg.SnapshotDir
	if err := syncNames(r.cfg.FS, dir, path.Dir(dir)); err != nil {
		return shard.Restored{}, err
	}
	loaded, damaged, err := snapshot.Load(r.cfg.FS, dir)
	for _, d := range damaged {
		r.count.DamagedSnapshot++
		r.cfg.Logger.Error("snapshot is damaged and passed over", "shard", r.cfg.Shard, "damage", d.Error())
	}
	if errors.Is(err, snapshot.ErrNone) {
		return r.begin()
	}
	if err != nil {
		return shard.Restored{}, fmt.Errorf("shard %d: load snapshot: %w", r.cfg.Shard, err)
	}
	defer func() { _ = loaded.Close() }() // only read from
	fail := func(err error) (shard.Restored, error) {
		return shard.Restored{}, &RestoreError{File: loaded.Path, Shard: r.cfg.Shard, Reason: err}
	}
	m := loaded.Meta
	if shard.ID(m.Shard) != r.cfg.Shard {
		return fail(fmt.Errorf("it is of shard %d", m.Shard))
	}
	if err := r.cfg.Driver.Restore(loaded.Content); err != nil {
		return fail(err)
	}
	if got := r.cfg.Driver.Fingerprint(); got != m.Fingerprint {
		return fail(fmt.Errorf("the state has fingerprint %016x, the snapshot was taken at %016x", got, m.Fingerprint))
	}
	r.count.SnapshotBytes = loaded.Bytes
	snap := shard.Restored{Index: m.Index, Term: m.Term, ConfState: m.ConfState}
	if m.Index == shard.GenesisIndex && r.isNew() {
		// A crash came between the genesis and the first flush.
		return snap, r.cfg.Log.InstallSnapshot(r.cfg.Shard, m.Index, m.Term)
	}
	return snap, nil
}

// syncNames makes the names in directories durable, as far as the directories exist. A process that was killed between
// making a name and syncing it leaves one that is seen and not durable: it must not be relied on before this.
func syncNames(fsys vfs.FS, dirs ...string) error {
	for _, dir := range dirs {
		if err := fsys.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sync directory %s: %w", dir, err)
		}
	}
	return nil
}

// isNew reports whether the log has never held anything of the shard.
func (r *Replica) isNew() bool {
	s := r.cfg.Log.State(r.cfg.Shard)
	return s.Last == 0 && s.HardState.Term == 0
}

// begin makes a replica that has no snapshot yet: a founder, or one that waits to be brought one.
func (r *Replica) begin() (shard.Restored, error) {
	if r.cfg.Log.State(r.cfg.Shard).Last > 0 || len(r.cfg.Founders) > 0 && !r.isNew() {
		return shard.Restored{}, &shard.StateError{
			Shard: r.cfg.Shard, Reason: fmt.Sprintf("the log has entries, but %s has no snapshot", r.cfg.SnapshotDir),
		}
	}
	if len(r.cfg.Founders) == 0 {
		return shard.Restored{}, nil
	}
	return r.genesis()
}

// genesis makes the snapshot from which every founder of a new group starts.
func (r *Replica) genesis() (shard.Restored, error) {
	if !slices.Contains(r.cfg.Founders, r.cfg.Replica) {
		return shard.Restored{}, fmt.Errorf("shard %d: replica %s is not one of the founders %v", r.cfg.Shard, r.cfg.Replica, r.cfg.Founders)
	}
	conf, err := shard.GenesisConfState(r.cfg.Founders)
	if err != nil {
		return shard.Restored{}, err
	}
	snap := shard.Restored{Index: shard.GenesisIndex, Term: shard.GenesisTerm, ConfState: conf}
	image := r.cfg.Driver.Snapshot()
	meta := snapshot.Meta{
		Shard: uint16(r.cfg.Shard), Index: snap.Index, Term: snap.Term, ConfState: conf, Fingerprint: image.Fingerprint(),
	}
	if _, err := snapshot.Write(r.cfg.FS, r.cfg.SnapshotDir, meta, writerOf(image)); err != nil {
		return snap, fmt.Errorf("shard %d: write the first snapshot: %w", r.cfg.Shard, err)
	}
	return snap, r.cfg.Log.InstallSnapshot(r.cfg.Shard, snap.Index, snap.Term)
}
