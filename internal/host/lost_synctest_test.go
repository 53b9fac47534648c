package host

import (
	"errors"
	"maps"
	"path"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// flipHeaders damages the headers of those frames of a log's tail that are picked.
func flipHeaders(t *testing.T, disk *vfs.Sim, pick func(wal.Record) bool) (places int) {
	t.Helper()
	var picked []wal.Record
	err := wal.Inspect(disk, "data/log", func(r wal.Record) error {
		if (r.Kind == wal.RecordEntry || r.Kind == wal.RecordState) && strings.Contains(r.File, "/tail/") && pick(r) {
			picked = append(picked, r)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range picked {
		if err := disk.FlipBit(r.File, r.Offset+16, 0); err != nil {
			t.Fatal(err)
		}
	}
	return len(picked)
}

// A node whose disk flipped a bit in the header of an entry starts, is no part of its group until a snapshot has come that covers what it
// does not know, and then goes on under its id.
func TestDamagedHeaderHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.edit = func(o *Options) { o.SnapshotBytes = 1 << 30 }
		c.found(3)
		for range 5 {
			c.add("k")
		}
		victim := c.leader()
		c.agree(1, 2, 3)
		last := c.nodes[victim].Stats().Shards[0].Applied
		c.crash(victim, vfs.AllLost())
		if flipHeaders(t, c.disks[victim], func(r wal.Record) bool { return r.Index == last-2 }) != 1 {
			t.Fatal("nothing was damaged")
		}
		c.add("k")
		c.net.cutOff(victim, true)
		c.mustOpen(victim, Replica{})
		n := c.nodes[victim]
		time.Sleep(30 * time.Second) // many election timeouts
		if s := n.Stats().Shards[0]; n.mending() != last-2 || s.Leader != 0 {
			t.Errorf("with a gap: %+v", s)
		}
		c.net.cutOff(victim, false)
		c.await("it is back", func() bool { return n.mending() == 0 })
		c.agree(1, 2, 3)
		c.payloads(victim)
		c.crash(c.others(victim)[0], vfs.AllLost())
		c.add("k") // by its vote
	})
}

// A replica that may have lost a vote is not run, and loses nothing more, until the group has removed it; then its node is a member
// again under another id. One that is its whole group refuses to start.
func TestLostPromises(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, disk *vfs.Sim) (places int){
		"every header": func(t *testing.T, disk *vfs.Sim) int {
			return flipHeaders(t, disk, func(wal.Record) bool { return true })
		},
		"every file": loseTail,
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testLostPromises(t, harm) }) })
	}
}

// loseTail removes all files of a log's tail.
func loseTail(t *testing.T, disk *vfs.Sim) (files int) {
	t.Helper()
	names, err := disk.List("data/log/tail")
	for _, name := range names {
		if strings.HasSuffix(name, ".wal") {
			err = errors.Join(err, disk.Remove("data/log/tail/"+name))
			files++
		}
	}
	if err := errors.Join(err, disk.SyncDir("data/log/tail")); err != nil {
		t.Fatal(err)
	}
	return files
}

func testLostPromises(t *testing.T, harm func(t *testing.T, disk *vfs.Sim) (places int)) {
	c := newCluster(t)
	defer c.closeAll()
	c.found(3)
	for range 5 {
		c.add("k")
	}
	victim := c.others(c.leader())[0]
	old := shard.NewReplicaID(shard.NodeID(victim), 0)
	c.agree(1, 2, 3)
	if err := c.nodes[victim].Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.crash(victim, vfs.AllLost())
	if harm(t, c.disks[victim]) == 0 {
		t.Fatal("nothing was damaged")
	}
	for range 3 { // also when it was found out before
		c.mustOpen(victim, Replica{})
		if lost := c.nodes[victim].Lost(groupShard); lost == nil || lost.Replica != old {
			t.Fatalf("it may have lost its vote, and says %v", lost)
		}
		c.crash(victim, vfs.AllLost())
	}
	c.mustOpen(victim, Replica{})
	n := c.nodes[victim]
	if err := n.AddReplica(t.Context(), Replica{Shard: groupShard, ID: old, Join: true}); err == nil {
		t.Error("the old replica is let in again")
	}
	c.replaced(victim)
	c.crash(c.others(victim)[0], vfs.AllLost())
	c.add("k") // by its vote
}

// replaced has the group make a node a member anew whose replica must not be run, while that node hears of nothing; it comes back, is what
// the others are, and stays so over a crash.
func (c *cluster) replaced(node uint64) {
	c.t.Helper()
	old := shard.NewReplicaID(shard.NodeID(node), 0)
	c.net.cutOff(node, true)
	c.add("k")
	c.change(shard.Change{Kind: shard.Demote, Replica: old})
	c.change(shard.Change{Kind: shard.Remove, Replica: old})
	made := c.change(shard.Change{Kind: shard.AddLearner, Replica: old})
	successor, records := Replica{Shard: groupShard, ID: made[0].Replica, Join: true}, 0
	c.disks[node].SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpCreate && strings.HasPrefix(op.Name, "data/replicas/") {
			if records++; records > 1 { // behind the one that says that the old one is retired
				return syscall.ENOSPC
			}
		}
		return nil
	})
	err := c.nodes[node].AddReplica(c.t.Context(), successor)
	c.disks[node].SetHook(nil)
	if lost := c.nodes[node].Lost(groupShard); err == nil || records != 2 || lost == nil || lost.Replica != old {
		c.t.Fatalf("the disk was full at record %d: %v; it lost %v", records, err, lost)
	}
	if err := c.nodes[node].AddReplica(c.t.Context(), successor); err != nil {
		c.t.Fatal(err)
	}
	if lost := c.nodes[node].Lost(groupShard); lost != nil {
		c.t.Error(lost)
	}
	c.net.cutOff(node, false)
	c.agree(1, 2, 3)
	c.change(shard.Change{Kind: shard.Promote, Replica: made[0].Replica})
	c.crash(node, vfs.AllLost())
	c.mustOpen(node, Replica{})
	if lost := c.nodes[node].Lost(groupShard); lost != nil {
		c.t.Error(lost)
	}
}

// A replica that has no others refuses damage anywhere in its log, each time that it is started, names file and offset, says what to do, and
// changes nothing: what was lost can be put back.
func TestLoneReplicaRefusesDamage(t *testing.T) {
	t.Parallel()
	const first = "data/log/tail/0000000001.wal"
	flip := func(pick func(wal.Record) bool) func(*testing.T, *vfs.Sim) {
		return func(t *testing.T, disk *vfs.Sim) {
			if flipHeaders(t, disk, pick) == 0 {
				t.Fatal("nothing was damaged")
			}
		}
	}
	for name, harm := range map[string]func(*testing.T, *vfs.Sim){
		"an entry's header": flip(func(r wal.Record) bool { return r.Index == 3 }),
		"every header":      flip(func(wal.Record) bool { return true }),
		"the first file":    func(t *testing.T, disk *vfs.Sim) { removeSynced(t, disk, first) },
		"every file":        func(t *testing.T, disk *vfs.Sim) { loseTail(t, disk) },
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { testLoneReplicaRefuses(t, harm) }) })
	}
}

func testLoneReplicaRefuses(t *testing.T, harm func(*testing.T, *vfs.Sim)) {
	c := newCluster(t)
	defer c.closeAll()
	c.edit = func(o *Options) { o.SnapshotBytes = 1 << 30 }
	c.found(1)
	for range 3 {
		c.add("k")
	}
	if err := c.nodes[1].Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.crash(1, vfs.AllLost()) // the mark of the end proves all
	good := c.disks[1].CrashClone(vfs.AllLost())
	harm(t, c.disks[1])
	before := contents(t, c.disks[1], LogDir("data"))
	for range 3 {
		err := c.open(1, Replica{})
		damage, ok := errors.AsType[*wal.CorruptError](err)
		if !ok || !strings.HasPrefix(damage.File, "data/log/tail") || !strings.Contains(err.Error(), "restore the directory data from a copy") {
			t.Errorf("opens with %v", err)
		}
		if after := contents(t, c.disks[1], LogDir("data")); !maps.Equal(before, after) {
			t.Error("the refusal changed the log")
		}
		c.disks[1] = c.disks[1].CrashClone(vfs.AllKept())
	}
	c.disks[1] = good
	c.mustOpen(1, Replica{})
	c.add("k")
}

func removeSynced(t *testing.T, disk *vfs.Sim, name string) {
	t.Helper()
	if err := errors.Join(disk.Remove(name), disk.SyncDir(path.Dir(name))); err != nil {
		t.Fatal(err)
	}
}

// contents reads all files below a directory.
func contents(t *testing.T, disk *vfs.Sim, dir string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, base := range names {
		name := path.Join(dir, base)
		info, err := disk.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Dir {
			maps.Copy(all, contents(t, disk, name))
			continue
		}
		f, err := disk.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, info.Size)
		if n, err := f.ReadAt(b, 0); n < len(b) {
			t.Fatal(err)
		}
		all[name] = string(b)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// A replica that has no others does not begin afresh when its log's tail is gone, each time that it is started.
func TestLoneReplicaWithoutTail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(1)
		c.add("k")
		c.crash(1, vfs.AllLost())
		if loseTail(t, c.disks[1]) == 0 {
			t.Fatal("nothing was removed")
		}
		for range 3 {
			err := c.open(1, Replica{})
			if _, ok := errors.AsType[*wal.CorruptError](err); !ok {
				t.Errorf("opens with %v", err)
			}
		}
	})
}
