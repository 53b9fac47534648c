package beaver

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// fakeEnqueues is the server's end of the enqueue streams, for tests in a bubble.
type fakeEnqueues struct {
	t       *testing.T
	streams chan *fakeEnqueueStream // each dial puts one
}

type fakeEnqueueStream struct {
	t        *testing.T
	ctx      context.Context
	requests chan *beaverv1.EnqueueStreamRequest // unbuffered: a Send waits for the server
	answers  chan *beaverv1.EnqueueStreamResponse
	end      chan error // what Receive then fails with
	closed   chan struct{}
}

func newFakeEnqueues(t *testing.T) *fakeEnqueues {
	return &fakeEnqueues{t: t, streams: make(chan *fakeEnqueueStream, 100)}
}

func (f *fakeEnqueues) dial(ctx context.Context) enqueueStream {
	s := &fakeEnqueueStream{
		t: f.t, ctx: ctx, requests: make(chan *beaverv1.EnqueueStreamRequest), answers: make(chan *beaverv1.EnqueueStreamResponse),
		end: make(chan error, 1), closed: make(chan struct{}),
	}
	f.streams <- s
	return s
}

// enqueuer returns an enqueuer on the fake that is closed when the test ends.
func (f *fakeEnqueues) client(t *testing.T, retryFor time.Duration) *Client {
	e := newEnqueuer(alone(f.dial), retryFor, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.close(ctx)
	})
	return &Client{enqueuer: e, nodes: unusedNodes(t)}
}

// loneStream is one to a node that has no other beside it.
type loneStream struct{ enqueueStream }

func (loneStream) silence(context.Context) (heard time.Time, silent bool) { return time.Now(), false }

func alone(dial func(context.Context) enqueueStream) func(context.Context) nodeStream {
	return func(ctx context.Context) nodeStream { return loneStream{dial(ctx)} }
}

// unusedNodes are those of a client whose streams are fakes.
func unusedNodes(t *testing.T) *nodes {
	s, err := newNodes(DefaultAddr, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *fakeEnqueueStream) Send(m *enqueueMessage) error {
	b, err := enqueueCodec{}.Marshal(m)
	if errors.Is(err, errTooOld) {
		return err
	}
	if err != nil {
		s.t.Error(err)
	}
	req := &beaverv1.EnqueueStreamRequest{}
	if err := proto.Unmarshal(b, req); err != nil {
		s.t.Error(err)
	}
	select {
	case s.requests <- req:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *fakeEnqueueStream) Receive() (*beaverv1.EnqueueStreamResponse, error) {
	select {
	case a := <-s.answers:
		return a, nil
	case err := <-s.end:
		return nil, err
	case <-s.closed:
		return nil, io.EOF
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *fakeEnqueueStream) CloseRequest() error {
	close(s.closed)
	return nil
}

func (s *fakeEnqueueStream) CloseResponse() error { return nil }

// answer accepts the jobs of the requests, numbering them from first.
func (s *fakeEnqueueStream) answer(first uint64, requests ...*beaverv1.EnqueueStreamRequest) {
	a := &beaverv1.EnqueueStreamResponse{}
	for _, r := range requests {
		a.Through = r.GetSequence()
		for range r.GetJobs() {
			a.Ids = append(a.Ids, wireID(1, first)...)
			first++
		}
	}
	s.answers <- a
}

// wireID is an ID as on the stream.
func wireID(shard uint16, position uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(nil, shard), position)
}

// fakeWork is the server's end of the work streams, for tests in a bubble.
type fakeWork struct {
	t       *testing.T
	streams chan *fakeWorkStream // each open puts one
}

type fakeWorkStream struct {
	t        *testing.T
	ctx      context.Context
	requests chan *beaverv1.WorkRequest // unbuffered
	answers  chan *beaverv1.WorkResponse
	end      chan error
	closed   chan struct{}
	header   http.Header
}

func newFakeWork(t *testing.T) *fakeWork {
	return &fakeWork{t: t, streams: make(chan *fakeWorkStream, 100)}
}

func (f *fakeWork) open(ctx context.Context) workStream {
	s := &fakeWorkStream{
		t: f.t, ctx: ctx, requests: make(chan *beaverv1.WorkRequest), answers: make(chan *beaverv1.WorkResponse),
		end: make(chan error, 1), closed: make(chan struct{}), header: http.Header{},
	}
	f.streams <- s
	return s
}

func (s *fakeWorkStream) Send(m *beaverv1.WorkRequest) error {
	select {
	case s.requests <- m:
		return nil
	case <-s.ctx.Done():
		return io.EOF
	}
}

func (s *fakeWorkStream) Receive() (*beaverv1.WorkResponse, error) {
	select {
	case a := <-s.answers:
		return a, nil
	case err := <-s.end:
		return nil, err
	case <-s.closed:
		return nil, io.EOF
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

func (s *fakeWorkStream) ResponseHeader() http.Header { return s.header }

func (s *fakeWorkStream) CloseRequest() error {
	close(s.closed)
	return nil
}

func (s *fakeWorkStream) CloseResponse() error { return nil }

// welcome takes hello and answers it.
func (s *fakeWorkStream) welcome(id uint64) *beaverv1.WorkRequest {
	s.t.Helper()
	m := <-s.requests
	if m.GetHello() == nil {
		s.t.Fatalf("the first message has no hello: %v", m)
	}
	s.answers <- &beaverv1.WorkResponse{Welcome: &beaverv1.Welcome{WorkerId: id, Ttl: durationpb.New(9 * time.Second)}}
	return m
}

// outcome takes messages until one has outcomes, and answers it.
func (s *fakeWorkStream) outcome() *beaverv1.WorkRequest {
	s.t.Helper()
	m := s.outcomeUnanswered()
	s.answers <- &beaverv1.WorkResponse{OutcomesThrough: m.GetOutcomesSequence()}
	return m
}

func (s *fakeWorkStream) outcomeUnanswered() *beaverv1.WorkRequest {
	s.t.Helper()
	for {
		select {
		case m := <-s.requests:
			if len(m.GetOutcomes()) > 0 {
				return m
			}
		case <-s.closed:
			s.t.Fatal("the worker closed the stream without an outcome")
		}
	}
}

// drain takes and answers messages until the worker closes the stream, and returns the outcomes.
func (s *fakeWorkStream) drain() []*beaverv1.Outcome {
	var all []*beaverv1.Outcome
	for {
		select {
		case m := <-s.requests:
			all = append(all, m.GetOutcomes()...)
			if m.GetOutcomesSequence() != 0 {
				s.answers <- &beaverv1.WorkResponse{OutcomesThrough: m.GetOutcomesSequence()}
			}
		case <-s.closed:
			return all
		case <-s.ctx.Done():
			return all
		}
	}
}

// leased is a job as the server sends it.
func leased(n uint64, kind string) *beaverv1.LeasedJob {
	return &beaverv1.LeasedJob{
		Id: string(jobIDFromWire(wireID(1, n))), Token: n, Queue: "q", Kind: kind, Payload: []byte(`{"n":1}`), Attempt: 1,
	}
}
