package host

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// caller adds to a counter of its own, wherever the lead is, and remembers what it was told.
type caller struct {
	key          string
	asked, acked uint64
	last         uint64
}

func (c *caller) run(t *testing.T, net *network, stop *atomic.Bool) {
	for i := uint64(0); !stop.Load(); i++ {
		n := net.leading()
		if n == nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		c.asked++
		a, err := n.add(groupShard, fmt.Sprint(c.key, "|", strings.Repeat("p", int(i%7)*300)))
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		if c.acked++; a.value <= c.last {
			t.Errorf("%s: %d after %d", c.key, a.value, c.last)
		}
		c.last = a.value
		if i%5 == 0 {
			if v, err := n.value(t.Context(), groupShard, c.key); err == nil && v < c.last {
				t.Errorf("%s: a read sees %d, %d was answered", c.key, v, c.last)
			}
		}
		time.Sleep(time.Duration(5+i%3*10) * time.Millisecond)
	}
}

// leading is a node that takes itself for the leader.
func (n *network) leading() *node {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, o := range n.nodes {
		if l, _ := o.LeadershipOf(groupShard); l.Leading {
			return o
		}
	}
	return nil
}

// Callers add while nodes crash and lose what was not synced, are cut off, hand over and come back: no answer is lost, reads miss
// none, and all nodes agree at the end.
func TestGroupInTrouble(t *testing.T) {
	t.Parallel()
	for seed := range uint64(seeds(t, 2)) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			defer c.closeAll()
			c.found(3)
			c.leader()
			var (
				stop    atomic.Bool
				group   sync.WaitGroup
				callers []*caller
			)
			for i := range 6 {
				one := &caller{key: fmt.Sprint("caller", i)}
				callers = append(callers, one)
				group.Go(func() { one.run(t, c.net, &stop) })
			}
			c.trouble(rand.New(rand.NewPCG(seed, 3)))
			stop.Store(true)
			group.Wait()
			c.add("k")
			c.agree(1, 2, 3)
			for _, caller := range callers {
				v, err := c.nodes[c.leader()].value(t.Context(), groupShard, caller.key)
				if err != nil || v < caller.acked || v > caller.asked {
					t.Errorf("seed %d: %s is %d, %d of %d were answered, %v", seed, caller.key, v, caller.acked, caller.asked, err)
				}
				if caller.acked < 50 {
					t.Errorf("seed %d: only %d answers", seed, caller.acked)
				}
			}
		})
	}
}

// trouble makes some.
func (c *cluster) trouble(rng *rand.Rand) {
	between := func(lo, hi int) { time.Sleep(time.Duration(lo+rng.IntN(hi-lo)) * time.Millisecond) }
	for range 15 {
		between(100, 1000)
		victim := 1 + rng.Uint64N(3)
		if rng.IntN(2) == 0 {
			victim = c.leader()
		}
		switch rng.IntN(5) {
		case 0, 1:
			c.crash(victim, vfs.Mixed(rng.Uint64()))
			between(10, 3000)
			c.mustOpen(victim, Replica{})
		case 2:
			c.net.cutOff(victim, true)
			between(10, 8000)
			c.net.cutOff(victim, false)
		case 3:
			_ = c.nodes[c.leader()].TransferLead(c.t.Context(), groupShard, shard.NodeID(victim)) // It may be too late for it.
		default: // everyone
			for id := range uint64(3) {
				c.crash(id+1, vfs.Mixed(rng.Uint64()))
			}
			between(10, 300)
			for id := range uint64(3) {
				c.mustOpen(id+1, Replica{})
			}
		}
	}
}
