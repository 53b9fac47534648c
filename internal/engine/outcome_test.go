package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func TestSessionRepeatIsTheSameOperation(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	enqueue(t, e, jobs("b", 1)...)
	r := &EnqueueRequest{Session: SessionID{7}, Sequence: 1, Jobs: append(jobs("a", 2), jobs("b", 2)...)}
	one, err := e.Enqueue(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if one[0].ID.Shard == one[2].ID.Shard {
		t.Fatal("both queues live on one shard")
	}
	two, err := e.Enqueue(t.Context(), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range one {
		if one[i].Err != nil || one[i].Duplicate || two[i].Err != nil || !two[i].Duplicate || one[i].ID != two[i].ID {
			t.Fatalf("job %d: %+v, then %+v", i, one[i], two[i])
		}
	}
	if st, err := e.Queue(t.Context(), "a"); err != nil || st.Info.Enqueued != 2 {
		t.Fatalf("queue %+v, %v", st.Info, err)
	}
}

// A call that ends while its entry is on its way does not know; asking again with the same sequence tells.
func TestOutcomeUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newGate()
		e := open(t, disk, nil)
		enqueue(t, e, jobs("q", 1)...)
		release := disk.hold()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Jobs: jobs("q", 1)}
		_, err := e.Enqueue(ctx, r, nil)
		wantError(t, err, CodeUnknownOutcome, ReasonUnknownOutcome)
		release()
		out, err := e.Enqueue(t.Context(), r, nil)
		if err != nil || !out[0].Duplicate {
			t.Fatalf("%+v, %v", out, err)
		}
	})
}

// A call that ends before its command was proposed did nothing, and says so.
func TestDeadlineBeforeProposal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newGate()
		e := open(t, disk, nil)
		enqueue(t, e, jobs("q", 1)...)
		release := disk.hold()
		done := make(chan error, 2)
		for range 2 { // as many entries as may be in flight
			go func() {
				_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs("q", 1)}, nil)
				done <- err
			}()
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := e.Enqueue(ctx, &EnqueueRequest{Jobs: jobs("q", 1)}, nil)
		wantError(t, err, CodeDeadlineExceeded, ReasonDeadline)
		release()
		for range 2 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		if st, err := e.Queue(t.Context(), "q"); err != nil || st.Info.Enqueued != 3 {
			t.Fatalf("%d jobs were stored, want 3 (%v)", st.Info.Enqueued, err)
		}
		p := e.routes.byName("q").homes[0].pump
		if p.waiting.Load() != 0 || p.bytes.Load() != 0 {
			t.Fatalf("%d calls of %d bytes are still counted as waiting", p.waiting.Load(), p.bytes.Load())
		}
	})
}

// Over the limit of waiting commands new jobs are refused at once, and acks still get in.
func TestOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newGate()
		e := open(t, disk, nil)
		ids := enqueue(t, e, jobs("q", 1)...)
		job := first(t, e, ids)
		p := e.routes.byName("q").homes[0].pump
		release := disk.hold()
		fill := func(size int) *call {
			c := p.newCall()
			c.items.Commit(append(c.items.Buf(), make([]byte, size)...))
			if err := p.submit(c); err != nil {
				t.Fatal(err)
			}
			return c
		}
		for range 2 { // take the places of entries in flight
			fill(1)
			synctest.Wait()
		}
		for p.waiting.Load() < WaitingCallsMax-1 {
			fill(1)
		}
		last := fill(1)
		_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: jobs("q", 1)}, nil)
		wantError(t, err, CodeResourceExhausted, ReasonOverloaded)
		acked := make(chan []Ended, 1)
		go func() {
			ended, err := e.Finish(t.Context(), 0, []Outcome{{Kind: OutcomeAck, ID: job.ID, Token: job.Token}}, nil)
			if err != nil {
				t.Error(err)
			}
			acked <- ended
		}()
		synctest.Wait()
		release()
		if ended := <-acked; ended[0].Err != nil || ended[0].State != queue.StateCompleted {
			t.Fatalf("ack %+v", ended)
		}
		<-last.done
		if last.results[0].Code != queue.CodeMalformed {
			t.Fatalf("result %+v", last.results)
		}
		enqueue(t, e, jobs("q", 1)...)
		if n := p.stats().Overloaded; n != 1 {
			t.Fatalf("%d calls were refused, want 1", n)
		}
	})
}

func TestOverloadByBytes(t *testing.T) {
	p := newPump(1, 1, 0, func() {}, pumpHooks{})
	p.setClosed(nil)
	c := p.newCall()
	c.items.Commit(make([]byte, shard.CommandBytesMax))
	for i := range WaitingBytesMax / shard.CommandBytesMax {
		if err := p.submit(c); err != nil {
			t.Fatalf("command %d: %v", i, err)
		}
	}
	small := p.newCall()
	small.items.Commit([]byte{1})
	wantError(t, p.submit(small), CodeResourceExhausted, ReasonOverloaded)
	small.urgent = true
	if err := p.submit(small); err != nil {
		t.Fatal(err)
	}
}

// A shard whose state is not what its log says stops, and says what to do.
func TestDivergedShardStops(t *testing.T) {
	p := newPump(1, 1, 0, func() {}, pumpHooks{})
	p.Leadership(true, 1)
	p.Apply(1, shard.Header{Stamp: 1}, [][]byte{queue.AppendTick(nil)})
	good := p.Fingerprint()
	p.Apply(2, shard.Header{Stamp: 2}, [][]byte{queue.AppendVerify(nil, 1, good)})
	if v := p.Verified(); v != (host.Verification{Index: 1, Logged: good, Own: good}) {
		t.Fatalf("%+v", v)
	}
	c := p.newCall()
	c.items.Commit(queue.AppendTick(nil))
	if err := p.submit(c); err != nil {
		t.Fatal(err)
	}
	p.Apply(3, shard.Header{Stamp: 3}, [][]byte{queue.AppendVerify(nil, 1, good+1)})
	if v := p.Verified(); v != (host.Verification{Index: 1, Logged: good + 1, Own: good}) {
		t.Fatalf("%+v", v)
	}
	p.Doubted(host.Doubt{Trust: host.Suspect, Index: 1})
	p.Settled()
	<-c.done
	wantError(t, c.err, CodeDataLoss, ReasonDiverged)
	wantError(t, p.submit(p.newCall()), CodeDataLoss, ReasonDiverged)
	var b shard.BatchBuilder
	if p.Gather(&b, 5); b.Items() != 0 {
		t.Fatal("a diverged shard proposes")
	}
	p.Doubted(host.Doubt{})
	if err := p.submit(p.newCall()); err != nil {
		t.Fatalf("a shard that is trusted again refuses: %v", err)
	}
}

// A leader puts its fingerprint into the log from time to time, but does not keep an idle shard awake for it.
func TestVerifyIsProposed(t *testing.T) {
	p := newPump(1, 1, 0, func() {}, pumpHooks{})
	p.Leadership(true, 1)
	var b shard.BatchBuilder
	items := func(now int64) int {
		b.Reset()
		if seq := p.Gather(&b, now); seq != 0 {
			p.Dropped(seq, true)
		}
		return b.Items()
	}
	p.Apply(5, shard.Header{Stamp: 1}, [][]byte{queue.AppendTick(nil)})
	if n := items(verifyMillis); n != 0 {
		t.Fatalf("an idle shard proposes %d items", n)
	}
	p.Apply(verifyEntries-1, shard.Header{Stamp: 2}, [][]byte{queue.AppendTick(nil)})
	if n := items(verifyMillis); n != 0 {
		t.Fatalf("%d items before the interval", n)
	}
	p.Apply(verifyEntries, shard.Header{Stamp: 3}, [][]byte{queue.AppendTick(nil)})
	if n := items(verifyMillis); n != 1 {
		t.Fatalf("%d items at the interval, want the fingerprint", n)
	}
	if n := items(verifyMillis); n != 0 {
		t.Fatalf("%d items right after", n)
	}
}
