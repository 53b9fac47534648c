package engine

import (
	"context"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// CompareWorker looks for leases of a connected worker that it does not know of, and gives back, no attempt counted, those among them that
// it was in doubt about the last time: it returns the others, for the next time, which should be a TTL later. Who only says once what a worker
// knows may be repeating what the worker said long ago: a node that stood still reads it from its buffers, while the worker has gone on to another
// node and was given jobs there.
func (e *Engine) CompareWorker(ctx context.Context, id WorkerID, known, doubted []LeaseRef) ([]LeaseRef, error) {
	w, err := e.meetWorker(ctx, id)
	if err != nil {
		return nil, err
	}
	knows, doubts := leaseSet(known), leaseSet(doubted)
	asking, cancel := context.WithTimeout(ctx, w.ttl/beatShare)
	defer cancel()
	pumps := e.data()
	unknown := make([][]LeaseRef, len(pumps))
	for _, err := range e.eachShard(pumps, func(i int, p *pump) error {
		leases, err := e.unknownLeases(asking, p, id, knows)
		if err != nil {
			return err
		}
		var sure []queue.Lease
		for _, l := range leases {
			if ref := leaseRef(p, l); doubts[ref] {
				sure = append(sure, l)
			} else {
				unknown[i] = append(unknown[i], ref)
			}
		}
		return e.giveUp(asking, p, sure)
	}) {
		if err != nil && !e.others(ctx, err) {
			return nil, err // of a shard that cannot be asked now: the next time
		}
	}
	return slices.Concat(unknown...), nil
}

func leaseRef(p *pump, l queue.Lease) LeaseRef {
	return LeaseRef{ID: JobID{Shard: uint16(p.shard), Pos: l.Pos}, Token: l.Token}
}

func leaseSet(refs []LeaseRef) knownLeases {
	set := make(knownLeases, len(refs))
	for _, ref := range refs {
		set[ref] = true
	}
	return set
}

// unknownLeases are what a worker holds on a shard and does not know of.
func (e *Engine) unknownLeases(ctx context.Context, p *pump, id WorkerID, known knownLeases) ([]queue.Lease, error) {
	f, err := e.ask(ctx, &query{Kind: queryLeases, Shard: p.shard, Worker: id})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(f.Leases, func(l queue.Lease) bool { return known[leaseRef(p, l)] }), nil
}

// releaseUnknown gives back what a worker holds on a shard and does not know of.
func (e *Engine) releaseUnknown(ctx context.Context, p *pump, id WorkerID, known knownLeases) error {
	leases, err := e.unknownLeases(ctx, p, id, known)
	if err != nil {
		return err
	}
	return e.giveUp(ctx, p, leases)
}

// giveUp releases leases of one shard.
func (e *Engine) giveUp(ctx context.Context, p *pump, leases []queue.Lease) error {
	for len(leases) > 0 {
		n := min(len(leases), FinishMax)
		if err := p.do(ctx, p.releaseCall(leases[:n])); err != nil {
			return err
		}
		leases = leases[n:]
	}
	return nil
}
