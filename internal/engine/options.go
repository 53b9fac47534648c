package engine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Options configure an Engine. The zero value of a field means its default.
type Options struct {
	FS   vfs.FS // default the operating system's
	Dir  string // the data directory; made when missing
	Node uint64 // this node's id; default 1

	// Shards is how many data shards the node serves, besides the catalog; default DefaultShards. It may grow from one
	// start to the next and never shrink.
	Shards int

	// Cluster is the id that the data directory must have; 0 takes what it has, or a random one when it is new.
	Cluster uint64
	// Replicas are this node's replicas, of the catalog and of all data shards, when they belong to groups of several nodes;
	// Shards counts them too. Empty: this node alone is each shard's group.
	Replicas []host.Replica
	// Transport reaches the other nodes; nil when there are none. What comes from them goes to the host that Hosted is told of,
	// as soon as the replicas run: Open may have to wait for what their groups decide.
	Transport host.Transport
	Hosted    func(*host.Host)
	// Forwarder asks other nodes on behalf of this one's callers; nil when there are none. What they ask goes to the engine's
	// ServeCall, and Serving is told of the engine as soon as it can answer, which is before Open returns. All nodes have the same
	// WorkerTTL and as many shards.
	Forwarder Forwarder
	Serving   func(*Engine)
	// Joined is the last thing that Open does before the engine is ready, when it has read all that was committed in the catalog: it may wait
	// for what this node or the others still have to record there. Its error is Open's. Nil: nothing.
	Joined func(context.Context, *Engine) error
	// Reached reports whether so many other nodes were heard of lately that they and this one are a majority. Nil: always.
	Reached func() bool
	// Others are the ids of the other nodes, as far as this one knows them: it tells them that it lives. Nil: there are none.
	Others func() []uint64
	// ProcessorTime is how much processor time this process has taken since it started. Nil: that is not known.
	ProcessorTime func() time.Duration

	Logger  *slog.Logger // default: discards
	Clock   host.Clock   // stamps what enters the log; default the machine's
	Watch   *Watch       // knows whether the node stood still; who makes it ticks it. Default: one that nobody ticks
	Version string       // of the binary, for Status

	// WorkerTTL is how long a worker may be silent before it is lost; default 5 s. Each worker gets a little more or
	// less, so that many do not beat at once.
	WorkerTTL time.Duration

	// Fatal is called once when nothing more may be answered, as when the log has failed: the process must end. While Open runs, it
	// returns the same error. Default: panic.
	Fatal func(error)

	// Progress, when set, is told how the recovery inside Open goes.
	Progress func(host.Progress)

	SnapshotBytes int64       // log since the last snapshot that triggers one; default the host's
	CacheBytes    int64       // recent entries kept in memory, per shard; default the host's
	WAL           wal.Options // FS and Dir are filled in
}

// withDefaults checks the options and fills in what was left zero.
func (o Options) withDefaults() (Options, error) {
	if o.Node == 0 {
		o.Node = 1
	}
	if o.Shards == 0 {
		o.Shards = DefaultShards
	}
	if o.Shards < 1 || o.Shards > ShardsMax {
		return o, fmt.Errorf("engine: Shards is %d; it must lie between 1 and %d", o.Shards, ShardsMax)
	}
	if n := len(o.Replicas); n > 0 && n != o.Shards+1 {
		return o, fmt.Errorf("engine: %d replicas are given for the catalog and %d data shards; each needs one", n, o.Shards)
	}
	if o.WorkerTTL == 0 {
		o.WorkerTTL = WorkerTTLDefault
	}
	if o.WorkerTTL < WorkerTTLMin || o.WorkerTTL > WorkerTTLMax {
		return o, fmt.Errorf("engine: WorkerTTL is %v; it must lie between %v and %v", o.WorkerTTL, WorkerTTLMin, WorkerTTLMax)
	}
	if o.Clock == nil {
		o.Clock = host.SystemClock{}
	}
	if o.Watch == nil {
		o.Watch = NewWatch(nil)
	}
	if o.FS == nil {
		o.FS = vfs.OS()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic("the log has failed: " + err.Error()) }
	}
	return o, nil
}
