package host

import (
	"errors"
	"maps"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A replica whose log may have lost what it promised, or that has no state to go on from, since the disk damaged its snapshots, or one in the
// middle of its installation (transfer.DamagedError), is not run (replica.LostError): to its group it is a member that is down, for
// good. All that there is of it stays, and its record says that it is a member, until the group has gone on without it: only a leader
// that has removed it gives this node another id, by which AddReplica knows that the old one is retired. So when several members
// lost theirs at once, and no majority is left, nothing more is lost.

// Lost is the replica of a shard that must not be run, and why; nil when there is none.
func (h *Host) Lost(id shard.ID) *replica.LostError { return h.table.Load().lost[id] }

// setLost notes a replica that must not be run, or with nil that there is none any more. REQUIRES: during Open, or h.closeMu.
func (h *Host) setLost(id shard.ID, lost *replica.LostError) {
	t := *h.table.Load()
	t.lost = maps.Clone(t.lost)
	if t.lost == nil {
		t.lost = make(map[shard.ID]*replica.LostError)
	}
	delete(t.lost, id)
	if lost != nil {
		t.lost[id] = lost
		log := h.opts.Logger.With("shard", id, "replica", lost.Replica.String(), "damage", lost.Reason)
		_, between := errors.AsType[*transfer.DamagedError](lost.Reason)
		switch {
		case between:
			log.Error("a snapshot was damaged while it was being installed: its replica has no state to go on from, and its group has to make this node a member anew")
		case !wal.IsDamage(lost.Reason):
			log.Error("the snapshots of a replica are damaged or missing: it has no state to go on from, and its group has to make this node a member anew")
		default:
			log.Error("the log is damaged where votes or acknowledgements of a replica may have been: it never speaks again, and its group has to make this node a member anew")
		}
	}
	h.table.Store(&t)
}

// succeed retires a replica that must not be run, if another of this node was born after it: so the group has removed it. It counts as lost until the
// other one runs: whoever finds it so tries again.
func (h *Host) succeed(r Replica, old *Record) error {
	if old == nil || h.Lost(r.Shard) == nil || !r.Join || r.ID.Birth() <= old.Replica.Birth() {
		return nil
	}
	retired := Record{r.Shard, old.Replica, Retired}
	if err := h.writeRecord(retired); err != nil {
		return err
	}
	*old = retired
	return nil
}
