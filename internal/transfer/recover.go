package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Recovered says what became of an installation that a crash interrupted. Its zero value: there was none.
type Recovered struct {
	Installed bool
	Meta      snapshot.Meta // of the snapshot that is installed
	// Abandoned is the damage for which the installation was undone, as a *wal.CorruptError; nil when it was not. The shard is as
	// it was before, and will be brought a snapshot again.
	Abandoned error
}

// DamagedError says that an installation that a crash interrupted can be neither completed, since the disk has damaged what is to
// be installed, nor undone, since the log has gone on from what was before. The replica has no state that it could go on from: it must not
// run, and its group has to make the node a member anew. The decision stays, so that every start finds the same, until what there
// is of the replica is removed.
type DamagedError struct {
	Shard  wal.ShardID
	Index  uint64 // of the snapshot; 0 when that is not known
	Damage error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("shard %d: the installation of snapshot %d can be neither completed nor undone: %v", e.Shard, e.Index, e.Damage)
}

// Unwrap returns the damage.
func (e *DamagedError) Unwrap() error { return e.Damage }

// Recover completes the installation that a crash interrupted, if there is one, and reports what is installed; if the disk has
// damaged that since, it abandons it where that is safe, as the package's documentation says. It needs no Verify. Call it after
// wal.Open, before any shard is restored; it flushes the log, so nobody else may yet. Errors: *DamagedError, which is about this
// replica alone; any other is final.
func Recover(cfg ReceiverConfig) (Recovered, error) {
	name := cfg.Dir + "/" + installName
	b, err := readFile(cfg.FS, name, installBytesMax)
	if err == nil && b == nil {
		return Recovered{}, nil
	}
	var d decision
	switch {
	case errors.Is(err, syscall.EIO):
		err = fmt.Errorf("%w: %w", errDecision, err)
	case err != nil:
		return Recovered{}, err
	default:
		d, err = decodeDecision(b, cfg.Shard)
	}
	// A process that was killed may have left the name, and others that it relies on, in memory only.
	if syncErr := errors.Join(syncDir(cfg.FS, path.Dir(cfg.Dir)), syncDir(cfg.FS, cfg.Dir)); syncErr != nil {
		return Recovered{}, syncErr
	}
	if err != nil {
		damage := &wal.CorruptError{File: name, Shard: cfg.Shard, Reason: err.Error()}
		if errors.Is(err, errDecision) {
			return undecided(cfg, damage)
		}
		return Recovered{}, damage
	}
	return d.recover(cfg)
}

// recover completes what was decided, or abandons it.
func (d *decision) recover(cfg ReceiverConfig) (Recovered, error) {
	past := cfg.Log.State(cfg.Shard).First > d.index // No step before the last moves it so far: see Receiver.needs.
	snapshotDamage, adopted, err := findSnapshot(cfg, d.index)
	if err != nil {
		return Recovered{}, err
	}
	moved, err := cfg.Log.Received(d.installation(cfg))
	moved = moved && adopted // The snapshot is moved first: see undecided.
	segmentDamage, damaged := errors.AsType[*wal.CorruptError](err)
	switch {
	case err != nil && !damaged:
		return Recovered{}, d.failed(err)
	case snapshotDamage != nil && (past || moved):
		return Recovered{}, &DamagedError{cfg.Shard, d.index, snapshotDamage}
	case snapshotDamage != nil:
		return abandon(cfg, d.index, snapshotDamage)
	case damaged && past:
		// All segments were in their place, durably, before the log began behind the snapshot. They are damaged as others may be.
		d.segments = nil
	case damaged && moved:
		return Recovered{}, &DamagedError{cfg.Shard, d.index, segmentDamage}
	case damaged:
		return abandon(cfg, d.index, segmentDamage)
	}
	m, _, err := place(cfg, *d)
	if err != nil {
		return Recovered{}, d.failed(err)
	}
	if _, err := cfg.Log.Flush(); err != nil {
		return Recovered{}, d.failed(err)
	}
	return Recovered{Installed: true, Meta: m}, end(cfg)
}

func (d *decision) failed(err error) error {
	return fmt.Errorf("complete the installation of snapshot %d: %w", d.index, err)
}

// findSnapshot looks for the snapshot that is to be installed, and says what is wrong with it; adopted is true when it is not where it was
// received.
func findSnapshot(cfg ReceiverConfig, index uint64) (damage *wal.CorruptError, adopted bool, err error) {
	dir := cfg.Dir
	loaded, err := snapshot.OpenAt(cfg.FS, dir, index)
	if errors.Is(err, fs.ErrNotExist) {
		dir, adopted = cfg.SnapshotDir, true
		loaded, err = snapshot.OpenAt(cfg.FS, dir, index)
	}
	damage = &wal.CorruptError{File: dir + "/" + snapshot.FileName(index), Shard: cfg.Shard}
	if found, ok := errors.AsType[*snapshot.Damage](err); ok {
		damage.Offset, damage.Reason = found.Offset, found.Reason
		return damage, adopted, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		damage.Reason = "the snapshot that was to be installed is missing"
		return damage, adopted, nil
	}
	if err != nil {
		return nil, adopted, err
	}
	return nil, adopted, loaded.Close()
}

// undecided is Recover where the decision itself is damaged. As long as the snapshot is where it was received, nothing else was moved:
// Adopt comes first, and is durable before the log is told anything.
func undecided(cfg ReceiverConfig, damage *wal.CorruptError) (Recovered, error) {
	names, err := cfg.FS.List(cfg.Dir)
	if err != nil {
		return Recovered{}, fmt.Errorf("list %s: %w", cfg.Dir, err)
	}
	if slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, snapshotSuffix) }) {
		return abandon(cfg, 0, damage)
	}
	return Recovered{}, &DamagedError{cfg.Shard, 0, damage}
}

// abandon undoes an installation of which the log has nothing. The snapshot goes before the decision: what a disk once refuses to
// read, it may read later, and the log does not reach as far. What else was received stays for the next transfer. It can be done again.
func abandon(cfg ReceiverConfig, index uint64, damage *wal.CorruptError) (Recovered, error) {
	if index > 0 {
		err := cfg.FS.Remove(cfg.SnapshotDir + "/" + snapshot.FileName(index))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Recovered{}, fmt.Errorf("abandon the installation of snapshot %d: %w", index, err)
		}
		if err := syncDir(cfg.FS, cfg.SnapshotDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return Recovered{}, err
		}
	}
	return Recovered{Abandoned: damage}, end(cfg)
}
