package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A fetch reads again what other members have made whole, and waits for that so long and no longer.
func TestFetchWaitsForAMendedPayload(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := open(t, vfs.NewSim(1, vfs.SimOptions{}), nil)
		id := enqueue(t, e, jobs("q", 1)...)[0]
		mended := make(chan struct{})
		damage := &wal.CorruptError{Mending: mended}
		begun := time.Now()
		_, _, err := e.readMended(t.Context(), shardID(id), id.Pos, damage)
		wantError(t, err, CodeUnavailable, ReasonDamaged)
		if took := time.Since(begun); took != mendWait {
			t.Errorf("it waited %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := e.readMended(ctx, shardID(id), id.Pos, damage); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody waits, and it says %v", err)
		}
		time.AfterFunc(mendWait/2, func() { close(mended) })
		if _, item, err := e.readMended(t.Context(), shardID(id), id.Pos, damage); err != nil || len(item) == 0 {
			t.Errorf("mended, it reads %q, %v", item, err)
		}
		if lost := (&wal.CorruptError{}); !isDamage(lost) || beingMended(lost) != nil {
			t.Error("what nobody is asked for is waited for")
		}
	})
}

// TestOnlyTheLeaderBuries: a node that leads the shard no more, and cannot read a job that it leased when it did, gives all of them back and has
// none buried: the others have its payload.
func TestOnlyTheLeaderBuries(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		name := c.queueOn(2)
		former := c.nodes[c.leader(2)]
		ids := enqueue(t, former, jobs(name, 1)...)
		got := fetchJobs(t, former, register(t, former), 1, name)
		if len(got) != 1 || got[0].ID != ids[0] {
			t.Fatalf("fetched %+v", got)
		}
		c.lead(2, former.Node()%3+1)
		const nowhere = 100 // behind the last item of the job's entry
		leases := []queue.Lease{{Pos: ids[0].Pos, Token: got[0].Token}, {Pos: ids[0].Pos + nowhere, Token: got[0].Token}}
		_, err := former.load(t.Context(), &fetch{from: former.pump(2), leases: leases})
		wantError(t, err, CodeUnavailable, ReasonNotLeader)
		if d, err := former.Job(t.Context(), ids[0]); err != nil || d.Info.State != queue.StateReady || d.Info.Attempt != 0 {
			t.Errorf("the job is %+v, %v; want it ready, as if it had not been leased", d.Info, err)
		}
		if n := former.Stats().JobsDamaged; n != 0 {
			t.Errorf("%d damaged jobs are counted", n)
		}
	})
}
