package engine

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// spread is a queue with a partition on each of the three shards, and a key for each.
func (c *fleet) spread(name string) (keys []string) {
	c.t.Helper()
	if _, err := c.nodes[1].PartitionQueue(c.t.Context(), name, 3, asIs); err != nil {
		c.t.Fatal(err)
	}
	at := make(map[int]bool)
	for i := 0; len(keys) < 3; i++ {
		key := fmt.Sprint("key-", i)
		if p := partitionOf(3, &Spec{OrderingKey: key}, 0); !at[p] {
			at[p], keys = true, append(keys, key)
		}
	}
	return keys
}

// inOrder takes note of the jobs that a worker was handed: each key's come in order, and for the first time.
type inOrder struct {
	t    testing.TB
	last map[string]string
	got  int
}

func (o *inOrder) take(jobs []FetchedJob) {
	o.t.Helper()
	for _, j := range jobs {
		if key, payload := j.Spec.OrderingKey, string(j.Spec.Payload); payload <= o.last[key] {
			o.t.Errorf("of %s came %s after %s", key, payload, o.last[key])
		} else {
			o.last[key] = payload
		}
		if j.Attempt != 1 {
			o.t.Errorf("job %v came with attempt %d", j.ID, j.Attempt)
		}
		o.got++
	}
}

// TestOrderAcrossNodes: a worker whose fetches wait at three nodes gets the jobs of a key in order, and each with its first attempt, though
// several nodes have jobs for it at the same moment, and the answers of two of them are under way for a while.
func TestOrderAcrossNodes(t *testing.T) {
	for _, consumer := range []string{"worker", "anonymous"} {
		for _, most := range []int{1, 2, 7} {
			t.Run(fmt.Sprint(consumer, " ", most), func(t *testing.T) {
				inCluster(t, func(t *testing.T, c *fleet) {
					keys := c.spread("q")
					e := c.nodes[1]
					var w WorkerID
					if consumer == "worker" {
						w = register(t, e)
						defer beating(e, w)()
					}
					c.net.delay(callLeg{1, 2, callFetch}, 20*time.Millisecond)
					c.net.delay(callLeg{1, 3, callFetch}, 50*time.Millisecond)
					const rounds = 20
					o := &inOrder{t: t, last: map[string]string{}}
					for round := range rounds {
						parked := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: []string{"q"}, Max: most, Wait: time.Minute})
						time.Sleep(time.Second)
						enqueue(t, c.nodes[3], keyed("q", 100*round, keys[0], keys[1], keys[2], keys[0], keys[1], keys[2], keys[1])...)
						f := <-parked
						if f.err != nil || len(f.jobs) == 0 {
							t.Fatalf("%+v", f)
						}
						for jobs := f.jobs; len(jobs) > 0; jobs = fetchJobs(t, e, w, most, "q") {
							o.take(jobs)
							ack(t, e, jobs...)
						}
					}
					if o.got != 7*rounds {
						t.Errorf("got %d jobs, sent %d", o.got, 7*rounds)
					}
				})
			})
		}
	}
}

// TestLateGrantGoesToOthers: what a node hands out to a worker that has work already goes to another worker at once, as if nobody had had it.
func TestLateGrantGoesToOthers(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		keys := c.spread("q")
		e := c.nodes[1]
		busy, idle := register(t, e), register(t, c.nodes[2])
		defer beating(e, busy)()
		defer beating(c.nodes[2], idle)()
		parked := e.fetchAside(t.Context(), &FetchRequest{Worker: busy, Queues: []string{"q"}, Max: 1, Wait: time.Minute})
		time.Sleep(time.Second)
		waiting := c.nodes[2].fetchAside(t.Context(), &FetchRequest{Worker: idle, Queues: []string{"q"}, Max: 1, Wait: time.Minute})
		time.Sleep(time.Second)
		enqueue(t, c.nodes[3], keyed("q", 1, keys...)...)
		o := &inOrder{t: t, last: map[string]string{}}
		for _, got := range []<-chan fetched{parked, waiting} {
			f := <-got
			if f.err != nil || len(f.jobs) != 1 {
				t.Fatalf("%+v", f)
			}
			o.take(f.jobs)
		}
		time.Sleep(100 * time.Millisecond) // well within the workers' time to live
		if s, err := e.Queue(t.Context(), "q"); err != nil || s.Info.ByState[queue.StateReady] != 1 || s.Info.ByState[queue.StateRunning] != 2 {
			t.Fatalf("%+v, %v", s, err)
		}
		o.take(fetchJobs(t, c.nodes[3], 0, 1, "q"))
		if o.got != 3 {
			t.Errorf("%d jobs were handed out", o.got)
		}
	})
}

// TestFetchIsNotHeldUp: a worker's fetch waits for what trails behind the one before it, but not for long, and only if that is for the
// same queues does it take it.
func TestFetchIsNotHeldUp(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		names := []string{c.queueOn(1), c.queueOn(2), c.queueOn(3)}
		e := c.nodes[1]
		w := register(t, e)
		defer beating(e, w)()
		for _, late := range []time.Duration{settleWait / 4, 3 * settleWait} {
			c.net.delay(callLeg{1, 2, callFetch}, late)
			parked := e.fetchAside(t.Context(), &FetchRequest{Worker: w, Queues: names, Max: 1, Wait: time.Minute})
			time.Sleep(5 * time.Second)
			enqueue(t, c.nodes[1], jobs(names[0], 1)...)
			enqueue(t, c.nodes[2], jobs(names[1], 1)...)
			f := <-parked
			if f.err != nil || len(f.jobs) != 1 {
				t.Fatalf("%+v", f)
			}
			ack(t, e, f.jobs...)
			at := time.Now()
			if got := fetchJobs(t, e, w, 1, names[2]); len(got) != 0 {
				t.Fatalf("another queue gives %+v", got)
			}
			if took := time.Since(at); took > min(late, settleWait)+time.Second/10 {
				t.Errorf("the next fetch took %v, and the answer %v", took, late)
			}
			got, err := c.nodes[2].Fetch(t.Context(), &FetchRequest{Queues: []string{names[1]}, Max: 1, Wait: time.Minute})
			if err != nil || len(got) != 1 || got[0].Attempt != 1 {
				t.Fatalf("%+v, %v", got, err)
			}
			ack(t, e, got...)
			time.Sleep(10 * time.Second)
		}
	})
}

// TestStopOvertakesItsFetch: a fetch that was stopped before it came leaves at once, and as many stops are remembered as may wait.
func TestStopOvertakesItsFetch(t *testing.T) {
	for _, others := range []uint64{0, earlyStopsMax - 1, earlyStopsMax} {
		v := visitors{all: make(map[visitor]context.CancelFunc)}
		name := visitor{node: 2, id: 1}
		v.stop(name)
		for i := range others {
			v.stop(visitor{node: 2, id: 2 + i})
		}
		stopped := false
		v.come(visitor{node: 3, id: 1}, func() { t.Error("the fetch of another node was stopped") })
		v.come(name, func() { stopped = true })
		if want := others < earlyStopsMax; stopped != want {
			t.Errorf("with %d more, stopped is %v", others, stopped)
		}
	}
}

// However many of a worker's former fetches are not settled, since a node does not answer, its next one waits for a second, and not for each.
func TestCatchUpWaitsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &worker{gone: make(chan struct{})}
		for range 3 {
			w.trail(&race{worker: w, late: make(chan []FetchedJob), settled: make(chan struct{})})
		}
		for left := 3; left > 0; left-- {
			began := time.Now()
			if jobs, err := new(Engine).catchUp(t.Context(), w, &FetchRequest{Max: 1}); len(jobs) > 0 || err != nil {
				t.Fatal(jobs, err)
			}
			if took := time.Since(began); took != settleWait {
				t.Errorf("with %d fetches that are not settled it waits %v", left, took)
			}
		}
		if w.trailing() != nil {
			t.Error("what was waited for is not forgotten")
		}
	})
}
