package rpc

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
	"github.com/beaver-raft/beaver/internal/engine"
)

// resumingEngine takes every worker up again.
type resumingEngine struct {
	releasingEngine
	resumed atomic.Int64
}

func (e *resumingEngine) ResumeWorker(context.Context, engine.WorkerID, []engine.LeaseRef) (engine.HeartbeatReply, error) {
	e.resumed.Add(1)
	return engine.HeartbeatReply{TTL: 6 * time.Second}, nil
}

// stuckStream serves the bare stream of a worker whose connection takes nothing any more once it has read the welcome. The worker says hello,
// and what else it is made to.
func stuckStream(t *testing.T, h *Handler) (worker net.Conn, ended <-chan struct{}) {
	t.Helper()
	server, worker := net.Pipe()
	in := make(chan *beaverv1.WorkRequest, 1)
	c := &stuckConn{in: in, cut: make(chan struct{})}
	c.conn, c.cancel = server, func() {}
	c.spec.Procedure = beaverv1connect.JobServiceWorkProcedure
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.bare[c.spec.Procedure](context.WithValue(t.Context(), controllerKey{}, c), c) // how it ends is another test's
	}()
	in <- &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}, Credits: 1}
	if _, err := worker.Read(make([]byte, 1<<10)); err != nil {
		t.Fatal(err)
	}
	return worker, done
}

// stuckConn writes as an upgraded stream does, and reads what the test says.
type stuckConn struct {
	upgradedConn
	in  chan *beaverv1.WorkRequest
	cut chan struct{}
}

func (c *stuckConn) Receive(v any) error {
	reader := transitConn{in: c.in}
	reader.scriptedConn.cut = c.cut
	return reader.Receive(v)
}

func (c *stuckConn) SetReadDeadline(time.Time) error {
	close(c.cut)
	return nil
}

// TestWorkerComesBackFromAStuckConnection: a worker that comes back while its node still writes to its old connection, which is lost and has
// not said so, does not wait for that: it would be taken for lost meanwhile, and what it runs given to others. What was not written goes back.
func TestWorkerComesBackFromAStuckConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := new(resumingEngine)
		e.jobs = make(chan []engine.FetchedJob)
		h := New(Options{})
		h.Serve(e)
		_, ended := stuckStream(t, h)
		large := engine.Spec{Payload: make([]byte, WorkBytesMax)}
		e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1, Spec: large}, {ID: lease(2).ID, Token: 2, Spec: large}}
		synctest.Wait() // it is being written

		c := new(transitConn)
		c.in, c.out, c.scriptedConn.cut = make(chan *beaverv1.WorkRequest), make(chan int), make(chan struct{})
		c.spec.Procedure = beaverv1connect.JobServiceWorkProcedure
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), controllerKey{}, c))
		again := make(chan struct{})
		go func() {
			defer close(again)
			_ = h.bare[c.spec.Procedure](ctx, c)
		}()
		c.in <- &beaverv1.WorkRequest{WorkerId: 7, Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}}
		time.Sleep(time.Second)
		if e.resumed.Load() != 1 {
			t.Error("after a second the worker is not taken up again")
		}
		<-ended
		if len(e.released) != 1 || e.released[0] != 2 {
			t.Errorf("given back were %v; want what was not being written", e.released)
		}
		cancel()
		_ = c.SetReadDeadline(time.Now()) // as the connection would
		<-again
	})
}

// TestStuckConnectionOfASilentWorker: a worker that is silent for its TTL is found out although its connection takes nothing, and the jobs that
// were not written go back.
func TestStuckConnectionOfASilentWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := new(resumingEngine)
		e.jobs = make(chan []engine.FetchedJob)
		h := New(Options{})
		h.Serve(e)
		_, ended := stuckStream(t, h)
		before := time.Now()
		large := engine.Spec{Payload: make([]byte, WorkBytesMax)}
		e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1, Spec: large}, {ID: lease(2).ID, Token: 2, Spec: large}}
		<-ended
		if after := time.Since(before); after > 7*time.Second {
			t.Errorf("the stream ended after %v, with a TTL of 6 s", after)
		}
		if len(e.released) != 1 || e.released[0] != 2 {
			t.Errorf("given back were %v; want what was not being written", e.released)
		}
	})
}

// TestWriteDeadlineHolds: once nothing is to be written, no later write goes on either.
func TestWriteDeadlineHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, worker := net.Pipe()
		defer func() { _ = worker.Close() }() // nothing is read from it
		c := &upgradedConn{conn: server, cancel: func() {}}
		time.AfterFunc(time.Second, func() { _ = c.SetWriteDeadline(time.Now()) })
		for i := range 2 {
			before := time.Now()
			err := c.Send(&workResponse{})
			if after := time.Since(before); err == nil || !strings.Contains(err.Error(), "timeout") || after > time.Second {
				t.Errorf("write %d: %v after %v", i+1, err, after)
			}
		}
	})
}
