package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// nodeLog is what the host needs of *wal.Log.
type nodeLog interface {
	replica.Log
	transfer.LeaderLog
	transfer.FollowerLog
	Shards() []wal.ShardID
	NeedsSnapshot() []wal.ShardID
	Maintain() (more bool, err error)
	Leisure() bool
	RetryUnreadable()
	Scrub(bytes int64) (read int64, err error)
	Forget(shard wal.ShardID) (wal.Position, error)
	Stats() wal.Stats
	Close() error
}

var _ nodeLog = (*wal.Log)(nil)

// Host runs the shards of one node. Its methods may be called from any goroutine.
type Host struct {
	opts     Options
	identity Identity
	records  []Record // as Open found them
	log      nodeLog
	unlock   func() error
	recovery wal.Recovery
	opened   time.Duration // how long Open took

	table   atomic.Pointer[table]
	started time.Time // the origin of replica.Instant.Mono

	closing atomic.Bool   // gather no more; finish what is in flight
	aborted chan struct{} // closed: stop at once
	abort   sync.Once
	failed  atomic.Bool
	fatal   sync.Once
	running sync.WaitGroup // shard loops
	others  sync.WaitGroup // writer, maintainer, snapshotter
	stop    chan struct{}  // closed when the loops are done: the others stop
	closed  sync.Once
	closeMu sync.Mutex

	movedMu sync.Mutex
	moved   chan struct{} // guarded by movedMu; closed when a leadership changes; nil: nobody waits

	flushing    semaphore     // held by who flushes the log
	durable     atomic.Uint64 // wal.Position that is durable
	flushKick   chan struct{}
	flushMicros histogram
	batchBytes  histogram
	batchItems  histogram

	transfers, transferBytes, transferFullBytes, messagesDropped, chunksDropped atomic.Uint64 // as Stats

	sinceMaintain atomic.Int64 // bytes appended since the maintainer was kicked
	maintainKick  chan struct{}
	snapshots     chan *snapshotJob
}

// table is the loops of a host. A table is never changed: another takes its place.
type table struct {
	loops []*loop // by shard
	byID  map[shard.ID]*loop
	lost  map[shard.ID]*replica.LostError // see lost.go
}

// loop returns the loop of a shard, or nil.
func (h *Host) loop(id shard.ID) *loop { return h.table.Load().byID[id] }

// list adds a loop to the table. REQUIRES: during Open, or h.closeMu.
func (h *Host) list(l *loop) {
	old := h.table.Load()
	t := &table{loops: append(slices.Clone(old.loops), l), byID: maps.Clone(old.byID), lost: old.lost}
	if t.byID == nil {
		t.byID = make(map[shard.ID]*loop)
	}
	slices.SortFunc(t.loops, func(a, b *loop) int { return cmp.Compare(a.id, b.id) })
	t.byID[l.id] = l
	h.table.Store(t)
}

// unlist takes a loop out of the table. REQUIRES: h.closeMu.
func (h *Host) unlist(l *loop) {
	old := h.table.Load()
	t := &table{byID: maps.Clone(old.byID), lost: old.lost}
	t.loops = slices.DeleteFunc(slices.Clone(old.loops), func(o *loop) bool { return o == l })
	delete(t.byID, l.id)
	h.table.Store(t)
}

// LogDir is where the log of a data directory lies.
func LogDir(dir string) string { return path.Join(dir, logDirName) }

// SnapshotDir is where the snapshots of a shard lie.
func SnapshotDir(dir string, id shard.ID) string {
	return path.Join(dir, snapshotDirName, fmt.Sprintf("%05d", id))
}

// Open locks the data directory, opens the log, restores every shard from its newest good snapshot, replays the log
// behind it and starts serving. When it returns, every shard whose group is this node alone leads and has applied all of its log;
// the others follow when their groups do. On an error nothing
// runs and nothing is locked. Errors: vfs.ErrLocked when another process has the directory, *IdentityError,
// *wal.CorruptError, *shard.StateError, *shard.EntryError, ctx's.
func Open(ctx context.Context, opts Options) (*Host, error) {
	return openWith(ctx, opts, func(o wal.Options) (nodeLog, wal.Recovery, error) { return wal.Open(o) })
}

type logOpener func(wal.Options) (nodeLog, wal.Recovery, error)

func openWith(ctx context.Context, opts Options, openLog logOpener) (*Host, error) {
	checkLimits()
	started := time.Now()
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{
		opts:         opts,
		started:      started,
		aborted:      make(chan struct{}),
		stop:         make(chan struct{}),
		flushing:     newSemaphore(),
		flushKick:    make(chan struct{}, 1),
		maintainKick: make(chan struct{}, 1),
		snapshots:    make(chan *snapshotJob, ShardsMax),
	}
	h.table.Store(&table{})
	if err := h.openFiles(openLog); err != nil {
		return nil, errors.Join(err, h.release())
	}
	if err := h.recover(ctx); err != nil {
		return nil, errors.Join(err, h.release())
	}
	h.start()
	if err := h.awaitLead(ctx); err != nil {
		h.halt()
		return nil, errors.Join(err, h.shutdown())
	}
	h.opened = time.Since(started)
	return h, nil
}

// openFiles takes the lock, checks the identity and opens the log.
func (h *Host) openFiles(openLog logOpener) error {
	o := &h.opts
	if err := o.FS.MkdirAll(o.Dir); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	lock, err := o.FS.Lock(path.Join(o.Dir, lockName))
	if errors.Is(err, vfs.ErrLocked) {
		return fmt.Errorf("data directory %s is in use by another process: stop that node, or give this one a directory of its own: %w", o.Dir, err)
	}
	if err != nil {
		return fmt.Errorf("lock data directory %s: %w", o.Dir, err)
	}
	h.unlock = lock.Close
	if err := syncNames(o.FS, o.Dir); err != nil {
		return err
	}
	// A directory that others own was not made by us; some cannot be synced.
	if err := o.FS.SyncDir(path.Dir(o.Dir)); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync parent of data directory: %w", err)
	}
	if h.identity, err = claim(o.FS, o.Dir, o.Cluster, o.Node); err != nil {
		return err
	}
	// A process that was killed may have left names that are seen and not durable.
	if err := syncNames(o.FS, path.Join(o.Dir, recordDirName)); err != nil {
		return err
	}
	o.WAL.FS, o.WAL.Dir = o.FS, LogDir(o.Dir)
	o.WAL.KeepHoles = true // a replica with holes keeps out of its group, one that lost more is not run; alone, the log is refused
	// The log is durable before the first snapshot is written: with a snapshot and no log, the log was lost.
	if h.records, err = ReadRecords(o.FS, o.Dir); err != nil {
		return err
	}
	if o.WAL.Existing, err = h.hasData(); err != nil {
		return err
	}
	if o.WAL.Peers, err = h.hasPeers(); err != nil {
		return err
	}
	h.log, h.recovery, err = openLog(o.WAL)
	if err != nil {
		h.log = nil
		return h.advise(fmt.Errorf("open log: %w", err))
	}
	for _, b := range h.recovery.Rebuilt {
		o.Logger.Warn("the index of a log segment is damaged, and was made anew out of its records", "file", b.File, "shard", b.Shard, "damage", b.Reason,
			"entries", b.Entries, "damaged_entries", b.Damaged, "lost_bytes", b.Lost, "whole", b.Whole)
	}
	if h.recovery.Damage != nil {
		o.Logger.Error("the log is damaged: look at the disk", "damage", h.recovery.Damage, "holes", h.recovery.Holes, "lost_shards", h.recovery.LostShards)
	}
	return nil
}

// hasData reports whether any shard has, or had, data.
func (h *Host) hasData() (bool, error) {
	for _, r := range h.records {
		if r.State >= Member {
			return true, nil
		}
	}
	for _, r := range h.opts.Replicas {
		found, err := snapshot.Exists(h.opts.FS, SnapshotDir(h.opts.Dir, r.Shard))
		if found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// hasPeers reports whether the shards have, or may have, replicas on other nodes: a record or a snapshot says so.
func (h *Host) hasPeers() (bool, error) {
	if h.opts.Transport == nil {
		return false, nil
	}
	for _, r := range h.records {
		if r.State == Joining || r.Replica.Birth() > 0 {
			return true, nil
		}
	}
	for _, r := range h.opts.Replicas {
		if len(r.Founders) > 1 {
			return true, nil
		}
		loaded, _, err := snapshot.Load(h.opts.FS, SnapshotDir(h.opts.Dir, r.Shard))
		if err != nil {
			continue // Who opens the replica says what is wrong with it.
		}
		conf := loaded.Meta.ConfState
		if err := loaded.Close(); err != nil {
			return false, fmt.Errorf("close snapshot: %w", err)
		}
		if members, err := shard.DecodeMembers(conf); err == nil && len(members.All()) > 1 {
			return true, nil
		}
	}
	return false, nil
}

// start starts the goroutines that doc.go names.
func (h *Host) start() {
	h.others.Go(h.writeLog)
	h.others.Go(h.maintain)
	h.others.Go(h.storeSnapshots)
	for _, l := range h.table.Load().loops {
		h.running.Go(l.run)
	}
}

// awaitLead waits until every shard leads whose group is this node alone. The others wait for their groups.
func (h *Host) awaitLead(ctx context.Context) error {
	for _, l := range h.table.Load().loops {
		if !l.alone {
			continue
		}
		select {
		case <-l.led:
		case <-h.aborted:
			return fmt.Errorf("shard %d: %w", l.id, ErrStopped)
		case <-ctx.Done():
			return fmt.Errorf("shard %d: %w", l.id, ctx.Err())
		}
	}
	return nil
}

// fail is told of an error after which nothing more may be answered.
func (h *Host) fail(err error) {
	h.failed.Store(true)
	h.fatal.Do(func() { h.opts.Fatal(err) })
	h.halt()
}

// halt makes every goroutine stop at once.
func (h *Host) halt() { h.abort.Do(func() { close(h.aborted) }) }

// Close stops gathering, lets what is in flight commit, snapshots every shard, and stops all goroutines. When ctx ends
// first, it leaves the rest to the next Open and returns ctx's error: everything answered is durable anyway. Batches
// that were not applied are told to their drivers as dropped, with an unknown outcome.
func (h *Host) Close(ctx context.Context) error {
	h.closeMu.Lock()
	defer h.closeMu.Unlock()
	h.closing.Store(true)
	for _, l := range h.table.Load().loops {
		l.poke()
	}
	finished := make(chan struct{})
	go func() { h.running.Wait(); close(finished) }()
	var err error
	select {
	case <-finished:
	case <-ctx.Done():
		err = fmt.Errorf("close: %w", ctx.Err())
		h.halt()
		<-finished
	}
	return errors.Join(err, h.shutdown())
}

// shutdown stops what is left when the loops are done or halted, and lets go of the files.
func (h *Host) shutdown() (err error) {
	h.closed.Do(func() {
		h.running.Wait()
		close(h.stop)
		h.others.Wait()
		if !h.failed.Load() {
			_, err = h.log.Flush()
		}
		h.halt()
		err = errors.Join(err, h.release())
	})
	return err
}

// release closes the log and unlocks the directory.
func (h *Host) release() (err error) {
	if h.log != nil {
		err = h.log.Close()
	}
	if h.unlock != nil {
		err = errors.Join(err, h.unlock())
	}
	return err
}

// Wake says that a shard's driver has new commands. It never blocks.
func (h *Host) Wake(id shard.ID) {
	if l := h.loop(id); l != nil {
		l.poke()
	}
}

// Full says that the disk is nearly full: new jobs should be refused, while acks and snapshots still fit.
func (h *Host) Full() bool { return h.log.Full() }

// Cluster is the id of the cluster that the data directory belongs to.
func (h *Host) Cluster() uint64 { return h.identity.Cluster }

// Stats describes the host.
func (h *Host) Stats() Stats {
	s := Stats{
		Node:            h.opts.Node,
		Cluster:         h.identity.Cluster,
		Shards:          make([]ShardStats, 0, len(h.table.Load().loops)),
		Log:             h.log.Stats(),
		Recovery:        h.recovery,
		RecoverySeconds: h.opened.Seconds(),
		FlushMicros:     h.flushMicros.read(),
		BatchBytes:      h.batchBytes.read(),
		BatchItems:      h.batchItems.read(),

		TransfersEnded: h.transfers.Load(), TransferBytes: h.transferBytes.Load(), TransferFullBytes: h.transferFullBytes.Load(),
		MessagesDropped: h.messagesDropped.Load(), ChunksDropped: h.chunksDropped.Load(),
	}
	for _, l := range h.table.Load().loops {
		s.Shards = append(s.Shards, l.stats())
		if l.carrier != nil {
			l.carrier.stats(&s)
		}
	}
	return s
}

// now is the time as the replicas see it.
func (h *Host) now() replica.Instant {
	return replica.Instant{Mono: time.Since(h.started), Millis: h.opts.Clock.NowMillis()}
}

// syncNames makes the names in a directory durable, if it exists: a process that was killed between making a name and
// syncing it leaves one that is seen and not durable.
func syncNames(fsys vfs.FS, dir string) error {
	if err := fsys.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
