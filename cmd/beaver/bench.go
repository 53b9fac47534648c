package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver/server"
)

type benchOptions struct {
	dir          string
	profileDir   string // "": nothing is profiled
	only         []string
	seconds      int
	runs         int
	payloadBytes int
	backlog      int
	nodes        int
	queues       int
	partitions   []int // of each queue: all of these in turn; none: 1
	keys         int   // how many ordering keys the jobs have in turn; 0: none
	json         bool
	out, log     io.Writer
}

// benchScenario measures one thing on a server of its own.
type benchScenario struct {
	name, what string
	run        func(context.Context, *benchRun) ([]benchRow, error)
	rest       time.Duration // between two jobs
	alone      bool          // it is of one node, and one queue of one partition and without keys only
}

func benchScenarios() []benchScenario {
	return []benchScenario{
		{"enqueue-batch", "unary Enqueue calls of 100 jobs, 8 callers", benchEnqueueBatch, 0, false},
		{"cycle-batch", "Enqueue, Fetch and Finish calls of 100 jobs, 8 callers", benchCycleBatch, 0, false},
		{"enqueue-64", "one job at a time through one Go client, 64 callers", benchEnqueueCallers(64), 0, false},
		{"enqueue-256", "one job at a time through one Go client, 256 callers", benchEnqueueCallers(256), 0, false},
		{"enqueue-unary", "unary Enqueue calls of one job, 64 callers", benchEnqueueUnary, 0, false},
		{"enqueue-lone", "one caller, one job at a time: latency of a durable enqueue", benchEnqueueLone, 0, false},
		{"handoff", "enqueue call to handler start at 500 jobs/s over the Work stream", benchHandOff, time.Second / handOffRate, false},
		{"backlog", "--backlog waiting jobs: memory, snapshot, kill -9 to first fetch, and the rates again", benchBacklog, 0, true},
	}
}

func newBenchCommand() *cobra.Command {
	var output string
	opts := benchOptions{}
	var names strings.Builder
	for _, s := range benchScenarios() {
		fmt.Fprintf(&names, "  %-15s %s\n", s.name, s.what)
	}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine: durable rates and latencies, beside the disk's own",
		Long: `Each scenario runs against a server of its own, in a process of its own, on a fresh data directory. Every rate is durable:
the reply comes after the fdatasync. Just before each scenario its floors are measured: a 4 KiB write and fdatasync on the same
disk, one after another and (PACED) at the pace of the scenario, where disk and processor fall asleep in between; and a round
trip of 1 KiB to another process over loopback, paced too. With --runs the figures are medians, and the best rate stands beside
them; the runs go through all scenarios in turn, so that a slow minute of the machine touches each of them once.

With --nodes 3 the servers are three, a cluster on this machine: every reply comes after the fdatasync of a quorum. Callers take
turns to ask all nodes, whoever leads. With --queues the load is spread over queues that live on different shards.

With --partitions each queue is on as many shards. Of several numbers all are measured in turn, and those after the first are held against
it: --partitions 1,4. The jobs of a call go to one partition and calls go round, unless --ordering-keys gives each job of a call one of
so many keys.

With --profile-dir load and servers write profiles of the processor while they are measured, for go tool pprof, and are a few
per cent slower for it.

Scenarios:
` + names.String(),
		Example: `  beaver bench
  beaver bench --runs 5 --seconds 3
  beaver bench --only enqueue-batch,cycle-batch --seconds 10
  beaver bench --nodes 3
  beaver bench --only enqueue-batch,cycle-batch --partitions 1,4 --runs 5
  beaver bench --only backlog --backlog 10000000 --dir /var/tmp`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if opts.json, err = parseOutput(output); err != nil {
				return err
			}
			opts.out, opts.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return runBench(cmd.Context(), opts)
		},
	}
	cmd.AddCommand(newBenchEchoCommand())
	f := cmd.Flags()
	f.StringVar(&opts.dir, "dir", "", "directory on the disk to measure (default: the current one)")
	f.StringVar(&opts.profileDir, "profile-dir", "", "write profiles of the processor into this directory, made if need be, one of each process in each scenario but backlog")
	f.StringSliceVar(&opts.only, "only", nil, "run only these scenarios")
	f.IntVar(&opts.seconds, "seconds", 5, "how long each rate is measured after a warm-up of 3 seconds, 1 to 600")
	f.IntVar(&opts.runs, "runs", 1, "how often everything is measured, 1 to 100")
	f.IntVar(&opts.payloadBytes, "payload-bytes", 1024, "size of a job's payload, 0 to 1048576")
	f.IntVar(&opts.backlog, "backlog", 1_000_000, "jobs that wait in the scenario backlog")
	f.IntVar(&opts.nodes, "nodes", 1, "1, or 3 for a cluster on this machine")
	f.IntVar(&opts.queues, "queues", 1, "how many queues share the load, 1 to 256")
	f.IntSliceVar(&opts.partitions, "partitions", []int{1}, "how many partitions a queue has, 1 to 64; several numbers are compared")
	f.IntVar(&opts.keys, "ordering-keys", 0, "how many ordering keys the jobs have in turn, 0 to 10000; 0 is none")
	f.StringVar(&output, "output", outputTable, "table or json")
	return cmd
}

func (o *benchOptions) validate() error {
	switch {
	case o.seconds < 1 || o.seconds > 600:
		return fmt.Errorf("--seconds is %d; use 1 to 600", o.seconds)
	case o.runs < 1 || o.runs > 100:
		return fmt.Errorf("--runs is %d; use 1 to 100", o.runs)
	case o.payloadBytes < 0 || o.payloadBytes > 1<<20:
		return fmt.Errorf("--payload-bytes is %d; use 0 to %d", o.payloadBytes, 1<<20)
	case o.queues < 1 || o.queues > server.ShardsMax:
		return fmt.Errorf("--queues is %d; use 1 to %d", o.queues, server.ShardsMax)
	case slices.Min(o.numbersOfPartitions()) < 1 || slices.Max(o.numbersOfPartitions()) > partitionsMax:
		return fmt.Errorf("--partitions is %v; use 1 to %d", o.partitions, partitionsMax)
	case len(slices.Compact(slices.Sorted(slices.Values(o.partitions)))) < len(o.partitions):
		return fmt.Errorf("--partitions is %v; name each number once", o.partitions)
	case o.keys < 0 || o.keys > 10_000:
		return fmt.Errorf("--ordering-keys is %d; use 0 to 10000", o.keys)
	case o.nodes != 1 && o.nodes != fleetNodes:
		return fmt.Errorf("--nodes is %d; use 1 or %d", o.nodes, fleetNodes)
	case o.backlog < 100 || o.backlog > 100_000_000:
		return fmt.Errorf("--backlog is %d; use 100 to 100000000", o.backlog)
	}
	all := benchScenarios()
	for _, name := range o.only {
		i := slices.IndexFunc(all, func(s benchScenario) bool { return s.name == name })
		switch {
		case i < 0:
			return fmt.Errorf("there is no scenario %q; see beaver bench --help", name)
		case all[i].alone && o.several():
			return fmt.Errorf("the scenario %q is of one node, and one queue of one partition without ordering keys only", name)
		}
	}
	return nil
}

// several reports whether the load is not that of one plain queue on one node.
func (o *benchOptions) several() bool {
	return o.nodes > 1 || o.queues > 1 || !slices.Equal(o.numbersOfPartitions(), []int{1}) || o.keys > 0
}

// benchQueue is the queue of the load, or what the names of several begin with.
const benchQueue = "bench"

// benchRun is one scenario under way.
type benchRun struct {
	benchOptions
	spreadOver int            // partitions of its queues
	server     *serverProcess // the only one, or one of the fleet
	fleet      *fleet         // nil: there is one node
	payload    []byte
}

// servers are all processes.
func (b *benchRun) servers() []*serverProcess {
	if b.fleet == nil {
		return []*serverProcess{b.server}
	}
	var all []*serverProcess
	for _, id := range b.fleet.running() {
		all = append(all, b.fleet.nodes[id].serverProcess)
	}
	return all
}

// queuesOf are what stands for a queue: it, or with --queues several, which live on different shards.
func (b *benchRun) queuesOf(name string) []string {
	if b.queues <= 1 {
		return []string{name}
	}
	var names []string
	for i := range b.queues {
		names = append(names, fmt.Sprintf("%s-%d", name, i+1))
	}
	return names
}

func runBench(ctx context.Context, opts benchOptions) error {
	if err := opts.validate(); err != nil {
		return usageError{err}
	}
	if opts.profileDir != "" {
		if err := os.MkdirAll(opts.profileDir, 0o755); err != nil {
			return fmt.Errorf("--profile-dir: %w", err)
		}
	}
	collectSeldom()
	runs := make([][]benchRow, opts.runs)
	for i := range runs {
		if opts.runs > 1 {
			_, _ = fmt.Fprintf(opts.log, "run %d of %d\n", i+1, opts.runs) // progress is a courtesy
		}
		rows, err := runScenarios(ctx, opts)
		if err != nil {
			return err
		}
		runs[i] = rows
	}
	rows := medianRows(runs)
	compareSpread(rows, runs)
	if opts.json {
		encoder := json.NewEncoder(opts.out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	return printRows(opts.out, rows)
}

// runScenarios runs the chosen scenarios once.
func runScenarios(ctx context.Context, opts benchOptions) ([]benchRow, error) {
	var rows []benchRow
	for _, s := range benchScenarios() {
		if len(opts.only) > 0 && !slices.Contains(opts.only, s.name) || s.alone && opts.several() {
			continue
		}
		first := ""
		for _, n := range opts.numbersOfPartitions() {
			_, _ = fmt.Fprintf(opts.log, "%s: %s\n", spreadName(s.name, n), s.what) // progress is a courtesy
			got, err := runScenario(ctx, opts, s, n)
			if err != nil {
				return nil, fmt.Errorf("scenario %s: %w", spreadName(s.name, n), err)
			}
			if !s.alone { // it has one row
				got[0].Name, got[0].beside = spreadName(s.name, n), first
				first = cmp.Or(first, got[0].Name)
			}
			rows = append(rows, got...)
		}
	}
	return rows, nil
}

func runScenario(ctx context.Context, opts benchOptions, s benchScenario, partitions int) (rows []benchRow, err error) {
	dir, err := os.MkdirTemp(opts.dir, "beaver-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	sync, err := measureSync(ctx, dir, 0)
	if err != nil {
		return nil, err
	}
	paced := sync
	if s.rest > 0 {
		if paced, err = measureSync(ctx, dir, s.rest); err != nil {
			return nil, err
		}
	}
	roundTrip, err := measureRoundTrip(ctx, s.rest)
	if err != nil {
		return nil, err
	}
	b := &benchRun{benchOptions: opts, spreadOver: partitions, payload: benchPayload(opts.payloadBytes)}
	end, err := b.launch(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := b.spread(ctx); err != nil {
		return nil, err
	}
	if b.profileDir == "" || s.alone { // These do not measure for as long as they are told to.
		rows, err = s.run(ctx, b)
	} else {
		rows, err = b.profiled(ctx, s)
	}
	for i := range rows {
		rows[i].SyncMicros, rows[i].PacedSyncMicros, rows[i].RoundTripMicros = micros(sync), micros(paced), micros(roundTrip)
	}
	return rows, err
}

// launch starts the servers, and returns what ends them.
func (b *benchRun) launch(ctx context.Context, dir string) (end func(), err error) {
	quiet := append([]string{"--log-level", "error"}, b.shards()...)
	if b.profileDir != "" {
		quiet = append(quiet, "--pprof")
	}
	if b.nodes > 1 {
		if b.fleet, err = newFleet(ctx, dir, io.Discard, false, quiet...); err != nil {
			return nil, err
		}
		b.server = b.fleet.nodes[1].serverProcess
		return b.fleet.close, nil
	}
	if b.server, err = newServerProcess(filepath.Join(dir, "data"), io.Discard, quiet...); err != nil {
		return nil, err
	}
	_, err = b.server.start(ctx)
	return b.server.stop, err
}

// benchPayload is text-like bytes that no layer can compress away by luck.
func benchPayload(size int) []byte {
	b := make([]byte, size)
	state := uint64(0x9e3779b97f4a7c15)
	for i := range b {
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		b[i] = 'a' + byte(state%26)
	}
	return b
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// quantile returns the q-quantile of durations, which it sorts.
func quantile(durations []time.Duration, q float64) time.Duration {
	if len(durations) == 0 {
		return 0
	}
	slices.Sort(durations)
	return durations[min(len(durations)-1, int(q*float64(len(durations))))]
}
