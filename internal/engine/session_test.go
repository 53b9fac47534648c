package engine

import (
	"fmt"
	"testing"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// onShard runs f on the goroutine of a queue's shard.
func onShard(t *testing.T, e *Engine, p *pump, f func()) {
	t.Helper()
	if err := e.host.Read(t.Context(), p.shard, f); err != nil {
		t.Fatal(err)
	}
}

// TestEnqueueLegUnavailable: when one of a request's shards does not answer, a session's request fails as a whole, and its
// repeat does what is missing and nothing twice.
func TestEnqueueLegUnavailable(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	enqueue(t, e, jobs("a", 1)...)
	enqueue(t, e, jobs("b", 1)...)
	a, b := e.routes.byName("a").homes[0], e.routes.byName("b").homes[0]
	if a.pump == b.pump {
		t.Fatal("both queues live on one shard")
	}
	request := func(session byte) *EnqueueRequest {
		r := &EnqueueRequest{Jobs: append(jobs("a", 2), jobs("b", 2)...)}
		if session != 0 {
			r.Session, r.Sequence = SessionID{session}, 1
		}
		return r
	}
	onShard(t, e, b.pump, func() { b.pump.setClosed(errNotLeader()) })
	_, err := e.Enqueue(t.Context(), request(1), nil)
	wantError(t, err, CodeUnavailable, ReasonNotLeader)
	out, err := e.Enqueue(t.Context(), request(0), nil)
	if err != nil || out[0].Err != nil || out[1].Err != nil || out[2].Err == nil || out[3].Err == nil {
		t.Errorf("without a session: %+v, %v", out, err)
	}
	onShard(t, e, b.pump, func() { b.pump.setClosed(nil) })
	out, err = e.Enqueue(t.Context(), request(1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, got := range out {
		if got.Err != nil || got.Duplicate != (i < 2) {
			t.Errorf("repeat, job %d: %+v", i, got)
		}
	}
}

// TestEnqueueAtomicRepeated: the repeat of a refused atomic request gets the refusal of the first time.
func TestEnqueueAtomicRepeated(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	s := queue.DefaultSettings()
	s.DepthMax = 1
	if _, err := e.ConfigureQueue(t.Context(), "small", s); err != nil {
		t.Fatal(err)
	}
	var texts [2]string
	for i := range texts {
		_, err := e.Enqueue(t.Context(), &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Atomic: true, Jobs: jobs("small", 2)}, nil)
		wantError(t, err, CodeResourceExhausted, ReasonQueueFull)
		texts[i] = fmt.Sprintf("%+v", err)
	}
	if texts[0] != texts[1] {
		t.Errorf("first:  %s\nrepeat: %s", texts[0], texts[1])
	}
}

// TestEnqueueExpiredInSession: the machine alone judges the clock in a session, and its refusal says what is wrong.
func TestEnqueueExpiredInSession(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	js := jobs("q", 2)
	js[1].Spec.ExpiresAt = 1
	for range 2 {
		out, err := e.Enqueue(t.Context(), &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Jobs: js}, nil)
		if err != nil || out[0].Err != nil || out[1].Err == nil || out[1].Err.Field != "expires_at" {
			t.Errorf("%+v, %v; want the second job refused for its expires_at", out, err)
		}
	}
}

// TestEnqueueRepeatDiffers: a repeat in which another job is good than the first time would get the answers of other jobs.
// It is refused, and changes nothing; the first set goes on getting its answers.
func TestEnqueueRepeatDiffers(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	request := func(bad ...int) *EnqueueRequest {
		js := append(jobs("q", 2), jobs("p", 1)...)
		for _, i := range bad {
			js[i].Err = invalid("kind", "is bad")
		}
		return &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Jobs: js}
	}
	e.Enqueue(t.Context(), &EnqueueRequest{Jobs: append(jobs("q", 1), jobs("p", 1)...)}, nil) //nolint:errcheck // makes the queues
	first, err := e.Enqueue(t.Context(), request(1, 2), nil)
	if err != nil || first[0].Err != nil || first[1].Err == nil {
		t.Fatalf("%+v, %v", first, err)
	}
	before := e.Stats()
	for name, bad := range map[string][]int{"one more": {2}, "as many": {0, 2}} {
		_, err := e.Enqueue(t.Context(), request(bad...), nil)
		if err == nil {
			t.Fatalf("%s: was taken", name)
		}
		wantError(t, err, CodeFailedPrecondition, ReasonRepeatDiffers)
	}
	after := e.Stats()
	for i := range after.Shards {
		if after.Shards[i].Totals != before.Shards[i].Totals {
			t.Errorf("shard %d: %+v became %+v", after.Shards[i].ID, before.Shards[i].Totals, after.Shards[i].Totals)
		}
	}
	again, err := e.Enqueue(t.Context(), request(1, 2), nil)
	if err != nil || again[0].ID != first[0].ID || !again[0].Duplicate {
		t.Errorf("%+v, %v; want the first answer", again, err)
	}
}

// TestEnqueueBadQueueName: a job whose queue has no name, or a bad one, is refused, wherever it is in the request, and the others are stored.
func TestEnqueueBadQueueName(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	for _, names := range [][]string{{""}, {"", "made", ""}, {"made", "", "new"}, {"a b"}, {"a b", "", "a b", "newer"}} {
		var js []NewJob
		for _, name := range names {
			js = append(js, jobs(name, 1)...)
		}
		out, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: js}, nil)
		if err != nil {
			t.Fatalf("%q: %v", names, err)
		}
		for i, name := range names {
			if name != "" && name != "a b" {
				if out[i].Err != nil {
					t.Errorf("%q, job %d: %v", names, i, out[i].Err)
				}
				continue
			}
			if out[i].Err == nil {
				t.Fatalf("%q, job %d was taken", names, i)
			}
			wantError(t, out[i].Err, CodeInvalidArgument, ReasonInvalid)
		}
		_, err = e.Enqueue(t.Context(), &EnqueueRequest{Atomic: true, Jobs: js}, nil)
		wantError(t, err, CodeInvalidArgument, ReasonInvalid)
	}
}

// TestEndedRequestKeepsNoView: whoever keeps the place of a request for the next one keeps nothing of the tables of queues with it.
func TestEndedRequestKeepsNoView(t *testing.T) {
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
	for _, name := range []string{"q", ""} {
		var p PendingEnqueue
		e.BeginEnqueue(t.Context(), &EnqueueRequest{Jobs: jobs(name, 1)}, nil, &p)
		if _, err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		if p.view != nil || p.unmade != nil {
			t.Errorf("of queue %q it keeps %v, %v", name, p.view, p.unmade)
		}
	}
}
