package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	demoKind       = "digest"
	demoBatchJobs  = 100
	demoWaitingMax = 2000 // jobs waiting: the producer goes on while the workers do, so that the trouble meets both
	demoTimeout    = 5 * time.Minute
	demoTellEvery  = 2 * time.Second
	demoProbes     = 64 // files that are kept for single enqueues, which show that a queue serves
)

type demoOptions struct {
	root     string
	filesMax int
	keep     bool
	cluster  bool
	out      io.Writer
}

// demoStage is what every demo has: files that are jobs, who produces them, who works on them, and the books.
type demoStage struct {
	demoOptions
	dir     string
	log     *os.File
	client  *beaver.Client
	workers demoWorkers
	poll    time.Duration // between two looks at the queues
	files   []string      // relative to root
	feed    demoFeed
	began   time.Time
	elapsed time.Duration // first enqueue to last completion

	printing sync.Mutex
}

// prepare finds the files and makes the directory of the run.
func (d *demoStage) prepare() error {
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
	d.feed.files = files
	d.feed.changed = make(chan struct{})
	if d.dir, err = os.MkdirTemp("", "beaver-demo-"); err != nil {
		return err
	}
	d.log, err = os.Create(filepath.Join(d.dir, "processes.log"))
	return err
}

// run has script make trouble while the files are enqueued and worked on, and returns when all is done.
func (d *demoStage) run(ctx context.Context, script func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.began = time.Now()
	var group sync.WaitGroup
	produced := make(chan error, 1)
	group.Go(func() {
		err := d.produce(ctx)
		if err != nil {
			cancel(err) // nobody need wait for jobs that will not come
		}
		produced <- err
	})
	telling, enough := context.WithCancel(ctx)
	group.Go(func() { d.tell(telling) })
	defer group.Wait()
	defer enough()
	err := script(ctx)
	if err == nil {
		d.feed.releaseAll()
		err = <-produced
	}
	if err == nil {
		err = d.awaitCompleted(ctx, len(d.files))
	}
	if err != nil {
		cancel(err)
		return err
	}
	d.elapsed = time.Since(d.began)
	return d.workers.stop()
}

// demoFeed hands out the files. It holds back a part of them, so that there still is work when the next trouble comes, however fast
// the machine is.
type demoFeed struct {
	files []string

	mu       sync.Mutex
	next     int
	released int
	changed  chan struct{} // closed when more is released
}

// release lets the producer go on until a share of the files is taken, those not counted that are kept for takeNow.
func (f *demoFeed) release(share float64) {
	f.releaseUpTo(int(share * float64(len(f.files)-demoProbes)))
}

// releaseAll lets the producer have all that are left.
func (f *demoFeed) releaseAll() { f.releaseUpTo(len(f.files)) }

func (f *demoFeed) releaseUpTo(count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released = count
	close(f.changed)
	f.changed = make(chan struct{})
}

// take returns the next files, up to n, when some are released; none when all are taken.
func (f *demoFeed) take(ctx context.Context, n int) ([]string, error) {
	for {
		f.mu.Lock()
		taken := f.files[f.next:max(f.next, min(f.next+n, f.released))]
		f.next += len(taken)
		done, changed := f.next == len(f.files), f.changed
		f.mu.Unlock()
		if len(taken) > 0 || done {
			return taken, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// takeNow returns the next file, released or not.
func (f *demoFeed) takeNow() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next == len(f.files) {
		return "", errors.New("there are too few files for this demo; name another directory with --root, or more --files")
	}
	f.next++
	return f.files[f.next-1], nil
}

// produce enqueues all files, never far ahead of the workers. It knows nothing of the trouble: the client repeats what was not
// answered, and its session keeps a repeat from storing a job twice.
func (d *demoStage) produce(ctx context.Context) error {
	for turn := 0; ; {
		waiting, err := d.totals(ctx)
		if err != nil {
			return err
		}
		if waiting.Ready+waiting.Running > demoWaitingMax {
			if err := pause(ctx, 2*d.poll); err != nil {
				return err
			}
			continue
		}
		batch, err := d.feed.take(ctx, demoBatchJobs)
		if err != nil || len(batch) == 0 {
			return err
		}
		jobs := make([]beaver.Job, len(batch))
		for i, path := range batch {
			jobs[i] = beaver.Job{Queue: d.workers.queues[turn%len(d.workers.queues)], Kind: demoKind, JSON: digestArgs{Path: path}}
			turn++
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
	}
}

// totals adds up the queues of the demo.
func (d *demoStage) totals(ctx context.Context) (sum beaver.QueueInfo, err error) {
	queues, err := d.client.Queues(ctx)
	if err != nil {
		return sum, err
	}
	for _, q := range queues {
		if slices.Contains(d.workers.queues, q.Name) {
			sum.Ready += q.Ready
			sum.Running += q.Running
			sum.Backoff += q.Backoff
			sum.Dead += q.Dead
			sum.CompletedTotal += q.CompletedTotal
		}
	}
	return sum, nil
}

// awaitCompleted waits until n jobs are completed.
func (d *demoStage) awaitCompleted(ctx context.Context, n int) error {
	for {
		sum, err := d.totals(ctx)
		if err != nil {
			return err
		}
		if int(sum.CompletedTotal) >= n {
			return nil
		}
		if sum.Dead > 0 {
			return fmt.Errorf("%d jobs are dead; run with --keep and see the log", sum.Dead)
		}
		if err := pause(ctx, d.poll); err != nil {
			return fmt.Errorf("%d of %d jobs are done: %w", sum.CompletedTotal, n, err)
		}
	}
}

// awaitGivenUp waits until a worker that is frozen is not among the workers any more.
func (d *demoStage) awaitGivenUp(ctx context.Context, name string) error {
	for {
		id, err := d.workerID(ctx, name)
		if err != nil || id == 0 {
			return err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// workerID is the id of a worker; 0 when there is none of that name.
func (d *demoStage) workerID(ctx context.Context, name string) (uint64, error) {
	workers, err := d.client.Workers(ctx)
	for _, w := range workers {
		if w.Name == name {
			return w.ID, nil
		}
	}
	return 0, err
}

// tell prints how far the jobs are, until ctx ends.
func (d *demoStage) tell(ctx context.Context) {
	for pause(ctx, demoTellEvery) == nil {
		if sum, err := d.totals(ctx); err == nil {
			d.say("%d of %d done, %d waiting, %d running", sum.CompletedTotal, len(d.files), sum.Ready+sum.Backoff, sum.Running)
		}
	}
}

// say prints a line of progress with the seconds since the start.
func (d *demoStage) say(format string, args ...any) {
	d.printing.Lock()
	defer d.printing.Unlock()
	var at float64
	if !d.began.IsZero() {
		at = time.Since(d.began).Seconds()
	}
	_, _ = fmt.Fprintf(d.out, "%6.1fs  %s\n", at, fmt.Sprintf(format, args...)) // progress is a courtesy
}

// demoFact is a row of the table at the end.
type demoFact struct {
	name  string
	value any
}

func (d *demoStage) table(facts []demoFact) error {
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table) // Flush tells of errors
	for _, f := range facts {
		_, _ = fmt.Fprintf(table, "%s\t%v\n", f.name, f.value) // likewise
	}
	return table.Flush()
}

// cleanUp ends what still runs, and deletes the data unless it is wanted.
func (d *demoStage) cleanUp(failed error) error {
	d.workers.abandon()
	if d.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = d.client.Close(ctx) // nothing is under way any more
	}
	if d.log == nil {
		return nil
	}
	errs := []error{d.log.Close()}
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
