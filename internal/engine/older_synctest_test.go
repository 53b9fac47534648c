package engine

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestOlderDirectory: a node whose data directory was put back to an older copy does not start, and says why. Its shards stop as soon as
// their leaders name what they once held, and whoever waits for them to have leaders must hear of that.
func TestOlderDirectory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := found(t)
		defer c.close()
		name := c.queueOn(1)
		enqueue(t, c.nodes[1], jobs(name, 1)...)
		c.crash(3)
		older := c.disks[3].CrashClone(vfs.AllLost())
		c.open(3)
		enqueue(t, c.nodes[1], jobs(name, 5)...)
		c.await("node 3 holds all", func() bool {
			return c.nodes[3].host.Stats().Shards[1].Last == c.nodes[1].host.Stats().Shards[1].Last
		})
		pauseFor(time.Second) // the leader hears so
		c.crash(3)

		options := c.options(3, older)
		var fatal error
		options.Fatal = func(err error) { fatal = err }
		began := time.Now()
		_, err := Open(t.Context(), options)
		lost, ok := errors.AsType[*shard.LostLogError](err)
		if !ok || lost.Replica.Node() != 3 { // of whichever shard: the leads have moved, too
			t.Fatalf("opened with %v", err)
		}
		if !errors.Is(fatal, err) {
			t.Errorf("the owner is told %v", fatal)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		lock, err := older.Lock("data/LOCK")
		if err != nil {
			t.Fatalf("the directory is not let go: %v", err)
		}
		if err := lock.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
