package host

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

var (
	// ErrNotLeader: this replica does not lead the shard, or lost the lead while the call waited.
	ErrNotLeader = replica.ErrNotLeader
	// ErrStopped: the host is closing, closed, or has failed.
	ErrStopped = errors.New("the node is stopped")
	// ErrNoShard: the node has no replica of the shard.
	ErrNoShard = errors.New("the node has no replica of the shard")
	// ErrOverloaded: too many reads wait for the shard already; try again later.
	ErrOverloaded = errors.New("too many reads wait for the shard")
)

// Driver owns the commands of one shard on this node.
type Driver = replica.Driver

// Verification is what a Driver says of its state.
type Verification = replica.Verification

// Doubt is what a Driver hears of its state.
type Doubt = replica.Doubt

// What is known of a state; see package replica.
const (
	Trusted = replica.Trusted
	Suspect = replica.Suspect
	Wrong   = replica.Wrong
)

// Clock tells the time. Timers run on the runtime's own clock (so testing/synctest governs them): only the stamps
// that enter the log come from here.
type Clock interface {
	// NowMillis is the time in milliseconds since the Unix epoch. Any goroutine may call it.
	NowMillis() int64
}

// SystemClock is the machine's clock.
type SystemClock struct{}

// NowMillis implements Clock.
func (SystemClock) NowMillis() int64 { return time.Now().UnixMilli() }

// Payloads reads items of committed entries. Any goroutine may call it.
type Payloads interface {
	// Payload returns the batch header and one item of an entry, checked against its checksums: from memory when the
	// entry is recent, else from the log. The item must not be changed. Errors: wal.ErrCompacted, wal.ErrUnavailable,
	// shard.ErrNoItem, *wal.CorruptError, *shard.DamagedItemError, ErrNoShard.
	Payload(id shard.ID, index uint64, ordinal int) (shard.Header, []byte, error)
	// Batch returns a whole entry of which the caller wants so many items: from memory when it is recent, else from the
	// log if that is worth while. False is no error: then read item by item with Payload, which also says what is wrong.
	Batch(id shard.ID, index uint64, items int) (shard.Batch, bool)
}

// Options configure a Host. Zero means the default unless said otherwise.
type Options struct {
	FS  vfs.FS // the operating system's when nil
	Dir string // the node's data directory, created when missing

	Node    uint64 // this node's id, 1 to shard.NodeMax
	Cluster uint64 // refuse a directory of another cluster; 0 takes the directory's own, or a random one when it is new
	// Shards are shards whose groups this node founds alone: each as a Replica that has no other founder.
	Shards []shard.ID
	// Replicas are the other replicas of this node. Every shard is listed once, here or in Shards, and every replica that the
	// data directory has is listed, see ReadRecords, but for those that are retired, and those still founding that AddReplica brings.
	Replicas []Replica

	Clock  Clock        // SystemClock when nil
	Logger *slog.Logger // discards when nil

	// Transport reaches the other nodes; nil when every group is this node alone.
	Transport Transport

	// Fatal is told of an error after which nothing more may be answered: a failed write or sync of the log, damage in
	// what was committed. It is called once, from any goroutine, and should end the process. Never nil.
	Fatal func(error)
	// NewDriver makes the driver of one shard, with an empty machine. It is called once for each replica, by Open and AddReplica.
	// The driver's state is replaced when a snapshot of another node is installed. Never nil.
	NewDriver func(id shard.ID, log Payloads) Driver
	// NewMachine makes a machine of a shard's kind from which nobody serves: what a snapshot of another node holds is looked at
	// in it. Any goroutine calls it. Never nil when there is a Transport.
	NewMachine func(id shard.ID) shard.StateMachine

	// TickInterval and ElectionTicks pace elections; all nodes of a cluster have the same.
	TickInterval  time.Duration
	ElectionTicks int
	SnapshotBytes int64
	CacheBytes    int64 // recent entries kept in memory, per shard

	UncommittedBytes int64 // proposals of a shard that are not committed; over it they are dropped

	WAL wal.Options // FS and Dir are set by Open

	// Progress, when set, is told how the recovery inside Open goes.
	Progress func(Progress)
}

// Progress is one report of a recovery under way.
type Progress struct {
	Shard   shard.ID
	Applied uint64 // the last index applied
	Last    uint64 // the last index of the log
	Done    bool   // the shard is recovered
}

// withDefaults checks the options and fills in what was left zero.
func (o Options) withDefaults() (Options, error) {
	switch {
	case o.Node == 0:
		return o, errors.New("host: Node must not be 0")
	case o.Node > shard.NodeMax:
		return o, fmt.Errorf("host: Node %d is over %d", o.Node, shard.NodeMax)
	case o.Dir == "":
		return o, errors.New("host: Dir is missing")
	case o.Fatal == nil:
		return o, errors.New("host: Fatal is missing")
	case o.NewDriver == nil:
		return o, errors.New("host: NewDriver is missing")
	case o.NewMachine == nil && o.Transport != nil:
		return o, errors.New("host: NewMachine is missing")
	}
	replicas := slices.Clone(o.Replicas)
	for _, id := range o.Shards {
		replicas = append(replicas, own(o.Node, id))
	}
	slices.SortFunc(replicas, func(a, b Replica) int { return cmp.Compare(a.Shard, b.Shard) })
	o.Replicas = replicas
	if n := len(replicas); n == 0 || n > ShardsMax {
		return o, fmt.Errorf("host: %d shards, 1 to %d are possible", n, ShardsMax)
	}
	for i := range replicas {
		if i > 0 && replicas[i].Shard == replicas[i-1].Shard {
			return o, fmt.Errorf("host: shard %d is listed twice", replicas[i].Shard)
		}
	}
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}
