package engine

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// served has a node serve a call and returns the error in its answer.
func served(t *testing.T, e *Engine, kind uint8, body []byte) *Error {
	t.Helper()
	answer, err := e.ServeCall(t.Context(), 1, kind, body)
	if err != nil {
		t.Fatal(err)
	}
	r := reader{b: answer}
	if r.u8() == answerOK {
		return nil
	}
	own := r.error()
	if !r.end() {
		t.Fatalf("the answer %x does not decode", answer)
	}
	return own
}

// routeOf is a queue's route at a node that may not have learned it yet.
func routeOf(t *testing.T, e *Engine, name string) *route {
	t.Helper()
	rt, err := e.existing(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return rt
}

// TestForwardedOnce: what another node forwards to one that does not lead is refused, and goes no further.
func TestForwardedOnce(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[3]
		q := routeOf(t, e, name).homes[0].id
		d := e.deskOf(2)
		cl := d.newCall()
		cl.items.Commit(queue.AppendJob(cl.items.Buf(), &Spec{Queue: q, Kind: "k"}))
		c.net.mu.Lock()
		clear(c.net.calls)
		c.net.mu.Unlock()
		answer, err := e.ServeCall(t.Context(), 1, callCommands, appendCommands(nil, 2, []*call{cl}))
		if err != nil {
			t.Fatal(err)
		}
		answers := make([]commandAnswer, 1)
		r := reader{b: answer[1:]}
		if !r.commandAnswers(answers, []*call{cl}) {
			t.Fatalf("%x", answer)
		}
		wantError(t, answers[0].err, CodeUnavailable, ReasonNotLeader)
		wantError(t, served(t, e, callQuery, append([]byte{forwardVersion}, `{"Kind":6,"Shard":2,"Queue":1}`...)), CodeUnavailable, ReasonNotLeader)
		fetch := farFetch{max: 1, wait: time.Minute, legs: []farLeg{{2, []queue.QueueID{q}}}}
		wantError(t, served(t, e, callFetch, appendFarFetch([]byte{forwardVersion}, &fetch)), CodeUnavailable, ReasonNotLeader)
		wantError(t, served(t, e, callBeats, appendBeats([]byte{forwardVersion}, nil)), CodeUnavailable, ReasonNotLeader)
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		for kind := callCommands; kind <= callFetch; kind++ {
			if n := c.net.calls[kind]; n != 0 {
				t.Errorf("%d calls of kind %d were made", n, kind)
			}
		}
	})
}

// TestForeignCallsAreChecked: what does not decode, and what is no command of a caller, changes nothing and is refused by name.
func TestForeignCallsAreChecked(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		c.queueOn(2)
		e := c.nodes[2]
		before := appliedBy(t, e)
		for _, body := range [][]byte{nil, {forwardVersion + 1}} {
			wantError(t, served(t, e, callCommands, body), CodeUnavailable, ReasonUnreachable)
		}
		wantError(t, served(t, e, 99, []byte{forwardVersion}), CodeUnavailable, ReasonUnreachable)
		for kind := callCommands; kind < callKinds; kind++ {
			err := served(t, e, kind, []byte{forwardVersion, 0xff})
			if err == nil || err.Reason != ReasonMalformed && err.Reason != ReasonNotLeader {
				t.Errorf("kind %d: %v", kind, err)
			}
		}
		d := e.deskOf(2)
		for _, encode := range []func([]byte) []byte{
			queue.AppendTick,
			func(dst []byte) []byte { return queue.AppendVerify(dst, 1, 2) },
			func(dst []byte) []byte { return queue.AppendHold(dst, 1000) },
			func(dst []byte) []byte { return queue.AppendFetch(dst, 0, []queue.QueueID{1}, 1, 1000, 1000) },
			func(dst []byte) []byte { return append(dst, 0xee) },
			func(dst []byte) []byte { return queue.AppendJob(dst, &Spec{Queue: 1, UniqueKey: "u"}) }, // in a batch of the first version
		} {
			cl := d.newCall()
			cl.items.Add(encode)
			answer, err := e.ServeCall(t.Context(), 1, callCommands, appendCommands(nil, 2, []*call{cl}))
			if err != nil {
				t.Fatal(err)
			}
			answers := make([]commandAnswer, 1)
			r := reader{b: answer[1:]}
			if !r.commandAnswers(answers, []*call{cl}) {
				t.Fatalf("%x", answer)
			}
			wantError(t, answers[0].err, CodeInvalidArgument, ReasonMalformed)
		}
		if after := appliedBy(t, e); after != before {
			t.Errorf("shard 2 is at entry %d, was at %d", after, before)
		}
	})
}

// appliedBy is the last entry that shard 2 applied.
func appliedBy(t *testing.T, e *Engine) (applied uint64) {
	t.Helper()
	if err := e.readReplica(t.Context(), 2, func() { applied = e.pump(2).machine.Applied() }); err != nil {
		t.Fatal(err)
	}
	return applied
}

// TestLargestForwarded: the largest requests go to another node and come back; what is larger is refused by name, or comes in parts.
func TestLargestForwarded(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		const count = 8
		payload := bytes.Repeat([]byte{0xff}, queue.PayloadBytesMax-1024)
		var all []NewJob
		for range count {
			all = append(all, NewJob{Queue: name, Spec: Spec{Priority: 5, Kind: "k", Payload: payload}})
		}
		ids := enqueue(t, e, all[:4]...) // just below shard.CommandBytesMax
		_, err := e.Enqueue(t.Context(), &EnqueueRequest{Jobs: all[:5]}, nil)
		wantError(t, err, CodeInvalidArgument, ReasonTooLarge)
		for _, j := range all[4:] {
			ids = append(ids, enqueue(t, e, j)...)
		}
		many := jobs(name, queue.EnqueueJobsMax)
		ids = append(ids, enqueue(t, e, many...)...)
		var listed []JobID
		pages, cursor := 0, ""
		for {
			page, next, err := e.List(t.Context(), ListRequest{Queue: name, State: queue.StateReady, Limit: queue.ListMax, Cursor: cursor, Full: true})
			if err != nil {
				t.Fatal(err)
			}
			pages++
			for i := range page {
				listed = append(listed, page[i].ID)
			}
			if cursor = next; cursor == "" {
				break
			}
		}
		if len(listed) != len(ids) || pages < 3 {
			t.Fatalf("%d of %d jobs are on %d pages", len(listed), len(ids), pages)
		}
		for i := range ids {
			if listed[i] != ids[i] {
				t.Fatalf("job %d is listed as %v, want %v", i, listed[i], ids[i])
			}
		}
		var got []FetchedJob
		for len(got) < len(ids) {
			some := fetchJobs(t, e, 0, queue.FetchMax, name)
			if len(some) == 0 {
				t.Fatalf("%d of %d jobs come", len(got), len(ids))
			}
			got = append(got, some...)
		}
		if !bytes.Equal(got[count-1].Spec.Payload, payload) {
			t.Error("the payload is another")
		}
	})
}

// TestOutletLimits: what waits for a leader elsewhere is bounded as what waits here is, and ends.
func TestOutletLimits(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		q := routeOf(t, e, name).homes[0].id
		c.crash(3)
		c.crash(2)
		time.Sleep(time.Minute) // nobody leads
		d := e.deskOf(2)
		submit := func(urgent bool) (*call, error) {
			cl := d.newCall()
			cl.urgent = urgent
			cl.items.Commit(queue.AppendJob(cl.items.Buf(), &Spec{Queue: q, Kind: "k"}))
			return cl, d.submit(cl)
		}
		var waiting []*call
		for i := range WaitingCallsMax {
			cl, err := submit(false)
			if err != nil {
				t.Fatalf("call %d: %v", i, err)
			}
			waiting = append(waiting, cl)
		}
		_, err := submit(false)
		wantError(t, err, CodeResourceExhausted, ReasonOverloaded)
		urgent, err := submit(true)
		if err != nil {
			t.Fatal(err)
		}
		for _, cl := range append(waiting, urgent) {
			err := d.wait(context.Background(), cl)
			wantError(t, err, CodeUnavailable, ReasonNotLeader)
		}
		if n, b := d.waiting.Load(), d.bytes.Load(); n != 0 || b != 0 {
			t.Errorf("%d calls of %d bytes still wait", n, b)
		}
	})
}

// TestFarFetchesAreBounded: so many fetches wait at another node and no more, and whoever leaves makes room.
func TestFarFetchesAreBounded(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		var held []*Error
		for range FarFetchesMax - 1 {
			held = append(held, e.usher.park(2))
		}
		got := e.fetchAside(t.Context(), &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Minute})
		time.Sleep(time.Second)
		_, err := e.Fetch(t.Context(), &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Minute})
		wantError(t, err, CodeResourceExhausted, ReasonOverloaded)
		enqueue(t, e, jobs(name, 2)...)
		if f := <-got; f.err != nil || len(f.jobs) != 1 {
			t.Fatalf("%+v, %v", f.jobs, f.err)
		}
		if some := fetchJobs(t, e, 0, 1, name); len(some) != 1 {
			t.Fatalf("%+v", some)
		}
		for range held {
			e.usher.unpark(2)
		}
		if len(e.usher.parked) != 0 {
			t.Errorf("%v are still counted", e.usher.parked)
		}
	})
}

// TestManyCommandsShareCalls: what waits for a node goes there together.
func TestManyCommandsShareCalls(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		e := c.nodes[1]
		q := routeOf(t, e, name).homes[0].id
		for node, other := range c.nodes { // else one that learns of the queue just now brings its settings to the shard
			c.await(fmt.Sprintf("node %d knows the queue", node), func() bool { return other.routes.byName(name) != nil })
		}
		synctest.Wait() // else a sender that has answered, and not ended, takes some of what follows
		d := e.deskOf(2)
		c.net.mu.Lock()
		clear(c.net.calls)
		c.net.mu.Unlock()
		const count = 3 * forwardCallsMax
		var calls []*call
		d.away.mu.Lock()
		d.away.senders = OutletSendersMax // hold them back until all are there
		d.away.mu.Unlock()
		for range count {
			cl := d.newCall()
			cl.items.Commit(queue.AppendJob(cl.items.Buf(), &Spec{Queue: q, Kind: "k"}))
			if err := d.submit(cl); err != nil {
				t.Fatal(err)
			}
			calls = append(calls, cl)
		}
		d.away.mu.Lock()
		d.away.senders = 1
		d.away.mu.Unlock()
		e.spawn(d.away.send)
		for _, cl := range calls {
			if err := d.wait(context.Background(), cl); err != nil || cl.results[0].Code != queue.CodeOK {
				t.Fatal(err)
			}
		}
		c.net.mu.Lock()
		defer c.net.mu.Unlock()
		if n := c.net.calls[callCommands]; n != count/forwardCallsMax {
			t.Errorf("%d commands went in %d calls", count, n)
		}
	})
}
