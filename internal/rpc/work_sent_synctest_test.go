package rpc

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
	"github.com/beaver-raft/beaver/internal/engine"
)

// releasingEngine takes note of which leases are given back, and how often it would take what is done for a worker for a sign of its life.
type releasingEngine struct {
	transitEngine
	released []engine.Token
	signs    int
}

func (e *releasingEngine) Fetch(ctx context.Context, r *engine.FetchRequest) ([]engine.FetchedJob, error) {
	if !r.OfStream {
		e.signs++
	}
	return e.transitEngine.Fetch(ctx, r)
}

func (e *releasingEngine) Finish(_ context.Context, worker engine.WorkerID, o []engine.Outcome, dst []engine.Ended) ([]engine.Ended, error) {
	if worker != 0 {
		e.signs++
	}
	for i := range o {
		e.released = append(e.released, o[i].Token)
	}
	return append(dst, make([]engine.Ended, len(o))...), nil
}

// lossyConn is a transitConn that carries a message to the worker and says that it could not.
type lossyConn struct {
	transitConn
	arrived atomic.Int64 // jobs
}

func (c *lossyConn) Send(v any) error {
	n := len(v.(*workResponse).jobs)
	if c.arrived.Add(int64(n)); n > 0 {
		return errors.New("the connection broke")
	}
	return nil
}

// TestSentJobsAreNotGivenBack: a job that may have reached its worker is not handed to another one because the connection broke while it was
// sent; those behind it, which were not sent, go back at once. Neither that nor the fetch is taken for a sign that the worker lives.
func TestSentJobsAreNotGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := new(releasingEngine), new(lossyConn)
		e.jobs = make(chan []engine.FetchedJob)
		c.in, c.cut = make(chan *beaverv1.WorkRequest), make(chan struct{})
		c.spec.Procedure = beaverv1connect.JobServiceWorkProcedure
		h := New(Options{})
		h.Serve(e)
		ended := make(chan struct{})
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), controllerKey{}, c))
		defer cancel()
		go func() {
			defer close(ended)
			_ = h.bare[c.spec.Procedure](ctx, c) // how it ends is another test's
		}()
		c.in <- &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}, Credits: 3}
		large := engine.Spec{Payload: make([]byte, WorkBytesMax)}
		e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1, Spec: large}, {ID: lease(2).ID, Token: 2, Spec: large}, {ID: lease(3).ID, Token: 3}}
		synctest.Wait()
		cancel()
		_ = c.SetReadDeadline(time.Now()) // as the connection would
		<-ended
		if c.arrived.Load() != 1 || !slices.Equal(e.released, []engine.Token{2, 3}) {
			t.Errorf("%d jobs arrived; given back were %v, want 2 and 3", c.arrived.Load(), e.released)
		}
		if e.signs != 0 {
			t.Errorf("what the node did for the worker passed for %d signs of life", e.signs)
		}
	})
}
