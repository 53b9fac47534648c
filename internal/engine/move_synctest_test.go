package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// send sends a request of a session to a node until its outcome is known.
func send(t testing.TB, e *Engine, session byte, seq uint64, atomic bool, js ...NewJob) []Enqueued {
	t.Helper()
	for {
		js := slices.Clone(js)
		out, err := e.Enqueue(context.Background(), &EnqueueRequest{Session: SessionID{session}, Sequence: seq, Atomic: atomic, Jobs: js}, nil)
		if err == nil {
			for i := range out {
				if out[i].Err != nil {
					t.Fatalf("job %d of request %d: %v", i, seq, out[i].Err)
				}
			}
			return out
		}
		if own := asError(err); own.Code != CodeUnknownOutcome && own.Code != CodeUnavailable {
			t.Fatalf("request %d: %v", seq, err)
		}
		pauseFor(10 * time.Millisecond)
	}
}

// sendAgain sends a request of a producer to any node, and up to two repeats of it to any others: they are the same operation.
func (c *fleet) sendAgain(rng *rand.Rand, producer int, seq uint64, js []NewJob) {
	c.t.Helper()
	node := func() *Engine { return c.nodes[uint64(1+rng.IntN(3))] }
	was := send(c.t, node(), byte(producer+1), seq, false, js...)
	for range rng.IntN(3) {
		for i, got := range send(c.t, node(), byte(producer+1), seq, false, js...) {
			if got.ID != was[i].ID || !got.Duplicate {
				c.t.Errorf("producer %d, request %d: job %d is %+v, was %+v", producer, seq, i, got, was[i])
			}
		}
	}
}

// again repeats a request at every node, and checks that it is the same operation.
func (c *fleet) again(want []Enqueued, session byte, seq uint64, atomic bool, js ...NewJob) {
	c.t.Helper()
	for node, e := range c.nodes {
		for i, got := range send(c.t, e, session, seq, atomic, js...) {
			if got.ID != want[i].ID || !got.Duplicate {
				c.t.Fatalf("request %d again at node %d: job %d is %+v, was %+v", seq, node, i, got, want[i])
			}
		}
	}
}

// moved waits until a queue has moved, at every node.
func (c *fleet) settled(name string) {
	c.t.Helper()
	c.await("the move of "+name+" is over everywhere", func() bool {
		for _, e := range c.nodes {
			if rt := e.routes.byName(name); rt == nil || rt.moving() {
				return false
			}
		}
		return true
	})
}

// TestQueueMoves: new jobs go to the new home and old ones finish in the old one, are fetched first, and are listed, counted, paused and
// retried like the others. What a session repeats is the same operation before, during and after the move.
func TestQueueMoves(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name, neighbour, there := c.queueOn(2), "", c.queueOn(3)
		for neighbour == "" || neighbour == name {
			s, err := c.nodes[1].UpdateQueue(ctx, fmt.Sprint("n", rand.Uint32()), func(*Settings) {})
			if err != nil {
				t.Fatal(err)
			}
			if s.Shard == 2 {
				neighbour = s.Name
			}
		}
		before := send(t, c.nodes[1], 1, 1, false, jobs(name, 3)...)
		mixedJobs := slices.Concat(jobs(name, 2), jobs(neighbour, 1), jobs(name, 1))
		mixed := send(t, c.nodes[1], 1, 2, false, mixedJobs...)
		pair := slices.Concat(jobs(name, 1), jobs(neighbour, 1))
		paired := send(t, c.nodes[2], 1, 10, true, pair...)
		parked := c.nodes[1].fetchAside(ctx, &FetchRequest{Queues: []string{there, name}, Max: 1, Wait: time.Minute})
		if f := <-parked; f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID != before[0].ID {
			t.Fatalf("%+v", f)
		} else if _, err := c.nodes[1].Finish(ctx, 0, []Outcome{{Kind: OutcomeFail, ID: f.jobs[0].ID, Token: f.jobs[0].Token, Failure: Failure{Message: "no", Final: true}}}, nil); err != nil {
			t.Fatal(err)
		}

		s, err := c.nodes[3].MoveQueue(ctx, name, 3)
		if err != nil || s.Shard != 3 || s.MovingFrom != 2 || s.LeftBehind != 7 || s.Info.Enqueued != 7 {
			t.Fatalf("%+v, %v", s, err)
		}
		if s, err = c.nodes[1].MoveQueue(ctx, name, 3); err != nil || s.Shard != 3 || s.MovingFrom != 2 {
			t.Fatalf("the same again: %+v, %v", s, err)
		}
		_, err = c.nodes[1].MoveQueue(ctx, name, 1)
		wantError(t, err, CodeFailedPrecondition, ReasonMoving)
		_, err = c.nodes[1].MoveQueue(ctx, name, 9)
		wantError(t, err, CodeInvalidArgument, ReasonInvalid)
		_, err = c.nodes[1].MoveQueue(ctx, "nothing", 1)
		wantError(t, err, CodeNotFound, ReasonQueueNotFound)

		c.again(before, 1, 1, false, jobs(name, 3)...)
		c.again(mixed, 1, 2, false, mixedJobs...)
		c.again(paired, 1, 10, true, pair...)
		after := send(t, c.nodes[2], 1, 3, false, mixedJobs...)
		for i, want := range []uint16{3, 3, 2, 3} {
			if after[i].ID.Shard != want {
				t.Fatalf("job %d came to shard %d", i, after[i].ID.Shard)
			}
		}
		c.again(after, 1, 3, false, mixedJobs...)
		both := slices.Concat(jobs(name, 1), jobs(there, 1))
		whole := send(t, c.nodes[1], 1, 4, true, both...)
		c.again(whole, 1, 4, true, both...)
		_, err = c.nodes[1].Enqueue(ctx, &EnqueueRequest{Session: SessionID{1}, Sequence: 5, Atomic: true, Jobs: slices.Concat(jobs(name, 1), jobs(neighbour, 1))}, nil)
		wantError(t, err, CodeInvalidArgument, ReasonInvalid)
		plain := enqueue(t, c.nodes[2], jobs(name, 1)...)
		if plain[0].Shard != 3 {
			t.Fatalf("a job without a session came to shard %d", plain[0].Shard)
		}

		var listed []JobID
		for cursor, pages := "", 0; ; pages++ {
			page, next, err := c.nodes[1].List(ctx, ListRequest{Queue: name, State: queue.StateReady, Limit: 2, Cursor: cursor})
			if err != nil || len(page) == 0 && next != "" {
				t.Fatalf("page %d: %d jobs, %v", pages, len(page), err)
			}
			for i := range page {
				listed = append(listed, page[i].ID)
			}
			if cursor = next; next == "" {
				break
			}
		}
		order := []JobID{before[1].ID, before[2].ID, mixed[0].ID, mixed[1].ID, mixed[3].ID, paired[0].ID, after[0].ID, after[1].ID, after[3].ID, whole[0].ID, plain[0]}
		if !slices.Equal(listed, order) {
			t.Fatalf("listed %v, want %v", listed, order)
		}
		if _, err := c.nodes[1].PauseQueue(ctx, name); err != nil {
			t.Fatal(err)
		}
		if got, err := c.nodes[2].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 9}); err != nil || len(got) != 0 {
			t.Fatalf("a paused queue gives %+v, %v", got, err)
		}
		if _, err := c.nodes[1].ResumeQueue(ctx, name); err != nil {
			t.Fatal(err)
		}
		if n, next, err := c.nodes[3].RetryAllDead(ctx, name, "", 1); n != 1 || next != "" || err != nil {
			t.Fatalf("retried %d, %v, %v", n, next, err)
		}
		order = slices.Insert(order, 0, before[0].ID)
		for i, id := range order {
			e := c.nodes[uint64(i%3+1)]
			got, err := e.Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Second})
			if err != nil || len(got) != 1 || got[0].ID != id {
				t.Fatalf("fetch %d: %+v, %v, want %v", i, got, err, id)
			}
			ack(t, e, got...)
		}
		pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond - time.Minute)
		if s, err = c.nodes[1].Queue(ctx, name); err != nil || s.MovingFrom != 2 || s.LeftBehind != 0 {
			t.Fatalf("too soon for sessions: %+v, %v", s, err)
		}
		later := send(t, c.nodes[1], 1, 6, false, jobs(name, 1)...)
		pauseFor(2 * time.Minute)
		c.settled(name)
		c.again(later, 1, 6, false, jobs(name, 1)...)
		if s, err = c.nodes[2].Queue(ctx, name); err != nil || s.Shard != 3 || s.MovingFrom != 0 || s.Info.Enqueued != 13 || s.Info.Completed != 12 {
			t.Fatalf("%+v, %v", s, err)
		}
		if d, err := c.nodes[1].Job(ctx, before[1].ID); err != nil || d.Info.State != queue.StateCompleted {
			t.Fatalf("a job of the old home: %+v, %v", d, err)
		}
		if s, err = c.nodes[1].MoveQueue(ctx, name, 2); err != nil || s.Shard != 2 || s.MovingFrom != 3 || s.LeftBehind != 1 {
			t.Fatalf("back again: %+v, %v", s, err)
		}
		if id := send(t, c.nodes[3], 1, 7, false, jobs(name, 1)...)[0].ID; id.Shard != 2 {
			t.Fatalf("after the way back a job came to shard %d", id.Shard)
		}
	})
}

// TestMoveWakesFetches: who waits for a queue when it moves gets its next job.
func TestMoveWakesFetches(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(1)
		var waiting []<-chan fetched
		for node := uint64(1); node <= 3; node++ {
			waiting = append(waiting, c.nodes[node].fetchAside(t.Context(), &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Minute}))
		}
		synctest.Wait()
		if _, err := c.nodes[2].MoveQueue(t.Context(), name, 3); err != nil {
			t.Fatal(err)
		}
		enqueue(t, c.nodes[1], jobs(name, 3)...)
		for _, w := range waiting {
			if f := <-w; f.err != nil || len(f.jobs) != 1 || f.jobs[0].ID.Shard != 3 {
				t.Fatalf("%+v", f)
			}
		}
	})
}

// TestMoveIsCompleted: whoever decided a move died before the next step, and so does the node that leads the old home.
func TestMoveIsCompleted(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name := c.queueOn(2)
		first := send(t, c.nodes[3], 1, 1, false, jobs(name, 1)...)
		if _, err := c.nodes[1].catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendRelocate(dst, name, 2, 1) }); err != nil {
			t.Fatal(err)
		}
		c.crash(2)
		c.again(first, 1, 1, false, jobs(name, 1)...)
		second := send(t, c.nodes[3], 1, 2, false, jobs(name, 1)...)
		c.await("the move is opened", func() bool {
			opened := false
			if err := c.nodes[3].ReadCatalog(ctx, func(k *cluster.Catalog) {
				q, _ := k.Queue(name)
				opened = q.Opened != 0
			}); err != nil {
				t.Fatal(err)
			}
			return opened
		})
		third := send(t, c.nodes[1], 1, 3, false, jobs(name, 1)...)
		if third[0].ID.Shard != 1 {
			t.Fatalf("when it is opened a job comes to shard %d", third[0].ID.Shard)
		}
		c.open(2)
		for i, was := range [][]Enqueued{first, second, third} {
			c.again(was, 1, uint64(i+1), false, jobs(name, 1)...)
		}
		if s, err := c.nodes[2].Queue(ctx, name); err != nil || s.Shard != 1 || s.Info.Enqueued != 3 {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

// TestMovesUnderLoad: queues move while producers send and repeat their requests at any node, and connections break. Each job is stored
// once, and each producer's jobs come in the order in which it sent them.
func TestMovesUnderLoad(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
		const producers, requests = 3, 40
		var all sync.WaitGroup
		var mu sync.Mutex
		sent := make(map[string]uint64)
		for producer := range producers {
			all.Go(func() {
				rng := rand.New(rand.NewPCG(7, uint64(producer)))
				for seq := uint64(1); seq <= requests; seq++ {
					var js []NewJob
					for range 1 + rng.IntN(3) {
						name := names[rng.IntN(len(names))]
						js = append(js, NewJob{Queue: name, Spec: Spec{Priority: 5, Kind: fmt.Sprint(producer), Payload: fmt.Appendf(nil, "%d-%06d", producer, 10*int(seq)+len(js))}})
						mu.Lock()
						sent[name]++
						mu.Unlock()
					}
					c.sendAgain(rng, producer, seq, js)
					pauseFor(time.Duration(rng.IntN(20)) * time.Millisecond)
				}
			})
		}
		for i, name := range names {
			pauseFor(60 * time.Millisecond)
			c.net.hangUp()
			to := uint16((i+1)%3 + 1)
			for {
				_, err := c.nodes[uint64(i+1)].MoveQueue(ctx, name, to)
				if err == nil {
					break
				}
				pauseFor(10 * time.Millisecond)
			}
			c.net.hangUp()
		}
		all.Wait()
		for _, name := range names {
			s, err := c.nodes[1].Queue(ctx, name)
			if err != nil || s.Info.Enqueued != sent[name] || s.MovingFrom == 0 || s.LeftBehind == 0 || s.LeftBehind == s.Info.Live() {
				t.Fatalf("%d jobs were sent to %s: %+v, %v", sent[name], name, s, err)
			}
			last := make(map[string]string)
			for range sent[name] {
				got, err := c.nodes[2].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Second})
				if err != nil || len(got) != 1 {
					t.Fatalf("%+v, %v", got, err)
				}
				kind, payload := got[0].Spec.Kind, string(got[0].Spec.Payload)
				if payload <= last[kind] {
					t.Fatalf("%s comes after %s", payload, last[kind])
				}
				last[kind] = payload
			}
		}
	})
}

// TestMoveOnOneNode: a node that is alone moves queues between its shards, and goes on after a crash.
func TestMoveOnOneNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		e := open(t, disk, nil)
		enqueue(t, e, jobs("a", 2)...)
		from := uint16(e.routes.byName("a").homes[0].pump.shard)
		to := 3 - from
		s, err := e.MoveQueue(t.Context(), "a", to)
		if err != nil || s.Shard != to || s.MovingFrom != from || s.LeftBehind != 2 {
			t.Fatalf("%+v, %v", s, err)
		}
		enqueue(t, e, jobs("a", 1)...)
		crashed := disk.CrashClone(vfs.AllLost())
		shut(t, e)
		e = open(t, crashed, nil)
		if s, err = e.Queue(t.Context(), "a"); err != nil || s.Shard != to || s.MovingFrom != from || s.LeftBehind != 2 || s.Info.Live() != 3 {
			t.Fatalf("%+v, %v", s, err)
		}
		for _, shard := range []uint16{from, from, to} {
			got := fetchJobs(t, e, 0, 1, "a")
			if len(got) != 1 || got[0].ID.Shard != shard {
				t.Fatalf("%+v", got)
			}
			ack(t, e, got...)
		}
		pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
		if s, err = e.Queue(t.Context(), "a"); err != nil || s.MovingFrom != 0 || s.Info.Completed != 3 {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

// TestRequestOfTwoMoves: two queues move one after the other, and a request with jobs of both comes for the first time, and again and again, to
// nodes that know of both moves, of the first one, or of none. It is the same one to all of them.
func TestRequestOfTwoMoves(t *testing.T) {
	whole := slices.Concat(jobs("b", 1), jobs("a", 1))
	loose := slices.Concat(keyed("a", 1, "x", "y", "z"), jobs("b", 2), keyed("b", 2, "x"), jobs("a", 1))
	t.Run("atomic", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { testRequestOfTwoMoves(t, true, whole) })
	})
	t.Run("loose", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { testRequestOfTwoMoves(t, false, loose) })
	})
}

func testRequestOfTwoMoves(t *testing.T, atomic bool, js []NewJob) {
	ctx := context.Background()
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 4 })
	var views []*table
	var sent [][]Enqueued
	partition := func(name string, count int) {
		t.Helper()
		if _, err := e.PartitionQueue(ctx, name, count, asIs); err != nil {
			t.Fatal(err)
		}
	}
	// sendFrom sends a request from a node that has not heard of what came after a view.
	sendFrom := func(view *table, k int) []Enqueued {
		t.Helper()
		e.routes.current.Store(&table{byName: view.byName, byID: view.byID, changed: make(chan struct{}), moved: make(chan struct{})})
		return send(t, e, byte(1+k/queue.SessionWindow), uint64(1+k%queue.SessionWindow), atomic, js...)
	}
	step := func() {
		t.Helper()
		views = append(views, e.routes.table())
		for _, view := range views {
			for range 12 { // each pair of partitions
				sent = append(sent, sendFrom(view, len(sent)))
			}
		}
		for k, was := range sent {
			for v, view := range views {
				for i, got := range sendFrom(view, k) {
					if !got.Duplicate || got.ID != was[i].ID {
						t.Fatalf("after %d moves, request %d with view %d: job %d is %+v, was %+v", len(views)-1, k, v, i, got, was[i])
					}
				}
			}
		}
	}
	partition("a", 2)
	partition("b", 3)
	step()
	partition("a", 4)
	step()
	partition("b", 2)
	step()
	total := 0
	for _, name := range []string{"a", "b"} {
		s, err := e.Queue(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		total += int(s.Info.Enqueued)
	}
	if want := len(sent) * len(js); total != want {
		t.Fatalf("%d jobs are stored, and %d were sent", total, want)
	}
}
