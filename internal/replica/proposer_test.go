package replica

import (
	"testing"

	"github.com/beaver-raft/beaver/internal/shard"
)

// What an entry says of a state is the word of the member that proposed it, not of one that came to its node later.
func TestProposerOf(t *testing.T) {
	t.Parallel()
	first, second, anew := shard.NewReplicaID(1, 0), shard.NewReplicaID(2, 0), shard.NewReplicaID(3, 40)
	members := []shard.ReplicaID{first, second, anew}
	for _, c := range []struct {
		index uint64
		node  shard.NodeID
		want  shard.ReplicaID
	}{
		{1, 1, first},
		{41, 2, second},
		{39, 3, 0}, // by the member that the node had before
		{40, 3, 0},
		{41, 3, anew},
		{41, 4, 0}, // by one that is no member any more
	} {
		if got := proposerOf(members, c.index, c.node); got != c.want {
			t.Errorf("entry %d of node %d was proposed by %v, want %v", c.index, c.node, got, c.want)
		}
	}
}
