package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
	"github.com/beaver-raft/beaver/internal/engine"
)

// fragileEngine panics in the method that it is told.
type fragileEngine struct {
	Engine // nil: whatever is not below panics, too
	breaks string
}

func (e *fragileEngine) use(method string) {
	if e.breaks == method {
		panic("the bug in " + method)
	}
}

func (e *fragileEngine) RegisterWorker(context.Context, engine.WorkerInfo) (engine.WorkerID, time.Duration, error) {
	e.use("RegisterWorker")
	return 7, time.Minute, nil // so long that nobody counts as silent
}

func (e *fragileEngine) Notices(engine.WorkerID) (<-chan engine.Notice, func()) {
	return make(chan engine.Notice), func() {}
}

func (e *fragileEngine) Fetch(ctx context.Context, _ *engine.FetchRequest) ([]engine.FetchedJob, error) {
	e.use("Fetch")
	<-ctx.Done()
	return nil, ctx.Err()
}

func (e *fragileEngine) Heartbeat(context.Context, engine.WorkerID, []engine.LeaseRef) (engine.HeartbeatReply, error) {
	e.use("Heartbeat")
	return engine.HeartbeatReply{TTL: time.Minute}, nil
}

func (e *fragileEngine) WorkerLeft(engine.WorkerID, bool) {}

func (e *fragileEngine) Finish(_ context.Context, _ engine.WorkerID, o []engine.Outcome, dst []engine.Ended) ([]engine.Ended, error) {
	e.use("Finish")
	return append(dst, make([]engine.Ended, len(o))...), nil
}

func (e *fragileEngine) BeginEnqueue(_ context.Context, _ *engine.EnqueueRequest, _ []engine.Enqueued, p *engine.PendingEnqueue) {
	e.use("BeginEnqueue")
	*p = engine.PendingEnqueue{}
}

func (e *fragileEngine) Queues(context.Context) ([]engine.QueueStatus, error) {
	e.use("Queues")
	return nil, nil
}

// scriptedConn is a stream whose client says what the script has, and then nothing.
type scriptedConn struct {
	upgradedConn
	script    []proto.Message
	sendFails bool
	once      sync.Once
	cut       chan struct{}
}

func (c *scriptedConn) Receive(v any) error {
	if len(c.script) == 0 {
		<-c.cut
		return errors.New("interrupted")
	}
	data, err := proto.Marshal(c.script[0])
	if err != nil {
		return err
	}
	c.script = c.script[1:]
	return protoCodec{}.Unmarshal(data, v)
}

func (c *scriptedConn) Send(any) error {
	if c.sendFails {
		panic("the bug in Send")
	}
	return nil
}

func (c *scriptedConn) SetReadDeadline(time.Time) error {
	c.once.Do(func() { close(c.cut) })
	return nil
}

// TestStreamPanics: a panic in any goroutine of a stream ends that stream with an error, and nothing else.
func TestStreamPanics(t *testing.T) {
	const work, enqueue = beaverv1connect.JobServiceWorkProcedure, beaverv1connect.JobServiceEnqueueStreamProcedure
	hello := &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}, Credits: 1}
	outcome := &beaverv1.WorkRequest{OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{{Id: "0000000000000000"}}}
	held := &beaverv1.WorkRequest{Held: []*beaverv1.LeaseRef{{Id: "0000000000000000", Token: 1}}} // this is asked of the engine at once
	jobs := &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{{Queue: "q"}}}
	for _, tt := range []struct {
		where, procedure string
		script           []proto.Message
	}{
		{"RegisterWorker", work, []proto.Message{hello}},
		{"Heartbeat", work, []proto.Message{hello, held}},
		{"Fetch", work, []proto.Message{hello}},
		{"Finish", work, []proto.Message{hello, outcome}},
		{"Send", work, []proto.Message{hello}},
		{"BeginEnqueue", enqueue, []proto.Message{jobs}},
		{"Send", enqueue, []proto.Message{jobs}},
	} {
		t.Run(tt.where+tt.procedure, func(t *testing.T) {
			var log bytes.Buffer
			codes := make(map[string]int)
			h := New(Options{
				Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Recorder: func(string) func(string, time.Duration) {
					return func(code string, _ time.Duration) { codes[code]++ }
				},
			})
			h.Serve(&fragileEngine{breaks: tt.where})
			conn := &scriptedConn{script: tt.script, sendFails: tt.where == "Send", cut: make(chan struct{})}
			conn.spec.Procedure = tt.procedure
			err := h.bare[tt.procedure](context.WithValue(t.Context(), controllerKey{}, conn), conn)
			if connect.CodeOf(err) != connect.CodeInternal || !strings.Contains(err.Error(), "the node's log has the stack") {
				t.Errorf("the stream ends with %v; want an internal error", err)
			}
			if got := h.Panics(); got != 1 || codes["internal"] != 1 || len(codes) != 1 {
				t.Errorf("%d panics are counted, calls by code %v; want 1", got, codes)
			}
			for _, want := range []string{"the bug in " + tt.where, tt.procedure, "panic_test.go"} {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log lacks %q:\n%s", want, &log)
				}
			}
			if err := h.Drain(t.Context()); err != nil {
				t.Errorf("something of the call is left: %v", err)
			}
		})
	}
}

// TestRequestPanics: so does a panic in a call, or outside of any.
func TestRequestPanics(t *testing.T) {
	var log bytes.Buffer
	h := New(Options{
		Logger:  slog.New(slog.NewTextHandler(&log, nil)),
		Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the bug in Metrics") }),
	})
	h.Serve(&fragileEngine{breaks: "Queues"})
	res := httptest.NewRecorder()
	req := httptest.NewRequest(http.MethodPost, beaverv1connect.QueueServiceListQueuesProcedure, strings.NewReader("{}"))
	req.Header.Set("Content-Type", "application/json")
	h.ServeHTTP(res, req)
	if res.Code != http.StatusInternalServerError || !strings.Contains(res.Body.String(), `"internal"`) {
		t.Errorf("a call that panics: %d, %s", res.Code, res.Body)
	}
	defer func() {
		if value := recover(); value != http.ErrAbortHandler { //nolint:errorlint // net/http compares it so, too
			t.Errorf("a page that panics: recovered %v; want the connection cut", value)
		}
		if h.Panics() != 2 || !strings.Contains(log.String(), "the bug in Metrics") {
			t.Errorf("%d panics are counted; the log:\n%s", h.Panics(), &log)
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil))
}
