package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// ErrNotLeader: this replica does not lead the shard, or lost the lead while the call waited.
var ErrNotLeader = errors.New("this node does not lead the shard")

// Log is what a replica needs of its node's log. *wal.Log is one.
type Log interface {
	shard.Log
	// Append buffers entries and then a hard state. When the buffer is full the owner makes room before it returns.
	Append(shard wal.ShardID, hs *wal.HardState, entries []wal.Entry) (wal.Position, error)
	Read(shard wal.ShardID, index uint64) (wal.Entry, error)
	ReadPart(shard wal.ShardID, index uint64, buf []byte, off int64) (int, error)
	InstallSnapshot(shard wal.ShardID, index, term uint64) error
	Retain(shard wal.ShardID, r wal.Retention)
	ReleaseReserve() bool
}

var _ Log = (*wal.Log)(nil)

// Config describes a replica. Zero means the default, where there is one.
type Config struct {
	Shard   shard.ID
	Replica uint64 // its id in the group; single-use for all time, never 0
	Node    uint64 // the node it is on, which signs its batches
	Log     Log
	Driver  Driver

	FS          vfs.FS
	SnapshotDir string   // of this shard alone
	DiskDir     string   // a directory on the disk that the snapshots fill
	Founders    []uint64 // the replicas of a new group

	TickInterval     time.Duration
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
