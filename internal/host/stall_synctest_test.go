package host

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// slowDisks are disks of three nodes. On that of the node stalled names, a sync takes five seconds.
func slowDisks(c *cluster, stalled *atomic.Uint64) {
	for id := range uint64(3) {
		c.disks[id+1] = vfs.NewSim(id+1, vfs.SimOptions{Latency: func(op vfs.Op) {
			if op.Kind == vfs.OpSyncData && stalled.Load() == id+1 {
				time.Sleep(5 * time.Second)
			}
		}})
	}
}

// TestStalledFollower: a follower's disk that stands still holds up nothing, and makes nobody stand for election.
func TestStalledFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		var stalled atomic.Uint64
		slowDisks(c, &stalled)
		c.found(3)
		c.add("k")
		leader := c.leader()
		term := c.nodes[leader].Stats().Shards[0].Term
		stalled.Store(leader%3 + 1)
		began := time.Now()
		for i := range 20 {
			if _, err := c.nodes[leader].add(groupShard, fmt.Sprint("k", i%5)); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("20 commands took %v", took)
		}
		time.Sleep(12 * time.Second)
		if s := c.nodes[leader].Stats().Shards[0]; !s.Leading || s.Term != term {
			t.Errorf("node %d led in term %d, and now it is %+v", leader, term, s)
		}
		stalled.Store(0)
		c.agree(1, 2, 3)
	})
}

// TestStalledLeader: a leader whose disk stands still is not deposed for a sync that takes longer than an election, but hands the lead
// over when that goes on, without a timeout.
func TestStalledLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		var stalled atomic.Uint64
		slowDisks(c, &stalled)
		c.found(3)
		c.add("k")
		leader := c.leader()
		term := c.nodes[leader].Stats().Shards[0].Term
		stalled.Store(leader)
		c.nodes[leader].drivers[groupShard].push("k1")
		c.nodes[leader].Wake(groupShard)
		time.Sleep(1900 * time.Millisecond)
		if s := c.nodes[leader].Stats().Shards[0]; !s.Leading || s.Term != term {
			t.Fatalf("after a stall of 1.9 s node %d, which led in term %d, is %+v", leader, term, s)
		}
		time.Sleep(300 * time.Millisecond)
		next := c.leader()
		if s := c.nodes[next].Stats().Shards[0]; next == leader || s.Term != term+1 {
			t.Fatalf("after a stall of 2.2 s node %d leads in term %d; node %d led in term %d", next, s.Term, leader, term)
		}
		c.add("k2")
		stalled.Store(0)
		c.agree(1, 2, 3)
	})
}
