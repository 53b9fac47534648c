package replica

import (
	"errors"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A replica whose log has holes (wal: hole.go) behind what it has applied is out of its group: it takes no message, and sends none,
// so that it neither votes nor acknowledges nor campaigns, and no quorum counts on what it lost. It only asks the other members
// for the entries, answers their requests for what it has, and takes in a snapshot. To the group it is a member that is down;
// when its log is whole again it goes on as it was, and has broken nothing that it promised.
//
// When no other member has an entry any more, it was not committed, or its jobs are done and it is in a snapshot. Either way a snapshot of the
// group at or above the last hole settles it, and the replica asks whoever leads for one. Without that it stays out: it
// cannot know, and does not guess. Where not even the names of entries are known, a snapshot is asked for at once. Where votes or
// acknowledgements may be lost, the replica does not open: LostError.
//
// Entries that are applied are of another kind: no quorum to come rests on them, and the state includes them. They are mended while
// the replica goes on. If Raft needs one meanwhile, for a member that lags or after a start, reading it fails: see Heals.
type holes struct {
	out         bool
	first, last uint64
	asked       time.Duration // when a snapshot was asked for last
	told        bool          // the owner knows that the replica is out
}

// passHoles gives up the part of the tail with holes that the snapshot covers: what of it is live is mended by name, and members that
// lag are brought a snapshot. It returns what is damaged there.
func (r *Replica) passHoles(snapshot uint64) (damage error) {
	id, passed := r.cfg.Shard, uint64(0)
	for {
		first, _ := r.cfg.Log.Holes(id, passed+1)
		if first == 0 || first > snapshot {
			break
		}
		if damage == nil {
			_, damage = r.cfg.Log.Read(id, first)
		}
		passed = first
	}
	if passed >= r.cfg.Log.State(id).First {
		r.cfg.Log.Retain(id, wal.Retention{Snapshot: snapshot, KeepFrom: passed + 1})
	}
	return damage
}

// openHoles finds out whether the replica begins out of its group. A replica that is its whole group has nobody to ask: its log is
// damaged, which is the error.
func (r *Replica) openHoles(passed error) error {
	if !r.mendable {
		if passed == nil {
			passed = r.cfg.Log.Incomplete(r.cfg.Shard)
		}
		hole, _ := r.cfg.Log.Holes(r.cfg.Shard, 0)
		if passed != nil || hole == 0 {
			return passed
		}
		_, err := r.cfg.Log.Read(r.cfg.Shard, hole)
		return err
	}
	r.findHoles()
	return nil
}

// findHoles looks for holes behind what is applied.
func (r *Replica) findHoles() {
	r.holes.first, r.holes.last = r.cfg.Log.Holes(r.cfg.Shard, r.Applied()+1)
	r.holes.out = r.holes.first > 0
}

// lookForHoles does the turn of a replica that is out of its group, and notices when it leaves or comes back.
func (r *Replica) lookForHoles() (out bool, err error) {
	if !r.mendable {
		return false, nil
	}
	r.findHoles()
	if r.holes.out != r.holes.told {
		r.holes.told = r.holes.out
		r.eff.HolesBegan, r.eff.HolesEnded = r.holes.out, !r.holes.out
		if r.holes.out {
			r.leave()
		}
		r.ticking = false // the time outside does not count
	}
	if !r.holes.out {
		return false, nil
	}
	if len(r.asked) > 0 {
		r.refuseReads(r.notLeader())
	}
	r.askFor()
	above := r.cfg.Log.Gap(r.cfg.Shard, r.Applied()+1)
	if r.mender.Barren() {
		above = r.holes.last
	}
	if above > 0 && (r.holes.asked == 0 || r.now.Mono >= r.holes.asked+AskPause) {
		r.holes.asked = r.now.Mono
		w := transfer.Renew{Speaker: transfer.PeerID(r.cfg.Replica), Above: max(above-1, r.doubts.upTo)}
		for _, to := range r.others() { // it hears from nobody who leads
			r.eff.Mends = append(r.eff.Mends, Mail{shard.ReplicaID(to), w.Append(nil, r.cfg.Shard)})
		}
	}
	return true, nil
}

// leave answers who waits: as if the lead was lost.
func (r *Replica) leave() {
	for _, seq := range r.inflight {
		r.count.Dropped++
		r.cfg.Driver.Dropped(seq, true)
	}
	r.inflight = r.inflight[:0]
	if r.leading {
		r.leading = false
		r.cfg.Driver.Leadership(false, r.term)
	}
	r.cfg.Driver.Settled()
	r.refuseReads(r.notLeader())
	r.transferring = false
}

// Heals reports whether an error of a method only says that an entry of the log is damaged, which other members may have: then the
// owner stops the replica and opens it again, as when a snapshot was installed, when no snapshot is being stored.
func (r *Replica) Heals(err error) bool {
	damage, ok := errors.AsType[*wal.CorruptError](err)
	if !ok || !r.mendable || damage.Index == 0 || damage.Shard != r.cfg.Shard {
		return false
	}
	r.cfg.Log.NoteDamage(r.cfg.Shard, damage.Index)
	first, _ := r.cfg.Log.Holes(r.cfg.Shard, damage.Index)
	return first == damage.Index
}
