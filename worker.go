package beaver

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	defaultConcurrency = 10
	defaultGracePeriod = 25 * time.Second
)

// WorkerConfig says which jobs a Worker takes and how it does them. Queues and Handler are required.
type WorkerConfig struct {
	// Queues to take jobs from: 1 to 64. Among queues that live on one shard priority counts, and of jobs of equal priority those of the queue
	// named first come first; the shards take turns.
	Queues []string
	// Handler does the jobs; usually a Mux.
	Handler Handler
	// Concurrency is how many jobs run at once: 1 to 10000. Default 10.
	Concurrency int
	// GracePeriod is how long running jobs may go on once the worker stops, before their contexts end. Default 25 s, which
	// fits the 30 s that Kubernetes gives; -1: none.
	GracePeriod time.Duration
	// Name is shown to people. Default: the program's name.
	Name string
	// Labels are shown to people.
	Labels []string
	// Version of the program. Default: from its build information.
	Version string
}

// validate fills in the defaults, or says which field is wrong.
func (c *WorkerConfig) validate() error {
	if len(c.Queues) == 0 || len(c.Queues) > fetchQueuesMax {
		return fmt.Errorf("beaver: WorkerConfig.Queues names %d queues; name 1 to %d", len(c.Queues), fetchQueuesMax)
	}
	for _, q := range c.Queues {
		if err := validateQueue(q); err != nil {
			return fmt.Errorf("beaver: WorkerConfig.Queues: %w", err)
		}
	}
	if c.Handler == nil {
		return fmt.Errorf("beaver: WorkerConfig.Handler is nil; set a Mux or a HandlerFunc")
	}
	switch {
	case c.Concurrency == 0:
		c.Concurrency = defaultConcurrency
	case c.Concurrency < 0 || c.Concurrency > concurrencyMax:
		return fmt.Errorf("beaver: WorkerConfig.Concurrency is %d; use 1 to %d", c.Concurrency, concurrencyMax)
	}
	switch {
	case c.GracePeriod == 0:
		c.GracePeriod = defaultGracePeriod
	case c.GracePeriod == -1:
		c.GracePeriod = 0
	case c.GracePeriod < 0:
		return fmt.Errorf("beaver: WorkerConfig.GracePeriod is %v; use a positive duration, or -1 for none", c.GracePeriod)
	}
	if c.Name == "" {
		c.Name = filepath.Base(os.Args[0])
	}
	if c.Version == "" {
		if info, ok := debug.ReadBuildInfo(); ok {
			c.Version = info.Main.Version
		}
	}
	return nil
}

func (c *WorkerConfig) proto() *beaverv1.WorkerInfo {
	host, _ := os.Hostname() // Unknown is shown as empty.
	return &beaverv1.WorkerInfo{
		Name: c.Name, Host: host, Pid: uint32(os.Getpid()), Version: c.Version, Labels: c.Labels, Queues: c.Queues,
		Concurrency: uint32(c.Concurrency),
	}
}

// WorkerStats are a Worker's totals since it was made. The outcomes are counted when the server has them on disk.
type WorkerStats struct {
	Running      int    // now
	Completed    uint64 // acks
	Failed       uint64 // failures
	Released     uint64 // jobs given back
	Panicked     uint64 // handlers that panicked
	Stale        uint64 // outcomes that changed nothing since the lease was lost
	Unconfirmed  uint64 // outcomes refused when they were sent again after a reconnect: the first time may have counted
	Disconnected uint64 // streams that broke
}

// Worker takes jobs from queues and does them, over one stream to the server, which is also its heartbeat. When the stream
// breaks it connects again and goes on with the jobs it holds, also across a restart of the server.
//
// Invariant: the jobs running, and the credits the server has for more, are at most Concurrency; the outcome of every job
// taken is sent until the server has answered it.
//
// Goroutines, all ended when Done is closed: run connects and sends; receive, one a stream, takes what the server says; do,
// one a job, runs the handler; drain, once, stops the worker. Only handlers that ignore the end of their context outlive it.
type Worker struct {
	cfg    WorkerConfig
	client *Client
	open   func(context.Context) workStream
	logger *slog.Logger

	wake       chan struct{} // to run: something to send, or the stream broke
	changed    chan struct{} // to drain: a job ended or an outcome was answered
	registered chan struct{} // closed at the first welcome
	done       chan struct{} // closed when run has ended

	mu        sync.Mutex
	phase     workerPhase
	err       error // why the worker ended by itself
	id        uint64
	ttl       time.Duration
	hurry     bool          // the TTL has become shorter
	offset    time.Duration // what the server's clock is ahead of ours
	quiet     bool          // at the server's wish
	running   map[Lease]*run
	outbox    outbox
	retryWait backoff // of the outcomes that the server refused for now
	retrying  bool    // a timer runs for them
	credits   int     // that the server has on this stream
	received  uint64  // jobs of this stream
	told      bool    // the server knows on this stream that we are quiet
	broken    error   // what the stream ended with; nil while it is good
	welcomed  bool    // on this stream
	stats     WorkerStats

	ctx        context.Context // of the streams; ends last
	cancel     context.CancelCauseFunc
	jobsCtx    context.Context // of the jobs
	cancelJobs context.CancelCauseFunc
}

// workerPhase says where a worker stands in its life.
type workerPhase uint8

const (
	phaseNew      workerPhase = iota
	phaseRunning              // takes jobs
	phaseDraining             // takes no more
	phaseClosing              // nothing is left: the stream may end
)

// NewWorker makes a Worker. It does nothing until Run or Start.
func NewWorker(c *Client, cfg WorkerConfig) (*Worker, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Worker{
		cfg: cfg, client: c, open: c.dialWork, logger: c.cfg.Logger.With("worker", cfg.Name),
		wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		registered: make(chan struct{}), done: make(chan struct{}),
		running: make(map[Lease]*run), ttl: ttlAssumed,
	}, nil
}

// Run does jobs until ctx ends, and then stops as Stop does. It returns early when the server asks the worker to stop, with
// nil, or does not take it, with the error. While the server cannot be reached it goes on trying.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return w.Stop(context.WithoutCancel(ctx))
	case <-w.done:
		return w.result()
	}
}

// Start begins to do jobs. It returns when the server has registered the worker; when ctx ends before that, the worker is
// stopped again. The jobs' contexts have the values of ctx but do not end with it.
func (w *Worker) Start(ctx context.Context) error {
	if err := w.begin(ctx); err != nil {
		return err
	}
	select {
	case <-w.registered:
		return nil
	case <-w.done:
		return w.result()
	case <-ctx.Done():
		w.cancel(context.Cause(ctx))
		<-w.done
		return fmt.Errorf("beaver: the worker could not register: %w", context.Cause(ctx))
	}
}

func (w *Worker) begin(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.phase != phaseNew {
		return fmt.Errorf("beaver: a Worker runs once; make a new one")
	}
	w.phase = phaseRunning
	values := context.WithoutCancel(ctx)
	w.ctx, w.cancel = context.WithCancelCause(values)
	w.jobsCtx, w.cancelJobs = context.WithCancelCause(values)
	go w.run()
	return nil
}

// Done is closed when the worker has stopped, by Stop or at the server's wish.
func (w *Worker) Done() <-chan struct{} { return w.done }

// Stats returns the totals.
func (w *Worker) Stats() WorkerStats {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	s.Running = len(w.running)
	return s
}

// ID is the worker's name at the server; 0 before it is registered.
func (w *Worker) ID() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

func (w *Worker) result() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
