package engine

import (
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

	Logger  *slog.Logger // default: discards
	Clock   host.Clock   // stamps what enters the log; default the machine's
	Version string       // of the binary, for Status

	// WorkerTTL is how long a worker may be silent before it is lost; default 5 s. Each worker gets a little more or
	// less, so that many do not beat at once.
	WorkerTTL time.Duration

	// Fatal is called once when the log has failed: the process must end. Default: panic.
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
	if o.WorkerTTL == 0 {
		o.WorkerTTL = WorkerTTLDefault
	}
	if o.WorkerTTL < WorkerTTLMin || o.WorkerTTL > WorkerTTLMax {
		return o, fmt.Errorf("engine: WorkerTTL is %v; it must lie between %v and %v", o.WorkerTTL, WorkerTTLMin, WorkerTTLMax)
	}
	if o.Clock == nil {
		o.Clock = host.SystemClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic("the log has failed: " + err.Error()) }
	}
	return o, nil
}
