package rpc

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
	"github.com/beaver-raft/beaver/internal/engine"
)

// severedEngine takes note of how workers left.
type severedEngine struct {
	transitEngine
	ended, severed, left []engine.WorkerID
}

func (e *severedEngine) WorkerLeft(w engine.WorkerID, severed bool) {
	if e.ended = append(e.ended, w); severed {
		e.severed = append(e.severed, w)
	}
}

func (e *severedEngine) DeregisterWorker(_ context.Context, w engine.WorkerID) error {
	e.left = append(e.left, w)
	return nil
}

// TestWorkSevered: the engine is told of a connection that broke, and of no stream that ended in another way.
func TestWorkSevered(t *testing.T) {
	for name, tt := range map[string]struct {
		end           func(h *Handler, c *transitConn, hangUp func())
		severed, left bool
	}{
		"broke":    {func(_ *Handler, _ *transitConn, hangUp func()) { hangUp() }, true, false},
		"goodbye":  {func(_ *Handler, c *transitConn, _ func()) { close(c.in) }, false, true},
		"stopping": {func(h *Handler, _ *transitConn, _ func()) { h.stopping() }, false, false},
		"silent":   {func(*Handler, *transitConn, func()) { time.Sleep(10 * time.Second) }, false, false},
		"replaced": {func(h *Handler, _ *transitConn, hangUp func()) {
			h.workers[7].abort(&engine.Error{Code: engine.CodeAborted, Reason: reasonReplaced})
			synctest.Wait()
			hangUp()
		}, false, false},
		"said nonsense": {func(_ *Handler, c *transitConn, _ func()) {
			c.in <- &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}}
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := new(severedEngine)
				c := new(transitConn)
				c.in, c.cut = make(chan *beaverv1.WorkRequest), make(chan struct{})
				c.spec.Procedure = beaverv1connect.JobServiceWorkProcedure
				h := New(Options{})
				h.Serve(e)
				ctx, cancel := context.WithCancel(context.WithValue(t.Context(), controllerKey{}, c))
				defer cancel()
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_ = h.bare[c.spec.Procedure](ctx, c) // how it ends is another test's
				}()
				c.in <- &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}, Credits: 1}
				synctest.Wait()
				tt.end(h, c, func() {
					cancel()
					_ = c.SetReadDeadline(time.Now()) // as the connection would
				})
				<-ended
				want := []engine.WorkerID{7}
				if slices.Equal(e.severed, want) != tt.severed || slices.Equal(e.left, want) != tt.left || slices.Equal(e.ended, want) == tt.left {
					t.Errorf("left: %v, severed: %v, said goodbye: %v", e.ended, e.severed, e.left)
				}
			})
		})
	}
}
