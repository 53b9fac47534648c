package shard

import (
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/wal"
)

// A member that was down while the group went from three voters to five catches up, and its power fails in the middle of the write: the entries
// are on its disk, what is behind them, the commit index, is not. It must not stand for election among the three: the five have gone on without them.
func TestForgottenCommitOfChanges(t *testing.T) {
	t.Parallel()
	conf, err := GenesisConfState([]ReplicaID{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	g := &group{members: map[ReplicaID]*member{}}
	var out strings.Builder
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%v\n%s", err, &out)
		}
	}
	begin := func(id ReplicaID) {
		t.Helper()
		g.members[id] = &member{id: id, log: newCrashLog(), snap: Restored{Index: GenesisIndex, Term: GenesisTerm, ConfState: conf}}
		check(g.members[id].open())
	}
	stop := func(id ReplicaID) { g.members[id].shard = nil; g.members[id].log.crash() }
	for _, id := range []ReplicaID{1, 2, 3} {
		begin(id)
	}
	leader := g.members[3]
	check(leader.shard.Campaign())
	check(g.stabilize(&out))
	stop(1)
	for _, node := range []NodeID{4, 5} {
		made, err := leader.shard.ChangeMembers(Change{Kind: AddLearner, Replica: NewReplicaID(node, 0)})
		check(err)
		begin(made[0].Replica)
		check(g.stabilize(&out))
		_, err = leader.shard.ChangeMembers(Change{Kind: Promote, Replica: made[0].Replica})
		check(err)
		check(g.stabilize(&out))
	}
	changed := leader.shard.Last()
	stop(2)
	var b BatchBuilder
	b.Add(itemsOf("acknowledged"))
	check(leader.shard.Propose(b.SealInPlace(Header{Stamp: 1, Proposer: 3, Sequence: 1})))
	check(g.stabilize(&out))
	if !slices.Contains(leader.machine.text, "acknowledged") {
		t.Fatalf("not committed by 3, 4 and 5\n%s", &out)
	}

	// It catches up, and the end of the write is torn off.
	m := g.members[1]
	check(m.open())
	for leaderKnows := 0; m.log.now.state.Last < changed && leaderKnows < 10; leaderKnows++ {
		check(leader.shard.Tick())
		for range 4 {
			for leader.shard.HasReady() {
				check(g.ready(leader, &out))
			}
			check(leader.sync())
			_, err := g.deliver(func(msg *raftpb.Message) bool { return ReplicaID(msg.GetTo()) == 1 || msg.GetFrom() == 1 })
			check(err)
			if m.shard.HasReady() {
				eff, err := m.shard.Ready()
				check(err)
				g.bag = append(g.bag, eff.Messages...)
				entries := slices.DeleteFunc(slices.Clone(eff.Append.Entries), func(e wal.Entry) bool { return e.Index > changed })
				if len(entries) > 0 {
					m.log.append(nil, entries) // in the order of frames the hard state would be next
					break
				}
				m.log.append(eff.Append.HardState, nil)
				check(m.shard.AppendDone(eff.Append.Done))
			}
		}
	}
	if m.log.now.state.Last != changed {
		t.Fatalf("the log of 1 ends at %d, not %d\n%s", m.log.now.state.Last, changed, &out)
	}
	t.Logf("1 has hard state %+v and entries to %d", m.log.now.state.HardState, changed)
	m.log.sync()
	stop(1)

	// 1 and 2 are cut off from the others.
	g.bag = nil
	check(m.open())
	check(g.members[2].open())
	check(m.shard.Campaign())
	two := &group{members: map[ReplicaID]*member{1: m, 2: g.members[2]}}
	out.Reset()
	check(two.stabilize(&out))
	if applied, _, _ := m.shard.Applied(); applied > changed {
		t.Fatalf("1 and 2 committed an entry %d of their own, and so did 3, 4 and 5\n%s", changed+1, &out)
	}
}
