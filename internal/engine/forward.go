package engine

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Forwarder asks the other nodes of the cluster. Any goroutine may call it.
type Forwarder interface {
	// Call asks a node and returns its answer: what Engine.ServeCall returned there, whose ctx ends with this one, and when the
	// connection is lost. body and the answer have up to ForwardBytesMax. Once it has returned an answer nobody refers to body;
	// after an error it may still be on its way, and nobody may change it any more. After an error nobody knows, too, whether the
	// other node did what it was asked, unless Undelivered says so.
	Call(ctx context.Context, node uint64, kind uint8, body []byte) ([]byte, error)
	// Undelivered reports whether an error of Call says that the other node certainly did not see the call.
	Undelivered(err error) bool
}

// The kinds of calls between nodes. They and what they carry are in docs/format.md; numbers are never reused.
const (
	callCommands  uint8 = 1 // commands for the desk of a shard that the other node leads
	callQuery     uint8 = 2 // a read of such a shard
	callFetch     uint8 = 3 // a fetch that parks there
	callStopFetch uint8 = 4 // its caller wants no more
	callBeats     uint8 = 5 // workers that were heard, for the node that leads the catalog
	callNotices   uint8 = 6 // what workers should hear, for the node that they are connected to
	callSevered   uint8 = 7 // workers whose connections broke, for the node that leads the catalog
	callHeartbeat uint8 = 8 // a node lives, and how loaded it is

	callKinds = 9 // one more than the last
)

// callNames are the kinds as metrics name them.
var callNames = [callKinds]string{
	callCommands: "commands", callQuery: "query", callFetch: "fetch", callStopFetch: "stop-fetch", callBeats: "beats", callNotices: "notices",
	callSevered: "severed", callHeartbeat: "heartbeat",
}

// forwardVersion begins each body. A node refuses one that it does not know, and does nothing.
const forwardVersion = 1

// The first byte of an answer.
const (
	answerOK     uint8 = 0 // what was asked for follows
	answerFailed uint8 = 1 // an error follows, as appendError writes it
)

// ServeCall answers what another node forwards, and never forwards it again: a node that does not lead says so. What went wrong is
// in the answer. It fits transport.Handler.
func (e *Engine) ServeCall(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
	answer, err := e.serve(ctx, from, kind, &reader{b: body})
	if err != nil {
		answer = appendError([]byte{answerFailed}, err)
	}
	return answer, nil
}

func (e *Engine) serve(ctx context.Context, from uint64, kind uint8, r *reader) ([]byte, *Error) {
	if e.background.Err() != nil {
		return nil, errStopping()
	}
	if r.u8() != forwardVersion || r.bad {
		return nil, errForwardVersion(from)
	}
	switch kind {
	case callCommands:
		return e.serveCommands(ctx, r)
	case callQuery:
		return e.serveQuery(ctx, from, r)
	case callFetch:
		return e.serveFetch(ctx, from, r)
	case callStopFetch:
		return e.serveStopFetch(from, r)
	case callBeats:
		return e.serveBeats(from, r)
	case callNotices:
		return e.serveNotices(r)
	case callSevered:
		return e.serveSevered(from, r)
	case callHeartbeat:
		return e.serveHeartbeat(from, r)
	}
	return nil, errForwardVersion(from)
}

// startAnswer begins an answer to which more is appended.
func startAnswer() []byte { return []byte{answerOK} }

// call asks another node and returns what its answer carries. It says whether an error left the other node as it was: then somebody
// else, or the same one later, may be asked without harm.
func (e *Engine) call(ctx context.Context, node uint64, kind uint8, body []byte) (r reader, untouched bool, err error) {
	return e.callFor(ctx, ForwardWaitMax, node, kind, body)
}

// callLeader is call to the node that leads a shard. When another one leads it, the answer is waited for a little and then no more: the
// node is gone, or cut off, and the connection does not know it yet.
func (e *Engine) callLeader(ctx context.Context, id shard.ID, node uint64, kind uint8, body []byte) (r reader, untouched bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer e.usher.leave(e.usher.enter(id, node, cancel))
	return e.call(ctx, node, kind, body)
}

// callFor is call for one that may take so long.
func (e *Engine) callFor(ctx context.Context, wait time.Duration, node uint64, kind uint8, body []byte) (r reader, untouched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	e.called[kind].Add(1)
	began := time.Now()
	answer, err := e.opts.Forwarder.Call(ctx, node, kind, body)
	if err == nil && kind != callFetch { // A fetch waits for jobs.
		e.callMeters[kind].add(time.Since(began))
	}
	if err != nil {
		if e.opts.Forwarder.Undelivered(err) {
			return reader{}, true, errUnreachable(node, err)
		}
		return reader{}, false, errUnknownOutcome(err)
	}
	r.b = answer
	switch status := r.u8(); {
	case r.bad || status > answerFailed:
		return reader{}, false, errForwardVersion(node)
	case status == answerFailed:
		own := r.error()
		if r.bad {
			return reader{}, false, errForwardVersion(node)
		}
		return reader{}, nothingHappened(own), own
	}
	return r, false, nil
}

// clustered reports whether there are other nodes to ask.
func (e *Engine) clustered() bool { return e.opts.Forwarder != nil }

// leads reports whether this node leads a shard and may propose.
func (e *Engine) leads(id shard.ID) bool {
	l, ok := e.host.LeadershipOf(id)
	return ok && l.Leading
}

// search looks for the node that leads a shard, again and again while those that were asked do not.
type search struct {
	e     *Engine
	shard shard.ID
	until time.Time     // patience
	pause time.Duration // before the next look; 0: none was in vain yet
	last  error         // why the last one that was found was of no use
	alone time.Time     // since when this node is cut off; zero: it is not
}

func (e *Engine) search(id shard.ID) *search {
	return &search{e: e, shard: id, until: time.Now().Add(LeaderWaitMax)}
}

// cutOff reports whether this node hears of too few others: then it knows of no leader that the others may have, and whoever asks is
// served better by them. It is not while the catalog has a leader that this node knows: a leader steps down, and a follower forgets who leads,
// when too few of the voters are heard of, and the nodes may be more than those. Some may have been removed, or are on their way in.
func (e *Engine) cutOff() bool {
	if e.opts.Reached == nil || e.opts.Reached() {
		return false
	}
	lead, _ := e.host.LeadershipOf(catalogShard)
	return lead.Leader == 0
}

// hopeless reports whether the node has been cut off for a while. In an election it hears of others within a moment.
func (s *search) hopeless() bool {
	switch {
	case !s.e.cutOff():
		s.alone = time.Time{}
	case s.alone.IsZero():
		s.alone = time.Now()
	default:
		return time.Since(s.alone) >= cutOffGrace
	}
	return false
}

// next returns the node that leads the shard as far as this node knows, and whether it is this one. It waits while nobody is known
// to lead. After failed it waits a little, or until somebody else leads.
func (s *search) next(ctx context.Context) (node uint64, here bool, err error) {
	for {
		moved := s.e.host.Moved()
		l, _ := s.e.host.LeadershipOf(s.shard) // of a shard that is on its way here nobody is known to lead it
		known := l.Leading || l.Leader != 0 && uint64(l.Leader) != s.e.opts.Node
		if known && s.pause == 0 {
			return uint64(l.Leader), l.Leading, nil
		}
		wait := time.Until(s.until)
		if wait <= 0 {
			return 0, false, s.giveUp(uint64(l.Leader))
		}
		if known {
			wait = min(wait, s.pause)
		} else if s.hopeless() {
			return 0, false, errNodeCutOff()
		} else {
			wait = min(wait, cutOffLook)
		}
		timer := time.NewTimer(wait)
		select {
		case <-moved:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, false, s.outOfTime(ctx)
		case <-s.e.background.Done():
			timer.Stop()
			return 0, false, errStopping()
		}
		timer.Stop()
		if known {
			if l, _ = s.e.host.LeadershipOf(s.shard); l.Leading || l.Leader != 0 && uint64(l.Leader) != s.e.opts.Node {
				return uint64(l.Leader), l.Leading, nil
			}
		}
	}
}

// failed says that the node that next returned does not lead, or could not be asked.
func (s *search) failed(err error) {
	s.last = err
	s.pause = min(max(2*s.pause, searchPauseMin), searchPauseMax)
}

// found says that the node that next returned was the right one.
func (s *search) found() { s.pause, s.last, s.alone = 0, nil, time.Time{} }

func (s *search) giveUp(leader uint64) error {
	if own := asErrorOrNil(s.last); own != nil && own.Reason != ReasonNotLeader {
		return own
	}
	if leader == s.e.opts.Node {
		leader = 0 // it does not lead yet, or no more
	}
	return errLedBy(leader)
}

// outOfTime is the error of a search whose caller waits no longer: nothing happened.
func (s *search) outOfTime(ctx context.Context) error {
	return contextError(ctx.Err())
}

func asErrorOrNil(err error) *Error {
	if err == nil {
		return nil
	}
	return asError(err)
}
