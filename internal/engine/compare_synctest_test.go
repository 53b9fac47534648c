package engine

import (
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// TestUnknownTwice: a lease that a connected worker left out goes back when it is left out again, and not by an old word of the worker alone.
func TestUnknownTwice(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		names := []string{c.queueOn(1), c.queueOn(2)}
		old, next := c.nodes[3], c.nodes[1]
		w := register(t, old)
		lost := enqueue(t, old, jobs(names[0], 1)...)[0]
		fetchJobs(t, old, w, 1, names[0]) // its answer gets lost
		doubted, err := old.CompareWorker(t.Context(), w, nil, nil)
		if err != nil || len(doubted) != 1 || doubted[0].ID != lost {
			t.Fatalf("%v, %v", doubted, err)
		}
		if s := state(t, old, lost); s != queue.StateRunning {
			t.Fatalf("the job is %v after it was left out once", s)
		}

		// The worker goes on at another node and is given a job. The first node, which stood still, repeats what it heard before that.
		if _, err := next.ResumeWorker(t.Context(), w, doubted); err != nil {
			t.Fatal(err)
		}
		defer beating(next, w)()
		id := enqueue(t, next, jobs(names[1], 1)...)[0]
		got := fetchJobs(t, next, w, 1, names[1])
		doubted, err = old.CompareWorker(t.Context(), w, nil, doubted)
		if err != nil || len(doubted) != 1 || doubted[0].ID != id {
			t.Fatalf("%v, %v", doubted, err)
		}
		if a, b := state(t, next, lost), state(t, next, id); a != queue.StateReady || b != queue.StateRunning {
			t.Fatalf("the jobs are %v and %v", a, b)
		}
		if d, err := next.Job(t.Context(), lost); err != nil || d.Info.Crashes != 0 {
			t.Errorf("%+v, %v", d.Info, err)
		}
		time.Sleep(time.Second)
		ack(t, next, got...)
	})
}
