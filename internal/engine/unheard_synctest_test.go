package engine

import (
	"context"
	"testing"

	"github.com/beaver-raft/beaver/internal/queue"
)

// TestUnheardMove: a node that has not heard yet that a queue has moved tells all the same of each job that was acknowledged, wherever it
// is.
func TestUnheardMove(t *testing.T) {
	for _, how := range []string{"to another shard", "to more partitions"} {
		t.Run(how, func(t *testing.T) {
			inCluster(t, func(t *testing.T, c *fleet) {
				ctx := context.Background()
				name := c.queueOn(2)
				ids := enqueue(t, c.nodes[2], jobs(name, 3)...)
				late := c.nodes[3]
				before := late.routes.table()
				if before.byName[name] == nil {
					if _, err := late.Queue(ctx, name); err != nil {
						t.Fatal(err)
					}
					before = late.routes.table()
				}
				var err error
				if how == "to another shard" {
					_, err = c.nodes[1].MoveQueue(ctx, name, 3)
				} else {
					_, err = c.nodes[1].PartitionQueue(ctx, name, 3, asIs)
				}
				if err != nil {
					t.Fatal(err)
				}
				for range 3 {
					ids = append(ids, enqueue(t, c.nodes[1], jobs(name, 2)...)...)
				}
				forget := func() { // what it may have heard meanwhile
					late.routes.current.Store(&table{byName: before.byName, byID: before.byID, changed: make(chan struct{}), moved: make(chan struct{})})
				}

				forget()
				if s, err := late.Queue(ctx, name); err != nil || s.Info.Enqueued != uint64(len(ids)) || len(s.MovingFromShards) == 0 || s.LeftBehind != 3 {
					t.Errorf("%+v, %v", s, err)
				}
				forget()
				all, err := late.Queues(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if s := all[len(all)-1]; s.Name != name || s.Info.Enqueued != uint64(len(ids)) || s.LeftBehind != 3 {
					t.Errorf("%+v", s)
				}
				forget()
				if got := listed(t, late, name); len(got) != len(ids) {
					t.Errorf("%d jobs are listed of %d", len(got), len(ids))
				}
				for range ids {
					j := fetchJobs(t, c.nodes[1], 0, 1, name)
					out := []Outcome{{Kind: OutcomeFail, ID: j[0].ID, Token: j[0].Token, Failure: Failure{Message: "no", Final: true}}}
					if ended, err := c.nodes[1].Finish(ctx, 0, out, nil); err != nil || ended[0].State != queue.StateDead {
						t.Fatalf("%+v, %v", ended, err)
					}
				}
				forget()
				if n, next, err := late.RetryAllDead(ctx, name, "", 4); n != 4 || next == "" || err != nil {
					t.Errorf("retried %d, %v, %v", n, next, err)
				}
				forget()
				if n, next, err := late.DiscardAllDead(ctx, name, "", BulkMax); n != len(ids)-4 || next != "" || err != nil {
					t.Errorf("discarded %d, %v, %v", n, next, err)
				}
			})
		})
	}
}
