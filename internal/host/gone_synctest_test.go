package host

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestGoneLeader: when the others hear that their leader's process has ended, they elect another long before they would miss it, and
// without a split vote, however many they are.
func TestGoneLeader(t *testing.T) {
	for _, count := range []int{3, 5} {
		t.Run(fmt.Sprint(count), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				defer c.closeAll()
				c.found(count)
				c.add("k")
				for range 2 { // a minority in all
					gone := c.leader()
					term := c.nodes[gone].Stats().Shards[0].Term
					c.crash(gone, vfs.Killed())
					began := time.Now()
					for _, n := range c.nodes {
						n.PeerGone(gone)
					}
					if count == 3 && len(c.nodes) == 1 {
						return
					}
					next := c.leader()
					if took := time.Since(began); took > 300*time.Millisecond {
						t.Errorf("it took %v until another one led", took)
					}
					if s := c.nodes[next].Stats().Shards[0]; s.Term != term+1 {
						t.Errorf("node %d leads in term %d after term %d: votes were split", next, s.Term, term)
					}
					c.add("k")
				}
			})
		})
	}
}

// TestGoneHeir: the voter whose turn is first may be gone as well, or hear of nothing; then it is the next one's.
func TestGoneHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(5)
		c.add("k")
		first := c.leader()
		heir := first%5 + 1
		c.crash(first, vfs.Killed())
		c.crash(heir, vfs.Killed())
		began := time.Now()
		for _, n := range c.nodes {
			n.PeerGone(first)
		}
		c.leader()
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("it took %v until another one led", took)
		}
		c.add("k")
	})
}

// TestGoneByMistake: a leader that lives is not deposed because one of the others believes that it is gone. When all do, another one
// is elected, and nothing is lost.
func TestGoneByMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.add("k")
		leader := c.leader()
		term := c.nodes[leader].Stats().Shards[0].Term
		for range 10 {
			c.nodes[leader%3+1].PeerGone(leader)
			time.Sleep(250 * time.Millisecond)
		}
		if s := c.nodes[c.leader()].Stats().Shards[0]; c.leader() != leader || s.Term != term {
			t.Fatalf("node %d leads in term %d, it was node %d in term %d", c.leader(), s.Term, leader, term)
		}
		for id, n := range c.nodes {
			n.PeerGone(leader)
			n.PeerGone(id%3 + 1)
		}
		c.add("k")
		c.agree(1, 2, 3)
	})
}
