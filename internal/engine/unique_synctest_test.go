package engine

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/queue"
)

// uniqueJob is a job with a unique key.
func uniqueJob(name, key string) NewJob {
	return NewJob{Queue: name, Spec: Spec{Priority: 5, Kind: "k", UniqueKey: key}}
}

// fetchSome fetches so many jobs.
func (c *fleet) fetchSome(e *Engine, name string, n int) (all []FetchedJob) {
	c.t.Helper()
	for len(all) < n {
		got, err := e.Fetch(context.Background(), &FetchRequest{Queues: []string{name}, Max: n - len(all), Wait: time.Second, Lease: 24 * time.Hour})
		if err != nil || len(got) == 0 {
			c.t.Fatalf("%d jobs fetched of %d: %v", len(all), n, err)
		}
		all = append(all, got...)
	}
	return all
}

// TestUniqueKeyMoves: a key that is held in an old home is held for the new one too, by request and session and atomically, at a node that
// knows of the move and at one that does not; the move is not over before it is free, and a closed home gives it to nobody.
func TestUniqueKeyMoves(t *testing.T) {
	for _, how := range []string{"to another shard", "to more partitions"} {
		t.Run(how, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *fleet) { testUniqueKeyMoves(t, c, how == "to another shard") })
		})
	}
}

func testUniqueKeyMoves(t *testing.T, c *fleet, whole bool) {
	ctx := context.Background()
	name := c.queueOn(2)
	windowed := uniqueJob(name, "windowed")
	windowed.Spec.UniqueForMillis = (20 * time.Minute).Milliseconds()
	started := uniqueJob(name, "started")
	started.Spec.UniqueUntil = queue.UniqueUntilStarted
	js := []NewJob{uniqueJob(name, "a"), windowed, started, uniqueJob(name, "dead"), uniqueJob(name, "a")}
	was := send(t, c.nodes[1], 1, 1, false, js...)
	if was[4].ID != was[0].ID || !was[4].Existing || was[0].Existing {
		t.Fatalf("%+v", was)
	}
	got := c.fetchSome(c.nodes[2], name, 4)
	ack(t, c.nodes[2], got[1])
	final := []Outcome{{Kind: OutcomeFail, ID: got[3].ID, Token: got[3].Token, Failure: Failure{Message: "no", Final: true}}}
	if ended, err := c.nodes[3].Finish(ctx, 0, final, nil); err != nil || ended[0].State != queue.StateDead {
		t.Fatalf("%+v, %v", ended, err)
	}
	late, before := c.nodes[3], c.nodes[3].routes.table()
	forget := func() { // what it may have heard meanwhile
		late.routes.current.Store(&table{byName: before.byName, byID: before.byID, changed: make(chan struct{}), moved: make(chan struct{})})
	}
	move := func() error {
		if whole {
			_, err := c.nodes[1].MoveQueue(ctx, name, 3)
			return err
		}
		_, err := c.nodes[1].PartitionQueue(ctx, name, 3, asIs)
		return err
	}
	if err := move(); err != nil {
		t.Fatal(err)
	}
	again := func(want []Enqueued) {
		t.Helper()
		for _, e := range c.nodes {
			for i, o := range send(t, e, 1, 1, false, js...) {
				if o.ID != want[i].ID || o.Existing != want[i].Existing || !o.Duplicate {
					t.Fatalf("job %d is %+v, was %+v", i, o, want[i])
				}
			}
		}
	}
	again(was)
	seq := uint64(1)
	for range 2 {
		for _, e := range []*Engine{late, c.nodes[1], c.nodes[2]} {
			forget()
			seq++
			for _, o := range [][]Enqueued{
				send(t, e, 1, seq, false, js[:2]...), send(t, e, 2, seq, true, js[0]), send(t, e, 0, 0, false, js[:2]...), send(t, e, 0, 0, true, js[1]),
			} {
				for _, o := range o {
					if !o.Existing || o.ID != was[0].ID && o.ID != was[1].ID {
						t.Fatalf("%+v", o)
					}
				}
			}
		}
	}
	testOldHomeGrantsNothing(t, c, js, was)
	// What ends frees the key for the new home, and the windows are what the move waits for.
	ack(t, c.nodes[2], got[0], got[2])
	if _, next, err := c.nodes[1].DiscardAllDead(ctx, name, "", BulkMax); err != nil || next != "" {
		t.Fatal(err)
	}
	forget()
	fresh := send(t, late, 3, 1, false, js[0], js[1])
	if fresh[0].Existing || fresh[0].ID == was[0].ID || !fresh[1].Existing || fresh[1].ID != was[1].ID {
		t.Fatalf("%+v", fresh)
	}
	pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
	_, err := c.nodes[1].MoveQueue(ctx, name, 1)
	if !whole {
		_, err = c.nodes[1].PartitionQueue(ctx, name, 2, asIs)
	}
	wantError(t, err, CodeFailedPrecondition, ReasonMoving)
	if !strings.Contains(err.Error(), "the windows of 1 unique keys") {
		t.Errorf("%v", err)
	}
	if o := send(t, late, 3, 2, false, js[1]); !o[0].Existing || o[0].ID != was[1].ID {
		t.Fatalf("%+v", o)
	}
	pauseFor(6 * time.Minute)
	c.settled(name)
	if o := send(t, late, 3, 3, false, js[1]); o[0].Existing {
		t.Fatalf("%+v", o)
	}
}

// testOldHomeGrantsNothing: who holds a key that is free in the old home is decided in the new one.
func testOldHomeGrantsNothing(t *testing.T, c *fleet, js []NewJob, was []Enqueued) {
	t.Helper()
	ctx := context.Background()
	ended, err := c.nodes[1].RetryDead(ctx, []JobID{was[3].ID}, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantError(t, ended[0].Err, CodeFailedPrecondition, ReasonMoving)
	n, _, err := c.nodes[1].RetryAllDead(ctx, js[0].Queue, "", BulkMax)
	if wantError(t, err, CodeFailedPrecondition, ReasonMoving); n != 0 {
		t.Fatalf("%d retried", n)
	}
	anew := send(t, c.nodes[2], 4, 1, false, js[2:4]...)
	for i, o := range anew {
		if o.Existing || o.ID == was[2+i].ID {
			t.Fatalf("%+v, was %+v", o, was[2+i])
		}
	}
	for _, o := range send(t, c.nodes[3], 4, 2, false, js[2:4]...) {
		if !o.Existing {
			t.Fatalf("%+v", o)
		}
	}
}

// TestRetryOfUniqueKey: a dead job is retried unless another one holds its key, which the error names; a bulk retry goes on with the others.
func TestRetryOfUniqueKey(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name := c.queueOn(2)
		js := []NewJob{uniqueJob(name, "a"), uniqueJob(name, "b"), uniqueJob(name, "c")}
		was := send(t, c.nodes[1], 1, 1, false, js...)
		for _, j := range c.fetchSome(c.nodes[3], name, 3) {
			out := []Outcome{{Kind: OutcomeFail, ID: j.ID, Token: j.Token, Failure: Failure{Message: "no", Final: true}}}
			if ended, err := c.nodes[1].Finish(ctx, 0, out, nil); err != nil || ended[0].State != queue.StateDead {
				t.Fatalf("%+v, %v", ended, err)
			}
		}
		holder := send(t, c.nodes[1], 1, 2, false, js[1])[0]
		if holder.Existing {
			t.Fatal("a dead job holds its key")
		}
		for _, e := range c.nodes {
			ended, err := e.RetryDead(ctx, []JobID{was[1].ID}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if wantError(t, ended[0].Err, CodeFailedPrecondition, ReasonUniqueKeyHeld); !strings.Contains(ended[0].Err.Message, holder.ID.String()) {
				t.Errorf("%v", ended[0].Err)
			}
		}
		n, next, err := c.nodes[3].RetryAllDead(ctx, name, "", BulkMax)
		if wantError(t, err, CodeFailedPrecondition, ReasonUniqueKeyHeld); n != 2 || next != "" || !strings.HasPrefix(err.Error(), "1 of the dead jobs were not retried") {
			t.Errorf("%d, %v, %v", n, next, err)
		}
		s, err := c.nodes[1].Queue(ctx, name)
		if err != nil || s.Info.Unique != 3 || s.Info.Deduplicated != 0 || s.Info.ByState[queue.StateDead] != 1 {
			t.Errorf("%+v, %v", s.Info, err)
		}
	})
}

// TestUniqueKeysUnderLoad: producers send jobs of few keys, with sessions and without, and repeat them, at any node; workers finish them, and
// a failure or a retry brings them back; meanwhile the queue changes its partitions and its home, shards change their leaders, and
// connections break. At no time two jobs of a key are held, each holder that was named held its key, and repeats get the first answers.
func TestUniqueKeysUnderLoad(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		l := newUniqueLoad(t, c, c.queueOn(2), 1)
		changes := []func(context.Context) error{l.partitions(1, 3), l.partitions(2, 2)}
		if !invariant.Expensive { // the walks over all state are dear, and time passes slowly between two moves
			changes = append(changes, l.partitions(3, 1), l.moves)
		}
		for round, change := range changes {
			l.round(round, change)
			if round+1 < len(changes) {
				pauseFor(time.Duration(queue.SessionIdleMillis)*time.Millisecond + 2*repairInterval)
				c.settled(l.name)
			}
		}
		l.check()
	})
}
