package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// progressEntries is how many entries lie between two reports of Options.Progress.
const progressEntries = 4096

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

// recover restores all shards and replays what is known as committed, the shards beside one another.
func (h *Host) recover(ctx context.Context) error {
	for _, id := range h.opts.Shards {
		r := newReplica(h, id)
		h.replicas = append(h.replicas, r)
		h.byID[id] = r
	}
	var (
		group    sync.WaitGroup
		progress sync.Mutex
	)
	errs := make([]error, len(h.replicas))
	for i, r := range h.replicas {
		group.Go(func() { errs[i] = r.recover(ctx, &progress) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// recover restores one shard.
func (r *replica) recover(ctx context.Context, progress *sync.Mutex) error {
	started := time.Now()
	snap, err := r.restore()
	if err != nil {
		return err
	}
	first := r.h.log.State(r.id).First
	r.sh, err = shard.Open(shard.Config{
		ID:         r.id,
		Replica:    r.h.opts.Node,
		Log:        r.h.log,
		Machine:    machine{r.driver, r},
		CacheBytes: r.h.opts.CacheBytes,

		UncommittedBytes: r.h.opts.UncommittedBytes,

		Logger: r.h.opts.Logger.With("shard", r.id),
	}, snap)
	if err != nil {
		return err
	}
	r.snap.index = snap.Index
	r.count.SnapshotIndex = snap.Index
	// Which snapshot before this one is good is not known: nothing more is given up until there are two new ones.
	r.restored = wal.Retention{Snapshot: snap.Index, KeepFrom: min(first, snap.Index+1), Live: r.driver.Snapshot().Live(), Fallback: r.count.DamagedSnapshot > 0}
	if err := r.replay(ctx, snap.Index, progress); err != nil {
		return err
	}
	applied, _, _ := r.sh.Applied()
	r.count.EntriesReplayed = applied - snap.Index
	r.count.RecoverySeconds = time.Since(started).Seconds()
	r.report()
	return nil
}

// replay applies what is known as committed. What the log holds behind it follows once the shard leads.
func (r *replica) replay(ctx context.Context, from uint64, progress *sync.Mutex) error {
	report := func(done bool) {
		if r.h.opts.Progress == nil {
			return
		}
		progress.Lock()
		defer progress.Unlock()
		applied, _, _ := r.sh.Applied()
		r.h.opts.Progress(Progress{Shard: r.id, Applied: applied, Last: r.sh.Last(), Done: done})
	}
	report(false)
	for r.sh.HasReady() {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("recover shard %d: %w", r.id, err)
		}
		if err := r.process(); err != nil {
			return err
		}
		if applied, _, _ := r.sh.Applied(); applied-from >= progressEntries {
			from = applied
			report(false)
		}
	}
	r.driver.Settled()
	report(true)
	return nil
}

// restore gives the driver the state of the newest good snapshot, or makes the genesis of a new shard.
func (r *replica) restore() (shard.Restored, error) {
	dir := SnapshotDir(r.h.opts.Dir, r.id)
	if err := syncNames(r.h.opts.FS, dir, path.Dir(dir)); err != nil {
		return shard.Restored{}, err
	}
	loaded, damaged, err := snapshot.Load(r.h.opts.FS, dir)
	for _, d := range damaged {
		r.count.DamagedSnapshot++
		r.h.opts.Logger.Error("snapshot is damaged and passed over", "shard", r.id, "damage", d.Error())
	}
	if errors.Is(err, snapshot.ErrNone) {
		return r.genesis(dir)
	}
	if err != nil {
		return shard.Restored{}, fmt.Errorf("shard %d: load snapshot: %w", r.id, err)
	}
	defer func() { _ = loaded.Close() }() // only read from
	fail := func(err error) (shard.Restored, error) {
		return shard.Restored{}, &RestoreError{File: loaded.Path, Shard: r.id, Reason: err}
	}
	m := loaded.Meta
	if shard.ID(m.Shard) != r.id {
		return fail(fmt.Errorf("it is of shard %d", m.Shard))
	}
	if err := r.driver.Restore(loaded.Content); err != nil {
		return fail(err)
	}
	if got := r.driver.Fingerprint(); got != m.Fingerprint {
		return fail(fmt.Errorf("the state has fingerprint %016x, the snapshot was taken at %016x", got, m.Fingerprint))
	}
	r.count.SnapshotBytes = loaded.Bytes
	snap := shard.Restored{Index: m.Index, Term: m.Term, ConfState: m.ConfState}
	if m.Index == shard.GenesisIndex && r.isNew() {
		// A crash came between the genesis and the first flush.
		return snap, r.h.log.InstallSnapshot(r.id, m.Index, m.Term)
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
func (r *replica) isNew() bool {
	s := r.h.log.State(r.id)
	return s.Last == 0 && s.HardState.Term == 0
}

// genesis makes the snapshot from which every member of a new group starts.
func (r *replica) genesis(dir string) (shard.Restored, error) {
	if !r.isNew() {
		return shard.Restored{}, &shard.StateError{
			Shard: r.id, Reason: fmt.Sprintf("the log has entries, but %s has no snapshot", dir),
		}
	}
	conf, err := shard.GenesisConfState([]uint64{r.h.opts.Node})
	if err != nil {
		return shard.Restored{}, err
	}
	snap := shard.Restored{Index: shard.GenesisIndex, Term: shard.GenesisTerm, ConfState: conf}
	image := r.driver.Snapshot()
	meta := snapshot.Meta{
		Shard: uint16(r.id), Index: snap.Index, Term: snap.Term, ConfState: conf, Fingerprint: image.Fingerprint(),
	}
	_, err = snapshot.Write(r.h.opts.FS, dir, meta, func(w io.Writer) error {
		_, err := image.WriteTo(w)
		return err
	})
	if err != nil {
		return snap, fmt.Errorf("shard %d: write the first snapshot: %w", r.id, err)
	}
	return snap, r.h.log.InstallSnapshot(r.id, snap.Index, snap.Term)
}
