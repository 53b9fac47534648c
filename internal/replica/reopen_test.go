package replica

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
)

// TestReopenedPromisesOnlyWhatIsDurable opens a replica anew in the same process, as when a snapshot came that is not needed
// any more: what the replica before it appended and nobody flushed must not count as durable.
func TestReopenedPromisesOnlyWhatIsDurable(t *testing.T) {
	g := newGroup(t, 2, electionTicks)
	m := g.members[1]
	m.turn()
	m.held = true
	vote := func() *raftpb.Message {
		return &raftpb.Message{
			Type: raftpb.MsgVote.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(uint64(9)),
			LogTerm: new(uint64(shard.GenesisTerm)), Index: new(uint64(shard.GenesisIndex)),
		}
	}
	voted := func() bool {
		if err := m.rep.Step(vote()); err != nil {
			t.Fatal(err)
		}
		g.bag = nil
		m.turn()
		m.turn() // what waits goes out with a turn that comes after it is durable
		for _, msg := range g.bag {
			if msg.GetType() == raftpb.MsgVoteResp && !msg.GetReject() {
				return true
			}
		}
		return false
	}
	if voted() {
		t.Fatal("a vote went out before it was durable")
	}
	m.rep.Stop(ErrNotLeader)
	if err := m.restore(nil); err != nil {
		t.Fatal(err)
	}
	if voted() {
		t.Error("a vote that nobody flushed went out when the replica was opened again")
	}
	m.flush()
	g.bag = nil
	m.turn()
	if len(g.bag) == 0 {
		t.Error("no vote went out when it was durable")
	}
}
