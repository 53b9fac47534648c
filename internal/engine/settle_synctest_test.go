package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// settleTime is after how long at most a move is over whose old homes are empty.
const settleTime = time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval

// partitionsOf checks how many partitions a queue has, and whether it moves.
func partitionsOf(t testing.TB, e *Engine, name string, want int, moving bool) {
	t.Helper()
	s, err := e.Queue(context.Background(), name)
	if err != nil || len(s.Shards) != want || (len(s.MovingFromShards) > 0) != moving {
		t.Fatalf("%d partitions, moving: %v: want %+v, %v", want, moving, s, err)
	}
}

// TestUnusedQueueMovesAtOnce: the homes of a queue change one after the other while it has no jobs and answered nothing that a session may
// repeat. When it has, the next change says what it waits for, and for how long.
func TestUnusedQueueMovesAtOnce(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		spread := func(count int) error {
			t.Helper()
			_, err := c.nodes[uint64(count%3+1)].PartitionQueue(ctx, "q", count, asIs)
			return err
		}
		for _, count := range []int{2, 3, 1, 3, 1} {
			if err := spread(count); err != nil {
				t.Fatal(err)
			}
			partitionsOf(t, c.nodes[uint64(count%3+1)], "q", count, false)
		}
		for _, to := range []uint16{1, 2, 3, 1, 3, 2} {
			if s, err := c.nodes[uint64(to)].MoveQueue(ctx, "q", to); err != nil || s.Shard != to || s.MovingFrom != 0 {
				t.Fatalf("%+v, %v", s, err)
			}
		}

		// Jobs without a session are never repeated, and hold a move up until they end.
		enqueue(t, c.nodes[1], jobs("q", 3)...)
		if err := spread(2); err != nil {
			t.Fatal(err)
		}
		partitionsOf(t, c.nodes[3], "q", 2, true)
		refused := func(want ...string) {
			t.Helper()
			err := spread(3)
			wantError(t, err, CodeFailedPrecondition, ReasonMoving)
			for _, text := range append(want, `"q" is still moving from shard 2 to shards`) {
				if !strings.Contains(err.Error(), text) {
					t.Fatalf("%q does not say %q", err, text)
				}
			}
		}
		refused("waits for 3 jobs to end;")
		got, err := c.nodes[3].Fetch(ctx, &FetchRequest{Queues: []string{"q"}, Max: 3})
		if err != nil || len(got) != 3 {
			t.Fatalf("%+v, %v", got, err)
		}
		ack(t, c.nodes[1], got[:2]...)
		if _, err := c.nodes[1].Finish(ctx, 0, []Outcome{{Kind: OutcomeFail, ID: got[2].ID, Token: got[2].Token, Failure: Failure{Message: "no", Final: true}}}, nil); err != nil {
			t.Fatal(err)
		}
		refused("waits for 1 job, 1 of them dead, which have to be retried or, as those with a unique key, discarded;")
		if n, _, err := c.nodes[1].DiscardAllDead(ctx, "q", 10); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		if err := spread(3); err != nil {
			t.Fatal(err)
		}
		c.settled("q")

		// What a session has sent may be repeated for a while, and not for longer.
		was := send(t, c.nodes[1], 1, 1, false, keyed("q", 0, "a", "b", "c", "d")...)
		got, err = c.nodes[2].Fetch(ctx, &FetchRequest{Queues: []string{"q"}, Max: 4, Wait: time.Second})
		for len(got) < 4 && err == nil {
			var more []FetchedJob
			more, err = c.nodes[2].Fetch(ctx, &FetchRequest{Queues: []string{"q"}, Max: 4, Wait: time.Second})
			got = append(got, more...)
		}
		if err != nil {
			t.Fatal(err)
		}
		ack(t, c.nodes[1], got...)
		pauseFor(5 * time.Minute)
		if err := spread(2); err != nil {
			t.Fatal(err)
		}
		partitionsOf(t, c.nodes[3], "q", 2, true)
		c.again(was, 1, 1, false, keyed("q", 0, "a", "b", "c", "d")...)
		err = spread(1)
		wantError(t, err, CodeFailedPrecondition, ReasonMoving)
		if text := err.Error(); !strings.Contains(text, "there it waits until clients repeat nothing any more that they sent there, which is in 1") || strings.Contains(text, "job") {
			t.Fatal(text)
		}
		pauseFor(settleTime - 5*time.Minute)
		c.settled("q")
		if err := spread(1); err != nil {
			t.Fatal(err)
		}
		if err := spread(3); err != nil {
			t.Fatal(err)
		}
		c.settled("q")
	})
}

// TestQuietQueueMovesAtOnce: a queue that is empty, and that no session has sent anything for a while, moves at once, also after a crash.
func TestQuietQueueMovesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		e := open(t, disk, nil)
		move := func(e *Engine, moving bool) {
			t.Helper()
			to := 3 - uint16(e.routes.byName("a").homes[0].pump.shard)
			if _, err := e.MoveQueue(t.Context(), "a", to); err != nil {
				t.Fatal(err)
			}
			partitionsOf(t, e, "a", 1, moving)
		}
		send(t, e, 1, 1, false, jobs("a", 2)...)
		ack(t, e, fetchJobs(t, e, 0, 2, "a")...)
		pauseFor(settleTime)
		move(e, false)
		send(t, e, 1, 1, false, jobs("a", 2)...)
		ack(t, e, fetchJobs(t, e, 0, 2, "a")...)
		crashed := disk.CrashClone(vfs.AllLost())
		shut(t, e)
		e = open(t, crashed, nil)
		move(e, true)
		pauseFor(settleTime)
		partitionsOf(t, e, "a", 1, false)
		move(e, false)
	})
}

// TestIdleQueueMovesAsJobsCome: a queue that was idle changes its homes again and again, at once as long as it can, at the very moment when
// producers begin to send and to repeat their requests, at any node, and connections break. Each job is stored once, and each key's jobs come
// in the order in which they were sent.
func TestIdleQueueMovesAsJobsCome(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		const rounds, producers, requests, changes = 3, 3, 12, 5
		name, plain := c.queueOn(2), c.queueOn(1)
		last := make(map[string]string) // payloads, by key
		settledAtOnce := 0
		for round := range rounds {
			var all sync.WaitGroup
			var mu sync.Mutex
			sent := make(map[string]int)
			for producer := range producers {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(round), uint64(producer)))
					pauseFor(time.Duration(rng.IntN(60)) * time.Millisecond)
					for seq := uint64(1 + round*requests); seq <= uint64((round+1)*requests); seq++ {
						var js []NewJob
						for range 1 + rng.IntN(4) {
							js = append(js, keyed([]string{name, name, plain}[rng.IntN(3)], 10*int(seq)+len(js), fmt.Sprintf("%d-%d", producer, rng.IntN(4)))...)
							mu.Lock()
							sent[js[len(js)-1].Queue]++
							mu.Unlock()
						}
						c.sendAgain(rng, producer, seq, js)
						pauseFor(time.Duration(rng.IntN(10)) * time.Millisecond)
					}
				})
			}
			all.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(round), producers))
				for range changes {
					pauseFor(time.Duration(rng.IntN(20)) * time.Millisecond)
					s, err := c.nodes[uint64(1+rng.IntN(3))].PartitionQueue(ctx, name, 1+rng.IntN(3), asIs)
					if err == nil && s.MovingFrom == 0 {
						settledAtOnce++
					}
					if rng.IntN(2) == 0 {
						c.net.hangUp()
					}
				}
			})
			all.Wait()
			for _, of := range []string{name, plain} {
				if s, err := c.nodes[1].Queue(ctx, of); err != nil || s.Info.Live() != uint64(sent[of]) {
					t.Fatalf("round %d: %d jobs were sent: %+v, %v", round, sent[of], s, err)
				}
				for range sent[of] {
					got, err := c.nodes[uint64(1+rand.IntN(3))].Fetch(ctx, &FetchRequest{Queues: []string{of}, Max: 1, Wait: time.Second})
					if err != nil || len(got) != 1 {
						t.Fatalf("%+v, %v", got, err)
					}
					key, payload := of+got[0].Spec.OrderingKey, string(got[0].Spec.Payload)
					if payload <= last[key] {
						t.Fatalf("round %d, key %s: %s comes after %s", round, key, payload, last[key])
					}
					last[key] = payload
					ack(t, c.nodes[2], got...)
				}
			}
			pauseFor(settleTime)
			c.settled(name)
		}
		if settledAtOnce == 0 {
			t.Error("no change of the homes was over at once")
		}
	})
}

// TestAtomicRepeatWhileRoutesChange: a node that has not heard that a queue's move is over, and that it moves on, hears of it while it asks the
// home before the last for an atomic request. Where the request was stored is asked nevertheless.
func TestAtomicRepeatWhileRoutesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 3 })
		enqueue(t, e, jobs("a", 1)...)
		first := uint16(e.routes.byName("a").homes[0].pump.shard)
		move := func(steps uint16) {
			t.Helper()
			if _, err := e.MoveQueue(t.Context(), "a", (first+steps-1)%3+1); err != nil {
				t.Fatal(err)
			}
			partitionsOf(t, e, "a", 1, true)
		}
		move(1)
		before := e.routes.table()
		ack(t, e, fetchJobs(t, e, 0, 1, "a")...)
		was := send(t, e, 1, 1, true, jobs("a", 1)...)
		move(2)
		newest := e.routes.table()
		for in := range 10 {
			e.routes.current.Store(before)
			ctx := &eventful{Context: t.Context(), in: in, then: func() { e.routes.current.Store(newest) }}
			out, err := e.Enqueue(ctx, &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Atomic: true, Jobs: jobs("a", 1)}, nil)
			if err != nil || out[0].ID != was[0].ID || !out[0].Duplicate {
				t.Fatalf("heard of it at wait %d: %+v, %v, was %+v", in, out, err, was)
			}
		}
	})
}

// TestRepeatAfterUnlikeMoves: a node that has heard of none of the moves of queues that were together sends jobs of all to where they were. The
// repeat at one that has heard of all finds them, though one of the queues has moved more often than another.
func TestRepeatAfterUnlikeMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 3 })
		together := make(map[uint16][]string)
		var names []string
		for i := 0; len(names) < 3; i++ {
			s, err := e.ConfigureQueue(t.Context(), fmt.Sprint("q", i), queue.DefaultSettings())
			if err != nil {
				t.Fatal(err)
			}
			together[s.Shard] = append(together[s.Shard], s.Name)
			names = together[s.Shard]
		}
		before := e.routes.table()
		var js []NewJob
		for moves, name := range names {
			for range moves {
				if _, err := e.MoveQueue(t.Context(), name, uint16(e.routes.byName(name).homes[0].pump.shard)%3+1); err != nil {
					t.Fatal(err)
				}
			}
			partitionsOf(t, e, name, 1, false)
			js = append(js, jobs(name, 1)...)
		}
		newest := e.routes.table()
		e.routes.current.Store(&table{byName: before.byName, byID: before.byID, changed: make(chan struct{}), moved: make(chan struct{})})
		was := send(t, e, 1, 1, false, js...)
		e.routes.current.Store(newest)
		for i, o := range send(t, e, 1, 1, false, js...) {
			if o.ID != was[i].ID || !o.Duplicate {
				t.Fatalf("job %d is %+v, was %+v", i, o, was[i])
			}
		}
	})
}

// TestRepeatsAcrossQuickMoves: requests of sessions come for the first time, and again and again while clients may repeat them, at nodes that
// have heard of all changes of the queues' homes, or of none of the last few, and the homes change whenever they can. Each request is stored
// once, and all who ask are told the same.
func TestRepeatsAcrossQuickMoves(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { modelQuickMoves(t, rt) })
	})
}

// quickMoves is the model: what was sent, and what was answered.
type quickMoves struct {
	t      *testing.T
	rt     *rapid.T
	disk   *vfs.Sim
	e      *Engine
	views  []*table // of the routes, oldest first
	sent   []*sentRequest
	stored map[string]uint64
	count  int // of requests so far
}

type sentRequest struct {
	jobs   []NewJob
	number int // of all requests of sessions, from 0; or sentOnce
	atomic bool
	at     time.Time
	answer []Enqueued // nil: it was refused as a whole
}

const (
	quickViews  = 6
	repeatsFor  = 10 * time.Minute
	quickQueues = "abc"
	sentOnce    = -1 // the number of requests without a session
)

func modelQuickMoves(t *testing.T, rt *rapid.T) {
	m := &quickMoves{t: t, rt: rt, stored: make(map[string]uint64), disk: vfs.NewSim(1, vfs.SimOptions{})}
	m.open()
	for _, name := range quickQueues {
		m.spread(string(name), rapid.IntRange(1, 2).Draw(rt, "partitions"))
	}
	m.views = m.views[len(m.views)-1:] // all know of the queues
	for range rapid.IntRange(1, 40).Draw(rt, "steps") {
		switch rapid.IntRange(0, 20).Draw(rt, "step") / 2 {
		case 10:
			m.restart()
		case 0, 1, 2:
			m.sendNew()
		case 3, 4, 5:
			if len(m.sent) > 0 {
				m.repeat(m.sent[len(m.sent)-1-rapid.IntRange(0, min(len(m.sent)-1, 12)).Draw(rt, "back")])
			}
		case 6, 7:
			m.spreadOne()
		case 8:
			pauseFor(time.Duration(rapid.SampledFrom([]int{1, 30, 200, 600, 1000}).Draw(rt, "seconds")) * time.Second)
		default:
			m.drain()
		}
	}
	for _, r := range m.sent {
		m.repeat(r)
	}
	for name, want := range m.stored {
		if s, err := m.e.Queue(context.Background(), name); err != nil || s.Info.Enqueued != want {
			rt.Fatalf("%d jobs of %s were sent: %+v, %v", want, name, s, err)
		}
	}
}

func (m *quickMoves) open() {
	m.e = open(m.t, m.disk, func(o *Options) { o.Shards = 3 })
}

// restart stops the node, or it crashes, and starts it again.
func (m *quickMoves) restart() {
	crashed := m.disk.CrashClone(vfs.AllLost())
	shut(m.t, m.e)
	if rapid.Bool().Draw(m.rt, "crash") {
		m.disk = crashed
	}
	m.open()
	m.views = nil
	m.look()
}

// spread changes a queue's homes, if they can change now: to others of the same number too, by way of a move.
func (m *quickMoves) spread(name string, count int) {
	_, err := m.e.PartitionQueue(context.Background(), name, count, asIs)
	if err == nil && count == 1 {
		_, err = m.e.MoveQueue(context.Background(), name, uint16(rapid.IntRange(1, 3).Draw(m.rt, "shard")))
	}
	if err != nil && asError(err).Reason != ReasonMoving {
		m.rt.Fatalf("%d partitions of %s: %v", count, name, err)
	}
	m.look()
}

// spreadOne changes the homes of one of the queues, if they can change now.
func (m *quickMoves) spreadOne() {
	m.spread(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.rt, "queue"), rapid.IntRange(1, 3).Draw(m.rt, "partitions"))
}

// look notes the newest routes, which a node has that has heard of everything.
func (m *quickMoves) look() {
	if _, err := m.e.relearn(context.Background()); err != nil {
		m.rt.Fatal(err)
	}
	m.views = append(m.views, m.e.routes.table())
	m.views = m.views[max(0, len(m.views)-quickViews):]
}

func (m *quickMoves) drain() {
	for {
		got := fetchJobs(m.t, m.e, 0, 100, "a", "b", "c")
		if len(got) == 0 {
			return
		}
		ack(m.t, m.e, got...)
	}
}

func (m *quickMoves) sendNew() {
	m.count++
	r := &sentRequest{at: time.Now(), number: m.count - 1, atomic: rapid.IntRange(0, 3).Draw(m.rt, "atomic") == 0}
	for i := range rapid.IntRange(1, 4).Draw(m.rt, "jobs") {
		j := NewJob{Queue: rapid.SampledFrom([]string{"a", "a", "b", "c"}).Draw(m.rt, "queue"), Spec: Spec{Priority: 5, Kind: "k", Payload: fmt.Append(nil, i)}}
		if !r.atomic {
			j.Spec.OrderingKey = rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(m.rt, "key")
		}
		r.jobs = append(r.jobs, j)
	}
	m.sent = append(m.sent, r)
	out, err := m.bring(r)
	switch {
	case err == nil:
	case r.atomic && asError(err).Code == CodeInvalidArgument: // they are apart
		m.sent = m.sent[:len(m.sent)-1]
		return
	default:
		m.rt.Fatalf("a new request: %v", err)
	}
	r.answer = slices.Clone(out)
	for i := range out {
		if out[i].Err != nil || out[i].Duplicate {
			m.rt.Fatalf("job %d of a new request: %+v", i, out[i])
		}
		m.stored[r.jobs[i].Queue]++
	}
}

// repeat sends a request again, if a client would still do so.
func (m *quickMoves) repeat(r *sentRequest) {
	if time.Since(r.at) > repeatsFor {
		return
	}
	out, err := m.bring(r)
	if err != nil {
		m.rt.Fatalf("a request again: %v", err)
	}
	for i := range out {
		if out[i].Err != nil || !out[i].Duplicate || out[i].ID != r.answer[i].ID {
			m.rt.Fatalf("a request again: job %d is %+v, was %+v", i, out[i], r.answer[i])
		}
	}
}

// bring brings a request to a node that has heard of all changes of the queues' homes, or of none of the last few, or that has heard of those
// of one queue and not yet of those of another. While the request waits for a shard, the node may hear of the others, or homes change.
func (m *quickMoves) bring(r *sentRequest) ([]Enqueued, error) {
	m.e.routes.current.Store(m.behind())
	request := &EnqueueRequest{Atomic: r.atomic, Jobs: slices.Clone(r.jobs)}
	if k := r.number; k != sentOnce {
		request.Session, request.Sequence = SessionID{byte(1 + k/queue.SessionWindow)}, uint64(1+k%queue.SessionWindow)
	}
	out, err := m.e.Enqueue(m.meanwhile(), request, nil)
	if _, learnt := m.e.relearn(context.Background()); learnt != nil {
		m.rt.Fatal(learnt)
	}
	return out, err
}

// behind are the routes of a node that may not have heard of everything.
func (m *quickMoves) behind() *table {
	t := newRoutes().table()
	all := rapid.IntRange(0, len(m.views)-1).Draw(m.rt, "view")
	each := rapid.IntRange(0, 3).Draw(m.rt, "each queue's own view") == 0
	for _, name := range quickQueues {
		view := m.views[all]
		if each {
			view = m.views[rapid.IntRange(0, len(m.views)-1).Draw(m.rt, "view of "+string(name))]
		}
		rt := view.byName[string(name)]
		t.byName[rt.name] = rt
		for _, h := range rt.all {
			t.byID[h.id] = rt
		}
	}
	return t
}

// meanwhile is the context of a request during which something happens, at one of the times when it waits, or nothing.
func (m *quickMoves) meanwhile() context.Context {
	in := rapid.IntRange(-6, 10).Draw(m.rt, "something happens at wait")
	if in <= 0 {
		return context.Background()
	}
	return &eventful{Context: context.Background(), in: in, then: func() {
		if !rapid.Bool().Draw(m.rt, "homes change") {
			if _, err := m.e.relearn(context.Background()); err != nil {
				m.rt.Fatal(err)
			}
			return
		}
		m.spreadOne()
	}}
}

// eventful is a context that has something done when it is waited for the so manieth time.
type eventful struct {
	context.Context
	in   int
	then func()
}

func (c *eventful) Done() <-chan struct{} {
	if c.in--; c.in == 0 {
		c.then()
	}
	return c.Context.Done()
}
