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

	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// keyed are jobs of a queue with ordering keys, in turn, whose payloads are numbered from first.
func keyed(name string, first int, keys ...string) []NewJob {
	js := make([]NewJob, len(keys))
	for i, key := range keys {
		js[i] = NewJob{Queue: name, Spec: Spec{Priority: 5, Kind: key, OrderingKey: key, Payload: fmt.Appendf(nil, "%06d", first+i)}}
	}
	return js
}

func asIs(*Settings) {}

// listed lists a queue's ready jobs, page by page.
func listed(t testing.TB, e *Engine, name string) []JobID {
	t.Helper()
	var ids []JobID
	for cursor, pages := "", 0; ; pages++ {
		page, next, err := e.List(context.Background(), ListRequest{Queue: name, State: queue.StateReady, Limit: 2, Cursor: cursor})
		if err != nil || len(page) == 0 && next != "" {
			t.Fatalf("page %d: %d jobs, %v", pages, len(page), err)
		}
		for i := range page {
			ids = append(ids, page[i].ID)
		}
		if cursor = next; next == "" {
			return ids
		}
	}
}

// TestPartitions: a queue with a partition on each shard is one queue: jobs of a key stay on one shard, requests without keys go round, and
// what is asked of the queue is asked of all.
func TestPartitions(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		s, err := c.nodes[2].PartitionQueue(ctx, "p", 3, func(s *Settings) { s.MaxAttempts = 1 })
		if err != nil || !slices.Equal(slices.Sorted(slices.Values(s.Shards)), []uint16{1, 2, 3}) || s.Shard != s.Shards[0] || s.MovingFrom != 0 || s.Info.Settings.MaxAttempts != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		if again, err := c.nodes[3].PartitionQueue(ctx, "p", 3, asIs); err != nil || !slices.Equal(again.Shards, s.Shards) || again.MovingFrom != 0 {
			t.Fatalf("the same again: %+v, %v", again, err)
		}
		for _, count := range []int{-1, 0, 4, 65} {
			_, err := c.nodes[1].PartitionQueue(ctx, "p", count, asIs)
			wantError(t, err, CodeInvalidArgument, ReasonInvalid)
		}
		_, err = c.nodes[1].MoveQueue(ctx, "p", 2)
		wantError(t, err, CodeFailedPrecondition, ReasonPartitioned)

		shards := make(map[string]uint16)
		var ids []JobID
		for seq := uint64(1); seq <= 6; seq++ {
			js := keyed("p", int(seq)*10, "a", "b", "c", "d", "a", "b", "e")
			out := send(t, c.nodes[seq%3+1], 1, seq, false, js...)
			for i := range out {
				key := js[i].Spec.OrderingKey
				if at, known := shards[key]; known && at != out[i].ID.Shard {
					t.Fatalf("key %s came to shard %d and to shard %d", key, at, out[i].ID.Shard)
				}
				shards[key] = out[i].ID.Shard
				ids = append(ids, out[i].ID)
			}
			c.again(out, 1, seq, false, js...)
		}
		var turns []uint16
		for seq := uint64(7); seq <= 9; seq++ {
			out := send(t, c.nodes[1], 1, seq, seq == 8, jobs("p", 3)...)
			if out[0].ID.Shard != out[1].ID.Shard || out[0].ID.Shard != out[2].ID.Shard {
				t.Fatalf("a request without keys was divided: %+v", out)
			}
			turns = append(turns, out[0].ID.Shard)
			c.again(out, 1, seq, seq == 8, jobs("p", 3)...)
			ids = append(ids, out[0].ID, out[1].ID, out[2].ID)
		}
		if slices.Sort(turns); !slices.Equal(turns, []uint16{1, 2, 3}) {
			t.Fatalf("requests came to shards %v", turns)
		}
		_, err = c.nodes[1].Enqueue(ctx, &EnqueueRequest{Atomic: true, Jobs: keyed("p", 0, "a", "b", "c", "d", "e")}, nil)
		wantError(t, err, CodeInvalidArgument, ReasonInvalid)
		neighbour := c.queueOn(2)
		mixed := append(jobs("p", 1), jobs(neighbour, 1)...)
		for seq := uint64(10); seq <= 13; seq++ { // the partition that is with the neighbour, whosever turn it is
			out := send(t, c.nodes[3], 1, seq, true, mixed...)
			if out[0].ID.Shard != 2 || out[1].ID.Shard != 2 {
				t.Fatalf("%+v", out)
			}
			ids = append(ids, out[0].ID)
		}
		ids = append(ids, enqueue(t, c.nodes[2], keyed("p", 900, "a", "b", "c")...)...)
		checkWhole(t, c, "p", ids)
	})
}

// checkWhole looks at all jobs of a queue in every way that there is, and ends them.
func checkWhole(t *testing.T, c *fleet, name string, ids []JobID) {
	ctx := context.Background()
	all := listed(t, c.nodes[1], name)
	sorted := func(ids []JobID) []JobID {
		return slices.SortedFunc(slices.Values(ids), func(a, b JobID) int {
			return int(a.Shard)<<32 + int(a.Pos) - int(b.Shard)<<32 - int(b.Pos)
		})
	}
	if !slices.Equal(sorted(all), sorted(ids)) {
		t.Fatalf("listed %d jobs, sent %d", len(all), len(ids))
	}
	for node, e := range c.nodes {
		if s, err := e.Queue(ctx, name); err != nil || s.Info.ByState[queue.StateReady] != uint64(len(ids)) || s.Info.Enqueued != uint64(len(ids)) {
			t.Fatalf("node %d: %+v, %v", node, s, err)
		}
	}
	if _, err := c.nodes[1].PauseQueue(ctx, name); err != nil {
		t.Fatal(err)
	}
	if got, err := c.nodes[2].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 9}); err != nil || len(got) != 0 {
		t.Fatalf("a paused queue gives %+v, %v", got, err)
	}
	if _, err := c.nodes[3].ResumeQueue(ctx, name); err != nil {
		t.Fatal(err)
	}
	for i := range ids {
		e := c.nodes[uint64(i%3+1)]
		got, err := e.Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Second})
		if err != nil || len(got) != 1 || got[0].QueueName != name {
			t.Fatalf("fetch %d: %+v, %v", i, got, err)
		}
		out := []Outcome{{Kind: OutcomeFail, ID: got[0].ID, Token: got[0].Token, Failure: Failure{Message: "no"}}}
		if ended, err := e.Finish(ctx, 0, out, nil); err != nil || ended[0].State != queue.StateDead {
			t.Fatalf("%+v, %v", ended, err)
		}
	}
	if n, next, err := c.nodes[3].RetryAllDead(ctx, name, "", len(ids)-1); n != len(ids)-1 || next == "" || err != nil {
		t.Fatalf("retried %d, %v, %v", n, next, err)
	}
	if n, next, err := c.nodes[2].DiscardAllDead(ctx, name, "", 10); n != 1 || next != "" || err != nil {
		t.Fatalf("discarded %d, %v, %v", n, next, err)
	}
	held := make(map[JobID]bool)
	for len(held) < len(ids)-1 {
		got, err := c.nodes[1].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 4, Wait: time.Second})
		if err != nil || len(got) == 0 || len(got) > 4 {
			t.Fatalf("%d jobs, %v", len(got), err)
		}
		for _, j := range got {
			if held[j.ID] {
				t.Fatalf("job %v is leased twice", j.ID)
			}
			held[j.ID] = true
		}
		ack(t, c.nodes[2], got...)
	}
	if s, err := c.nodes[1].Queue(ctx, name); err != nil || s.Info.Completed != uint64(len(ids)-1) || s.Info.Live() != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
}

// TestPartitionsFeedAllFetches: fetches that are parked at every node get one job each, from whatever partition it comes.
func TestPartitionsFeedAllFetches(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		var parked []<-chan fetched
		for i := range uint64(6) {
			parked = append(parked, c.nodes[i%3+1].fetchAside(ctx, &FetchRequest{Queues: []string{"later"}, Max: 1, Wait: time.Minute}))
		}
		synctest.Wait()
		if _, err := c.nodes[1].PartitionQueue(ctx, "later", 3, asIs); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		held := make(map[JobID]bool)
		for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
			enqueue(t, c.nodes[2], keyed("later", 0, key)...)
		}
		for i := range parked {
			f := <-parked[i]
			if f.err != nil || len(f.jobs) != 1 || held[f.jobs[0].ID] {
				t.Fatalf("fetch %d: %+v after %d jobs", i, f, len(held))
			}
			held[f.jobs[0].ID] = true
		}
	})
}

// TestNoPartitionStarves: while all partitions always have jobs, none is passed over.
func TestNoPartitionStarves(t *testing.T) {
	for _, where := range []string{"one node", "three nodes"} {
		t.Run(where, func(t *testing.T) {
			run := func(t *testing.T, e *Engine) {
				if _, err := e.PartitionQueue(t.Context(), "p", 3, asIs); err != nil {
					t.Fatal(err)
				}
				var keys []string
				for i := range 600 {
					keys = append(keys, fmt.Sprint(i))
				}
				enqueue(t, e, keyed("p", 0, keys...)...)
				for _, wait := range []time.Duration{0, time.Second} {
					from := make(map[uint16]int)
					for range 90 {
						got, err := e.Fetch(t.Context(), &FetchRequest{Queues: []string{"p"}, Max: 1, Wait: wait})
						if err != nil || len(got) != 1 {
							t.Fatalf("%+v, %v", got, err)
						}
						from[got[0].ID.Shard]++
					}
					for id := uint16(1); id <= 3; id++ {
						if from[id] < 10 {
							t.Fatalf("with a wait of %v, shards gave %v", wait, from)
						}
					}
				}
			}
			if where == "one node" {
				synctest.Test(t, func(t *testing.T) {
					run(t, open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 3 }))
				})
				return
			}
			inCluster(t, func(t *testing.T, c *fleet) { run(t, c.nodes[1]) })
		})
	}
}

// TestPartitionsGrow: a queue gets more partitions, and fewer, while producers send and repeat their requests at any node, and connections
// break. Each job is stored once, and each key's jobs come in the order in which they were sent, those from before a change first.
func TestPartitionsGrow(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name, plain := c.queueOn(2), c.queueOn(1)
		if _, err := c.nodes[1].PartitionQueue(ctx, "fixed", 2, asIs); err != nil {
			t.Fatal(err)
		}
		last := make(map[string]string) // payloads, by key
		for round, count := range []int{3, 2, 1, 3} {
			const producers, requests = 3, 30
			var all sync.WaitGroup
			var mu sync.Mutex
			sent := 0
			for producer := range producers {
				all.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(round), uint64(producer)))
					for seq := uint64(1); seq <= requests; seq++ {
						seq := seq + uint64(round*requests)
						var js []NewJob
						for range 1 + rng.IntN(4) {
							js = append(js, keyed([]string{name, name, name, plain, "fixed"}[rng.IntN(5)], 10*int(seq)+len(js), fmt.Sprintf("%d-%d", producer, rng.IntN(4)))...)
							if js[len(js)-1].Queue == name {
								mu.Lock()
								sent++
								mu.Unlock()
							}
						}
						c.sendAgain(rng, producer, seq, js)
						pauseFor(time.Duration(rng.IntN(20)) * time.Millisecond)
					}
				})
			}
			pauseFor(100 * time.Millisecond)
			c.net.hangUp()
			for {
				if _, err := c.nodes[uint64(round%3+1)].PartitionQueue(ctx, name, count, asIs); err == nil {
					break
				}
				pauseFor(10 * time.Millisecond)
			}
			c.net.hangUp()
			all.Wait()
			s, err := c.nodes[1].Queue(ctx, name)
			if err != nil || s.Info.Live() != uint64(sent) || len(s.Shards) != count || len(s.MovingFromShards) == 0 || s.LeftBehind == 0 || s.LeftBehind == s.Info.Live() {
				t.Fatalf("round %d: %d jobs were sent: %+v, %v", round, sent, s, err)
			}
			if n := len(listed(t, c.nodes[3], name)); n != sent {
				t.Fatalf("round %d: %d jobs were sent, and %d are listed", round, sent, n)
			}
			for range sent {
				got, err := c.nodes[uint64(1+rand.IntN(3))].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Second})
				if err != nil || len(got) != 1 {
					t.Fatalf("%+v, %v", got, err)
				}
				key, payload := got[0].Spec.OrderingKey, string(got[0].Spec.Payload)
				if payload <= last[key] {
					t.Fatalf("round %d, key %s: %s comes after %s", round, key, payload, last[key])
				}
				last[key] = payload
				ack(t, c.nodes[2], got...)
			}
			_, err = c.nodes[1].PartitionQueue(ctx, name, count%3+1, asIs)
			wantError(t, err, CodeFailedPrecondition, ReasonMoving)
			pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
			c.settled(name)
		}
	})
}

// TestPartitionedRepeats: what a session repeats of an atomic request, or of one whose outcome is not known, is the same after the
// partitions of its queues have changed, one after the other.
func TestPartitionedRepeats(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		for name, count := range map[string]int{"a": 2, "b": 3} {
			if _, err := c.nodes[1].PartitionQueue(ctx, name, count, asIs); err != nil {
				t.Fatal(err)
			}
		}
		pair := append(keyed("a", 1, "x"), jobs("a", 2)...)
		both := append(jobs("b", 1), jobs("a", 1)...)
		loose := append(keyed("a", 1, "x", "y", "z", "u", "v"), jobs("b", 2)...)
		var seq uint64
		var sent [][]Enqueued
		step := func(after string) {
			t.Helper()
			for i, js := range [][]NewJob{pair, both, loose} {
				seq++
				sent = append(sent, send(t, c.nodes[seq%3+1], 1, seq, i < 2, js...))
			}
			for k, was := range sent {
				c.again(was, 1, uint64(k+1), k%3 < 2, [][]NewJob{pair, both, loose}[k%3]...)
			}
			if t.Failed() {
				t.Fatalf("after %s", after)
			}
		}
		step("nothing")
		if _, err := c.nodes[2].PartitionQueue(ctx, "a", 3, asIs); err != nil {
			t.Fatal(err)
		}
		step("more of a")
		if _, err := c.nodes[3].PartitionQueue(ctx, "b", 2, asIs); err != nil {
			t.Fatal(err)
		}
		step("less of b")
		c.crash(2)
		c.open(2)
		step("a crash")
		total := 0
		for _, name := range []string{"a", "b"} {
			s, err := c.nodes[1].Queue(ctx, name)
			if err != nil {
				t.Fatal(err)
			}
			total += int(s.Info.Enqueued)
		}
		if want := 4 * (len(pair) + len(both) + len(loose)); total != want {
			t.Fatalf("%d jobs are stored, and %d were sent", total, want)
		}
	})
}

// TestHalfKnownRequest: of a request's two partitions one was closed already and remembers that it refused its part, and the other never heard
// of it. Both parts go to one new home together, and so does every repeat.
func TestHalfKnownRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 3 })
		if _, err := e.PartitionQueue(ctx, "q", 2, asIs); err != nil {
			t.Fatal(err)
		}
		at := func(count int, key string) int { return partitionOf(count, &Spec{OrderingKey: key}, 0) }
		first, second := "", ""
		for i := 0; second == ""; i++ {
			switch key := fmt.Sprint(i); {
			case first == "" && at(2, key) == 0:
				first = key
			case first != "" && at(2, key) == 1 && at(3, key) == at(3, first):
				second = key
			}
		}
		old := e.routes.byName("q").homes
		r, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendSpread(dst, "q", old[0].id, []uint16{1, 2, 3}) })
		if err != nil {
			t.Fatal(err)
		}
		closed := r.Queue.Settings
		closed.Closed = true
		one := cluster.Homes{ID: r.Queue.From.ID, Shards: r.Queue.From.Shards[:1]}
		if err := e.configureHomes(ctx, &r.Queue, &one, &closed); err != nil {
			t.Fatal(err)
		}
		onShard(t, e, old[1].pump, func() { old[1].pump.setClosed(errNotLeader()) })
		js := keyed("q", 1, first, second, first, second)
		_, err = e.Enqueue(ctx, &EnqueueRequest{Session: SessionID{1}, Sequence: 1, Jobs: slices.Clone(js)}, nil)
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		onShard(t, e, old[1].pump, func() { old[1].pump.setClosed(nil) })
		if err := e.openMove(ctx, "q"); err != nil {
			t.Fatal(err)
		}
		was := send(t, e, 1, 1, false, js...)
		for i, got := range send(t, e, 1, 1, false, js...) {
			if !got.Duplicate || got.ID != was[i].ID || got.ID.Shard != was[0].ID.Shard {
				t.Fatalf("again job %d is %+v, was %+v", i, got, was[i])
			}
		}
		if s, err := e.Queue(ctx, "q"); err != nil || s.Info.Enqueued != 4 || s.LeftBehind != 0 {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}

// TestRepeatAfterWayBack: a queue that moves away and comes back has had two homes, and what it was sent at the second one is
// repeated there.
func TestRepeatAfterWayBack(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name := c.queueOn(2)
		if _, err := c.nodes[1].MoveQueue(ctx, name, 3); err != nil {
			t.Fatal(err)
		}
		pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
		c.settled(name)
		was := send(t, c.nodes[1], 1, 1, false, jobs(name, 2)...)
		if _, err := c.nodes[1].MoveQueue(ctx, name, 2); err != nil {
			t.Fatal(err)
		}
		c.again(was, 1, 1, false, jobs(name, 2)...)
	})
}

// TestPartitionsModel: any requests with keys, repeats, fetches and changes of the partitions, on one node: a key keeps its partition while
// their number stays, its jobs come in order, and a repeat is the same operation.
func TestPartitionsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) { modelPartitions(t, rt) })
	})
}

func modelPartitions(t *testing.T, rt *rapid.T) {
	ctx := context.Background()
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Shards = 4 })
	type request struct {
		jobs   []NewJob
		answer []Enqueued
	}
	var requests []request
	places := make(map[string]uint16)
	waiting, last := make(map[string][]string), make(map[string]string)
	count, left := 1, 0
	fetch := func() {
		got := fetchJobs(t, e, 0, 1, "q")
		if len(got) != 1 {
			rt.Fatalf("%d jobs wait, and a fetch gets %d", left, len(got))
		}
		key, payload := got[0].Spec.OrderingKey, string(got[0].Spec.Payload)
		if payload != waiting[key][0] {
			rt.Fatalf("of key %s comes %s, and %s was sent first", key, payload, waiting[key][0])
		}
		waiting[key], last[key] = waiting[key][1:], payload
		ack(t, e, got...)
		left--
	}
	if _, err := e.PartitionQueue(ctx, "q", 1, asIs); err != nil {
		rt.Fatal(err)
	}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		switch rapid.IntRange(0, 5).Draw(rt, "step") {
		default:
			keys := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", "d"}), 1, 5).Draw(rt, "keys")
			js := keyed("q", 10*len(requests), keys...)
			out := send(t, e, 1, uint64(len(requests)+1), false, js...)
			requests = append(requests, request{js, out})
			for i, key := range keys {
				if at, known := places[key]; known && at != out[i].ID.Shard {
					rt.Fatalf("key %s came to shard %d and to shard %d", key, at, out[i].ID.Shard)
				}
				places[key] = out[i].ID.Shard
				waiting[key] = append(waiting[key], string(js[i].Spec.Payload))
				left++
			}
		case 2:
			if left > 0 {
				fetch()
			}
		case 3:
			if len(requests) == 0 {
				continue
			}
			k := len(requests) - 1 - rapid.IntRange(0, min(len(requests)-1, 20)).Draw(rt, "back")
			for i, got := range send(t, e, 1, uint64(k+1), false, requests[k].jobs...) {
				if !got.Duplicate || got.ID != requests[k].answer[i].ID {
					rt.Fatalf("repeat of request %d: job %d is %+v, was %+v", k+1, i, got, requests[k].answer[i])
				}
			}
		case 4:
			want := rapid.IntRange(1, 4).Draw(rt, "partitions")
			if want == count {
				continue
			}
			if e.routes.byName("q").moving() {
				for left > 0 {
					fetch()
				}
				pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
				requests = nil // nobody repeats what is so old, and its session is forgotten
			}
			if _, err := e.PartitionQueue(ctx, "q", want, asIs); err != nil {
				rt.Fatal(err)
			}
			count = want
			clear(places)
		}
	}
	for left > 0 {
		fetch()
	}
}
