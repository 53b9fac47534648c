package host

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// Who waits for another leader is told when there is one, and not before anything changed.
func TestMovedTellsOfANewLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		old := c.leader()
		waiting := c.nodes[c.others(old)[0]]
		moved := waiting.Moved()
		time.Sleep(10 * time.Second)
		if isStopped(moved) {
			t.Error("nothing changed, and it tells of it")
		}
		c.crash(old, vfs.AllLost())
		for {
			<-moved
			moved = waiting.Moved()
			if l, _ := waiting.LeadershipOf(groupShard); l.Leader != 0 && uint64(l.Leader) != old {
				return
			}
		}
	})
}
