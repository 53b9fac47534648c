package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

const demoQueue = "demo"

// newDemoCommand makes `beaver demo` and the processes that it runs.
func newDemoCommand() *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Do real work on real input, and survive a kill -9 before your eyes",
		Long: `Every file below --root becomes a job: compress it and take its SHA-256. A server and three workers run as processes of
their own. Part-way the server and a worker are killed with SIGKILL and started again, and later a worker is frozen until
it is given up, and thawed. At the end every result is checked against a computation of its own, and losses and repeats
are counted. The exit status is not 0 if anything is lost or wrong.

With --cluster there are three servers, and the trouble is theirs: a leader is killed with a worker and started again; another leader
is cut off from its peers while a worker is frozen; a third node loses its disk and is replaced by a new one; and at last all are
restarted, one after the other. For each it is measured how long it takes until the queues that the node led store jobs again.`,
		Example: `  beaver demo
  beaver demo --cluster
  beaver demo --root /usr/share/doc
  beaver demo --files 2000 --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			opts.out = cmd.OutOrStdout()
			if opts.cluster {
				return runClusterDemo(ctx, opts)
			}
			return runDemo(ctx, opts)
		},
	}
	cmd.Flags().StringVar(&opts.root, "root", "", "directory whose files are the jobs (default: the source of the Go toolchain)")
	cmd.Flags().IntVar(&opts.filesMax, "files", 0, "use at most so many files (default: all)")
	cmd.Flags().BoolVar(&opts.keep, "keep", false, "keep the data directory and the logs")
	cmd.Flags().BoolVar(&opts.cluster, "cluster", false, "three servers, of which one after the other fails in its own way")
	cmd.AddCommand(newDemoDigestCommand(), newDemoWorkerCommand())
	return cmd
}

// demo is one run on one node: the processes, and what is known of them.
type demo struct {
	demoStage
	server *serverProcess

	recovery time.Duration // restart to ready
	firstJob time.Duration // restart to the first job completed
}

func runDemo(ctx context.Context, opts demoOptions) (err error) {
	if err := canFreeze(); err != nil {
		return err
	}
	d := &demo{demoStage: demoStage{demoOptions: opts, poll: 5 * time.Millisecond}}
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() {
		if d.server != nil {
			d.server.stop()
		}
		err = errors.Join(err, d.cleanUp(err))
	}()
	if err := d.launch(ctx); err != nil {
		return err
	}
	if err := d.run(ctx, d.trouble); err != nil {
		return err
	}
	return d.check(ctx)
}

// launch starts the server and the workers.
func (d *demo) launch(ctx context.Context) error {
	server, err := newServerProcess(filepath.Join(d.dir, "data"), d.log)
	if err != nil {
		return err
	}
	d.server = server
	if _, err := server.start(ctx); err != nil {
		return err
	}
	if d.client, err = beaver.NewClient(beaver.Config{Addr: server.url()}); err != nil {
		return err
	}
	keep := len(d.files) + demoBatchJobs
	if _, err := d.client.ConfigureQueue(ctx, demoQueue, beaver.QueueSettings{KeepEnded: &keep}); err != nil {
		return err
	}
	d.say("%d files below %s are the jobs; data and logs are in %s", len(d.files), d.root, d.dir)
	d.workers = demoWorkers{exe: server.exe, addr: server.url(), root: d.root, queues: []string{demoQueue}, log: d.log}
	if err := d.workers.start(); err != nil {
		return err
	}
	return d.workers.startProgram()
}

// trouble is what happens while the jobs are done.
func (d *demo) trouble(ctx context.Context) error {
	d.feed.releaseAll()
	if err := d.awaitCompleted(ctx, 2*len(d.files)/5); err != nil {
		return err
	}
	if err := d.killAndRestart(ctx); err != nil {
		return err
	}
	if err := d.awaitCompleted(ctx, 7*len(d.files)/10); err != nil {
		return err
	}
	// The outcomes that a worker reports when it goes on after such a pause carry stale leases.
	d.say("freeze worker %s until it is given up, and thaw it", demoFrozen)
	if err := d.workers.freeze(); err != nil {
		return err
	}
	if err := d.awaitGivenUp(ctx, demoFrozen); err != nil {
		return err
	}
	return d.workers.thaw()
}

// killAndRestart kills the server and a worker, and starts both again.
func (d *demo) killAndRestart(ctx context.Context) error {
	before, err := d.totals(ctx)
	if err != nil {
		return err
	}
	d.say("%d jobs done: kill -9 of the server (pid %d) and of worker %s", before.CompletedTotal, d.server.pid(), demoKilled)
	d.server.kill()
	d.workers.kill()
	restarted := time.Now()
	if d.recovery, err = d.server.start(ctx); err != nil {
		return err
	}
	if err := d.awaitCompleted(ctx, int(before.CompletedTotal)+1); err != nil {
		return err
	}
	d.firstJob = time.Since(restarted)
	d.say("the server was ready again after %v; the first job was done after %v", d.recovery.Round(time.Millisecond), d.firstJob.Round(time.Millisecond))
	return d.workers.restart()
}

// check compares every result with a computation of our own and prints the table.
func (d *demo) check(ctx context.Context) error {
	d.say("check every result against a computation of our own")
	verdict, err := checkResults(ctx, d.client, d.root, d.files, d.workers.queues)
	if err != nil {
		return err
	}
	sum, err := d.totals(ctx)
	if err != nil {
		return err
	}
	if err := d.table([]demoFact{
		{"jobs", len(d.files)},
		{"bytes", verdict.bytes},
		{"time", d.elapsed.Round(time.Millisecond)},
		{"jobs/s", int(float64(len(d.files)) / d.elapsed.Seconds())},
		{"server killed → ready", d.recovery.Round(time.Millisecond)},
		{"server killed → next job done", d.firstJob.Round(time.Millisecond)},
		{"lost", verdict.lost},
		{"wrong", verdict.wrong},
		{"stored twice", verdict.duplicates},
		{"completed twice", int(sum.CompletedTotal) - len(d.files) - verdict.duplicates + verdict.lost},
		{"run again after a lost worker", len(verdict.reruns)},
		{"stale acks refused", d.workers.staleRefused()},
	}); err != nil {
		return err
	}
	if verdict.lost+verdict.wrong+verdict.duplicates > 0 || int(sum.CompletedTotal) != len(d.files) {
		return errors.New("the demo failed: jobs were lost, wrong or repeated; see the table")
	}
	return nil
}
