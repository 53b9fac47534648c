package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/beaver-raft/beaver/server"
)

type serverFlags struct {
	options             server.Options
	logLevel, logFormat string
	shutdown            time.Duration
}

func newServerCommand(a *app) *cobra.Command {
	var f serverFlags
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a node: the queue itself",
		Long: `Run a node until it is told to stop by SIGTERM or SIGINT: then it takes no more work, finishes what is under way, takes
snapshots, hands over what it leads to other nodes and exits with 0. A second signal ends it at once; nothing acknowledged is lost
by that.

A node is alone unless it is told of peers. Several nodes hold the same jobs and go on without any minority of them:
  --bootstrap founds a cluster: all founders are given the same list, and --node says which of them this is
  --join adds a node with an empty data directory to a cluster; one of its members is enough
  --peer-listen alone makes a cluster of one, which keeps the jobs that it has and which others may join
Started again, a node takes the same flags; what it has become is in its data directory. Nodes on several machines need
--cluster-secret-file or the three --peer-… files.

Every flag can be given by an environment variable too: BEAVER_DATA_DIR is --data-dir.`,
		Example: `  beaver server
  beaver server --data-dir /var/lib/beaver --listen 0.0.0.0:7400
  BEAVER_LOG_FORMAT=json beaver server

  # three nodes, this one the first
  beaver server --node 1 --bootstrap 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401 \
    --listen 10.0.0.1:7400 --cluster-secret-file /etc/beaver/secret

  # one more
  beaver server --join 10.0.0.1:7401 --peer-listen 10.0.0.4:7401 --listen 10.0.0.4:7400 --cluster-secret-file /etc/beaver/secret

  # where snapshots for the other nodes must not fill a link of 1 Gbit/s
  beaver server --peer-listen 127.0.0.1:7401 --transfer-rate 32MiB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name := emptyFlag(cmd.Flags()); name != "" {
				return usage("--%s is empty; give it a value, or leave it out", name)
			}
			return a.serve(cmd.Context(), &f)
		},
	}
	flags := cmd.Flags()
	o := &f.options
	flags.StringVar(&o.DataDir, "data-dir", "./"+server.DefaultDataDir, "directory of everything the node keeps; made when missing")
	flags.StringVar(&o.Listen, "listen", server.DefaultListen, "address for clients, workers, curl and Prometheus")
	f.peerFlags(flags)
	flags.IntVar(&o.Shards, "shards", 0, "data shards; they may grow from one start to the next, also in a cluster, which gets as many as the node with the most (default: as many as there are, or 4 when there are none)")
	flags.DurationVar(&o.WorkerTTL, "worker-ttl", 5*time.Second, "within which time the jobs of a silent worker go to others")
	flags.IntVar(&o.ConnectionsMax, "connections-max", server.DefaultConnectionsMax, "connections open at once")
	flags.IntVar(&o.RequestBytesMax, "request-bytes-max", server.DefaultRequestBytesMax, "size of the largest message from a client")
	flags.BoolVar(&o.Pprof, "pprof", false, "serve Go's profiles under /debug/pprof/")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	flags.DurationVar(&f.shutdown, "shutdown-timeout", server.DefaultShutdownDuration, "how long to finish what is under way when stopping")
	flags.Int64Var(&o.LogFileBytes, "log-file-bytes", 0, "for experts: size of the log's files (default: the engine's choice)")
	flags.Int64Var(&o.SnapshotBytes, "snapshot-bytes", 0, "for experts: log between snapshots of a shard (default: the engine's choice)")
	takes(flags, "shards", fmt.Sprintf("1 to %d, or 0 for the default", server.ShardsMax))
	takes(flags, "worker-ttl", fmt.Sprintf("%v to %v", server.WorkerTTLMin, server.WorkerTTLMax))
	takes(flags, "connections-max", fmt.Sprintf("1 to %d", server.ConnectionsMax))
	takes(flags, "request-bytes-max", fmt.Sprintf("%d to %d", server.RequestBytesMin, server.RequestBytesMax))
	flags.VisitAll(func(f *pflag.Flag) { annotate(f) })
	return cmd
}

// peerFlags are those of a node that is one of several.
func (f *serverFlags) peerFlags(flags *pflag.FlagSet) {
	o, p := &f.options, &f.options.Peers
	flags.StringVar(&o.Advertise, "advertise", "", "address where clients reach this node (default: --listen)")
	flags.StringVar(&p.Bootstrap, "bootstrap", "", "found a cluster with these nodes: ID=HOST:PORT,… by their peer addresses")
	flags.StringVar(&p.Join, "join", "", "join the cluster of which a member listens to peers at this address")
	flags.Uint64Var(&p.Node, "node", 0, "id of this node: which of --bootstrap it is, or the one that it must get with --join")
	flags.StringVar(&p.Listen, "peer-listen", "", "address for the other nodes (default: this node's in --bootstrap, else "+server.DefaultPeerListen+" if there are peers)")
	flags.StringVar(&p.Advertise, "advertise-peer", "", "address where the other nodes reach this one (default: this node's in --bootstrap, else --peer-listen)")
	flags.Var((*sizeValue)(&p.TransferRate), "transfer-rate", "bytes of snapshots that this node sends to others a second, all together, such as 16MiB (default: 64MiB)")
	flags.StringVar(&p.Zone, "zone", "", "where this node is, for people")
	flags.StringVar(&p.SecretFile, "cluster-secret-file", "", "file of the secret that all nodes of the cluster share, at least 32 random bytes")
	flags.StringVar(&p.CA, "peer-ca", "", "PEM file of the authority of the nodes' certificates, instead of a secret")
	flags.StringVar(&p.Cert, "peer-cert", "", "PEM file of this node's certificate; it names the node, as node-3.beaver")
	flags.StringVar(&p.Key, "peer-key", "", "PEM file of its key")
	takes(flags, "node", "1 to 65535")
	takes(flags, "transfer-rate", "1MiB to 1GiB")
}

// optionFlags are the flags that set the fields of server.Options.
var optionFlags = map[string]string{
	"Listen": "listen", "Shards": "shards", "WorkerTTL": "worker-ttl", "ConnectionsMax": "connections-max",
	"RequestBytesMax": "request-bytes-max", "LogFileBytes": "log-file-bytes", "SnapshotBytes": "snapshot-bytes",
	"Advertise": "advertise", "Peers.Bootstrap": "bootstrap", "Peers.Join": "join", "Peers.Node": "node", "Peers.Listen": "peer-listen",
	"Peers.Advertise": "advertise-peer", "Peers.Zone": "zone", "Peers.TransferRate": "transfer-rate", "Peers.SecretFile": "cluster-secret-file", "Peers.CA": "peer-ca",
	"Peers.Cert": "peer-cert", "Peers.Key": "peer-key",
}

// emptyFlag is the name of a flag that was given without a value, as by a script whose variable is not set, though it decides what the node
// becomes: without its list a founder would be a node alone, and without a directory a new one.
func emptyFlag(flags *pflag.FlagSet) (name string) {
	for _, n := range []string{"data-dir", "listen", "bootstrap", "join", "peer-listen", "cluster-secret-file", "peer-ca", "peer-cert", "peer-key"} {
		if f := flags.Lookup(n); f.Changed && f.Value.String() == "" {
			return n
		}
	}
	return ""
}

// serve runs a node until ctx ends.
func (a *app) serve(ctx context.Context, f *serverFlags) error {
	logger, err := newLogger(a.stderr, f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	collectSeldom()
	if !f.options.Pprof {
		runtime.MemProfileRate = 0 // Nobody can ask for the profile of memory, and every large buffer would be a sample of it.
	}
	failed := make(chan error, 1)
	f.options.Logger, f.options.Fatal = logger, func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	node, err := server.Open(ctx, f.options)
	if wrong, ok := errors.AsType[*server.OptionError](err); ok {
		return usage("--%s is %s", optionFlags[wrong.Field], wrong.Problem)
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was told to stop before it was ready
	}
	if err != nil {
		return statusError{err, exitFailure} // a file that is missing here is nothing that was asked for
	}
	if err := a.greet(node.Addr(), f.options.DataDir); err != nil {
		return errors.Join(err, node.Close(ctx))
	}
	select {
	case <-ctx.Done():
	case <-node.Removed():
		defer a.note("beaver: this node was removed from its cluster; its jobs are on the others\n")
	case err := <-failed:
		return err // No graceful end: what was not written must not be acknowledged.
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.shutdown)
	defer cancel()
	return node.Close(closing)
}

func (a *app) greet(addr, dir string) error {
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs
	}
	where := "over its in-process client only"
	if addr != "" {
		where = "at http://" + addr
	}
	return a.print("beaver %s is ready %s, with its data in %s\n", buildInfo().Version, where, dir)
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		return nil, usage("--log-level is %q; use debug, info, warn or error", level)
	}
	options := &slog.HandlerOptions{Level: l}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usage("--log-format is %q; use text or json", format)
}
