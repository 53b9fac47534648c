package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// onTwoShards opens an engine with a queue a on one shard and a queue b on another, each with a job.
func onTwoShards(t *testing.T) *Engine {
	t.Helper()
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	enqueue(t, e, jobs("a", 1)...)
	enqueue(t, e, jobs("b", 1)...)
	if e.routes.byName("a").homes[0].pump == e.routes.byName("b").homes[0].pump {
		t.Fatal("both queues live on one shard")
	}
	return e
}

// ofBoth is a request of a session, or of none, with a job for b, and one for a.
func ofBoth(session byte) *EnqueueRequest {
	r := &EnqueueRequest{Jobs: append(jobs("b", 1), jobs("a", 1)...)}
	if session != 0 {
		r.Session, r.Sequence = SessionID{session}, 1
	}
	return r
}

// wantStored checks how many jobs a queue has been given.
func wantStored(t *testing.T, e *Engine, name string, want uint64) {
	t.Helper()
	if s, err := e.Queue(context.Background(), name); err != nil || s.Info.Enqueued != want {
		t.Errorf("queue %s: %d jobs, %v; want %d", name, s.Info.Enqueued, err, want)
	}
}

// TestEnqueuePartStopped: a shard that has stopped refuses its own jobs, and those of other shards have their answers.
func TestEnqueuePartStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := onTwoShards(t)
		b := e.routes.byName("b").homes[0].pump
		onShard(t, e, b, func() { b.Doubted(host.Doubt{Trust: host.Suspect, Index: 1}) })
		out, err := e.Enqueue(t.Context(), ofBoth(1), nil)
		if err != nil || out[0].Err == nil || out[0].Err.Code != CodeDataLoss || out[1].Err != nil {
			t.Errorf("%+v, %v; want the job of the stopped shard refused, and the other stored", out, err)
		}
		onShard(t, e, b, func() { b.Doubted(host.Doubt{}) })
		out, err = e.Enqueue(t.Context(), ofBoth(1), nil)
		if err != nil || out[0].Err != nil || out[0].Duplicate || out[1].Err != nil || !out[1].Duplicate {
			t.Errorf("repeat: %+v, %v; want the missing job stored", out, err)
		}
	})
}

// closeUnheard closes queue b on its shard as a move would that this node's catalog does not know of.
func closeUnheard(t *testing.T, e *Engine) {
	t.Helper()
	rt := e.routes.byName("b")
	closed := queue.DefaultSettings()
	closed.Closed = true
	c := rt.homes[0].pump.newCall()
	c.items.Add(func(dst []byte) []byte { return queue.AppendConfigure(dst, rt.homes[0].id, rt.version+1, &closed) })
	if err := rt.homes[0].pump.do(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// TestEnqueuePartOutOfTime: when the caller's time is over while a part of a session's request waits for a queue to have moved, and the rest is
// stored, it is not told that nothing happened.
func TestEnqueuePartOutOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := onTwoShards(t)
		closeUnheard(t, e)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Enqueue(ctx, ofBoth(1), nil)
		wantError(t, err, CodeUnknownOutcome, ReasonUnknownOutcome)
		wantStored(t, e, "a", 2)
	})
}

// TestEnqueuePartUnlearned: without a session, what is stored has its answer, although the node cannot find out where the other queue has gone.
func TestEnqueuePartUnlearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := onTwoShards(t)
		closeUnheard(t, e)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var p PendingEnqueue
		e.BeginEnqueue(t.Context(), ofBoth(0), nil, &p)
		synctest.Wait() // all is stored or refused, and the answers wait
		cancel()
		out, err := p.Wait(ctx)
		if err != nil || out[0].Err == nil || out[0].Err.Reason != ReasonMoved || out[1].Err != nil {
			t.Errorf("%+v, %v; want the job of the queue that moves refused, and the other stored", out, err)
		}
		wantStored(t, e, "a", 2)
	})
}
