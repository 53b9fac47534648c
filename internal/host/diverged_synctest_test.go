package host

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// skew changes a node's state behind the log's back: one counter is wrong, and nothing that it counted is live.
func (c *cluster) skew(id uint64, key string) {
	c.t.Helper()
	n := c.nodes[id]
	if err := n.StaleRead(c.t.Context(), groupShard, func() {
		d := n.drivers[groupShard]
		d.values[key] += 100
		delete(d.newest, key)
		d.print++
	}); err != nil {
		c.t.Fatal(err)
	}
}

// fillAbreast is fill at the pace of the slowest. One that is so far behind that the log has forgotten what it lacks is brought a
// snapshot, which heals a wrong state before anybody finds out.
func (c *cluster) fillAbreast() {
	c.t.Helper()
	c.fillPaced(3, func() {
		c.await("all have applied it", func() bool {
			at := c.nodes[c.leader()].Stats().Shards[0].Applied
			for _, n := range c.nodes {
				if n.Stats().Shards[0].Applied != at {
					return false
				}
			}
			return true
		})
	})
}

// foundPrecious founds the group, adds what is live for ever, and fills the log behind it.
func (c *cluster) foundPrecious() {
	c.t.Helper()
	c.found(3)
	c.add("precious|once")
	c.fill(3)
}

// verify has whoever leads put its fingerprint through the log.
func (c *cluster) verify() {
	c.t.Helper()
	n := c.nodes[c.leader()]
	var item string
	if err := n.StaleRead(c.t.Context(), groupShard, func() {
		d := n.drivers[groupShard]
		item = fmt.Sprintf("!%d:%x", d.applied, d.print)
	}); err != nil {
		c.t.Fatal(err)
	}
	c.add(item)
}

func (c *cluster) doubt(id uint64) replica.Doubt { return c.nodes[id].Stats().Shards[0].Doubt }

// rebuilt waits until the group is healed, and looks whether it is.
func (c *cluster) rebuilt(wrong uint64) {
	c.t.Helper()
	c.await("it is rebuilt", func() bool {
		return c.doubt(wrong).Trust == replica.Trusted && c.nodes[wrong].Stats().Shards[0].Rebuilt == 1
	})
	c.agree(1, 2, 3)
	for id := range c.nodes {
		if d := c.doubt(id); d.Trust != replica.Trusted {
			c.t.Errorf("node %d: %+v", id, d)
		}
	}
	c.crash(wrong, vfs.AllLost())
	c.mustOpen(wrong, Replica{})
	c.verify()
	c.agree(1, 2, 3)
	if d := c.doubt(wrong); d.Trust != replica.Trusted {
		c.t.Errorf("after another start: %+v", d)
	}
}

// A follower whose state went wrong some snapshots ago, so that its log has forgotten what is live, is rebuilt while the group goes on.
func TestDivergedFollowerIsRebuilt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.foundPrecious()
		leader := c.leader()
		wrong := c.others(leader)[0]
		c.skew(wrong, "precious")
		c.fillAbreast()
		c.net.let(wrong, 0)
		c.verify()
		c.await("it is found out", func() bool { return c.doubt(wrong).Trust == replica.Wrong })
		c.fill(3) // it goes on to acknowledge
		c.net.let(wrong, -1)
		c.rebuilt(wrong)
		if c.leader() != leader {
			t.Error("the lead was lost for a follower's sake")
		}
	})
}

// A leader whose state went wrong is outvoted by its followers, gives up the lead, and is rebuilt by who leads then.
func TestDivergedLeaderIsOutvoted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.foundPrecious()
		wrong := c.leader()
		c.skew(wrong, "precious")
		c.fill(3)
		c.net.let(wrong, 0)
		begun := time.Now()
		c.verify()
		c.await("it is found out", func() bool { return c.doubt(wrong).Trust == replica.Wrong })
		c.await("another leads", func() bool { return c.leader() != wrong })
		if took := time.Since(begun); took > time.Second {
			t.Errorf("that took %v", took)
		}
		if v, err := c.nodes[c.leader()].value(t.Context(), groupShard, "precious"); err != nil || v != 1 {
			t.Errorf("precious is %d, %v", v, err)
		}
		c.fill(3)
		c.net.let(wrong, -1)
		c.rebuilt(wrong)
	})
}

// A follower whose state went wrong, and that is then cut off until the log has forgotten what it lacks, is healed by the snapshot
// that it is brought for that, before anybody finds out: nothing that the wrong state let the log forget is missing then.
func TestDivergedFollowerIsBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.foundPrecious()
		wrong := c.others(c.leader())[0]
		c.skew(wrong, "precious")
		c.fillAbreast()
		c.net.cutOff(wrong, true)
		c.fill(3)
		c.verify()
		c.crash(wrong, vfs.AllLost())
		c.mustOpen(wrong, Replica{})
		c.net.cutOff(wrong, false)
		c.agree(1, 2, 3)
		c.verify()
		c.agree(1, 2, 3)
		if s := c.nodes[wrong].Stats().Shards[0]; s.Rebuilt != 0 || s.Doubt.Trust != replica.Trusted {
			t.Errorf("rebuilt %d times, %+v", s.Rebuilt, s.Doubt)
		}
		c.crash(wrong, vfs.AllLost())
		c.mustOpen(wrong, Replica{})
		c.agree(1, 2, 3)
	})
}

// Crashes at each stage of being rebuilt: whatever they leave, the replica serves no wrong state, and is rebuilt at last.
func TestDivergedCrashes(t *testing.T) {
	t.Parallel()
	for _, o := range []vfs.Outcome{vfs.AllLost(), vfs.Killed(), vfs.Mixed(5)} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			defer c.closeAll()
			c.foundPrecious()
			wrong := c.others(c.leader())[1]
			c.skew(wrong, "precious")
			c.fillAbreast()
			c.net.let(wrong, 0)
			c.verify()
			marked := false
			// The first crash may come before the verdict is durable: then the next fingerprint leads to it again.
			for i, rebuilt := 0, false; !rebuilt; i++ {
				if i == 100 {
					t.Fatal("it is never rebuilt")
				}
				c.net.let(wrong, i/3)
				time.Sleep(time.Duration(i%3) * 700 * time.Millisecond)
				s := c.nodes[wrong].Stats().Shards[0]
				if s.Leading && s.Doubt.Trust != replica.Trusted {
					t.Error("a replica leads that must not")
				}
				c.crash(wrong, o)
				_, still, err := snapshot.Condemned(c.disks[wrong], SnapshotDir("data", groupShard))
				if err != nil {
					t.Fatal(err)
				}
				rebuilt = s.Rebuilt == 1 || marked && !still // It may end between the look and the crash.
				marked = still
				c.mustOpen(wrong, Replica{})
				c.verify()
			}
			c.net.let(wrong, -1)
			c.agree(1, 2, 3)
		})
	}
}
