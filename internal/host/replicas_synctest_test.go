package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A crash before any call to the disk while a replica is retired: at the next start it is either as it was or retired, and then
// nothing is left of it, its id is refused, and one that was born later may come.
func TestRetireCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	type crash struct {
		name string
		disk *vfs.Sim
	}
	var (
		mu      sync.Mutex
		crashes []crash
	)
	disk := vfs.NewSim(1, vfs.SimOptions{})
	small := func(o *Options) { o.WAL.FileBytes, o.SnapshotBytes = 32<<10, 16<<10 }
	n := mustOpen(t, disk, nil, small)
	for i := range 60 {
		for id := range shard.ID(2) {
			if _, err := n.add(id, fmt.Sprint("k", i%20, "|", string(make([]byte, 1500)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	disk.SetHook(func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		for _, o := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(op.Number)} {
			crashes = append(crashes, crash{fmt.Sprintf("%s before call %d", o, op.Number), disk.CrashClone(o)})
		}
		return nil
	})
	if err := n.RemoveReplica(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	n.mustClose(t)
	disk.SetHook(nil)
	crashes = append(crashes, crash{"when all is done", disk})
	t.Logf("%d crashes", len(crashes))
	retired := 0
	for _, c := range crashes {
		records, err := ReadRecords(c.disk, "data")
		if err != nil || len(records) != 2 {
			t.Fatalf("%s: records %+v, %v", c.name, records, err)
		}
		gone := records[1].State == Retired
		n, err := openNode(t.Context(), c.disk, nil, func(o *Options) {
			small(o)
			if gone {
				o.Shards = o.Shards[:1]
			}
		})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if v, err := n.value(t.Context(), 0, "k3"); err != nil || v != 3 {
			t.Errorf("%s: the other shard has %d, %v", c.name, v, err)
		}
		if !gone {
			if v, err := n.value(t.Context(), 1, "k3"); err != nil || v != 3 {
				t.Errorf("%s: the shard has %d, %v", c.name, v, err)
			}
			if err := n.RemoveReplica(t.Context(), 1); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else {
			retired++
		}
		n.checkRetired(t, c.name, c.disk)
		n.mustClose(t)
	}
	if retired == 0 || retired == len(crashes) {
		t.Errorf("%d of %d crashes came after the decision", retired, len(crashes))
	}
}

// checkRetired looks whether nothing is left of shard 1.
func (n *node) checkRetired(t *testing.T, name string, disk *vfs.Sim) {
	t.Helper()
	for _, dir := range []string{"data/snapshots", "data/incoming", "data/log/live"} {
		if files, _ := disk.List(dir + "/00001"); len(files) > 0 {
			t.Errorf("%s: %s has %v", name, dir, files)
		}
	}
	if s := n.log.State(1); s != (wal.ShardState{First: 1}) {
		t.Errorf("%s: the log has %+v", name, s)
	}
	old := shard.NewReplicaID(1, 0)
	if err := n.AddReplica(t.Context(), Replica{Shard: 1, ID: old, Founders: []shard.ReplicaID{old}}); err == nil {
		t.Errorf("%s: the retired replica runs again", name)
	}
	if err := n.AddReplica(t.Context(), Replica{Shard: 1, ID: shard.NewReplicaID(1, 99), Join: true}); err != nil {
		t.Errorf("%s: a later replica: %v", name, err)
	}
}

// The power goes before any call to the disk of a node that joins, from its first start until it has caught up: when it comes
// back it goes on.
func TestJoinCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	step := uint64(9 * sparse(3))
	if seeds(t, 0) > 1 {
		step = 1
	}
	installed := 0
	for cut, reached := uint64(1), true; reached; cut += step {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			defer c.closeAll()
			c.found(1)
			c.fill(10)
			made := c.change(shard.Change{Kind: shard.AddLearner, Replica: shard.NewReplicaID(2, 0)})
			disk := vfs.NewSim(cut, vfs.SimOptions{})
			disk.SetHook(func(op vfs.Op) error {
				if op.Number >= cut {
					return vfs.ErrPowerCut
				}
				return nil
			})
			c.disks[2] = disk
			joins := Replica{ID: made[0].Replica, Join: true}
			if c.open(2, joins) == nil {
				c.await("it is dead or has caught up", func() bool {
					s := c.nodes[2].Stats().Shards[0]
					reached = c.nodes[2].failed.Load()
					return reached || s.Applied == c.nodes[1].Stats().Shards[0].Applied
				})

				c.crash(2, vfs.Mixed(cut))
			} else {
				c.disks[2] = disk.CrashClone(vfs.Mixed(cut))
			}
			records, err := ReadRecords(c.disks[2], "data")
			if err != nil {
				t.Fatalf("cut %d: %v", cut, err)
			}
			if slices.ContainsFunc(records, func(r Record) bool { return r.State == Member }) {
				installed++
			}
			c.mustOpen(2, joins)
			c.add("k")
			c.agree(2)
		})
		if t.Failed() {
			return
		}
	}
	if installed == 0 {
		t.Error("no crash came after the installation")
	}
}

// Operations end when the node closes, and when their caller gives up.
func TestOperationsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.found(3)
		old := c.leader()
		c.agree(1, 2, 3)
		for _, id := range c.others(old) {
			c.net.cutOff(id, true)
		}
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, OperationsMax)
		for range OperationsMax {
			go func() {
				_, err := c.nodes[old].ChangeMembers(ctx, groupShard, shard.Change{Kind: shard.AddLearner, Replica: shard.NewReplicaID(4, 0)})
				results <- err
			}()
		}
		synctest.Wait()
		cancel()
		for range OperationsMax {
			if err := <-results; err == nil {
				t.Error("a change of members was made by a leader that is alone")
			}
		}
		n := c.nodes[old]
		if _, _, err := n.Members(t.Context(), groupShard); err != nil {
			t.Errorf("when the others are gone: %v", err)
		}
		n.loop(groupShard).mu.Lock()
		left := n.loop(groupShard).operations
		n.loop(groupShard).mu.Unlock()
		if left != 0 {
			t.Errorf("%d operations are counted and gone", left)
		}
		for _, id := range c.others(old) {
			c.net.cutOff(id, false)
		}
		c.closeAll()
		if _, _, err := n.Members(t.Context(), groupShard); err == nil {
			t.Error("members of a closed node")
		}
	})
}

// TestMembersGivenUp: who gives up a question gets nothing of the answer, which the shard's loop may be writing then.
func TestMembersGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 {
			members, peers, err := c.nodes[1].Members(ctx, groupShard)
			if err != nil && (len(members.Voters) > 0 || peers != nil || !errors.Is(err, context.Canceled)) {
				t.Fatalf("Members = %v, %v, %v", members, peers, err)
			}
			synctest.Wait() // Now the loop has answered, without anything that orders it behind the return: the race detector sees it.
		}
	})
}
