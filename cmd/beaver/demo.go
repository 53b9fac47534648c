package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

const (
	demoQueue      = "demo"
	demoKind       = "digest"
	demoBatchJobs  = 100
	demoWaitingMax = 2000 // jobs waiting: the producer goes on while the workers do, so that the kill meets both
	demoTimeout    = 5 * time.Minute
)

// newDemoCommand makes `beaver demo` and the processes that it runs.
func newDemoCommand() *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Do real work on real input, and survive a kill -9 before your eyes",
		Long: `Every file below --root becomes a job: compress it and take its SHA-256. A server and three workers run as processes of
their own. Part-way the server and a worker are killed with SIGKILL and started again, and later a worker is frozen until
it is given up, and thawed. At the end every result is checked against a computation of its own, and losses and repeats
are counted. The exit status is not 0 if anything is lost or wrong.`,
		Example: `  beaver demo
  beaver demo --root /usr/share/doc
  beaver demo --files 2000 --keep`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTimeout)
			defer cancel()
			opts.out = cmd.OutOrStdout()
			return runDemo(ctx, opts)
		},
	}
	cmd.Flags().StringVar(&opts.root, "root", "", "directory whose files are the jobs (default: the source of the Go toolchain)")
	cmd.Flags().IntVar(&opts.filesMax, "files", 0, "use at most so many files (default: all)")
	cmd.Flags().BoolVar(&opts.keep, "keep", false, "keep the data directory and the logs")
	cmd.AddCommand(newDemoDigestCommand(), newDemoWorkerCommand())
	return cmd
}

type demoOptions struct {
	root     string
	filesMax int
	keep     bool
	out      io.Writer
}

// demo is one run: the processes, and what is known of them.
type demo struct {
	demoOptions
	dir     string
	log     *os.File
	server  *serverProcess
	client  *beaver.Client
	workers demoWorkers
	files   []string // relative to root
	began   time.Time

	recovery time.Duration // restart to ready
	firstJob time.Duration // restart to the first job completed
	elapsed  time.Duration // first enqueue to last completion
}

func runDemo(ctx context.Context, opts demoOptions) (err error) {
	if err := canFreeze(); err != nil {
		return err
	}
	d := &demo{demoOptions: opts}
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(err)) }()
	if err := d.launch(ctx); err != nil {
		return err
	}
	if err := d.work(ctx); err != nil {
		return err
	}
	return d.check(ctx)
}

// prepare finds the files and makes the directory of the run.
func (d *demo) prepare() error {
	if d.root == "" {
		root, err := goSourceRoot()
		if err != nil {
			return err
		}
		d.root = root
	}
	files, err := listFiles(d.root, d.filesMax)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("there is no file below %s; name another directory with --root", d.root)
	}
	d.files = files
	if d.dir, err = os.MkdirTemp("", "beaver-demo-"); err != nil {
		return err
	}
	d.log, err = os.Create(filepath.Join(d.dir, "processes.log"))
	return err
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
	return d.workers.start(server, d.root, d.log)
}

// work enqueues everything, and makes the trouble.
func (d *demo) work(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.began = time.Now()
	produced := make(chan error, 1)
	go func() {
		err := d.produce(ctx)
		if err != nil {
			cancel(err) // nobody need wait for jobs that will not come
		}
		produced <- err
	}()

	if err := d.awaitCompleted(ctx, 2*len(d.files)/5); err != nil {
		return err
	}
	if err := d.killAndRestart(ctx); err != nil {
		return err
	}
	if err := d.awaitCompleted(ctx, 7*len(d.files)/10); err != nil {
		return err
	}
	if err := d.freezeWorker(ctx); err != nil {
		return err
	}
	if err := <-produced; err != nil {
		return err
	}
	if err := d.awaitCompleted(ctx, len(d.files)); err != nil {
		return err
	}
	d.elapsed = time.Since(d.began)
	return d.workers.stop()
}

// produce enqueues all files, never far ahead of the workers. It knows nothing of the kill: the client repeats what was not
// answered, and its session keeps a repeat from storing a job twice.
func (d *demo) produce(ctx context.Context) error {
	for next := 0; next < len(d.files); {
		q, err := d.client.Queue(ctx, demoQueue)
		if err != nil {
			return err
		}
		if q.Ready+q.Running > demoWaitingMax {
			if err := pause(ctx, 10*time.Millisecond); err != nil {
				return err
			}
			continue
		}
		batch := d.files[next:min(next+demoBatchJobs, len(d.files))]
		jobs := make([]beaver.Job, len(batch))
		for i, path := range batch {
			jobs[i] = beaver.Job{Queue: demoQueue, Kind: demoKind, JSON: digestArgs{Path: path}}
		}
		answers, err := d.client.EnqueueMany(ctx, jobs)
		if err != nil {
			return fmt.Errorf("enqueue: %w", err)
		}
		for i, a := range answers {
			if a.Err != nil {
				return fmt.Errorf("enqueue %s: %w", batch[i], a.Err)
			}
		}
		next += len(batch)
	}
	return nil
}

// killAndRestart kills the server and a worker, and starts both again.
func (d *demo) killAndRestart(ctx context.Context) error {
	before, err := d.client.Queue(ctx, demoQueue)
	if err != nil {
		return err
	}
	d.say("%d jobs done: kill -9 of the server (pid %d) and of worker %s", before.CompletedTotal, d.server.cmd.Process.Pid, d.workers.killName())
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
	return d.workers.restart(d.server, d.root, d.log)
}

// freezeWorker stops a worker's process for longer than its TTL, so that its jobs are given to others, and lets it go on: the
// outcomes that it then reports carry stale leases.
func (d *demo) freezeWorker(ctx context.Context) error {
	name := d.workers.freezeName()
	d.say("freeze worker %s until it is given up, and thaw it", name)
	if err := d.workers.freeze(); err != nil {
		return err
	}
	for {
		workers, err := d.client.Workers(ctx)
		if err != nil {
			return err
		}
		alive := false
		for _, w := range workers {
			alive = alive || w.Name == name
		}
		if !alive {
			return d.workers.thaw()
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// awaitCompleted waits until n jobs are completed.
func (d *demo) awaitCompleted(ctx context.Context, n int) error {
	told := time.Now()
	for {
		q, err := d.client.Queue(ctx, demoQueue)
		if err != nil {
			return err
		}
		if int(q.CompletedTotal) >= n {
			return nil
		}
		if q.Dead > 0 {
			return fmt.Errorf("%d jobs are dead; run with --keep and see the log", q.Dead)
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			d.say("%d of %d done, %d waiting, %d running", q.CompletedTotal, len(d.files), q.Ready+q.Backoff, q.Running)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d jobs are done: %w", q.CompletedTotal, n, err)
		}
	}
}

// check compares every result with a computation of our own and prints the table.
func (d *demo) check(ctx context.Context) error {
	d.say("check every result against a computation of our own")
	verdict, err := checkResults(ctx, d.client, d.root, d.files)
	if err != nil {
		return err
	}
	q, err := d.client.Queue(ctx, demoQueue)
	if err != nil {
		return err
	}
	d.say("")
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	for _, row := range []struct {
		name  string
		value any
	}{
		{"jobs", len(d.files)},
		{"bytes", verdict.bytes},
		{"time", d.elapsed.Round(time.Millisecond)},
		{"jobs/s", int(float64(len(d.files)) / d.elapsed.Seconds())},
		{"server killed → ready", d.recovery.Round(time.Millisecond)},
		{"server killed → next job done", d.firstJob.Round(time.Millisecond)},
		{"lost", verdict.lost},
		{"wrong", verdict.wrong},
		{"stored twice", verdict.duplicates},
		{"completed twice", int(q.CompletedTotal) - len(d.files) - verdict.duplicates + verdict.lost},
		{"run again after a lost worker", verdict.rerun},
		{"stale acks refused", d.workers.staleRefused()},
	} {
		if _, err := fmt.Fprintf(table, "%s\t%v\n", row.name, row.value); err != nil {
			return err
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if verdict.lost+verdict.wrong+verdict.duplicates > 0 || int(q.CompletedTotal) != len(d.files) {
		return errors.New("the demo failed: jobs were lost, wrong or repeated; see the table")
	}
	return nil
}

// say prints a line of progress with the seconds since the start.
func (d *demo) say(format string, args ...any) {
	var at float64
	if !d.began.IsZero() {
		at = time.Since(d.began).Seconds()
	}
	if format == "" {
		_, _ = fmt.Fprintln(d.out) // progress is a courtesy
		return
	}
	_, _ = fmt.Fprintf(d.out, "%6.1fs  %s\n", at, fmt.Sprintf(format, args...)) // likewise
}

func (d *demo) cleanUp(failed error) error {
	d.workers.abandon()
	var errs []error
	if d.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.client.Close(ctx) // nothing is under way any more
	}
	if d.server != nil {
		d.server.stop()
	}
	errs = append(errs, d.log.Close())
	if d.keep || failed != nil {
		d.say("data and logs are kept in %s", d.dir)
	} else {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	return errors.Join(errs...)
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func demoConcurrency() int { return max(2, runtime.GOMAXPROCS(0)) }
