package replica

import (
	"errors"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// Mail is a message for another member, about damaged entries or states that differ.
type Mail struct {
	To   shard.ReplicaID
	Data []byte
}

// setMendable tells the log whether there are others to be asked for what is damaged.
func (r *Replica) setMendable() {
	if mendable := !r.sh.Alone(); mendable != r.mendable {
		r.mendable = mendable
		r.cfg.Log.SetMendable(r.cfg.Shard, mendable)
	}
}

// mend asks other members for what is damaged here.
func (r *Replica) mend() {
	r.setMendable()
	if !r.mendable {
		return
	}
	if len(r.cfg.Log.Wanted(r.cfg.Shard, 0, 1)) == 0 {
		r.mender.Rest()
		return
	}
	r.askFor()
	if r.mender.Barren() {
		if hole, _ := r.cfg.Log.Holes(r.cfg.Shard, r.snap.index+1); hole > 0 {
			r.snap.wanted = true // What is applied here, and nowhere else in a log any more, is as well in a snapshot.
		}
	}
}

// askFor asks the next of the other members.
func (r *Replica) askFor() {
	if to, request, ok := r.mender.Next(r.now.Mono, r.others()); ok {
		r.eff.Mends = append(r.eff.Mends, Mail{shard.ReplicaID(to), request})
	}
}

// others is all other members.
func (r *Replica) others() (peers []transfer.PeerID) {
	members := r.sh.Members()
	for _, id := range members.All() {
		if id != r.cfg.Replica {
			peers = append(peers, transfer.PeerID(id))
		}
	}
	return peers
}

// StepMend takes a chunk that another member's node sent, about damaged entries or states that differ (transfer.KindPrint and
// transfer.KindRenew). A request (transfer.KindWant) is answered: what is returned
// goes back to whom the request came from. An answer is taken in, and the log's Maintain writes what it brought. A chunk that is
// malformed, or of another kind, is ignored. Answering only reads the log: transfer.Serve does it on any goroutine.
func (r *Replica) StepMend(now Instant, from shard.NodeID, data []byte) (answer []byte) {
	switch transfer.KindOf(data) {
	case transfer.KindWant:
		answer, _ = transfer.Serve(r.cfg.Shard, r.cfg.Log, data, transfer.MendBytesDefault) // none to what is malformed
	case transfer.KindHave:
		_ = r.mender.Accept(now.Mono, data) // a malformed one changes nothing
	case transfer.KindPrint:
		answer = r.stepPrint(from, data)
	case transfer.KindRenew:
		r.stepRenew(from, data)
	default:
	}
	return answer
}

// MendStats counts what was asked of other members.
func (r *Replica) MendStats() transfer.MendStats { return r.mender.Stats() }

// damaged notes that an entry was found damaged, and tells in the error whether other members are asked for it.
func (r *Replica) damaged(index uint64, err error) error {
	if !wal.IsDamage(err) {
		return err
	}
	mending := r.cfg.Log.NoteDamage(r.cfg.Shard, index)
	damage, ok := errors.AsType[*wal.CorruptError](err)
	switch {
	case mending == nil:
	case ok:
		damage.Mending = mending // the error is this call's own
	default:
		err = &wal.CorruptError{File: "the log", Shard: r.cfg.Shard, Index: index, Reason: err.Error(), Mending: mending}
	}
	return err
}
