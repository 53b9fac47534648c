package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// groupShard is the shard that all nodes of a test cluster have.
const groupShard shard.ID = 1

// cluster is nodes of one process with a network and a disk each.
type cluster struct {
	t     *testing.T
	net   *network
	nodes map[uint64]*node
	disks map[uint64]*vfs.Sim
	edit  func(*Options)
}

func newCluster(t *testing.T) *cluster {
	return &cluster{
		t: t, nodes: map[uint64]*node{}, disks: map[uint64]*vfs.Sim{},
		net: newNetwork(),
	}
}

func founders(count int) (all []shard.ReplicaID) {
	for i := range count {
		all = append(all, shard.NewReplicaID(shard.NodeID(i+1), 0))
	}
	return all
}

// open opens a node over its disk, which is made when it has none, with one replica of groupShard.
func (c *cluster) open(id uint64, r Replica) error {
	if c.disks[id] == nil {
		c.disks[id] = vfs.NewSim(id, vfs.SimOptions{})
	}
	r.Shard = groupShard
	n, err := openNode(c.t.Context(), c.disks[id], nil, func(o *Options) {
		c.options(o, id)
		o.Replicas = []Replica{r}
		if c.edit != nil {
			c.edit(o)
		}
	})
	if err != nil {
		return err
	}
	c.nodes[id] = n
	c.net.plug(id, n)
	return nil
}

// options are those of a node in a cluster.
func (c *cluster) options(o *Options, id uint64) {
	o.Node, o.Cluster, o.Shards = id, 7, nil
	o.Transport = link{c.net, id}
	o.NewMachine = func(id shard.ID) shard.StateMachine { return newDriver(id) }
	o.WAL.FileBytes, o.SnapshotBytes = 64<<10, 32<<10
	made := o.NewDriver
	o.NewDriver = func(s shard.ID, p Payloads) Driver {
		d := made(s, p).(*driver)
		d.node = id
		return d
	}
}

func (c *cluster) mustOpen(id uint64, r Replica) {
	c.t.Helper()
	if err := c.open(id, r); err != nil {
		c.t.Fatal(err)
	}
}

// found opens so many nodes that found a group.
func (c *cluster) found(count int) {
	c.t.Helper()
	for _, r := range founders(count) {
		c.mustOpen(uint64(r.Node()), Replica{ID: r, Founders: founders(count)})
	}
}

// crash ends a node with what that leaves on its disk.
func (c *cluster) crash(id uint64, o vfs.Outcome) {
	c.net.mu.Lock()
	delete(c.net.nodes, id)
	c.net.mu.Unlock()
	c.disks[id] = c.disks[id].CrashClone(o)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.nodes[id].Close(ctx)
	delete(c.nodes, id)
}

// closeAll closes every node.
func (c *cluster) closeAll() {
	for id, n := range c.nodes {
		select {
		case err := <-n.fatal:
			c.t.Errorf("node %d: %v", id, err)
		default:
		}
		n.mustClose(c.t)
	}
}

// await waits until something is so.
func (c *cluster) await(what string, so func() bool) {
	c.t.Helper()
	for range 6000 {
		if so() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	for id, n := range c.nodes {
		c.t.Logf("node %d: %+v", id, n.Stats().Shards)
	}
	c.t.Fatalf("in a minute it does not come to this: %s", what)
}

// leader waits until one node leads and is known to lead by all others that are connected.
func (c *cluster) leader() (id uint64) {
	c.t.Helper()
	c.await("one leads", func() bool {
		id = 0
		for n, host := range c.nodes {
			if l, _ := host.LeadershipOf(groupShard); l.Leading && !c.net.isCut(n) {
				id = n
			}
		}
		for n, host := range c.nodes {
			if l, _ := host.LeadershipOf(groupShard); !c.net.isCut(n) && uint64(l.Leader) != id {
				return false
			}
		}
		return id != 0
	})
	return id
}

// add adds to a counter at whoever leads, until it works.
func (c *cluster) add(key string) {
	c.t.Helper()
	c.await("a command is applied", func() bool {
		_, err := c.nodes[c.leader()].add(groupShard, key)
		return err == nil
	})
}

// fill adds so much that the log forgets what is not live.
func (c *cluster) fill(keys int) {
	c.t.Helper()
	c.fillPaced(keys, func() {})
}

// fillPaced is fill with something to do after each addition.
func (c *cluster) fillPaced(keys int, after func()) {
	c.t.Helper()
	pad := strings.Repeat("p", 2000)
	for i := range 150 {
		c.add(fmt.Sprint("fill", i%keys, "|", pad))
		after()
	}
}

// agree waits until a node's state is that of the leader.
func (c *cluster) agree(ids ...uint64) {
	c.t.Helper()
	c.await(fmt.Sprintf("nodes %v agree", ids), func() bool {
		at := c.nodes[c.leader()].Stats().Shards[0]
		for _, id := range ids {
			if s := c.nodes[id].Stats().Shards[0]; s.Applied != at.Applied || s.Fingerprint != at.Fingerprint {
				return false
			}
		}
		return true
	})
	for _, id := range ids {
		c.payloads(id)
	}
}

// payloads reads everything that a node's state refers to.
func (c *cluster) payloads(id uint64) {
	c.t.Helper()
	var newest map[string]uint64
	n := c.nodes[id]
	if err := n.StaleRead(c.t.Context(), groupShard, func() { newest = n.drivers[groupShard].freeze().newest }); err != nil {
		c.t.Fatal(err)
	}
	for key, index := range newest {
		var (
			item []byte
			err  error
		)
		for i := 0; err == nil && !strings.HasPrefix(string(item), key+"|") && string(item) != key; i++ {
			_, item, err = n.Payload(groupShard, index, i)
		}
		if err != nil {
			c.t.Errorf("node %d: payload of %.6s at %d: %v", id, key, index, err)
		}
	}
}

// change changes members at whoever leads, until it works.
func (c *cluster) change(changes ...shard.Change) []shard.Change {
	c.t.Helper()
	var made []shard.Change
	c.await(fmt.Sprintf("members change by %v", changes), func() bool {
		var err error
		made, err = c.nodes[c.leader()].ChangeMembers(c.t.Context(), groupShard, changes...)
		if bad, ok := errors.AsType[*shard.ChangeError](err); ok {
			c.t.Fatal(bad)
		}
		return err == nil
	})
	return made
}

// others are the nodes but some.
func (c *cluster) others(but ...uint64) (ids []uint64) {
	for id := range c.nodes {
		if !slices.Contains(but, id) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Three nodes elect a leader, apply the same, and go on within a second when the leader is killed; it comes back and catches up,
// having lost what it had not synced.
func TestGroupGoesOnWithoutItsLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		for i := range 20 {
			c.add(fmt.Sprint("k", i%3))
		}
		c.agree(1, 2, 3)
		old := c.leader()
		_, err := c.nodes[c.others(old)[0]].value(t.Context(), groupShard, "k0")
		if hint, ok := errors.AsType[*replica.NotLeaderError](err); !ok || uint64(hint.Leader.Node()) != old {
			t.Errorf("a read at a follower: %v", err)
		}
		c.crash(old, vfs.AllLost())
		killed := time.Now()
		c.add("k0")
		if took := time.Since(killed); took > 3*time.Second {
			t.Errorf("the group goes on after %v", took)
		}
		c.mustOpen(old, Replica{})
		c.agree(1, 2, 3)
		if v, err := c.nodes[c.leader()].value(t.Context(), groupShard, "k0"); err != nil || v != 8 {
			t.Errorf("k0 is %d, %v", v, err)
		}
		// All lose power at once.
		for id := range c.nodes {
			c.crash(id, vfs.AllLost())
		}
		for id := range uint64(3) {
			c.mustOpen(id+1, Replica{})
		}
		c.add("k0")
		c.agree(1, 2, 3)
	})
}

// A closing leader hands the lead over first, so that nobody waits for an election.
func TestCloseHandsTheLeadOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.add("k")
		old := c.leader()
		c.agree(1, 2, 3)
		elections := func() (count uint64) {
			for _, s := range c.nodes[c.others(old)[0]].Stats().Shards {
				count += s.Elections
			}
			return count
		}
		before := elections()
		begun := time.Now()
		n := c.nodes[old]
		n.mustClose(t)
		delete(c.nodes, old)
		c.add("k")
		if heard := elections() - before; heard != 1 {
			t.Errorf("one that stays heard of %d elections", heard)
		}
		if took := time.Since(begun); took > 500*time.Millisecond {
			t.Errorf("the group went on after %v", took)
		}
	})
}

func TestTransferLead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.add("k")
		old := c.leader()
		to := c.others(old)[0]
		if err := c.nodes[to].TransferLead(t.Context(), groupShard, shard.NodeID(to)); !errors.Is(err, ErrNotLeader) {
			t.Errorf("asked at a follower: %v", err)
		}
		if err := c.nodes[old].TransferLead(t.Context(), groupShard, 9); !errors.Is(err, ErrNoMember) {
			t.Errorf("to a stranger: %v", err)
		}
		if err := c.nodes[old].TransferLead(t.Context(), 5, 1); !errors.Is(err, ErrNoShard) {
			t.Errorf("of a shard that is not here: %v", err)
		}
		if err := c.nodes[old].TransferLead(t.Context(), groupShard, shard.NodeID(to)); err != nil || c.leader() != to {
			t.Errorf("to node %d: %v, node %d leads", to, err, c.leader())
		}
		c.add("k")
		// To one that does not answer.
		c.net.cutOff(old, true)
		if err := c.nodes[to].TransferLead(t.Context(), groupShard, shard.NodeID(old)); !errors.Is(err, ErrTransferFailed) {
			t.Errorf("to a node that is cut off: %v", err)
		}
		c.net.cutOff(old, false)
		c.add("k")
		if v, err := c.nodes[c.leader()].value(t.Context(), groupShard, "k"); err != nil || v != 3 {
			t.Errorf("k is %d, %v", v, err)
		}
	})
}

// A follower that was cut off until the log has forgotten what it lacks gets a partial snapshot: less than all.
func TestFollowerIsBroughtUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.fill(40)
		c.agree(1, 2, 3)
		late := c.others(c.leader())[0]
		c.net.cutOff(late, true)
		c.fill(5)
		c.net.cutOff(late, false)
		c.agree(1, 2, 3)
		if c.net.received(late) == 0 {
			t.Fatal("no snapshot was sent")
		}
		if got := c.net.received(late); got > 20_000 {
			t.Errorf("%d bytes were sent, and only five keys of two kilobytes are new", got)
		}
		c.add("k")
		c.agree(1, 2, 3)
		// What was installed is there after a crash.
		c.crash(late, vfs.AllLost())
		c.mustOpen(late, Replica{})
		c.agree(1, 2, 3)
	})
}

// A leader whose newest snapshot is damaged, anywhere, takes another and brings that.
func TestDamagedSnapshotIsNotBrought(t *testing.T) {
	t.Parallel()
	for _, place := range []float64{0.01, 0.5, 0.99} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t)
			defer c.closeAll()
			c.found(3)
			leader := c.leader()
			late := c.others(leader)[0]
			c.net.cutOff(late, true)
			c.fill(10)
			index := c.nodes[leader].Stats().Shards[0].SnapshotIndex
			name := SnapshotDir("data", groupShard) + "/" + snapshot.FileName(index)
			f, err := c.disks[leader].OpenReadWrite(name)
			if err != nil {
				t.Fatal(err)
			}
			size, _ := f.Size()
			var b [1]byte
			at := int64(place * float64(size))
			if _, err = f.ReadAt(b[:], at); err == nil {
				b[0] ^= 0x10
				_, err = f.WriteAt(b[:], at)
			}
			if err = errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			c.net.cutOff(late, false)
			c.agree(1, 2, 3)
			if now := c.nodes[leader].Stats().Shards[0].SnapshotIndex; c.leader() == leader && now == index {
				t.Errorf("at %v: the leader has the same snapshot", place)
			}
		})
	}
}

// A new node joins as a learner, is brought up, becomes a voter, and the group needs it from then on.
func TestNodeJoins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(1)
		c.fill(10)
		if err := c.open(2, Replica{ID: shard.NewReplicaID(2, 0)}); err == nil {
			t.Fatal("a node founds a group without being told to")
		}
		for id := uint64(2); id <= 3; id++ {
			made := c.change(shard.Change{Kind: shard.AddLearner, Replica: shard.NewReplicaID(shard.NodeID(id), 0)})
			c.mustOpen(id, Replica{ID: made[0].Replica, Join: true})
			c.agree(id)
			c.change(shard.Change{Kind: shard.Promote, Replica: made[0].Replica})
		}
		members, peers, err := c.nodes[1].Members(t.Context(), groupShard)
		if err != nil || len(members.Voters) != 3 || len(peers) != 2 {
			t.Fatalf("members %+v, peers %+v, %v", members, peers, err)
		}
		c.crash(1, vfs.AllLost())
		c.add("k")
		c.mustOpen(1, Replica{})
		c.agree(1, 2, 3)
	})
}

// A node that lost its disk must not come back under its old id, and is replaced by a new member on it.
func TestMemberIsReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.fill(10)
		lost := c.others(c.leader())[0]
		c.crash(lost, vfs.AllLost())
		c.disks[lost] = nil
		old := shard.NewReplicaID(shard.NodeID(lost), 0)
		if err := c.open(lost, Replica{ID: old}); err == nil {
			t.Fatal("the old replica runs on an empty disk")
		}
		c.change(shard.Change{Kind: shard.Demote, Replica: old})
		c.change(shard.Change{Kind: shard.Remove, Replica: old})
		made := c.change(shard.Change{Kind: shard.AddLearner, Replica: old})
		c.mustOpen(lost, Replica{ID: made[0].Replica, Join: true})
		c.agree(1, 2, 3)
		c.change(shard.Change{Kind: shard.Promote, Replica: made[0].Replica})
		var again *vfs.Sim
		c.crash(lost, vfs.AllLost())
		again, c.disks[lost] = c.disks[lost], nil
		if err := c.open(lost, Replica{ID: made[0].Replica}); err == nil {
			t.Fatal("the new replica runs on an empty disk as well")
		}
		c.disks[lost] = again
		c.mustOpen(lost, Replica{})
		for _, id := range c.others(lost) {
			if id != c.leader() {
				c.crash(id, vfs.AllLost())
				break
			}
		}
		c.add("k") // by the new member's vote
	})
}

// A replica is retired, its room given back, and its node becomes a member again under a new id, all without a restart.
func TestReplicaIsRetiredAndComesAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.fill(10)
		away := c.others(c.leader())[0]
		old := shard.NewReplicaID(shard.NodeID(away), 0)
		c.change(shard.Change{Kind: shard.Demote, Replica: old})
		c.change(shard.Change{Kind: shard.Remove, Replica: old})
		n := c.nodes[away]
		if err := n.RemoveReplica(t.Context(), groupShard); err != nil {
			t.Fatal(err)
		}
		if err := n.RemoveReplica(t.Context(), groupShard); err != nil {
			t.Errorf("removed twice: %v", err)
		}
		for _, dir := range []string{"data/snapshots/00001", "data/incoming/00001", "data/log/live/00001"} {
			if names, _ := c.disks[away].List(dir); len(names) > 0 {
				t.Errorf("%s has %v", dir, names)
			}
		}
		if s := n.log.State(groupShard); s != (wal.ShardState{First: 1}) {
			t.Errorf("the log has %+v", s)
		}
		if err := n.AddReplica(t.Context(), Replica{Shard: groupShard, ID: old}); err == nil {
			t.Error("the retired replica runs again")
		}
		delete(c.nodes, away)
		c.fill(10)
		made := c.change(shard.Change{Kind: shard.AddLearner, Replica: old})
		if err := n.AddReplica(t.Context(), Replica{Shard: groupShard, ID: made[0].Replica, Join: true}); err != nil {
			t.Fatal(err)
		}
		c.nodes[away] = n
		c.agree(1, 2, 3)
		c.change(shard.Change{Kind: shard.Promote, Replica: made[0].Replica})
		c.crash(away, vfs.AllLost())
		c.add("k")
		c.mustOpen(away, Replica{})
		c.agree(1, 2, 3)
	})
}
