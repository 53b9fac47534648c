package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/beaver-raft/beaver/internal/engine"
)

// Options configure a Handler. The zero value of a field means its default.
type Options struct {
	Logger          *slog.Logger // default: discards
	Version         string       // shown at /
	DataDir         string       // shown by GetStatus
	RequestBytesMax int          // default RequestBytesDefault
	Metrics         http.Handler // serves /metrics; default: none
	Pprof           bool         // serves /debug/pprof/

	Watch *engine.Watch // knows whether the node stood still. Default: one that nobody ticks

	// Recorder is asked once for each procedure, and what it returns is told of every call's end. Default: none.
	Recorder func(procedure string) func(code string, elapsed time.Duration)
}

// Handler answers everything that comes in at the public port. Until Serve it answers the probes only.
type Handler struct {
	opts   Options
	engine atomic.Pointer[Engine]
	others atomic.Pointer[Cluster]
	reason atomic.Pointer[string] // why not ready, before Serve
	rpc    map[string]http.Handler
	reads  map[string]bool       // the procedures that change nothing
	bare   map[string]streamFunc // the streams, for connections that were upgraded
	pages  *http.ServeMux
	writer *connect.ErrorWriter

	stop     context.Context // done when the node stops
	stopping context.CancelFunc

	mu      sync.Mutex
	active  int                             // calls under way
	idle    chan struct{}                   // closed when active falls to 0 after Drain began; nil before
	workers map[engine.WorkerID]*workStream // the live Work streams

	streams struct{ enqueue, work atomic.Int64 }
	panics  atomic.Int64
}

// New makes a handler without an engine.
func New(opts Options) *Handler {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.RequestBytesMax == 0 {
		opts.RequestBytesMax = RequestBytesDefault
	}
	if opts.Watch == nil {
		opts.Watch = engine.NewWatch(nil)
	}
	if opts.Recorder == nil {
		opts.Recorder = func(string) func(string, time.Duration) { return func(string, time.Duration) {} }
	}
	h := &Handler{
		opts:    opts,
		rpc:     make(map[string]http.Handler),
		reads:   make(map[string]bool),
		bare:    make(map[string]streamFunc),
		pages:   http.NewServeMux(),
		workers: make(map[engine.WorkerID]*workStream),
	}
	h.stop, h.stopping = context.WithCancel(context.Background())
	h.SetNotReady("starting")
	h.writer = connect.NewErrorWriter(h.options(compressRare)...)
	h.addServices()
	h.addPages()
	return h
}

// SetNotReady says why the node is not ready yet; Serve ends that.
func (h *Handler) SetNotReady(reason string) { h.reason.Store(&reason) }

// Serve gives the handler the engine: from now on calls are answered.
func (h *Handler) Serve(e Engine) { h.engine.Store(&e) }

// ServeCluster gives the handler the cluster that the node is one of. It is called before Serve, or never.
func (h *Handler) ServeCluster(c Cluster) { h.others.Store(&c) }

// Drain refuses new calls, ends waiting fetches and streams once what they sent is answered, and returns when no call is
// under way or ctx is done.
func (h *Handler) Drain(ctx context.Context) error {
	h.stopping()
	h.mu.Lock()
	if h.idle == nil {
		h.idle = make(chan struct{})
		if h.active == 0 {
			close(h.idle)
		}
	}
	idle, active := h.idle, h.active
	h.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: %d calls were under way: %w", active, ctx.Err())
	}
}

// Streams are how many streams of each kind are open.
func (h *Handler) Streams() (enqueue, work int64) {
	return h.streams.enqueue.Load(), h.streams.work.Load()
}

// enter admits a call, and leave ends it.
func (h *Handler) enter() (Engine, *engine.Error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stop.Err() != nil {
		return nil, errStopping()
	}
	e := h.engine.Load()
	if e == nil {
		return nil, &engine.Error{
			Code: engine.CodeUnavailable, Reason: reasonNotReady,
			Message: "the node is not ready: " + *h.reason.Load() + "; try again in a moment",
		}
	}
	h.active++
	return *e, nil
}

func (h *Handler) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active--
	if h.active == 0 && h.idle != nil {
		close(h.idle)
	}
}

func errStopping() *engine.Error {
	return &engine.Error{
		Code: engine.CodeUnavailable, Reason: reasonStopping,
		Message: "the node is stopping; connect again to it when it is back, or to another one",
	}
}

// The sizes from which answers are compressed when the client asks for it: the hot ones never are.
const (
	compressRare = 8 << 10
	compressHot  = 1 << 62
)

// options are what all handlers have in common.
func (h *Handler) options(compressFrom int) []connect.HandlerOption {
	return []connect.HandlerOption{
		connect.WithCodec(protoCodec{}),
		connect.WithCodec(jsonCodec{name: "json"}),
		connect.WithCodec(jsonCodec{name: "json; charset=utf-8"}),
		connect.WithReadMaxBytes(h.opts.RequestBytesMax),
		connect.WithCompressMinBytes(compressFrom),
	}
}

// begin admits a call and starts its clock. end must be called with what the call returns, and returns what to answer. A call whose
// connection was accepted before the node stood still may have waited since then: whoever sent it may have given it up long ago.
func (h *Handler) begin(ctx context.Context, procedure string, record func(string, time.Duration)) (e Engine, end func(error) error, err error) {
	start := time.Now()
	e, refused := h.enter()
	if era := engine.EraOf(ctx); refused == nil && era != 0 && h.opts.Watch.Era(h.opts.Watch.Reading(start)) != era {
		h.leave()
		refused = engine.ErrStoodStill()
	}
	if refused != nil {
		record(connectCode(refused.Code).String(), time.Since(start))
		return nil, nil, toConnect(refused)
	}
	return e, func(err error) error {
		h.leave()
		if err == nil {
			record("ok", time.Since(start))
			return nil
		}
		answer := toConnect(err)
		record(answer.Code().String(), time.Since(start))
		if answer.Code() == connect.CodeInternal {
			h.opts.Logger.Error("call failed", "procedure", procedure, "err", err)
		}
		return answer
	}, nil
}

// guard turns a panic of fn into an error, so that one call's bug ends one call.
func (h *Handler) guard(procedure string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = h.panicked(procedure, r)
		}
	}()
	return fn()
}

// start runs fn as a goroutine of a call; whoever made group waits for it. A panic of fn ends the call, by fail, and not the
// process.
func (h *Handler) start(group *sync.WaitGroup, procedure string, fail func(error), fn func()) {
	group.Go(func() {
		err := h.guard(procedure, func() error {
			fn()
			return nil
		})
		if err != nil {
			fail(err)
		}
	})
}

// panicked counts and logs a recovered panic, and returns what its call is answered with.
//
// REQUIRES: the panic's stack is not left yet.
func (h *Handler) panicked(procedure string, value any) *engine.Error {
	h.panics.Add(1)
	h.opts.Logger.Error("call panicked", "procedure", procedure, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
	return &engine.Error{
		Code: engine.CodeInternal, Reason: reasonInternal,
		Message: "internal error: this is a bug; the node's log has the stack",
	}
}

// Panics is how many panics ended calls since the start. Each is a bug.
func (h *Handler) Panics() int64 { return h.panics.Load() }

// unary adds a procedure whose messages are of generated type.
func unary[In, Out any, P interface {
	*In
	proto.Message
}](h *Handler, procedure string, fn func(context.Context, Engine, P) (*Out, error), options ...connect.HandlerOption) {
	hot(h, procedure, compressRare, func(ctx context.Context, e Engine, in *received[In, P]) (*Out, error) {
		if in.err != nil {
			return nil, in.err
		}
		return fn(ctx, e, P(&in.msg))
	}, options...)
}

// reading adds a procedure that changes nothing: Connect's clients may GET it.
func reading[In, Out any, P interface {
	*In
	proto.Message
}](h *Handler, procedure string, fn func(context.Context, Engine, P) (*Out, error)) {
	h.reads[procedure] = true
	unary(h, procedure, fn, connect.WithIdempotency(connect.IdempotencyNoSideEffects))
}

// hot adds a procedure whose messages decode and encode themselves.
func hot[In, Out any](
	h *Handler, procedure string, compressFrom int, fn func(context.Context, Engine, *In) (*Out, error),
	options ...connect.HandlerOption,
) {
	record := h.opts.Recorder(procedure)
	h.rpc[procedure] = connect.NewUnaryHandler(procedure,
		func(ctx context.Context, req *connect.Request[In]) (*connect.Response[Out], error) {
			e, end, err := h.begin(ctx, procedure, record)
			if err != nil {
				return nil, err
			}
			var out *Out
			err = h.guard(procedure, func() (err error) {
				out, err = fn(ctx, e, req.Msg)
				return err
			})
			if err = end(err); err != nil {
				return nil, err
			}
			return connect.NewResponse(out), nil
		}, append(h.options(compressFrom), options...)...)
}

// stream adds a bidirectional procedure.
func stream[In, Out any](
	h *Handler, procedure string, open *atomic.Int64, fn func(context.Context, Engine, connect.StreamingHandlerConn) error,
) {
	record := h.opts.Recorder(procedure)
	serve := func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		e, end, err := h.begin(ctx, procedure, record)
		if err != nil {
			return err
		}
		open.Add(1)
		defer open.Add(-1)
		return end(h.guard(procedure, func() error { return fn(ctx, e, conn) }))
	}
	h.bare[procedure] = serve
	h.rpc[procedure] = connect.NewBidiStreamHandler(procedure,
		func(ctx context.Context, s *connect.BidiStream[In, Out]) error { return serve(ctx, s.Conn()) },
		h.options(compressHot)...)
}
