package host

import (
	"errors"

	"github.com/beaver-raft/beaver/internal/shard"
)

// gather makes a batch of what waits and proposes it. It reports whether it did.
func (r *replica) gather() (bool, error) {
	if !r.leading || r.h.closing.Load() || !r.mayPropose() {
		return false, nil
	}
	now := r.h.opts.Clock.NowMillis()
	r.builder.Reset()
	seq := r.driver.Gather(&r.builder, now)
	items := r.builder.Items()
	if items == 0 {
		return false, nil
	}
	data := r.builder.SealInPlace(shard.Header{Stamp: now, Proposer: r.h.opts.Node, Sequence: seq})
	err := r.sh.Propose(data)
	switch {
	case errors.Is(err, shard.ErrDropped):
		// Too much is uncommitted or the lead is being handed over: certainly not in the log.
		r.count.Dropped++
		r.driver.Dropped(seq, false)
		r.driver.Settled()
		return false, nil
	case err != nil:
		return false, err
	}
	r.inflight = append(r.inflight, seq)
	r.full = len(data) >= shard.EntryTargetBytes/2 || items >= shard.BatchItemsMax/2
	r.h.batchBytes.add(uint64(len(data)))
	r.h.batchItems.add(uint64(items))
	return true, nil
}

// mayPropose says whether another batch may go on its way. While small ones do, one gathers for one that is flushed: more
// would only make them smaller. Full ones lose nothing by following each other at once, and share a flush.
func (r *replica) mayPropose() bool {
	n := len(r.inflight)
	return n < BatchesInFlightMax || (r.full && n < FullBatchesInFlightMax)
}

// machine stands between the shard and the driver: it sees each batch that is applied.
type machine struct {
	Driver
	r *replica
}

// Apply implements shard.StateMachine.
func (m machine) Apply(index uint64, h shard.Header, items [][]byte) {
	r := m.r
	if len(r.inflight) > 0 && h.Proposer == r.h.opts.Node && h.Sequence == r.inflight[0] {
		r.inflight = append(r.inflight[:0], r.inflight[1:]...)
	}
	r.count.Batches++
	r.count.BatchItems += uint64(len(items))
	m.Driver.Apply(index, h, items)
}

// report publishes what Stats tells.
func (r *replica) report() {
	applied, _, bytes := r.sh.Applied()
	s := &r.count
	s.Applied, s.Last, s.BatchBytes = applied, r.sh.Last(), bytes
	s.Fingerprint = r.driver.Fingerprint()
	s.Leading, s.Term = r.sh.Leading()
	s.Leader = r.sh.Leader()
	r.mu.Lock()
	r.reported = *s
	r.mu.Unlock()
}

// stats is the last report.
func (r *replica) stats() ShardStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reported
}
