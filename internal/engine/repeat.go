package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// movingQueuesMax is how many queues of one request may move from one shard at the same time, when it is a repeat, and movingWholeMax how
// many queues of an atomic request may move.
const (
	movingQueuesMax = 10
	movingWholeMax  = 3
)

// session is the session that a request has at a berth.
func (b berth) session(s SessionID) SessionID {
	if b.own == 0 || s == (SessionID{}) {
		return s
	}
	name := append(s[:len(s):len(s)], "queue"...)
	if b.own&ownWhole != 0 {
		name = binary.BigEndian.AppendUint64(name, b.own)
	} else {
		name = binary.BigEndian.AppendUint32(name, uint32(b.own))
	}
	sum := sha256.Sum256(name)
	return SessionID(sum[:len(s)])
}

// enqueueMoving stores the jobs of a session's request of which some are of queues that move. It asks the old homes first whether they
// know the request: what it brought there is repeated there, and gets its answers; what is new goes to the new homes.
//
// An old home that has not answered it until now never stores any of it for such a queue, since it is closed. So what the old homes
// together have not stored of the request is settled, and all of that goes to the new homes at once, whoever brings it there and however
// often: what a new home remembers is always the same. Should another node have brought something to an old home a moment ago, which did
// not know of the move, the answers differ from what was asked, and are asked for once more.
//
// With first, what is asked is not the old homes of queues that move, but the first homes of all queues that have moved. They have stored
// nothing that could be repeated, or the moves since would not be over, but they may have refused it together with jobs of other queues that
// they stored. Those of later homes share no answer with another queue's; see berth.
func (p *PendingEnqueue) enqueueMoving(ctx context.Context, first bool) error {
	switch {
	case p.request.Atomic:
		return p.enqueueWholeMoving(ctx)
	case p.request.Session == SessionID{}:
		return p.enqueueAsked(ctx)
	}
	p.noteGood()
	for again := true; ; again = false {
		if err := p.enqueueMoored(ctx, p.good, first); err != nil || !again || !p.differs() {
			return err
		}
	}
}

// enqueueMoored stores some of the jobs where moor says that they go.
func (p *PendingEnqueue) enqueueMoored(ctx context.Context, which []bool, first bool) error {
	out := p.out()
	for i := range out {
		if which[i] {
			out[i].Err = nil
			p.request.Jobs[i].hint = JobID{} // an old home has its own answer
		}
	}
	m, err := p.moor(ctx, which, first)
	if err != nil {
		return err
	}
	p.noteSent(m.known)
	if err := enqueueSeveral(ctx, p.request, out, p.now, m.known); err != nil {
		return err
	}
	fresh := m.rest(p.request, out)
	p.noteSent(fresh)
	if err := p.enqueueNew(ctx, fresh); err != nil || !first {
		return err
	}
	var moving []bool // the old homes of these have not been asked yet
	for i, rt := range m.routes {
		if m.ago[i] > 1 && rt.moving() {
			if moving == nil {
				moving = make([]bool, len(out))
			}
			moving[i] = true
		}
	}
	if moving == nil {
		return nil
	}
	return p.enqueueMoored(ctx, moving, false)
}

// noteGood notes which jobs were not refused before they went to a shard.
func (p *PendingEnqueue) noteGood() {
	if p.good != nil {
		return
	}
	p.good = make([]bool, len(p.out()))
	for i := range p.good {
		if p.homes != nil {
			p.good[i] = p.homes[i].pump != nil
			continue
		}
		j := &p.request.Jobs[i] // what refused it then does so again
		p.good[i] = j.Err == nil && p.view.byName[j.Queue] != nil && checkJob(&j.Spec, p.now, false) == nil && !p.tooNew(&j.Spec)
	}
}

// noteSent notes where jobs go that are sent once more.
func (p *PendingEnqueue) noteSent(homes []berth) {
	if p.sent == nil {
		p.sent = make([]berth, len(homes))
	}
	for i, to := range homes {
		if to.pump != nil {
			p.sent[i] = to
		}
	}
}

// sentTo is where a job went last.
func (p *PendingEnqueue) sentTo(i int) berth {
	switch {
	case p.sent != nil && p.sent[i].pump != nil:
		return p.sent[i]
	case p.homes != nil:
		return p.homes[i]
	}
	return p.at
}

// moorings are where the jobs of a request go, some of whose queues move.
type moorings struct {
	routes []*route        // of each job; nil: it is refused already
	ago    []int           // how many moves of its queue ago it went where an old home is asked about it; 0: none is
	to     []berth         // where it goes if no old home has it
	ids    []queue.QueueID // that its queue has there
	old    []berth         // where it went before its queue moved; zero: that does not
	oldIDs []queue.QueueID
	known  []berth // where it goes first: zero when that depends on what the old homes have
}

// moor finds where those jobs go that which has, as the old homes remember, or the first ones.
func (p *PendingEnqueue) moor(ctx context.Context, which []bool, first bool) (*moorings, error) {
	n := len(which)
	m := &moorings{make([]*route, n), make([]int, n), make([]berth, n), make([]queue.QueueID, n), make([]berth, n), make([]queue.QueueID, n), make([]berth, n)}
	moving := make(map[berth][]*route) // the queues that move, by where they were
	for i := range which {
		if !which[i] {
			continue
		}
		spec := &p.request.Jobs[i].Spec
		rt := p.view.byID[spec.Queue]
		h := rt.homes[partitionOf(len(rt.homes), spec, p.turn)]
		m.routes[i], m.to[i], m.ids[i] = rt, rt.berth(h), h.id
		m.ago[i] = rt.ago(first)
		if m.ago[i] == 0 {
			spec.Queue, m.known[i] = h.id, m.to[i]
			continue
		}
		from := rt.formers[m.ago[i]-1]
		h = from[partitionOf(len(from), spec, p.turn)]
		m.old[i], m.oldIDs[i] = rt.formerBerth(h, m.ago[i]), h.id
		if !slices.Contains(moving[m.old[i]], rt) {
			moving[m.old[i]] = append(moving[m.old[i]], rt)
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
		stay, found := m.match(old, queues, f)
		if !found {
			return nil, refusal(queue.Result{Code: queue.CodeRepeatDiffers})
		}
		for i, rt := range m.routes {
			if m.old[i] == old && slices.Contains(stay, rt) {
				p.request.Jobs[i].Spec.Queue, m.known[i] = m.oldIDs[i], old
			}
		}
	}
	return m, nil
}

// ago is before how many of a queue's moves its homes are to be asked; 0: none is.
func (rt *route) ago(first bool) int {
	switch {
	case first:
		return len(rt.formers)
	case rt.moving():
		return 1
	}
	return 0
}

// match finds out of which of the queues that move the old berth had jobs in a request, beside those that still go there. It had those
// of all, unless some had moved before the request was sent for the first time.
func (m *moorings) match(old berth, queues []*route, f queue.Remembered) (stay []*route, found bool) {
	for out := range 1 << len(queues) {
		stay = stay[:0]
		for k, rt := range queues {
			if out&(1<<k) == 0 {
				stay = append(stay, rt)
			}
		}
		count, shape := 0, shapeSeed
		for i, rt := range m.routes {
			switch {
			case rt == nil:
				continue
			case m.ago[i] == 0 && m.to[i] == old:
				shape = shape.with(i, m.ids[i])
			case m.old[i] == old && slices.Contains(stay, rt):
				shape = shape.with(i, m.oldIDs[i])
			default:
				continue
			}
			count++
		}
		if count == f.Jobs && (f.Shape == 0 || f.Shape == shape.sum()) {
			return stay, true
		}
	}
	return nil, false
}

// rest says where the jobs go that no old home has: those that none was asked to repeat, and those that one had refused since it was closed.
// Those of a queue that moves wait until its last homes have been asked.
func (m *moorings) rest(r *EnqueueRequest, out []Enqueued) []berth {
	fresh := make([]berth, len(out))
	for i, rt := range m.routes {
		if rt == nil || m.ago[i] == 0 || m.ago[i] > 1 && rt.moving() || m.known[i].pump != nil && !movedAway(out[i].Err) {
			continue
		}
		out[i].Err = nil
		r.Jobs[i].Spec.Queue, fresh[i] = m.ids[i], m.to[i]
	}
	return fresh
}

// remembered asks a shard what it remembers of the request.
func (p *PendingEnqueue) remembered(ctx context.Context, at berth) (queue.Remembered, error) {
	f, err := p.engine.ask(ctx, &query{Kind: querySession, Shard: at.pump.shard, Session: at.session(p.request.Session), Sequence: p.request.Sequence})
	if err != nil {
		return queue.Remembered{}, err
	}
	return f.Session, nil
}

// enqueueWholeMoving is enqueueMoving for an atomic request. If its jobs could be on one shard before, with all that move taken for where
// they were, or some of them, since they did not begin to move at the same time, that shard is asked. One that was closed to some of the
// queues when the request came may remember that it refused it: then the request went on to another.
func (p *PendingEnqueue) enqueueWholeMoving(ctx context.Context) error {
	if p.request.Session == (SessionID{}) {
		return p.enqueueWhole(ctx)
	}
	for i := range p.request.Jobs {
		p.request.Jobs[i].hint = JobID{} // an old home has its own answer
	}
	var moving []*route
	for i := range p.request.Jobs {
		if rt := p.view.byID[p.request.Jobs[i].Spec.Queue]; rt.moving() && !slices.Contains(moving, rt) {
			moving = append(moving, rt)
		}
	}
	if len(moving) > movingWholeMax {
		return newError(CodeUnavailable, ReasonMoved, "%d queues of the atomic request move, and only %d can be told apart; repeat it when the moves are over", len(moving), movingWholeMax)
	}
	for some := 1<<len(moving) - 1; some > 0; some-- {
		old := func(rt *route) bool {
			k := slices.Index(moving, rt)
			return k >= 0 && some&(1<<k) != 0
		}
		if !p.together(old) {
			continue
		}
		f, err := p.remembered(ctx, p.at)
		if err != nil {
			return err
		}
		if !f.Known && !f.TooOld {
			continue
		}
		if p.storeWhole(ctx); p.err == nil || !movedAway(asError(p.err)) {
			return p.err
		}
	}
	return p.enqueueWhole(ctx)
}

// enqueueWhole stores an atomic request on the one shard where all its queues live now. There may have been one before this node heard of it.
func (p *PendingEnqueue) enqueueWhole(ctx context.Context) error {
	if !p.together(nil) {
		if _, err := p.engine.relearn(ctx); err != nil {
			return err
		}
		if p.lookAgain() {
			return p.enqueueWholeMoving(ctx)
		}
		return errAtomicApart()
	}
	if p.err = p.seekWhole(ctx); p.err != nil {
		return p.err
	}
	p.storeWhole(ctx)
	return p.err
}
