package sim

import "github.com/beaver-raft/beaver/internal/queue"

// phase is where a job may stand, as the clients can tell. A state of the model holds a set of them: what happens by itself
// (a lease that is lost, a time that comes, an answer to a fetch that nobody got) leaves several open until somebody looks.
type phase uint16

const (
	phaseAbsent    phase = 1 << iota
	phaseWaiting         // scheduled, ready or backing off
	phaseHeld            // leased, under the last token that anybody saw
	phaseBusy            // leased, under a later token that nobody saw
	phaseHeldWish        // as held, and to be cancelled
	phaseBusyWish        // as busy, and to be cancelled
	phaseDead            // until it is retried or discarded
	phaseCompleted       //
	phaseCancelled       //
	phaseExpired         //
	phaseDiscarded       //
	phaseGone            // ended, and no longer remembered

	phasesHeld    = phaseHeld | phaseHeldWish
	phasesBusy    = phaseBusy | phaseBusyWish
	phasesRunning = phasesHeld | phasesBusy
	phasesEnded   = phaseCompleted | phaseCancelled | phaseExpired | phaseDiscarded
)

// modelState is what the model knows of one job. Tokens and attempts only grow.
type modelState struct {
	phases  phase
	expires bool
	attempt uint32
	token   queue.Token
	pos     queue.Pos // 0: nobody was told yet
}

func (s modelState) hash() uint64 {
	return mix64(mix64(mix64(uint64(s.phases), uint64(s.token)), uint64(s.attempt)), uint64(s.pos))
}

// settle adds what may have happened by itself.
func (s modelState) settle() modelState {
	p := s.phases
	if p&(phaseHeld|phaseBusy) != 0 { // timed out, or its worker was lost
		p |= phaseWaiting | phaseDead
	}
	if p&phaseWaiting != 0 { // fetched, and the answer was lost; that may end badly
		p |= phaseBusy | phaseDead
		if s.expires {
			p |= phaseExpired
		}
	}
	if p&(phaseHeldWish|phaseBusyWish) != 0 {
		p |= phaseCancelled | phaseDead // dead: its payload is damaged
	}
	if p&phasesEnded != 0 {
		p |= phaseGone
	}
	s.phases = p
	return s
}

// only keeps some phases.
func (s modelState) only(p phase) modelState {
	s.phases &= p
	return s
}

// move takes what is in from to to, and leaves the rest.
func (s modelState) move(from, to phase) modelState {
	if s.phases&from != 0 {
		s.phases = s.phases&^from | to
	}
	return s
}

// phasesOf is the phases that a state as told may stand for.
func phasesOf(st queue.State) phase {
	switch st {
	case queue.StateScheduled, queue.StateReady, queue.StateBackoff:
		return phaseWaiting
	case queue.StateRunning:
		return phasesRunning
	case queue.StateDead:
		return phaseDead
	case queue.StateCompleted:
		return phaseCompleted
	case queue.StateCancelled:
		return phaseCancelled
	case queue.StateExpired:
		return phaseExpired
	case queue.StateDiscarded:
		return phaseDiscarded
	case queue.StateUnknown:
		return phaseWaiting | phaseGone // a job that waits for the first time has no record
	}
	return 0
}

// step is the state after an operation; without phases when it cannot have happened so.
func (s modelState) step(o *operation) modelState {
	if o.pos != 0 {
		if s.pos != 0 && s.pos != o.pos {
			return modelState{}
		}
		if s.phases != phaseAbsent || o.kind == opEnqueue {
			s.pos = o.pos
		}
	}
	s = s.settle()
	switch o.kind {
	case opEnqueue:
		return s.enqueue(o)
	case opLease:
		if s = s.only(phaseWaiting); o.token <= s.token || o.attempt <= s.attempt {
			return modelState{}
		}
		s.token, s.attempt = o.token, o.attempt
		return s.move(phaseWaiting, phaseHeld)
	case opAck, opFail, opRelease, opExtend, opProgress:
		return s.byHolder(o)
	case opCancel:
		return s.cancel(o)
	case opRetry, opDiscard:
		return s.deadLetter(o)
	default:
		return s.get(o)
	}
}

func (s modelState) enqueue(o *operation) modelState {
	s = s.only(phaseAbsent)
	if !o.unknown && o.code != queue.CodeOK && o.code != queue.CodeDuplicate {
		return s
	}
	s.expires = o.expires
	return s.move(phaseAbsent, phaseWaiting)
}

// byHolder is what the holder of a lease does.
func (s modelState) byHolder(o *operation) modelState {
	switch {
	case s.token < o.token: // nobody has that token before its lease
		return modelState{}
	case o.unknown && s.token == o.token:
		return s.unanswered(o.kind)
	case o.unknown:
		return s
	case o.code == queue.CodeStale:
		if s.token == o.token {
			s = s.only(^phasesHeld)
			if o.kind == opAck {
				s = s.only(^phaseCompleted) // a repeat would be called one
			}
		}
		return s.only(phasesOf(o.state) &^ phaseAbsent)
	case s.token != o.token:
		return modelState{}
	case o.code == queue.CodeDuplicate:
		return s.only(phaseCompleted)
	case o.code != queue.CodeOK:
		return modelState{}
	}
	s = s.only(phasesHeld)
	switch o.kind {
	case opAck:
		return s.move(phasesHeld, phaseCompleted)
	case opFail, opRelease:
		if o.state == queue.StateCancelled {
			return s.only(phaseHeldWish).move(phaseHeldWish, phaseCancelled)
		}
		return s.only(phaseHeld).move(phaseHeld, phasesOf(o.state))
	default:
		return s
	}
}

// unanswered is what the holder may have done.
func (s modelState) unanswered(k opKind) modelState {
	switch k {
	case opAck:
		return s.move(phasesHeld, phaseCompleted)
	case opFail:
		return s.move(phaseHeld, phaseWaiting|phaseDead).move(phaseHeldWish, phaseCancelled)
	case opRelease:
		return s.move(phaseHeld, phaseWaiting).move(phaseHeldWish, phaseCancelled)
	default:
		return s
	}
}

func (s modelState) cancel(o *operation) modelState {
	if !o.unknown {
		switch o.code {
		case queue.CodeOK:
			s = s.only(phaseWaiting | phaseDead)
		case queue.CodeCancelRequested:
			s = s.only(phasesRunning)
		case queue.CodeWrongState:
			return s.only(phasesEnded & phasesOf(o.state))
		default:
			return s.only(phaseGone)
		}
	}
	wished := phase(0)
	if s.phases&phaseHeld != 0 {
		wished |= phaseHeldWish
	}
	if s.phases&phaseBusy != 0 {
		wished |= phaseBusyWish
	}
	s = s.move(phaseWaiting|phaseDead, phaseCancelled)
	s.phases = s.phases&^(phaseHeld|phaseBusy) | wished
	return s
}

// deadLetter is a retry or a discard.
func (s modelState) deadLetter(o *operation) modelState {
	to := phaseWaiting
	if o.kind == opDiscard {
		to = phaseDiscarded
	}
	switch {
	case o.unknown:
		return s.move(phaseDead, to)
	case o.code == queue.CodeOK:
		s.expires = s.expires && o.kind == opDiscard // who retries it wants it to run
		return s.only(phaseDead).move(phaseDead, to)
	case o.code == queue.CodeWrongState:
		return s.only(phasesOf(o.state) &^ phaseDead)
	default:
		return s.only(phaseWaiting | phaseGone)
	}
}

// get is a read.
func (s modelState) get(o *operation) modelState {
	if !o.found {
		return s.only(phaseGone | phaseAbsent)
	}
	if o.token < s.token || o.attempt < s.attempt || o.state == queue.StateCompleted && o.token != s.token {
		return modelState{} // who completed it was handed its token before
	}
	p := phasesOf(o.state)
	if o.state == queue.StateRunning {
		p = phaseHeld | phaseBusy
		if o.wished {
			p = phaseHeldWish | phaseBusyWish
		}
		if o.token == s.token {
			p &= phasesHeld
		} else {
			p &= phasesBusy
		}
	}
	s = s.only(p).move(phaseBusy, phaseHeld).move(phaseBusyWish, phaseHeldWish)
	s.token, s.attempt = o.token, o.attempt
	return s
}
