package engine

import (
	"context"

	"github.com/beaver-raft/beaver/internal/queue"
)

// While a queue moves, a unique key may be held in one of its old homes, and no new home knows. The old homes are closed, and so grant none
// any more: a key that one does not hold is free there for ever. So whoever sends a job with a key to a new home asks first the old home
// where the key would have been, and sends the holder that it finds as a hint: the machine answers with the job that holds the key there,
// or else with the hinted one, which the session then remembers. A home that was left never takes jobs again under the same id, and so
// refuses what comes from a node that has not heard of the move; see followMoves.

// needsAsking reports whether a job goes to a new home of a queue that moves, and has a unique key that an old one may hold.
func (rt *route) needsAsking(s *Spec) bool { return s.UniqueKey != "" && rt.moving() }

// lookup is which jobs' unique keys one old home is asked about.
type lookup struct {
	at   home
	jobs []int
}

// seekHolders finds the holders, in old homes, of the unique keys of those jobs that have a berth in homes, which are new homes of their queues,
// and gives each job its hint. A job about which no old home could be asked, or one that takes jobs still, is to be sent nowhere: its berth is
// taken from it, its answer says why, and failed is that.
func (p *PendingEnqueue) seekHolders(ctx context.Context, homes []berth) (failed *Error) {
	var lookups []lookup
	for i := range homes {
		j := &p.request.Jobs[i]
		j.hint = JobID{}
		if homes[i].pump == nil || j.Spec.UniqueKey == "" {
			continue
		}
		rt := p.view.byID[j.Spec.Queue]
		if !rt.needsAsking(&j.Spec) {
			continue
		}
		at := rt.from[partitionOf(len(rt.from), &j.Spec, p.turn)]
		k := 0
		for k < len(lookups) && lookups[k].at != at {
			k++
		}
		if k == len(lookups) {
			lookups = append(lookups, lookup{at: at})
		}
		lookups[k].jobs = append(lookups[k].jobs, i)
	}
	for _, l := range lookups {
		if err := p.lookUp(ctx, &l); err != nil {
			failed = asError(err)
			for _, i := range l.jobs {
				homes[i], p.out()[i].Err = berth{}, failed
			}
		}
	}
	return failed
}

// lookUp asks one old home.
func (p *PendingEnqueue) lookUp(ctx context.Context, l *lookup) error {
	q := &query{Kind: queryKeys, Shard: l.at.pump.shard, Queue: l.at.id}
	for _, i := range l.jobs {
		s := &p.request.Jobs[i].Spec
		key := queue.HashUnique(l.at.id, s.OrderingKey, s.UniqueKey)
		q.Keys = append(q.Keys, key[:])
	}
	f, err := p.engine.ask(ctx, q)
	switch {
	case err != nil:
		return err
	case !f.Closed: // it has not heard of the move yet, and may grant the key to somebody else: as if it had been sent the job, and were closed
		return refusal(queue.Result{Code: queue.CodeMoved})
	case len(f.Held) != len(l.jobs):
		return errForwardVersion(0)
	}
	for k, i := range l.jobs {
		if pos := f.Held[k]; pos != 0 {
			p.request.Jobs[i].hint = JobID{Shard: uint16(l.at.pump.shard), Pos: pos}
		}
	}
	return nil
}

// keysHere answers queryKeys. It runs on the shard's goroutine.
func (p *pump) keysHere(q *query, f *findings) {
	info, _ := p.machine.Queue(q.Queue)
	f.Closed = info.Settings.Closed
	for _, b := range q.Keys {
		var key queue.UniqueHash
		copy(key[:], b)
		pos, _ := p.machine.Holder(key)
		f.Held = append(f.Held, pos)
	}
}

// enqueueNew stores those jobs that have a berth in homes, which are new homes of their queues if these move. Of a session's request all of
// them are stored together, or none: what a new home remembers of the request must be the same whoever brings it.
func (p *PendingEnqueue) enqueueNew(ctx context.Context, homes []berth) error {
	failed := p.seekHolders(ctx, homes)
	if failed == nil || p.request.Session == (SessionID{}) {
		return enqueueSeveral(ctx, p.request, p.out(), p.now, homes)
	}
	if !movedAway(failed) {
		return failed
	}
	for i := range homes {
		if homes[i].pump != nil {
			p.out()[i].Err = failed
		}
	}
	return nil
}

// enqueueAsked stores the jobs of a request without a session of which some have keys that old homes are asked about.
func (p *PendingEnqueue) enqueueAsked(ctx context.Context) error {
	homes := make([]berth, len(p.out()))
	for i := range homes {
		switch {
		case p.homes != nil:
			homes[i] = p.homes[i]
		case p.out()[i].Err == nil:
			homes[i] = p.at
		}
	}
	return p.enqueueNew(ctx, homes)
}

// seekWhole is seekHolders for an atomic request, all of which goes to one berth.
func (p *PendingEnqueue) seekWhole(ctx context.Context) error {
	homes := make([]berth, len(p.out()))
	for i := range homes {
		homes[i] = p.at
	}
	failed := p.seekHolders(ctx, homes)
	for i := range p.out() {
		p.out()[i].Err = nil // an error is that of the whole
	}
	if failed != nil {
		return failed
	}
	return nil
}
