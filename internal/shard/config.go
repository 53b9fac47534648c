package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/beaver-raft/beaver/internal/wal"
)

// ID names a shard on this node. 0 is the catalog.
type ID = wal.ShardID

// Log is what a shard reads of the node's log. *wal.Log is one. The shard never writes: its owner does, as Effects say.
type Log interface {
	// State is the shard's part of the log.
	State(shard ID) wal.ShardState
	// ReadRange returns the entries [lo, hi) of the contiguous tail, at least one, and more up to maxBytes of data.
	ReadRange(shard ID, lo, hi uint64, maxBytes int) ([]wal.Entry, error)
	// Term is the term of an entry of the contiguous tail, or of the one just before it.
	Term(shard ID, index uint64) (uint64, error)
}

// Config describes a replica of a shard. Zero means the default, where there is one.
type Config struct {
	ID      ID
	Replica ReplicaID // this replica's id in the group
	Log     Log
	Machine StateMachine

	ElectionTicks    int
	HeartbeatTicks   int
	CacheBytes       int64
	UncommittedBytes int64

	// Logger takes what the raft library says. It is of use to who debugs elections; nil discards it.
	Logger *slog.Logger
}

// A new group starts from its genesis: every first member begins with the same snapshot of an empty machine at
// GenesisIndex and GenesisTerm, whose ConfState names the first voters. The log of every member therefore begins at
// GenesisIndex+1, no member has configuration entries that another lacks, and a replica that joins later, without the
// genesis, is brought up by a snapshot of the leader, since its own log is shorter than the leader's first index.
const (
	GenesisIndex = 1
	GenesisTerm  = 1
)

// GenesisConfState encodes the configuration of a new group. All of its first members must be given the same voters.
func GenesisConfState(voters []ReplicaID) ([]byte, error) {
	sorted := slices.Sorted(slices.Values(voters))
	if len(sorted) == 0 || len(sorted) > VotersMax {
		return nil, fmt.Errorf("%d voters, 1 to %d are possible", len(sorted), VotersMax)
	}
	ids := make([]uint64, len(sorted))
	for i, r := range sorted {
		if !r.valid() || i > 0 && sorted[i-1] == r {
			return nil, fmt.Errorf("voters %v: ids must be possible and distinct", sorted)
		}
		ids[i] = uint64(r)
	}
	return proto.Marshal(&raftpb.ConfState{Voters: ids, AutoLeave: new(bool)})
}

// Restored names the snapshot that Config.Machine was restored from.
type Restored struct {
	Index, Term uint64
	ConfState   []byte // as GenesisConfState or Shard.ConfState gave it
}

// StateError says that snapshot and log of a shard do not belong together: something that was durable is gone.
type StateError struct {
	Shard  ID
	Reason string
}

func (e *StateError) Error() string {
	return fmt.Sprintf("shard %d: %s; the data directory lost what was durable: restore it from a backup or a replica", e.Shard, e.Reason)
}

// EntryError says that a committed entry cannot be applied: it is damaged or was written by a newer version.
type EntryError struct {
	Shard ID
	Index uint64
	Err   error
}

func (e *EntryError) Error() string {
	return fmt.Sprintf("shard %d: committed entry %d cannot be applied: %v", e.Shard, e.Index, e.Err)
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// ErrDropped: the proposal was not accepted and will never be committed: this replica does not lead, a transfer of the
// lead is under way, or too much is uncommitted. It is back-pressure: propose again when something was applied.
var ErrDropped = errors.New("proposal dropped")

func (c Config) withDefaults() (Config, error) {
	if !c.Replica.valid() {
		return c, fmt.Errorf("shard %d: replica id %d is not possible", c.ID, c.Replica)
	}
	if c.Log == nil || c.Machine == nil {
		return c, fmt.Errorf("shard %d: Log and Machine are needed", c.ID)
	}
	if c.HeartbeatTicks <= 0 {
		c.HeartbeatTicks = HeartbeatTicksDefault
	}
	if c.ElectionTicks <= 0 {
		c.ElectionTicks = ElectionTicksDefault
	}
	if c.ElectionTicks <= c.HeartbeatTicks {
		return c, fmt.Errorf("shard %d: %d election ticks must be more than %d heartbeat ticks", c.ID, c.ElectionTicks, c.HeartbeatTicks)
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = CacheBytesDefault
	}
	if c.UncommittedBytes <= 0 {
		c.UncommittedBytes = UncommittedBytesDefault
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// raftConfig is the library's configuration: each size is limited, and nothing is acknowledged before it is durable.
func (c Config) raftConfig(store *storage, applied uint64) *raft.Config {
	return &raft.Config{
		ID:                        uint64(c.Replica),
		ElectionTick:              c.ElectionTicks,
		HeartbeatTick:             c.HeartbeatTicks,
		Storage:                   store,
		Applied:                   applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             MessageBytesDefault,
		MaxCommittedSizePerReady:  ApplyBytesDefault,
		MaxUncommittedEntriesSize: uint64(c.UncommittedBytes),
		MaxInflightMsgs:           InflightMessagesDefault,
		MaxInflightBytes:          InflightBytesDefault,
		CheckQuorum:               true,
		PreVote:                   true,
		ReadOnlyOption:            raft.ReadOnlySafe,
		Logger:                    raftLogger{c.Logger},
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
	}
}

// raftLogger gives the library's log lines to slog. They are details of elections: all but warnings are at debug level.
type raftLogger struct{ to *slog.Logger }

func (l raftLogger) Debug(v ...any)                 { l.to.Debug("raft", "says", fmt.Sprint(v...)) }
func (l raftLogger) Debugf(format string, v ...any) { l.debugf(format, v...) }
func (l raftLogger) Info(v ...any)                  { l.to.Debug("raft", "says", fmt.Sprint(v...)) }
func (l raftLogger) Infof(format string, v ...any)  { l.debugf(format, v...) }
func (l raftLogger) Warning(v ...any)               { l.to.Warn("raft", "says", fmt.Sprint(v...)) }

func (l raftLogger) Warningf(format string, v ...any) {
	l.to.Warn("raft", "says", fmt.Sprintf(format, v...))
}

func (l raftLogger) Error(v ...any) { l.to.Error("raft", "says", fmt.Sprint(v...)) }

func (l raftLogger) Errorf(format string, v ...any) {
	l.to.Error("raft", "says", fmt.Sprintf(format, v...))
}

// The library calls Fatal and Panic when its own state is impossible: going on would risk the jobs.
func (l raftLogger) Fatal(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Fatalf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }
func (l raftLogger) Panic(v ...any)                 { panic("raft: " + fmt.Sprint(v...)) }
func (l raftLogger) Panicf(format string, v ...any) { panic("raft: " + fmt.Sprintf(format, v...)) }

// debugf formats only when somebody listens: the library says much.
func (l raftLogger) debugf(format string, v ...any) {
	if l.to.Enabled(context.Background(), slog.LevelDebug) {
		l.to.Debug("raft", "says", fmt.Sprintf(format, v...))
	}
}
