package replica

import (
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Leader is who leads the group, as far as known; else 0.
func (r *Replica) Leader() shard.ReplicaID {
	if r.holes.out {
		return 0
	}
	return r.sh.Leader()
}

// LeadTerm is the term in which this replica leads as Raft sees it, which may be before Leading; else 0.
// A replica that is out of its group, or whose state is in doubt, has no use of the lead, and has 0.
func (r *Replica) LeadTerm() uint64 {
	if r.holes.out || r.barred() {
		return 0
	}
	return r.sh.LeadTerm()
}

// Alone reports whether this replica is its whole group.
func (r *Replica) Alone() bool { return r.sh.Alone() }

// Blank reports whether the replica has no state yet: it waits to be brought its first snapshot.
func (r *Replica) Blank() bool {
	applied, _, _ := r.sh.Applied()
	return applied == 0
}

// notLeader is the answer to who takes this replica for the leader.
func (r *Replica) notLeader() error {
	leader := r.Leader()
	if leader == r.cfg.Replica {
		leader = 0 // It was elected and has not applied all of earlier terms, or the lead was just lost.
	}
	return &NotLeaderError{Shard: r.cfg.Shard, Leader: leader}
}

// Members is who belongs to the group as of the last index applied.
func (r *Replica) Members() shard.Members { return r.sh.Members() }

// Peers appends what a leader knows of the other members.
func (r *Replica) Peers(dst []shard.Peer) []shard.Peer { return r.sh.Peers(dst) }

// ChangeMembers proposes a change of members; see shard.Shard.ChangeMembers. A replica that does not lead refuses with a
// *NotLeaderError.
func (r *Replica) ChangeMembers(changes ...shard.Change) ([]shard.Change, error) {
	if !r.leading {
		return nil, r.notLeader()
	}
	return r.sh.ChangeMembers(changes...)
}

// Transfer hands the lead over to another voter, within an election timeout or not at all. Until then commands wait.
func (r *Replica) Transfer(to shard.ReplicaID) error {
	if !r.leading {
		return r.notLeader()
	}
	if err := r.sh.Transfer(to); err != nil {
		return err
	}
	r.transferring = true
	return nil
}

// Transferring reports whether the lead is being handed over.
func (r *Replica) Transferring() bool { return r.sh.Transferring() }

// Unreachable says that messages to a member were lost.
func (r *Replica) Unreachable(to shard.ReplicaID) { r.sh.Unreachable(to) }

// SnapshotSent ends what Effects.Snapshots asked for: whether the member has installed the snapshot, or one as good.
func (r *Replica) SnapshotSent(to shard.ReplicaID, ok bool) error {
	r.doubts.bringing = slices.DeleteFunc(r.doubts.bringing, func(id shard.ReplicaID) bool { return id == to })
	return r.sh.SnapshotSent(to, ok)
}

// heir is who is to be handed the lead; 0 when there is nobody. It is another one each time, until all have had their turn: a voter that does not take it,
// as its own state is in doubt or its disk stands still too, does not say so.
func (r *Replica) heir() shard.ReplicaID {
	if term := r.sh.LeadTerm(); term != r.heirs.term {
		r.heirs.term, r.heirs.asked = term, nil
	}
	heir := r.sh.Heir(r.heirs.asked)
	if heir == 0 && len(r.heirs.asked) > 0 {
		r.heirs.asked = nil
		heir = r.sh.Heir(nil)
	}
	if heir != 0 {
		r.heirs.asked = append(r.heirs.asked, heir)
	}
	return heir
}

// handOver gives the lead of a closing replica to another, when nothing is in flight any more: the group then need not
// wait for an election timeout.
func (r *Replica) handOver() error {
	if !r.closing || !r.leading || len(r.inflight) > 0 || r.heirUntil > 0 {
		return nil
	}
	heir := r.heir()
	if heir == 0 {
		return nil
	}
	r.heirUntil = r.now.Mono + time.Duration(r.cfg.ElectionTicks)*r.cfg.TickInterval
	return r.Transfer(heir)
}

// yield gives the lead away when the disk here stands still: a leader applies only what is durable on its own disk too, so that its
// group would stand still with it. Raft itself would leave it so, since a leader that cannot write goes on to send heartbeats. One that was
// just elected may not even have applied the entry from which on it may be used.
func (r *Replica) yield() error {
	patience := stallElections * time.Duration(r.cfg.ElectionTicks) * r.cfg.TickInterval
	if r.sh.LeadTerm() == 0 || len(r.waits) == 0 || r.now.Mono < max(r.waits[0].since+patience, r.yieldedUntil) {
		return nil
	}
	heir := r.heir()
	if heir == 0 {
		return nil
	}
	r.yieldedUntil = r.now.Mono + patience
	r.cfg.Logger.Warn("the disk has not finished a write of the log for long: the lead of a shard is handed over",
		slog.Uint64("shard", uint64(r.cfg.Shard)), slog.Duration("waits", r.now.Mono-r.waits[0].since), slog.Uint64("to", uint64(heir.Node())))
	r.transferring = true
	return r.sh.Transfer(heir)
}
