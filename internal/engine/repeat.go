package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// movingQueuesMax is how many queues of one request may move from one shard at the same time, when it is a repeat.
const movingQueuesMax = 10

// session is the session that a request has at a berth.
func (b berth) session(s SessionID) SessionID {
	if b.own == 0 || s == (SessionID{}) {
		return s
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(append(s[:len(s):len(s)], "queue"...), uint32(b.own)))
	return SessionID(sum[:len(s)])
}

// enqueueMoving stores the jobs of a session's request of which some are of queues that move. It asks the old homes first whether they
// know the request: what it brought there is repeated there, and gets its answers; what is new goes to the new home.
//
// An old home that has not answered it until now never stores any of it for such a queue, since it is closed. Should another node have
// brought it there a moment ago, which did not know of the move, the answers differ from what was asked, and are asked for once more.
func (p *PendingEnqueue) enqueueMoving(ctx context.Context) error {
	if p.request.Atomic {
		return p.enqueueWholeMoving(ctx)
	}
	out := p.out()
	eligible := make([]bool, len(out))
	for i := range out {
		eligible[i] = out[i].Err == nil
	}
	for again := true; ; again = false {
		for i := range out {
			if eligible[i] {
				out[i].Err = nil
			}
		}
		homes, err := p.moorings(ctx, eligible)
		if err != nil {
			return err
		}
		err = enqueueSeveral(ctx, p.request, out, p.now, homes)
		if err != nil || !again || !slices.ContainsFunc(out, func(o Enqueued) bool { return o.Err != nil && o.Err.Reason == ReasonRepeatDiffers }) {
			return err
		}
	}
}

// moorings says where each job goes, as the old homes remember.
func (p *PendingEnqueue) moorings(ctx context.Context, eligible []bool) ([]berth, error) {
	homes := make([]berth, len(eligible))
	moving := make(map[berth][]*route) // the queues that move, by where they were
	for i := range eligible {
		if !eligible[i] {
			continue
		}
		rt := p.engine.routes.byID(p.request.Jobs[i].Spec.Queue)
		homes[i] = rt.berth()
		if rt.from != nil && !slices.Contains(moving[rt.oldBerth()], rt) {
			moving[rt.oldBerth()] = append(moving[rt.oldBerth()], rt)
		}
	}
	for old, queues := range moving {
		f, err := p.remembered(ctx, old)
		if err != nil {
			return nil, err
		}
		switch {
		case f.TooOld:
			return nil, refusal(queue.Result{Code: queue.CodeSessionTooOld})
		case !f.Known:
			continue
		case len(queues) > movingQueuesMax:
			return nil, newError(CodeUnavailable, ReasonMoved, "%d queues of the request move, and only %d can be told apart; repeat it when the moves are over", len(queues), movingQueuesMax)
		}
		stay, found := p.match(homes, old, queues, f)
		if !found {
			return nil, refusal(queue.Result{Code: queue.CodeRepeatDiffers})
		}
		for i := range homes {
			if q := p.request.Jobs[i].Spec.Queue; homes[i].pump != nil && slices.ContainsFunc(stay, func(rt *route) bool { return rt.id == q }) {
				homes[i] = old
			}
		}
	}
	return homes, nil
}

// match finds out of which of the queues that move the old berth had jobs in a request, beside those that still go there. It had those
// of all, unless some had moved before the request was sent for the first time.
func (p *PendingEnqueue) match(homes []berth, old berth, queues []*route, f queue.Remembered) (stay []*route, found bool) {
	for out := range 1 << len(queues) {
		stay = stay[:0]
		for k, rt := range queues {
			if out&(1<<k) == 0 {
				stay = append(stay, rt)
			}
		}
		count, shape := 0, shapeSeed
		for i := range homes {
			q := p.request.Jobs[i].Spec.Queue
			if homes[i] == old || homes[i].pump != nil && slices.ContainsFunc(stay, func(rt *route) bool { return rt.id == q }) {
				count++
				shape = shape.with(i, q)
			}
		}
		if count == f.Jobs && (f.Shape == 0 || f.Shape == shape.sum()) {
			return stay, true
		}
	}
	return nil, false
}

// remembered asks a shard what it remembers of the request.
func (p *PendingEnqueue) remembered(ctx context.Context, at berth) (queue.Remembered, error) {
	f, err := p.engine.ask(ctx, &query{Kind: querySession, Shard: at.pump.shard, Session: at.session(p.request.Session), Sequence: p.request.Sequence})
	if err != nil {
		return queue.Remembered{}, err
	}
	return f.Session, nil
}

// enqueueWholeMoving is enqueueMoving for an atomic request: if all its queues were on one shard before, that one is asked.
func (p *PendingEnqueue) enqueueWholeMoving(ctx context.Context) error {
	old := berth{}
	for i := range p.request.Jobs {
		rt := p.engine.routes.byID(p.request.Jobs[i].Spec.Queue)
		at := rt.pump
		if rt.from != nil {
			at = rt.from
		}
		if old.pump != nil && old.pump != at {
			old = berth{}
			break
		}
		old.pump = at
	}
	if old.pump != nil {
		f, err := p.remembered(ctx, old)
		if err != nil {
			return err
		}
		if f.Known || f.TooOld {
			p.at, p.homes = old, nil
		}
	}
	if !p.together() {
		return errAtomicApart()
	}
	p.storeWhole(ctx)
	return p.err
}
