package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
	"github.com/beaver-raft/beaver/internal/engine"
)

// transitEngine hands out the jobs it is given, and takes note of which leases a worker is said to know.
type transitEngine struct {
	fragileEngine
	jobs  chan []engine.FetchedJob
	known chan []engine.LeaseRef

	refuses *engine.Error     // what it refuses with; nil: nothing
	doubted []engine.LeaseRef // that it was told of doubts about
}

func (e *transitEngine) RegisterWorker(context.Context, engine.WorkerInfo) (engine.WorkerID, time.Duration, error) {
	return 7, 6 * time.Second, nil
}

func (e *transitEngine) Fetch(ctx context.Context, _ *engine.FetchRequest) ([]engine.FetchedJob, error) {
	select {
	case jobs := <-e.jobs:
		return jobs, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// CompareWorker is in doubt about a lease of its own making, and again about the one that is asked about.
func (e *transitEngine) CompareWorker(_ context.Context, _ engine.WorkerID, known, doubted []engine.LeaseRef) ([]engine.LeaseRef, error) {
	e.known <- slices.Clone(known)
	e.doubted = append(e.doubted, doubted...)
	return []engine.LeaseRef{lease(100 + len(e.doubted))}, nil
}

// transitConn is a stream whose client the test is.
type transitConn struct {
	scriptedConn
	in  chan *beaverv1.WorkRequest
	out chan int // jobs of each message

	signs   atomic.Int64 // messages that say nothing
	refused atomic.Int64 // outcomes
}

func (c *transitConn) Receive(v any) error {
	select {
	case m, open := <-c.in:
		if !open {
			return io.EOF
		}
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		return protoCodec{}.Unmarshal(data, v)
	case <-c.cut:
		return errors.New("interrupted")
	}
}

func (c *transitConn) Send(v any) error {
	if n := len(v.(*workResponse).jobs); n > 0 {
		c.out <- n
	}
	c.refused.Add(int64(len(v.(*workResponse).refused)))
	if b := v.(*workResponse).appendProto(nil); len(b) == 0 {
		c.signs.Add(1)
	}
	return nil
}

// transitBubble runs f against a stream whose worker has said the first message.
func transitBubble(t *testing.T, hello *beaverv1.WorkRequest, f func(e *transitEngine, c *transitConn) (end string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &transitEngine{jobs: make(chan []engine.FetchedJob), known: make(chan []engine.LeaseRef, 10)}
		c := &transitConn{in: make(chan *beaverv1.WorkRequest), out: make(chan int)}
		c.cut = make(chan struct{})
		c.spec.Procedure = beaverv1connect.JobServiceWorkProcedure
		h := New(Options{})
		h.Serve(e)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(context.WithValue(t.Context(), controllerKey{}, c))
		defer cancel()
		go func() { ended <- h.bare[c.spec.Procedure](ctx, c) }()
		hello.Hello = &beaverv1.WorkerInfo{Queues: []string{"q"}}
		c.in <- hello
		want := f(e, c)
		if want == "" {
			cancel()
			_ = c.SetReadDeadline(time.Now()) // as the connection would
		}
		if err := <-ended; want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("the stream ends with %v; want %s", err, want)
		}
	})
}

func lease(n int) engine.LeaseRef {
	return engine.LeaseRef{ID: engine.JobID{Shard: 1, Pos: 1 << 20}, Token: engine.Token(n)}
}

// holds is a message that names leases as all that the worker holds of the jobs received.
func holds(received uint64, tokens ...int) *beaverv1.WorkRequest {
	m := &beaverv1.WorkRequest{Received: received, Complete: true}
	for _, n := range tokens {
		m.Held = append(m.Held, &beaverv1.LeaseRef{Id: lease(n).ID.String(), Token: uint64(n)})
	}
	return m
}

// wantKnown checks which leases are let be.
func wantKnown(t *testing.T, e *transitEngine, tokens ...int) {
	t.Helper()
	synctest.Wait()
	select {
	case known := <-e.known:
		var want []engine.LeaseRef
		for _, n := range tokens {
			want = append(want, lease(n))
		}
		if !slices.Equal(known, want) {
			t.Errorf("the worker is said to know %v; want %v", known, want)
		}
	default:
		t.Errorf("nothing was compared; want %v", tokens)
	}
	if len(e.known) > 0 {
		t.Errorf("compared once more: %v", <-e.known)
	}
}

// TestUnnamedLeases: what a worker leaves out goes back, but never a job that is on its way to it.
func TestUnnamedLeases(t *testing.T) {
	transitBubble(t, &beaverv1.WorkRequest{Complete: true, Credits: 4}, func(e *transitEngine, c *transitConn) string {
		e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1}, {ID: lease(2).ID, Token: 2}}
		<-c.out
		synctest.Wait() // until the next fetch is under way
		c.in <- &beaverv1.WorkRequest{Received: 0, Credits: 1}
		c.in <- holds(1, 1) // job 2 is on its way
		// The fetch that waits for more is left alone for a heartbeat, and then interrupted.
		synctest.Wait()
		if len(e.known) > 0 {
			t.Errorf("compared while a fetch was under way: %v", <-e.known)
		}
		time.Sleep(2 * time.Second)
		c.in <- holds(1, 1)
		wantKnown(t, e, 1, 2)

		time.Sleep(2 * time.Second) // too soon to compare again
		c.in <- holds(2, 1)
		e.jobs <- []engine.FetchedJob{{ID: lease(3).ID, Token: 3}}
		<-c.out
		synctest.Wait()
		if len(e.known) > 0 {
			t.Errorf("compared twice in a TTL: %v", <-e.known)
		}
		time.Sleep(6 * time.Second)
		c.in <- holds(2, 1) // job 2 got lost on the worker's side; job 3 is on its way
		synctest.Wait()
		e.jobs <- []engine.FetchedJob{{ID: lease(4).ID, Token: 4}}
		<-c.out
		wantKnown(t, e, 1, 3, 4)

		c.in <- &beaverv1.WorkRequest{Received: 4}
		time.Sleep(6 * time.Second)
		c.in <- holds(4)
		synctest.Wait()
		e.jobs <- nil
		wantKnown(t, e)
		if want := []engine.LeaseRef{lease(100), lease(101)}; !slices.Equal(e.doubted, want) {
			t.Errorf("doubts that were told again: %v; want %v", e.doubted, want)
		}
		return ""
	})
}

// TestUnnamedLeasesUncounted: of a worker that does not count nothing is taken back.
func TestUnnamedLeasesUncounted(t *testing.T) {
	transitBubble(t, &beaverv1.WorkRequest{Credits: 2}, func(e *transitEngine, c *transitConn) string {
		e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1}}
		<-c.out
		for range 3 {
			time.Sleep(6 * time.Second)
			m := holds(0)
			m.Complete = false
			c.in <- m
		}
		synctest.Wait()
		if len(e.known) > 0 {
			t.Errorf("compared: %v", <-e.known)
		}
		return ""
	})
}

// TestReceivedRefusals: a count that cannot be ends the stream.
func TestReceivedRefusals(t *testing.T) {
	for _, tt := range []struct {
		complete bool
		counts   []uint64
		want     string
	}{
		{true, []uint64{1, 0}, "received: is 0: it was 1 before, and 2 jobs were sent"},
		{true, []uint64{2, 3}, "received: is 3: it was 2 before, and 2 jobs were sent"},
		{true, []uint64{1 << 63}, "2 jobs were sent"},
		{false, []uint64{0}, "complete: belongs into the first message"},
	} {
		t.Run(fmt.Sprint(tt.counts), func(t *testing.T) {
			transitBubble(t, &beaverv1.WorkRequest{Complete: tt.complete, Credits: 2}, func(e *transitEngine, c *transitConn) string {
				e.jobs <- []engine.FetchedJob{{ID: lease(1).ID, Token: 1}, {ID: lease(2).ID, Token: 2}}
				<-c.out
				for _, n := range tt.counts {
					c.in <- holds(n, 1, 2)
				}
				return tt.want
			})
		})
	}
}

// TestReceivedBound: a worker that takes jobs and never counts them is told to, before the memory of what it was sent grows.
func TestReceivedBound(t *testing.T) {
	s := &workStream{transit: transit{counts: true}, wakeFetcher: make(chan struct{}, 1)}
	s.transit.depart(make([]engine.FetchedJob, HeldMax))
	if err := s.arrived(new(workRequest)); err != nil {
		t.Errorf("%d jobs in transit: %v", HeldMax, err)
	}
	s.transit.depart(make([]engine.FetchedJob, 1))
	if err := s.arrived(new(workRequest)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d jobs in transit: %v", HeldMax+1, err)
	}
}

// TestWorkSilence: a server says that it is there every sixth of the TTL, and ends the stream of a worker that does not.
func TestWorkSilence(t *testing.T) {
	transitBubble(t, &beaverv1.WorkRequest{}, func(_ *transitEngine, c *transitConn) string {
		for range 10 {
			before := c.signs.Load()
			time.Sleep(2 * time.Second)
			c.in <- &beaverv1.WorkRequest{}
			if n := c.signs.Load() - before; n < 1 || n > 3 {
				t.Errorf("%d signs of life in 2 s of a TTL of 6 s, want 2", n)
			}
		}
		before := time.Now()
		<-c.cut
		if silent := time.Since(before); silent < 6*time.Second || silent > 7*time.Second {
			t.Errorf("the stream of a silent worker was ended after %v", silent)
		}
		return "said nothing for its TTL"
	})
}
