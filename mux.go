package beaver

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// Handler does jobs. It returns nil when the job is done; else the job is retried later, unless the error says otherwise: see
// Permanent, RetryAfter and ErrRelease.
//
// ctx ends when the job should stop: its cancellation was asked for (the cause is ErrCancelled), its lease is lost
// (ErrLeaseLost), its deadline has passed (context.DeadlineExceeded), or the worker's grace period is over (ErrStopped).
type Handler interface {
	Handle(ctx context.Context, job *LeasedJob) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, job *LeasedJob) error

// Handle calls f.
func (f HandlerFunc) Handle(ctx context.Context, job *LeasedJob) error { return f(ctx, job) }

// Middleware wraps a Handler, for logs, traces, limits and such.
type Middleware func(Handler) Handler

// Mux is a Handler that hands each job to the handler of its kind. The zero value is ready. Register everything before the
// worker starts.
type Mux struct {
	mu         sync.Mutex
	handlers   map[string]Handler
	fallback   Handler
	middleware []Middleware
	build      sync.Once
	built      map[string]Handler // with middleware
	builtOther Handler
}

// NewMux returns an empty Mux.
func NewMux() *Mux { return &Mux{} }

// HandleKind registers the handler of a kind. It panics when the kind has one already, which is a mistake in the program.
func (m *Mux) HandleKind(kind string, h Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.handlers[kind]; ok {
		panic(fmt.Sprintf("beaver: two handlers for the kind %q", kind))
	}
	if m.handlers == nil {
		m.handlers = make(map[string]Handler)
	}
	m.handlers[kind] = h
}

// HandleOther registers the handler of the kinds that have none. Without it such jobs fail, and are retried later, when a
// newer worker may know them.
func (m *Mux) HandleOther(h Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fallback = h
}

// Use wraps all handlers, registered before or after, in middleware. The one given first is outermost.
func (m *Mux) Use(middleware ...Middleware) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.middleware = append(m.middleware, middleware...)
}

// Handle hands the job to the handler of its kind.
func (m *Mux) Handle(ctx context.Context, job *LeasedJob) error {
	m.build.Do(m.wrap)
	if h, ok := m.built[job.Kind]; ok {
		return h.Handle(ctx, job)
	}
	return m.builtOther.Handle(ctx, job)
}

func (m *Mux) wrap() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.built = make(map[string]Handler, len(m.handlers))
	for kind, h := range m.handlers {
		m.built[kind] = wrapped(h, m.middleware)
	}
	other := m.fallback
	if other == nil {
		other = HandlerFunc(func(_ context.Context, job *LeasedJob) error {
			return fmt.Errorf("this worker has no handler for the kind %q", job.Kind)
		})
	}
	m.builtOther = wrapped(other, m.middleware)
}

func wrapped(h Handler, middleware []Middleware) Handler {
	for _, w := range slices.Backward(middleware) {
		h = w(h)
	}
	return h
}

// Handle registers f for the jobs of T's kind. Arguments that are not the JSON of a T make the job dead at once.
func Handle[T Args](m *Mux, f func(ctx context.Context, job *JobOf[T]) error) {
	var zero T
	m.HandleKind(zero.Kind(), HandlerFunc(func(ctx context.Context, job *LeasedJob) error {
		typed := &JobOf[T]{LeasedJob: job}
		if err := json.Unmarshal(job.Payload, &typed.Args); err != nil {
			return Permanent(fmt.Errorf("arguments of %q: %w", job.Kind, err))
		}
		return f(ctx, typed)
	}))
}

// HandleResult is Handle for functions with a result, which is kept with the job as JSON.
func HandleResult[T Args, R any](m *Mux, f func(ctx context.Context, job *JobOf[T]) (R, error)) {
	Handle(m, func(ctx context.Context, job *JobOf[T]) error {
		result, err := f(ctx, job)
		if err != nil {
			return err
		}
		return job.SetResult(result)
	})
}
