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
// which this one had not heard, and went elsewhere with the jobs of those queues; or from one that had not heard of moves which are over
// here, and sent all to where some of the queues were before. A shard has one answer for the jobs of several queues where these were first
// alone, so their first homes are asked as if they still moved.
func (p *PendingEnqueue) heedMoves(ctx context.Context) {
	if p.request.Session == (SessionID{}) || p.request.Atomic || !p.differs() {
		return
	}
	if _, err := p.engine.relearn(ctx); err != nil {
		p.err = err
		return
	}
	p.lookAgain()
	moved := func(j NewJob) bool { rt := p.view.byName[j.Queue]; return rt != nil && rt.moves > 0 }
	if !slices.ContainsFunc(p.request.Jobs, moved) {
		return
	}
	for _, first := range []bool{false, true} {
		if p.differs() {
			p.err = nil // of the answers so far
			p.err = p.enqueueMoving(ctx, first)
		}
	}
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
// patience is over: a new home takes jobs as soon as the old one takes none. What a session stored before it finds again in either. It
// tells whether there were such jobs.
func (p *PendingEnqueue) followMoves(ctx context.Context) (followed bool) {
	until := time.Now().Add(LeaderWaitMax)
	for pause := searchPauseMin; p.wantsToFollow(); pause = min(2*pause, searchPauseMax) {
		if err := p.openHomes(ctx); err != nil {
			if p.request.Atomic || p.request.Session != (SessionID{}) {
				p.err = err
			} // else each job has its answer already
			return true
		}
		if p.err != nil {
			p.followWhole(ctx)
		} else {
			p.followJobs(ctx)
		}
		if !p.wantsToFollow() || time.Now().After(until) {
			return true
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			if p.err == nil && p.request.Session != (SessionID{}) {
				p.err = contextError(ctx.Err()) // its repeat does the rest
			}
			return true
		}
	}
	return false
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
	if late := p.late(); late != nil {
		p.err = p.enqueueMoored(ctx, late, false)
		return
	}
	out := p.out()
	homes := make([]berth, len(out))
	for i := range out {
		if movedAway(out[i].Err) {
			spec := &p.request.Jobs[i].Spec
			rt := p.view.byID[spec.Queue]
			to := rt.homes[partitionOf(len(rt.homes), spec, p.turn)]
			spec.Queue, homes[i], out[i].Err = to.id, rt.berth(to), nil
		}
	}
	p.noteSent(homes)
	p.err = p.enqueueNew(ctx, homes)
}

// late are the jobs of a session's request whose queues have moved more than once since the homes that refused them took any. The homes in
// between may have stored them when they came the first time, and nobody has asked those yet. It is nil when there are none.
func (p *PendingEnqueue) late() []bool {
	if p.request.Session == (SessionID{}) {
		return nil
	}
	out := p.out()
	var queues []*route
	for i := range out {
		if !movedAway(out[i].Err) {
			continue
		}
		id := p.request.Jobs[i].Spec.Queue
		rt := p.view.byID[id]
		at := home{p.sentTo(i).pump, id}
		if rt.moving() && !rt.isOldHome(at) && !slices.Contains(rt.homes, at) && !slices.Contains(queues, rt) {
			queues = append(queues, rt)
		}
	}
	if queues == nil {
		return nil
	}
	p.noteGood()
	late := make([]bool, len(out))
	for i := range late {
		late[i] = p.good[i] && slices.Contains(queues, p.view.byID[p.request.Jobs[i].Spec.Queue])
	}
	return late
}

// followWhole sends an atomic request to the one shard where all its queues live now. A session's may have been stored elsewhere, between the
// move of one of them and that of another.
func (p *PendingEnqueue) followWhole(ctx context.Context) {
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
	if _, err := p.engine.relearn(ctx); err != nil {
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
	p.lookAgain()
	return nil
}

// lookAgain has the request see where queues live as this node knows it by now, and tells whether one of its own lives elsewhere. In between it
// sees that as it was, though the node learns more meanwhile: what it asks of old homes and what it then sends to new ones is of the same move.
func (p *PendingEnqueue) lookAgain() (moved bool) {
	before := p.view
	p.view = p.engine.routes.table()
	return slices.ContainsFunc(p.request.Jobs, func(j NewJob) bool { return before.byName[j.Queue] != p.view.byName[j.Queue] })
}

// newerRoute returns the route of a queue after one of its homes was asked something. Who finds closed what it takes for a place of new jobs has not heard
// yet of a move: the homes that it knows are not all that have jobs. It gets the route as it is now; otherwise, and as long as nobody can
// have stored a job elsewhere, that which it has.
func (e *Engine) newerRoute(ctx context.Context, rt *route, h home, f *findings) (*route, error) {
	if !f.Closed || !slices.Contains(rt.homes, h) {
		return rt, nil
	}
	if _, err := e.relearn(ctx); err != nil {
		return rt, err
	}
	return e.routes.byName(rt.name), nil
}

// relearn makes this node's routes those of the catalog as it is now, and tells whether they were others. A new home that is not set up yet
// is none.
func (e *Engine) relearn(ctx context.Context) (changed bool, err error) {
	var moved []*route
	view := e.routes.table()
	if err := e.readCatalog(ctx, func() {
		for q := range e.catalog.catalog.Queues() {
			if rt := view.byName[q.Name]; rt != nil && !rt.sameAs(q) && (!q.Moving() || q.Opened != 0) {
				moved = append(moved, e.newRoute(q))
			}
		}
	}); err != nil {
		return false, err
	}
	if len(moved) > 0 {
		e.routes.publish(moved...)
	}
	return len(moved) > 0, nil
}
