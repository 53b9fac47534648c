package engine

import (
	"context"
	"slices"
	"time"
)

// movedAway reports whether a job was refused since its queue lives elsewhere, or its new home is not set up yet.
func movedAway(err *Error) bool {
	return err != nil && (err.Reason == ReasonMoved || err.Reason == ReasonQueueNotReady)
}

// heedMoves repeats a session's request of which a shard has other jobs. The first time it may have come from a node that knew of moves of
// which this one had not heard, and went elsewhere with the jobs of those queues.
func (p *PendingEnqueue) heedMoves(ctx context.Context) {
	if p.request.Session == (SessionID{}) || p.request.Atomic || !p.differs() {
		return
	}
	if err := p.engine.relearn(ctx); err != nil {
		p.err = err
		return
	}
	if !slices.ContainsFunc(p.request.Jobs, func(j NewJob) bool {
		rt := p.engine.routes.byName(j.Queue)
		return rt != nil && rt.moving()
	}) {
		return
	}
	p.err = nil // of the answers so far
	p.err = p.enqueueMoving(ctx)
}

func repeatDiffers(err *Error) bool { return err != nil && err.Reason == ReasonRepeatDiffers }

// differs reports whether a shard has other jobs of the request than it was sent.
func (p *PendingEnqueue) differs() bool {
	if p.err != nil {
		return repeatDiffers(asError(p.err))
	}
	return slices.ContainsFunc(p.out(), func(o Enqueued) bool { return repeatDiffers(o.Err) })
}

// followMoves sends the jobs of a request on that a shard has refused since their queues live elsewhere, until they are stored or
// patience is over: a new home takes jobs as soon as the old one takes none. What a session stored before it finds again in either.
func (p *PendingEnqueue) followMoves(ctx context.Context) {
	until := time.Now().Add(LeaderWaitMax)
	for pause := searchPauseMin; p.wantsToFollow(); pause = min(2*pause, searchPauseMax) {
		if err := p.openHomes(ctx); err != nil {
			p.err = err
			return
		}
		if p.err != nil {
			p.followWhole(ctx)
		} else {
			p.followJobs(ctx)
		}
		if !p.wantsToFollow() || time.Now().After(until) {
			return
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if p.err == nil && p.request.Session != (SessionID{}) {
				p.err = contextError(ctx.Err()) // its repeat does the rest
			}
			return
		}
	}
}

// wantsToFollow reports whether something was refused that another shard may take: the whole of an atomic request, or jobs.
func (p *PendingEnqueue) wantsToFollow() bool {
	if p.err != nil {
		return p.request.Atomic && movedAway(asError(p.err))
	}
	for i := range p.out() {
		if movedAway(p.out()[i].Err) {
			return true
		}
	}
	return false
}

// followJobs sends the jobs that were refused to their queues' homes.
func (p *PendingEnqueue) followJobs(ctx context.Context) {
	out := p.out()
	homes := make([]berth, len(out))
	for i := range out {
		if movedAway(out[i].Err) {
			spec := &p.request.Jobs[i].Spec
			rt := p.engine.routes.byID(spec.Queue)
			to := rt.homes[partitionOf(len(rt.homes), spec, p.turn)]
			spec.Queue, homes[i], out[i].Err = to.id, rt.berth(to), nil
		}
	}
	p.err = enqueueSeveral(ctx, p.request, out, p.now, homes)
}

// followWhole sends an atomic request to the one shard where all its queues live now. A session's may have been stored elsewhere, between the
// move of one of them and that of another.
func (p *PendingEnqueue) followWhole(ctx context.Context) {
	if p.request.Session == (SessionID{}) {
		p.err = p.enqueueWhole(ctx)
		return
	}
	p.err = p.enqueueWholeMoving(ctx)
}

// storeWhole hands the jobs in that all go to one berth, and waits for them.
func (p *PendingEnqueue) storeWhole(ctx context.Context) {
	if p.begin(); p.err == nil {
		p.err = p.waitOne(ctx)
	}
}

// openHomes sees to it that the queues of what was refused have homes that take jobs: a new home that was asked too early would remember
// its refusal for the session.
func (p *PendingEnqueue) openHomes(ctx context.Context) error {
	if err := p.engine.relearn(ctx); err != nil {
		return err
	}
	last := ""
	for i := range p.request.Jobs {
		name := p.request.Jobs[i].Queue
		if name == last || p.err == nil && !movedAway(p.out()[i].Err) {
			continue
		}
		last = name
		if err := p.engine.openMove(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// newerRoute returns the route of a queue after one of its homes was asked something. Who finds closed what it takes for a place of new jobs has not heard
// yet of a move: the homes that it knows are not all that have jobs. It gets the route as it is now; otherwise, and as long as nobody can
// have stored a job elsewhere, that which it has.
func (e *Engine) newerRoute(ctx context.Context, rt *route, h home, f *findings) (*route, error) {
	if !f.Closed || !slices.Contains(rt.homes, h) {
		return rt, nil
	}
	if err := e.relearn(ctx); err != nil {
		return rt, err
	}
	return e.routes.byName(rt.name), nil
}

// relearn makes this node's routes those of the catalog as it is now. A new home that is not set up yet is none.
func (e *Engine) relearn(ctx context.Context) error {
	var moved []*route
	view := e.routes.table()
	if err := e.readCatalog(ctx, func() {
		for q := range e.catalog.catalog.Queues() {
			if rt := view.byName[q.Name]; rt != nil && !rt.sameAs(q) && (!q.Moving() || q.Opened != 0) {
				moved = append(moved, e.newRoute(q))
			}
		}
	}); err != nil {
		return err
	}
	if len(moved) > 0 {
		e.routes.publish(moved...)
	}
	return nil
}
