package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// ErrNotLeader: this replica does not lead the shard, or lost the lead while the call waited. A *NotLeaderError is one.
var ErrNotLeader = errors.New("this node does not lead the shard")

// NotLeaderError is ErrNotLeader with a hint.
type NotLeaderError struct {
	Shard  shard.ID
	Leader shard.ReplicaID // who leads, as far as known here; else 0
}

func (e *NotLeaderError) Error() string {
	if e.Leader == 0 {
		return fmt.Sprintf("this node does not lead shard %d, and knows of no leader", e.Shard)
	}
	return fmt.Sprintf("this node does not lead shard %d: ask node %d", e.Shard, e.Leader.Node())
}

// Is makes it an ErrNotLeader.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// Log is what a replica needs of its node's log. *wal.Log is one.
type Log interface {
	shard.Log
	// Append buffers entries and then a hard state. When the buffer is full the owner makes room before it returns.
	Append(shard wal.ShardID, hs *wal.HardState, entries []wal.Entry) (wal.Position, error)
	ReadPart(shard wal.ShardID, index uint64, buf []byte, off int64) (int, error)
	InstallSnapshot(shard wal.ShardID, index, term uint64) error
	Retain(shard wal.ShardID, r wal.Retention)
	ReleaseReserve() bool
	transfer.MendLog
	// Lost says why the shard may have lost what its replica promised; nil when it has not.
	Lost(shard wal.ShardID) error
	// Holes returns the first and the last entry of the tail, from an index on, that is damaged; 0 when there is none. Gap is the last
	// of them of which not even the name is known.
	Gap(shard wal.ShardID, from uint64) (last uint64)
	Holes(shard wal.ShardID, from uint64) (first, last uint64)
	// Incomplete says why entries of the shard may be gone of which the log knows no name; nil when there are none.
	Incomplete(shard wal.ShardID) error
	SetMendable(shard wal.ShardID, mendable bool)
	Distrust(shard wal.ShardID)
}

var _ Log = (*wal.Log)(nil)

// Config describes a replica. Zero means the default, where there is one.
type Config struct {
	Shard   shard.ID
	Replica shard.ReplicaID // its id in the group, single-use for all time; its node signs its batches
	Log     Log
	Driver  Driver

	FS          vfs.FS
	SnapshotDir string // of this shard alone
	DiskDir     string // a directory on the disk that the snapshots fill
	// Founders are the first replicas of a new group. A replica without founders and without a snapshot waits for the
	// leader of its group to bring it one.
	Founders []shard.ReplicaID
	// Peers says that the node is one of several: it counts when no snapshot is left that says who the members are.
	Peers bool

	// TickInterval and ElectionTicks pace elections: all replicas of a group have the same.
	TickInterval     time.Duration
	ElectionTicks    int
	SnapshotBytes    int64
	CacheBytes       int64
	UncommittedBytes int64

	Logger *slog.Logger // discards when nil
}

func (c Config) withDefaults() (Config, error) {
	if c.Log == nil || c.Driver == nil || c.FS == nil || c.SnapshotDir == "" {
		return c, fmt.Errorf("replica of shard %d: Log, Driver, FS and SnapshotDir are needed", c.Shard)
	}
	if c.DiskDir == "" {
		c.DiskDir = c.SnapshotDir
	}
	if c.TickInterval <= 0 {
		c.TickInterval = TickIntervalDefault
	}
	if c.ElectionTicks <= 0 {
		c.ElectionTicks = shard.ElectionTicksDefault
	}
	if c.SnapshotBytes <= 0 {
		c.SnapshotBytes = SnapshotBytesDefault
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = shard.CacheBytesDefault
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}
