package engine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		if n, _, err := c.nodes[1].DiscardAllDead(ctx, "q", "", 10); n != 1 || err != nil {
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
