package host

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// fullDirDisk has no room for one more name in a directory of snapshots, as often as it is said.
type fullDirDisk struct {
	vfs.FS
	times *atomic.Int32
}

func (d fullDirDisk) Rename(from, to string) error {
	if strings.Contains(from, "incoming/") && strings.Contains(to, snapshotDirName+"/") && d.times.Add(-1) >= 0 {
		return syscall.ENOSPC
	}
	return d.FS.Rename(from, to)
}

// When there is no room in the middle of an installation that was decided, the node ends, and completes it at the next start: the
// replica must not go on between the old state and the new.
func TestInstallationMeetsAFullDirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		behind := c.leaveBehind()
		c.crash(behind, vfs.Killed())
		var times atomic.Int32
		times.Store(1)
		c.edit = func(o *Options) { o.FS = fullDirDisk{o.FS, &times} }
		c.mustOpen(behind, Replica{})
		c.net.cutOff(behind, false)
		failed := false
		c.await("the node ends, or has caught up", func() bool {
			select {
			case err := <-c.nodes[behind].fatal:
				failed = err != nil
			default:
			}
			return failed
		})
		c.crash(behind, vfs.Killed())
		c.edit = nil
		c.mustOpen(behind, Replica{})
		c.agree(behind)
	})
}

// leaveBehind founds the group, and cuts a follower off until the log has forgotten what it lacks. It returns who that is.
func (c *cluster) leaveBehind() (behind uint64) {
	c.found(3)
	c.add("k")
	c.agree(1, 2, 3)
	behind = c.others(c.leader())[0]
	c.net.cutOff(behind, true)
	c.fill(3)
	return behind
}

// cutShort makes a replica that is behind end in the middle of an installation: a call of its file system fails. It returns who that is.
func (c *cluster) cutShort(fault func(vfs.FS) vfs.FS) (behind uint64) {
	behind = c.leaveBehind()
	c.crash(behind, vfs.Killed())
	c.edit = func(o *Options) { o.FS = fault(o.FS) }
	c.mustOpen(behind, Replica{})
	c.edit = nil
	c.net.cutOff(behind, false)
	c.await("the node ends", func() bool {
		select {
		case err := <-c.nodes[behind].fatal:
			return err != nil
		default:
			return false
		}
	})
	c.crash(behind, vfs.AllKept())
	return behind
}

// spoilNewest flips a bit of the newest snapshot in a directory.
func spoilNewest(t *testing.T, disk *vfs.Sim, dir string) {
	t.Helper()
	files, err := snapshot.List(disk, dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("no snapshot in %s: %v", dir, err)
	}
	if err := disk.FlipBit(files[0].Path, files[0].Bytes/2, 3); err != nil {
		t.Fatal(err)
	}
}

// When a snapshot that was decided to be installed is damaged before it is, the replica goes on as it was, and is brought another.
func TestDamagedInstallationIsAbandoned(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		var times atomic.Int32
		times.Store(1)
		behind := c.cutShort(func(disk vfs.FS) vfs.FS { return fullDirDisk{disk, &times} })
		spoilNewest(t, c.disks[behind], transfer.Dir("data", groupShard))
		c.mustOpen(behind, Replica{})
		if lost := c.nodes[behind].Lost(groupShard); lost != nil {
			t.Fatal(lost)
		}
		c.agree(behind)
		c.crash(c.others(behind)[0], vfs.AllLost())
		c.add("k") // by its vote
	})
}

// stuckDisk cannot say that an installation is over.
type stuckDisk struct{ vfs.FS }

func (d stuckDisk) Remove(name string) error {
	if strings.HasSuffix(name, "/install") {
		return syscall.EIO
	}
	return d.FS.Remove(name)
}

// When it is damaged after the log began behind it, the replica has no state to go on from: it is not run, at any start, until the group
// has made the node a member anew.
func TestDamagedInstallationIsNotRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		behind := c.cutShort(func(disk vfs.FS) vfs.FS { return stuckDisk{disk} })
		old := shard.NewReplicaID(shard.NodeID(behind), 0)
		spoilNewest(t, c.disks[behind], SnapshotDir("data", groupShard))
		for range 3 {
			c.mustOpen(behind, Replica{})
			lost := c.nodes[behind].Lost(groupShard)
			if _, damaged := errors.AsType[*transfer.DamagedError](lost); lost == nil || lost.Replica != old || !damaged {
				t.Fatalf("it has no state, and says %v", lost)
			}
			c.crash(behind, vfs.AllLost())
		}
		c.mustOpen(behind, Replica{})
		c.replaced(behind)
		c.agree(1, 2, 3)
	})
}

// A snapshot that was brought and is installed may be damaged, or be gone, at a later start. The log begins behind it, so the replica has no
// state to go on from: it is not run, at any start, until the group has made the node a member anew.
func TestBroughtSnapshotIsLost(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(*testing.T, *vfs.Sim){
		"damaged": func(t *testing.T, disk *vfs.Sim) { spoilNewest(t, disk, SnapshotDir("data", groupShard)) },
		"missing": removeNewest,
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testBroughtSnapshotIsLost(t, harm) }) })
	}
}

func testBroughtSnapshotIsLost(t *testing.T, harm func(*testing.T, *vfs.Sim)) {
	c := newCluster(t)
	defer c.closeAll()
	behind := c.leaveBehind()
	c.net.cutOff(behind, false)
	c.agree(1, 2, 3)
	c.crash(behind, vfs.AllLost())
	harm(t, c.disks[behind])
	old := shard.NewReplicaID(shard.NodeID(behind), 0)
	for range 3 {
		c.mustOpen(behind, Replica{})
		if lost := c.nodes[behind].Lost(groupShard); lost == nil || lost.Replica != old {
			t.Fatalf("it has no state, and says %v", lost)
		}
		c.crash(behind, vfs.AllLost())
	}
	c.mustOpen(behind, Replica{})
	c.replaced(behind)
	c.agree(1, 2, 3)
	c.crash(c.others(behind)[0], vfs.AllLost())
	c.add("k") // by its vote
}

// removeNewest removes the newest snapshot of the group's shard.
func removeNewest(t *testing.T, disk *vfs.Sim) {
	t.Helper()
	dir := SnapshotDir("data", groupShard)
	files, err := snapshot.List(disk, dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("no snapshot in %s: %v", dir, err)
	}
	if err := errors.Join(disk.Remove(files[0].Path), disk.SyncDir(dir)); err != nil {
		t.Fatal(err)
	}
}
