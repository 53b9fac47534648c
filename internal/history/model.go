package history

import "github.com/beaver-raft/beaver/internal/queue"

// phase is where a job may stand, as the clients can tell. A state of the model holds a set of them: what happens by itself
// (a lease that is lost, a time that comes, an answer to a fetch that nobody got) leaves several open until somebody looks.
type phase uint16

const (
	phaseAbsent    phase = 1 << iota
	phaseWaiting         // scheduled, ready or backing off
	phaseHeld            // leased, under the last token that a worker was handed
	phaseBusy            // leased, under a later token that no worker came with yet
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

// modelState is what the model knows of one job. Tokens only grow, and so do the attempts that began. A lease that no worker was told of can be
// taken back: then the next attempt has its number, and the job may have its former token.
type modelState struct {
	phases  phase
	expires bool
	attempt uint32      // the last that certainly began
	token   queue.Token // of that one, or of one that ended since
	seen    queue.Token // the greatest of a lease
	pos     queue.Pos   // 0: nobody was told yet
}

const hashPrime = 0x9e3779b97f4a7c15

func (s modelState) hash() uint64 {
	h := uint64(s.phases)
	for _, v := range [...]uint64{uint64(s.token), uint64(s.seen), uint64(s.attempt), uint64(s.pos)} {
		h = (h ^ v) * hashPrime
		h ^= h >> 29
	}
	return h
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

// told keeps the phases that the answer to o leaves open, if it told a state.
func (s modelState) told(o *Operation) modelState {
	if o.Untold {
		return s.only(^phaseAbsent)
	}
	return s.only(phasesOf(o.State) &^ phaseAbsent)
}

// step is the state after an operation; without phases when it cannot have happened so.
func (s modelState) step(o *Operation) modelState {
	if o.Pos != 0 {
		if s.pos != 0 && s.pos != o.Pos {
			return modelState{}
		}
		if s.phases != phaseAbsent || o.Kind == Enqueue {
			s.pos = o.Pos
		}
	}
	s = s.settle()
	switch o.Kind {
	case Enqueue:
		return s.enqueue(o)
	case Lease:
		if s = s.only(phaseWaiting); o.Token <= s.seen || o.Attempt <= s.attempt {
			return modelState{}
		}
		s.token, s.seen, s.attempt = o.Token, o.Token, o.Attempt
		return s.move(phaseWaiting, phaseHeld)
	case Ack, Fail, Release, Extend, Progress:
		return s.byHolder(o)
	case Cancel:
		return s.cancel(o)
	case Retry, Discard:
		return s.deadLetter(o)
	default:
		return s.get(o)
	}
}

func (s modelState) enqueue(o *Operation) modelState {
	s = s.only(phaseAbsent)
	if !o.Unanswered && o.Code != queue.CodeOK && o.Code != queue.CodeDuplicate {
		return s
	}
	s.expires = o.Expires
	return s.move(phaseAbsent, phaseWaiting)
}

// byHolder is what the holder of a lease does.
func (s modelState) byHolder(o *Operation) modelState {
	switch {
	case s.token < o.Token: // nobody has that token before its lease
		return modelState{}
	case o.Unanswered && s.token == o.Token:
		return s.unanswered(o.Kind)
	case o.Unanswered:
		return s
	case o.Code == queue.CodeStale:
		if s.token == o.Token {
			s = s.only(^phasesHeld)
			if o.Kind == Ack {
				s = s.only(^phaseCompleted) // a repeat would be called one
			}
		}
		return s.told(o)
	case s.token != o.Token:
		return modelState{}
	case o.Kind == Ack && o.Code == queue.CodeOK && o.Untold: // of the first, or of a repeat
		return s.only(phasesHeld|phaseCompleted).move(phasesHeld, phaseCompleted)
	case o.Code == queue.CodeDuplicate:
		return s.only(phaseCompleted)
	case o.Code != queue.CodeOK:
		return modelState{}
	}
	s = s.only(phasesHeld)
	switch o.Kind {
	case Ack:
		return s.move(phasesHeld, phaseCompleted)
	case Fail, Release:
		if o.Untold {
			return s.unanswered(o.Kind)
		}
		if o.State == queue.StateCancelled {
			return s.only(phaseHeldWish).move(phaseHeldWish, phaseCancelled)
		}
		return s.only(phaseHeld).move(phaseHeld, phasesOf(o.State))
	default:
		return s
	}
}

// unanswered is what the holder may have done.
func (s modelState) unanswered(k Kind) modelState {
	switch k {
	case Ack:
		return s.move(phasesHeld, phaseCompleted)
	case Fail:
		return s.move(phaseHeld, phaseWaiting|phaseDead).move(phaseHeldWish, phaseCancelled)
	case Release:
		return s.move(phaseHeld, phaseWaiting).move(phaseHeldWish, phaseCancelled)
	default:
		return s
	}
}

func (s modelState) cancel(o *Operation) modelState {
	if !o.Unanswered {
		switch o.Code {
		case queue.CodeOK:
			s = s.only(phaseWaiting | phaseDead)
		case queue.CodeCancelRequested:
			s = s.only(phasesRunning)
		case queue.CodeWrongState:
			return s.only(phasesEnded).told(o)
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
func (s modelState) deadLetter(o *Operation) modelState {
	to := phaseWaiting
	if o.Kind == Discard {
		to = phaseDiscarded
	}
	switch {
	case o.Unanswered:
		return s.move(phaseDead, to)
	case o.Code == queue.CodeOK:
		s.expires = s.expires && o.Kind == Discard // who retries it wants it to run
		return s.only(phaseDead).move(phaseDead, to)
	case o.Code == queue.CodeWrongState:
		return s.only(^phaseDead).told(o)
	case o.Code == queue.CodeKeyHeld, o.Code == queue.CodeKeyElsewhere:
		return s.only(phaseDead)
	default:
		return s.only(phaseWaiting | phaseGone)
	}
}

// get is a read.
func (s modelState) get(o *Operation) modelState {
	if !o.Found {
		return s.only(phaseGone | phaseAbsent)
	}
	if o.Token < s.token || o.Attempt < s.attempt || o.State == queue.StateCompleted && o.Token != s.token {
		return modelState{} // who completed it was handed its token before
	}
	p := phasesOf(o.State)
	if o.State == queue.StateRunning {
		if o.Token < s.seen {
			return modelState{}
		}
		p = phaseHeld | phaseBusy
		if o.Wished {
			p = phaseHeldWish | phaseBusyWish
		}
		if o.Token == s.token {
			p &= phasesHeld
		} else {
			p &= phasesBusy
		}
		s.seen = o.Token
		return s.only(p)
	}
	s = s.only(p)
	s.token, s.seen, s.attempt = o.Token, max(s.seen, o.Token), o.Attempt
	return s
}
