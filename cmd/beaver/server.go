package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
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
snapshots and exits with 0. A second signal ends it at once; nothing acknowledged is lost by that.

Every flag can be given by an environment variable too: BEAVER_DATA_DIR is --data-dir.`,
		Example: `  beaver server
  beaver server --data-dir /var/lib/beaver --listen 0.0.0.0:7400
  BEAVER_LOG_FORMAT=json beaver server`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), &f) },
	}
	flags := cmd.Flags()
	o := &f.options
	flags.StringVar(&o.DataDir, "data-dir", "./"+server.DefaultDataDir, "directory of everything the node keeps; made when missing")
	flags.StringVar(&o.Listen, "listen", server.DefaultListen, "address for clients, workers, curl and Prometheus")
	flags.IntVar(&o.Shards, "shards", 0, "data shards; may grow from one start to the next (default: as many as there are, or the engine's choice)")
	flags.DurationVar(&o.WorkerTTL, "worker-ttl", 5*time.Second, "how long a worker may be silent before its jobs go to others")
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

// optionFlags are the flags that set the fields of server.Options.
var optionFlags = map[string]string{
	"Listen": "listen", "Shards": "shards", "WorkerTTL": "worker-ttl", "ConnectionsMax": "connections-max",
	"RequestBytesMax": "request-bytes-max", "LogFileBytes": "log-file-bytes", "SnapshotBytes": "snapshot-bytes",
}

// serve runs a node until ctx ends.
func (a *app) serve(ctx context.Context, f *serverFlags) error {
	logger, err := newLogger(a.stderr, f.logLevel, f.logFormat)
	if err != nil {
		return err
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
	if err != nil {
		return err
	}
	if err := a.greet(node.Addr(), f.options.DataDir); err != nil {
		return errors.Join(err, node.Close(ctx))
	}
	select {
	case <-ctx.Done():
	case err := <-failed:
		// No graceful end: what was not written must not be acknowledged.
		return fmt.Errorf("the log failed, and the node ends so that nothing is acknowledged that is not stored: %w", err)
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
