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

// A replica that is alone refuses, and says what is damaged.
func TestDamagedTailIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.found(1)
		c.add("precious")
		c.add("k")
		c.add("k")
		c.crash(1, vfs.AllLost())
		flipAll(t, c.disks[1], "data/log", "precious")
		err := c.open(1, Replica{})
		if _, ok := errors.AsType[*wal.CorruptError](err); !ok {
			t.Errorf("opens with %v", err)
		}
		c.closeAll()
	})
}
