package host

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// mending is the first hole that keeps a node's replica out of its group; 0 when it is in.
func (n *node) mending() uint64 {
	s := n.Stats().Shards[0]
	if (s.Role == shard.RoleMending) != (s.Hole > 0) {
		return 0
	}
	return s.Hole
}

// A node whose disk flipped a bit in the tail of the log starts, is no part of its group until another node has sent the entry, and
// then goes on.
func TestDamagedTailHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.edit = func(o *Options) { o.SnapshotBytes = 1 << 30 }
		c.found(3)
		c.add("precious")
		c.add("k")
		c.add("k")
		victim := c.leader()
		c.agree(1, 2, 3)
		c.crash(victim, vfs.AllLost())
		if flipAll(t, c.disks[victim], "data/log", "precious") == 0 {
			t.Fatal("nothing was damaged")
		}
		c.add("k")
		c.net.cutOff(victim, true)
		c.mustOpen(victim, Replica{})
		n := c.nodes[victim]
		before := n.Stats().Shards[0]
		time.Sleep(30 * time.Second) // many election timeouts
		if s := n.Stats().Shards[0]; n.mending() == 0 || s.Term != before.Term || s.Applied != before.Applied || s.Leader != 0 {
			t.Errorf("with a hole: %+v", s)
		}
		if err := n.Read(t.Context(), groupShard, func() {}); !errors.Is(err, ErrNotLeader) {
			t.Errorf("a read says %v", err)
		}
		c.net.cutOff(victim, false)
		c.await("it is back", func() bool { return n.mending() == 0 })
		c.agree(1, 2, 3)
		if s := n.Stats(); s.Log.EntriesMended != 1 || s.Log.EntriesDamaged != 0 || s.Recovery.Holes != 1 {
			t.Errorf("%+v, %+v", s.Log, s.Recovery)
		}
		// It counts again: with it, one of the others can be spared.
		c.crash(c.others(victim)[0], vfs.AllLost())
		c.add("k")
		c.closeAll()
	})
}

// A leader that has to send an entry which its disk has damaged meanwhile begins anew, and heals from whoever leads then.
func TestLeaderMeetsDamage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.edit = func(o *Options) { o.CacheBytes, o.SnapshotBytes = 1, 1<<30 }
		c.found(3)
		old := c.leader()
		lags := c.others(old)[0]
		c.net.cutOff(lags, true)
		c.add("precious")
		for range 5 {
			c.add("k|" + strings.Repeat("p", 5000))
		}
		if flipAll(t, c.disks[old], "data/log", "precious") == 0 {
			t.Fatal("nothing was damaged")
		}
		c.net.cutOff(lags, false)
		c.await("the damage is met and mended", func() bool {
			s := c.nodes[old].Stats()
			return s.Log.EntriesMended == 1 && c.nodes[old].mending() == 0
		})
		c.agree(1, 2, 3)
		c.add("k")
		c.closeAll()
	})
}

// Damage that no peer can make good refuses the start, and says what to do.
func TestDamagedTailIsRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"alone", "header"} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			count := 3
			if name == "alone" {
				count = 1
			}
			c.found(count)
			c.add("precious")
			c.add("k")
			c.add("k")
			if name != "alone" {
				c.agree(1, 2, 3)
			}
			c.crash(1, vfs.AllLost())
			if name == "alone" {
				flipAll(t, c.disks[1], "data/log", "precious")
			} else if err := c.disks[1].FlipBit("data/log/tail/0000000001.wal", 64+8, 1); err != nil { // the first frame's header
				t.Fatal(err)
			}
			err := c.open(1, Replica{})
			if _, ok := errors.AsType[*wal.CorruptError](err); !ok {
				t.Errorf("%s: opens with %v", name, err)
			} else if name != "alone" && !strings.Contains(err.Error(), "join anew") {
				t.Errorf("%s: %v", name, err)
			}
			c.closeAll()
		})
	}
}
