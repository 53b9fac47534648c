package replica

import (
	"errors"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Batch describes a batch that was proposed.
type Batch struct {
	Items int // 0: none was
	Bytes int // sealed
}

// gather makes a batch of what waits and proposes it.
func (r *Replica) gather() error {
	if !r.mayGather() {
		return nil
	}
	// A leader's stamps never run behind what was applied before, whoever led then, nor behind each other.
	r.stamp = max(r.stamp, r.now.Millis)
	now := r.stamp
	r.builder.Reset()
	seq := r.cfg.Driver.Gather(&r.builder, now)
	items := r.builder.Items()
	if items == 0 {
		return nil
	}
	data := r.builder.SealInPlace(shard.Header{Stamp: now, Proposer: uint64(r.cfg.Replica.Node()), Sequence: seq})
	err := r.sh.Propose(data)
	switch {
	case errors.Is(err, shard.ErrDropped):
		// Too much is uncommitted or the lead is being handed over: certainly not in the log.
		r.count.Dropped++
		r.cfg.Driver.Dropped(seq, false)
		r.cfg.Driver.Settled()
		return nil
	case err != nil:
		return err
	}
	r.inflight = append(r.inflight, seq)
	r.full = len(data) >= shard.EntryTargetBytes/2 || items >= shard.BatchItemsMax/2
	r.eff.Batch = Batch{Items: items, Bytes: len(data)}
	return nil
}

// mayGather says whether the driver may be asked for commands. While the lead is handed over nothing is accepted: what
// waits is answered when the lead is gone, or goes on its way when it has stayed.
func (r *Replica) mayGather() bool {
	if !r.leading || r.closing || !r.mayPropose() {
		return false
	}
	if r.transferring {
		r.transferring = r.sh.Transferring()
	}
	return !r.transferring
}

// mayPropose says whether another batch may go on its way. While small ones do, one gathers for one that is flushed: more
// would only make them smaller. Full ones lose nothing by following each other at once, and share a flush.
func (r *Replica) mayPropose() bool {
	n := len(r.inflight)
	return n < BatchesInFlightMax || (r.full && n < FullBatchesInFlightMax)
}

// machine stands between the shard and the driver: it sees each batch that is applied.
type machine struct {
	Driver
	r *Replica
}

// Apply implements shard.StateMachine.
func (m machine) Apply(index uint64, h shard.Header, items [][]byte) {
	r := m.r
	if len(r.inflight) > 0 && h.Proposer == uint64(r.cfg.Replica.Node()) && h.Sequence == r.inflight[0] {
		r.inflight = append(r.inflight[:0], r.inflight[1:]...)
	}
	r.stamp = max(r.stamp, h.Stamp)
	r.count.Batches++
	r.count.BatchItems += uint64(len(items))
	m.Driver.Apply(index, h, items)
	r.verify(index, shard.NodeID(h.Proposer))
}
