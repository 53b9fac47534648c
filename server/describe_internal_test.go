package server

import (
	"testing"

	"github.com/beaver-raft/beaver/internal/shard"
)

// A shard is described by what its leader knows; where that could not tell who the members are, by what each says of itself.
func TestDescribeShard(t *testing.T) {
	t.Parallel()
	one, two := shard.NewReplicaID(1, 0), shard.NewReplicaID(2, 0)
	reports := func(members *shard.Members) []*nodeReport {
		return []*nodeReport{
			{Node: 1, Shards: []shardReport{{Shard: 7, Replica: one, Role: "leader", Leading: true, Term: 3, Applied: 9, Last: 9, Members: members}}},
			nil, // did not answer
			{Node: 2, Shards: []shardReport{{Shard: 7, Replica: two, Role: "follower", Term: 3, Applied: 8, Last: 9}}},
		}
	}
	for name, members := range map[string]*shard.Members{"members": {Voters: []shard.ReplicaID{one, two}}, "no members": nil} {
		s := describeShard(7, reports(members))
		if s.GetLeaderNodeId() != 1 || s.GetTerm() != 3 || len(s.GetMembers()) != 2 {
			t.Fatalf("%s: leader %d, term %d, members %v", name, s.GetLeaderNodeId(), s.GetTerm(), s.GetMembers())
		}
		if first, second := s.GetMembers()[0], s.GetMembers()[1]; first.GetRole() != "leader" || second.GetRole() != "follower" || second.GetAppliedIndex() != 8 {
			t.Errorf("%s: members %v", name, s.GetMembers())
		}
	}
	if s := describeShard(7, []*nodeReport{nil, nil}); s.GetLeaderNodeId() != 0 || len(s.GetMembers()) != 0 {
		t.Errorf("of nobody: %v", s)
	}
}
