package engine

import (
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Options configure an Engine. The zero value of a field means its default.
type Options struct {
	FS   vfs.FS // required
	Dir  string // the data directory; made when missing
	Node uint64 // this node's id; default 1

	// Shards is how many data shards the node serves, besides the catalog; default DefaultShards. It may grow from one
	// start to the next and never shrink.
	Shards int

	Logger  *slog.Logger // default: discards
	Version string       // of the binary, for Status

	// WorkerTTL is how long a worker may be silent before it is lost; default 5 s. Each worker gets a little more or
	// less, so that many do not beat at once.
	WorkerTTL time.Duration

	// Fatal is called once when the log has failed: the process must end. Default: panic.
	Fatal func(error)

	SnapshotBytes int64       // log since the last snapshot that triggers one; default the host's
	WAL           wal.Options // FS and Dir are filled in
}
