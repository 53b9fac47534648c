package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// Replica is a replica that a node is to run.
type Replica struct {
	Shard shard.ID
	// ID is its id in the group, on this node. 0 is what the record says. A new id takes the place of one that is retired.
	ID shard.ReplicaID
	// Founders is the permission to found the group together with others, who are all its first voters, when the record says
	// that this was not done yet; it is ignored otherwise. Who gives it must be certain that no founder has founded the group
	// before and then lost its data directory.
	Founders []shard.ReplicaID
	// Join is the permission to run ID for the first time, and to wait for the group that has made it a member to bring it a
	// snapshot; it is ignored when there is a record. Who gives it must be certain that ID has never run anywhere: that the
	// group gave it out just now. A node that lost its data directory gets a new one.
	Join bool
}

// own is the replica of a shard whose group is this node alone.
func own(node uint64, id shard.ID) Replica {
	r := shard.NewReplicaID(shard.NodeID(node), 0)
	return Replica{Shard: id, ID: r, Founders: []shard.ReplicaID{r}}
}

// admission is what is known of a shard before its replica is admitted.
type admission struct {
	record *Record
	data   bool // there is a snapshot or something in the log
}

// admit decides whether a replica may run, and returns the record that must be durable before it does.
func (h *Host) admit(r Replica, found admission) (Record, error) {
	refuse := func(format string, args ...any) (Record, error) {
		return Record{}, &ReplicaError{r.Shard, fmt.Sprintf(format, args...)}
	}
	old := found.record
	if r.ID == 0 && old != nil {
		r.ID = old.Replica
	}
	switch {
	case uint64(r.ID.Node()) != h.opts.Node:
		return refuse("%s is not an id of this node, which is %d", r.ID, h.opts.Node)
	case old == nil && found.data:
		// A directory of before there were records: then every group was its founder alone.
		if r.ID.Birth() != 0 || !slices.Equal(r.Founders, []shard.ReplicaID{r.ID}) {
			return refuse("the data directory has data of it and no record: let the node join anew with an empty data directory")
		}
		return Record{r.Shard, r.ID, Member}, nil
	case old != nil && old.State == Retired && r.ID.Birth() <= old.Replica.Birth():
		return refuse("%s was retired on this node, and no id is used twice: make the node a member again, under a new id", old.Replica)
	case old == nil, old.State == Retired:
		return newcomer(r)
	case old.Replica != r.ID:
		return refuse("this node has %s of the shard: remove that before %s takes its place", old.Replica, r.ID)
	case old.State == Founding && len(r.Founders) == 0 && !found.data:
		return refuse("%s was about to found its group: it needs the other founders' names to go on", r.ID)
	case old.State == Member && !found.data:
		return refuse("%s was a member and its data is gone: let the node join anew, under a new id", r.ID)
	}
	return *old, nil
}

// newcomer is the record of a replica that this directory never had.
func newcomer(r Replica) (Record, error) {
	switch {
	case len(r.Founders) > 0 && !slices.Contains(r.Founders, r.ID):
		return Record{}, &ReplicaError{r.Shard, fmt.Sprintf("%s is not one of the founders %v", r.ID, r.Founders)}
	case len(r.Founders) > 0:
		return Record{r.Shard, r.ID, Founding}, nil
	case r.ID.Birth() == 0 || !r.Join:
		return Record{}, &ReplicaError{r.Shard, fmt.Sprintf(
			"the data directory has nothing of %s: if it was lost, the group has to make this node a member under a new id", r.ID)}
	}
	return Record{r.Shard, r.ID, Joining}, nil
}

// settle writes the records of all replicas before any of them runs, and forgets what is left of those that are retired.
func (h *Host) settle(records []Record) (loops []*loop, err error) {
	for _, id := range h.log.Shards() {
		known := slices.ContainsFunc(records, func(r Record) bool { return r.Shard == id })
		if !known && !h.listed(id) {
			return nil, fmt.Errorf("the log has data of shard %d, which this node is not configured for: start it with all its shards", id)
		}
	}
	for i := range records {
		switch r := &records[i]; {
		case r.State == Retired:
			flush := func() error { _, err := h.log.Flush(); return err }
			if err := h.forget(r.Shard, flush); err != nil {
				return nil, err
			}
		case r.State == Founding:
			// It has told nobody anything. Who knows the other founders may be asked first, and AddReplica goes on with it.
		case !h.listed(r.Shard):
			return nil, fmt.Errorf("the data directory has replica %s of shard %d, which this node is not configured for: start it with all its shards, or retire it",
				r.Replica, r.Shard)
		}
	}
	for _, r := range h.opts.Replicas {
		var old *Record
		if i := slices.IndexFunc(records, func(o Record) bool { return o.Shard == r.Shard }); i >= 0 {
			old = &records[i]
		}
		l, err := h.enter(r, old)
		if err != nil {
			return nil, err
		}
		loops = append(loops, l)
	}
	return loops, nil
}

func (h *Host) listed(id shard.ID) bool {
	return slices.ContainsFunc(h.opts.Replicas, func(r Replica) bool { return r.Shard == id })
}

// enter admits a replica, makes its record durable, and only then makes its loop.
func (h *Host) enter(r Replica, old *Record) (*loop, error) {
	data, err := snapshot.Exists(h.opts.FS, SnapshotDir(h.opts.Dir, r.Shard))
	if err != nil {
		return nil, err
	}
	if state := h.log.State(r.Shard); state.Last > 0 {
		data = true
	}
	record, err := h.admit(r, admission{old, data})
	if err != nil {
		return nil, err
	}
	if h.log.Lost(r.Shard) != nil && (old == nil || old.State == Retired) {
		// What may be lost is not this one's, which has never spoken.
		if _, err := h.log.Forget(r.Shard); err != nil {
			return nil, err
		}
	}
	if old == nil || *old != record {
		if err := h.writeRecord(record); err != nil {
			return nil, err
		}
	}
	return newLoop(h, record, r.Founders), nil
}

// forget removes what a retired replica left: in the log, and of snapshots. It can be done again.
func (h *Host) forget(id shard.ID, flush func() error) error {
	if _, err := h.log.Forget(id); err != nil {
		return err
	}
	if err := flush(); err != nil {
		return fmt.Errorf("forget shard %d: %w", id, err)
	}
	for _, dir := range []string{SnapshotDir(h.opts.Dir, id), transfer.Dir(h.opts.Dir, id)} {
		if err := h.removeDir(dir); err != nil {
			return fmt.Errorf("forget shard %d: %w", id, err)
		}
	}
	return nil
}

// removeDir removes a directory of files.
func (h *Host) removeDir(dir string) error {
	names, err := h.opts.FS.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := h.opts.FS.Remove(path.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	// The files are gone for good before the directory is.
	if err := h.opts.FS.SyncDir(dir); err != nil {
		return err
	}
	if err := h.opts.FS.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return h.opts.FS.SyncDir(path.Dir(dir))
}

// AddReplica begins to run a replica of a shard that this node runs none of: one that joins its group, or, with Founders, one
// that founds it. It may be repeated when it failed. Errors: *ReplicaError, ErrStopped, those of Open.
func (h *Host) AddReplica(ctx context.Context, r Replica) error {
	h.closeMu.Lock()
	defer h.closeMu.Unlock()
	switch t := h.table.Load(); {
	case h.closing.Load() || h.failed.Load():
		return ErrStopped
	case t.byID[r.Shard] != nil:
		return &ReplicaError{r.Shard, fmt.Sprintf("this node runs %s already", t.byID[r.Shard].replica)}
	case len(t.loops) >= ShardsMax:
		return &ReplicaError{r.Shard, fmt.Sprintf("this node runs %d replicas already, which is the limit", len(t.loops))}
	}
	old, err := h.recordOf(r.Shard)
	if err != nil {
		return err
	}
	if err := h.succeed(r, old); err != nil {
		return err
	}
	if old != nil && old.State == Retired {
		// Also when this was cut short: what another replica left must be gone before this one begins.
		if err := h.forget(r.Shard, h.flushAll); err != nil {
			return err
		}
	}
	l, err := h.enter(r, old)
	if err != nil {
		return err
	}
	if err := l.restore(); err != nil {
		return err
	}
	if err := l.replay(ctx, time.Now(), new(sync.Mutex)); err != nil {
		return err
	}
	h.list(l)
	if h.Lost(r.Shard) != nil {
		h.setLost(r.Shard, nil)
	}
	h.running.Go(l.run)
	return nil
}

// RemoveReplica stops a replica for good. When it returns, the record says that it is retired, and what the log and the snapshots
// had of it is gone; if it is cut short by a crash after the first of these, the next Open completes it. Whether the group
// still counts on the replica is the caller's business. It may be repeated, when it failed or not. Errors: ErrNoShard, ErrStopped, ctx's,
// those of the file system.
func (h *Host) RemoveReplica(ctx context.Context, id shard.ID) error {
	h.closeMu.Lock()
	defer h.closeMu.Unlock()
	l := h.loop(id)
	if l == nil {
		return h.removeStopped(id)
	}
	l.leave.Store(true)
	l.poke()
	select {
	case <-l.gone:
	case <-h.aborted:
		return ErrStopped
	case <-ctx.Done():
		return ctx.Err()
	}
	if h.closing.Load() || h.failed.Load() {
		return ErrStopped
	}
	if err := h.writeRecord(Record{id, l.replica, Retired}); err != nil {
		return err
	}
	h.unlist(l)
	return h.forget(id, h.flushAll)
}

// removeStopped retires a replica that is not run, or completes what was cut short when it was retired.
func (h *Host) removeStopped(id shard.ID) error {
	if h.closing.Load() || h.failed.Load() {
		return ErrStopped
	}
	old, err := h.recordOf(id)
	switch {
	case err != nil:
		return err
	case old == nil || old.State != Retired && h.Lost(id) == nil:
		return fmt.Errorf("shard %d: %w", id, ErrNoShard)
	case old.State != Retired:
		if err := h.writeRecord(Record{id, old.Replica, Retired}); err != nil {
			return err
		}
	}
	if h.Lost(id) != nil {
		h.setLost(id, nil)
	}
	return h.forget(id, h.flushAll)
}

// recordOf reads the record of a shard; nil when there is none.
func (h *Host) recordOf(id shard.ID) (*Record, error) {
	records, err := ReadRecords(h.opts.FS, h.opts.Dir)
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(records, func(r Record) bool { return r.Shard == id }); i >= 0 {
		return &records[i], nil
	}
	return nil, nil
}
