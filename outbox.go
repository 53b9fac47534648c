package beaver

import (
	"slices"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// outbox keeps the outcomes that the server has not answered. It is guarded by the worker's mutex.
//
// Invariant: an outcome leaves it only when it is done or refused for good; after a broken stream those sent are sent again.
type outbox struct {
	waiting  []outcome
	sent     []sentOutcomes // by sequence
	sequence uint64         // of the last message that had some
	later    []outcome      // refused for now: they wait until retry
}

type outcome struct {
	message *beaverv1.Outcome
	again   bool // was sent on an earlier stream
	plain   bool // stands for an outcome that the server refused for what it said
}

type sentOutcomes struct {
	sequence uint64
	outcomes []outcome
}

// count is how many outcomes are not answered.
func (o *outbox) count() int {
	n := len(o.waiting) + len(o.later)
	for _, s := range o.sent {
		n += len(s.outcomes)
	}
	return n
}

// held appends the leases whose outcomes are not answered.
func (o *outbox) held(dst []*beaverv1.LeaseRef) []*beaverv1.LeaseRef {
	for _, s := range o.sent {
		for i := range s.outcomes {
			dst = append(dst, &beaverv1.LeaseRef{Id: s.outcomes[i].message.GetId(), Token: s.outcomes[i].message.GetToken()})
		}
	}
	for _, unsent := range [...][]outcome{o.waiting, o.later} {
		for i := range unsent {
			dst = append(dst, &beaverv1.LeaseRef{Id: unsent[i].message.GetId(), Token: unsent[i].message.GetToken()})
		}
	}
	return dst
}

// addPlain adds a failure in place of an outcome that the server refused for what it said, so that the attempt ends.
func (o *outbox) addPlain(m *beaverv1.Outcome, err *Error) {
	f := Failure{Type: "beaver.OutcomeRefused", Message: "the server refused the attempt's outcome: " + err.Message, Final: m.GetFailure().GetFinal()}
	o.waiting = append(o.waiting, outcome{message: &beaverv1.Outcome{Id: m.GetId(), Token: m.GetToken(), Failure: f.proto()}, plain: true})
}

func (o *outbox) add(m *beaverv1.Outcome) { o.waiting = append(o.waiting, outcome{message: m}) }

// ready says whether there is a message to send and not too many are on their way.
func (o *outbox) ready() bool { return len(o.waiting) > 0 && len(o.sent) < messagesInFlight }

// fill puts outcomes into m, as many as may go together.
//
// REQUIRES: ready.
func (o *outbox) fill(m *beaverv1.WorkRequest) {
	n, bytes := 0, 0
	for n < len(o.waiting) && n < outcomesMax {
		bytes += outcomeBytes(o.waiting[n].message)
		if n > 0 && bytes > outcomeBytesMax {
			break
		}
		n++
	}
	o.sequence++
	s := sentOutcomes{o.sequence, slices.Clone(o.waiting[:n])}
	o.waiting = slices.Delete(o.waiting, 0, n)
	o.sent = append(o.sent, s)
	m.OutcomesSequence = s.sequence
	m.Outcomes = make([]*beaverv1.Outcome, n)
	for i := range s.outcomes {
		m.Outcomes[i] = s.outcomes[i].message
	}
}

// outcomeBytes is about how long an outcome is on the wire.
func outcomeBytes(m *beaverv1.Outcome) int {
	f := m.GetFailure()
	return 64 + len(m.GetResult()) + len(m.GetContentType()) + len(f.GetType()) + len(f.GetMessage()) + len(f.GetStack())
}

// again puts what was sent and not answered back in front. The server may have done it, unless it was unread.
func (o *outbox) again(unread bool) {
	var back []outcome
	for _, s := range o.sent {
		for _, out := range s.outcomes {
			out.again = out.again || !unread
			back = append(back, out)
		}
	}
	o.waiting = append(back, o.waiting...)
	o.sent = nil
}

// retry puts what was refused for now back behind what waits.
func (o *outbox) retry() {
	o.waiting = append(o.waiting, o.later...)
	o.later = nil
}

// answered removes the messages through a sequence and returns their outcomes, in order.
func (o *outbox) answered(through uint64) []outcome {
	var all []outcome
	for len(o.sent) > 0 && o.sent[0].sequence <= through {
		all = append(all, o.sent[0].outcomes...)
		o.sent = slices.Delete(o.sent, 0, 1)
	}
	return all
}
