package replica

import (
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// succession is what a follower does about a leader whose process has ended. Raft alone would wait until the leader is missed, and
// refuse to vote until then. A follower that was told forgets its leader instead, so that it votes, and the voters stand for election
// one after the other: the next by id at once, so that votes are not split, and the others in case it does not win, as when it lacks
// entries or is gone as well. Nothing rests on what was told: whoever is elected needs the votes of a majority, each for the
// first time in its term, and a leader that lives and is heard of is followed again.
type succession struct {
	next  time.Duration // when this replica stands; 0: there is no succession
	round time.Duration // after how long again
	until time.Duration // from then on it is Raft's timeout that counts
	asked bool          // another one asked for a vote since the last Turn
}

// PeerGone says that a node's process has ended, by all signs, or that it seems so.
func (r *Replica) PeerGone(now Instant, node shard.NodeID) error {
	if r.holes.out {
		return nil
	}
	gone, err := r.sh.ForgetLeader(node)
	if gone == 0 || err != nil {
		return err
	}
	rank, others := r.rank(gone)
	r.cfg.Logger.Info("the process of a shard's leader has ended: the others elect another one", slog.Uint64("shard", uint64(r.cfg.Shard)),
		slog.Uint64("node", uint64(node)), slog.Int("rank", rank))
	if rank < 0 {
		return nil
	}
	tick := r.cfg.TickInterval
	r.succession = succession{
		next:  now.Mono + tick/successionShare + time.Duration(rank)*tick,
		round: time.Duration(others) * tick,
		until: now.Mono + time.Duration(r.cfg.ElectionTicks)*tick,
	}
	return nil
}

// rank is this replica's place among the voters who may succeed one, and how many they are; it is negative for one that does not vote.
func (r *Replica) rank(of shard.ReplicaID) (rank, others int) {
	members := r.sh.Members()
	voters := slices.DeleteFunc(members.Voters, func(v shard.ReplicaID) bool { return v == of })
	after, _ := slices.BinarySearch(voters, of)
	own := slices.Index(voters, r.cfg.Replica)
	if own < 0 {
		return -1, len(voters)
	}
	return (own - after + len(voters)) % len(voters), len(voters)
}

// succeed stands for election when it is this replica's turn.
func (r *Replica) succeed() error {
	s := &r.succession
	if s.next == 0 {
		return nil
	}
	if !r.sh.Leaderless() || r.now.Mono >= s.until {
		*s = succession{}
		return nil
	}
	if s.asked { // It may win; two who stand at once would split the votes.
		s.asked = false
		s.next = max(s.next, r.now.Mono+r.cfg.TickInterval)
	}
	if r.now.Mono < s.next {
		return nil
	}
	s.next = r.now.Mono + s.round
	if r.barred() || !r.sh.MayStand() {
		return nil
	}
	return r.sh.Campaign()
}
