package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// Defaults of Options.
const (
	DefaultDataDir          = "beaver-data"
	DefaultListen           = "127.0.0.1:7400"
	DefaultConnectionsMax   = 10_000
	DefaultRequestBytesMax  = 8 << 20
	DefaultShutdownDuration = 15 * time.Second
)

// Limits of Options.
const (
	ShardsMax       = 256
	ConnectionsMax  = 1_000_000
	RequestBytesMin = 1 << 20
	RequestBytesMax = 64 << 20
	WorkerTTLMin    = time.Second
	WorkerTTLMax    = 10 * time.Minute
)

// Options configure a Server. The zero value of a field means its default.
type Options struct {
	// DataDir holds everything the node keeps; it is made when missing. Default "beaver-data".
	DataDir string

	// Listen is the address for clients, workers, curl and Prometheus. Default "127.0.0.1:7400", which only this machine
	// reaches; port 0 picks a free one, see Server.Addr. "-" listens nowhere: only Server.Client reaches the node.
	Listen string

	// Advertise is the address where clients reach the node, which other nodes tell them. Default: Listen.
	Advertise string

	// Peers make the node one of several that hold the same jobs.
	Peers PeerOptions

	// Logger gets the node's log. Default: none.
	Logger *slog.Logger

	// Shards is how many data shards there are; it may grow from one start to the next and never shrinks. In a cluster all founders
	// give the same, and a node that is restarted with more gives more to the whole cluster. Default: as many as there are, or 4 for a
	// new data directory.
	Shards int

	// WorkerTTL is within which time a silent worker's jobs go to others. Each worker is told its own, 80 to 90 % of it. One whose connection
	// breaks has two fifths of it to come back. Default 5 s.
	WorkerTTL time.Duration

	// ConnectionsMax is how many connections are open at once; further ones wait, up to a minute or so, and are closed then. Default 10,000.
	ConnectionsMax int

	// RequestBytesMax is the size of the largest message a client may send. Default 8 MiB.
	RequestBytesMax int

	// Pprof serves Go's profiles under /debug/pprof/. They show internals: leave it off where strangers reach Listen.
	Pprof bool

	// Version is what the node says of itself; default: from the build.
	Version string

	// LogFileBytes and SnapshotBytes are for experts and tests: the size of the log's files, and how much log is written
	// until a shard is snapshotted. Default: what the engine finds right.
	LogFileBytes  int64
	SnapshotBytes int64

	// Fatal is called once when the node must not go on, since that could lose jobs: its log failed to write, or has lost what it promised
	// to other nodes. The process must end. While Open runs, it returns such an error too. Default: log it and exit with status 1.
	Fatal func(error)

	fs    vfs.FS               // of the engine; tests have it tell of a full disk
	ahead func() time.Duration // how far clocks are ahead; tests have them jump
}

// withDefaults returns the options with every zero field filled in.
func (o Options) withDefaults() Options {
	if o.DataDir == "" {
		o.DataDir = DefaultDataDir
	}
	if o.Listen == "" {
		o.Listen = DefaultListen
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.ConnectionsMax == 0 {
		o.ConnectionsMax = DefaultConnectionsMax
	}
	if o.RequestBytesMax == 0 {
		o.RequestBytesMax = DefaultRequestBytesMax
	}
	if o.Version == "" {
		o.Version = buildVersion()
	}
	if o.fs == nil {
		o.fs = vfs.OS()
	}
	return o
}

// OptionError says which field of the Options is out of its limits. Open returns one for each such field, joined.
type OptionError struct {
	Field   string
	Problem string // the value, and what it may be
}

func (e *OptionError) Error() string { return "server.Options: " + e.Field + " is " + e.Problem }

// validate names every field that is out of its limits. The options have their defaults.
func (o Options) validate() error {
	var errs []error
	check := func(ok bool, field, format string, args ...any) {
		if !ok {
			errs = append(errs, &OptionError{Field: field, Problem: fmt.Sprintf(format, args...)})
		}
	}
	if o.Listen != listenNowhere {
		_, port, err := net.SplitHostPort(o.Listen)
		check(err == nil, "Listen", "%q: want host:port, for example %q", o.Listen, DefaultListen)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
			check(err == nil, "Listen", "%q: want a port from 0 to 65535, where 0 is any that is free", o.Listen)
		}
	}
	check(o.Shards >= 0 && o.Shards <= ShardsMax, "Shards", "%d: want 1 to %d, or 0 for the default", o.Shards, ShardsMax)
	check(o.WorkerTTL == 0 || o.WorkerTTL >= WorkerTTLMin && o.WorkerTTL <= WorkerTTLMax,
		"WorkerTTL", "%v: want %v to %v", o.WorkerTTL, WorkerTTLMin, WorkerTTLMax)
	check(o.ConnectionsMax >= 1 && o.ConnectionsMax <= ConnectionsMax,
		"ConnectionsMax", "%d: want 1 to %d", o.ConnectionsMax, ConnectionsMax)
	check(o.RequestBytesMax >= RequestBytesMin && o.RequestBytesMax <= RequestBytesMax,
		"RequestBytesMax", "%d: want %d to %d", o.RequestBytesMax, RequestBytesMin, RequestBytesMax)
	o.validatePeers(check)
	check(o.LogFileBytes >= 0, "LogFileBytes", "%d: want a size, or 0 for the default", o.LogFileBytes)
	check(o.SnapshotBytes >= 0, "SnapshotBytes", "%d: want a size, or 0 for the default", o.SnapshotBytes)
	return errors.Join(errs...)
}
