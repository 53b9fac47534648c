package beaver

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"
)

const (
	// stallAfter is how long a node may owe an answer before it is asked whether it is there. A failover among the others takes less,
	// so that callers who wait for a leader mostly ask nothing; and where it takes longer, up to the time that a server waits for a
	// leader, their node is there and says so.
	stallAfter = 2 * time.Second
	// stallProbeMax is how long it may take to say so. The question goes over a connection that no load is on.
	stallProbeMax = time.Second
)

// question is a probe of a node that owes somebody an answer. All who want to know wait for the same one.
type question struct {
	over     chan struct{}
	answered bool // valid when over is closed
}

// silence tells of a node that owes an answer whether it stands still, while another node serves: a process that is stopped and a
// machine that hangs hold their connections, and a lost one does not say that it is. Else it tells when the node was last known to be there;
// with nobody else to go to, or when ctx ends, that is now. named says that only nodes that Config.Addr names are of use.
func (s *nodes) silence(ctx context.Context, n *node, named bool) (heard time.Time, silent bool) {
	s.mu.Lock()
	now := time.Now()
	switch {
	case s.ctx.Err() != nil || !s.othersLocked(n, named):
		s.mu.Unlock()
		return now, false
	case now.Sub(n.heard) < stallAfter:
		defer s.mu.Unlock()
		return n.heard, false
	case n.question == nil:
		q := &question{over: make(chan struct{})}
		n.question = q
		s.group.Go(func() { s.ask(n, q, now) })
	}
	q := n.question
	s.mu.Unlock()
	select {
	case <-q.over:
		return now, !q.answered
	case <-ctx.Done():
		return now, false
	}
}

// ask puts a question to a node. Whatever the server says shows that it is there; whether it serves is for those to learn who choose
// a node.
func (s *nodes) ask(n *node, q *question, now time.Time) {
	ctx, cancel := context.WithTimeout(s.ctx, stallProbeMax)
	defer cancel()
	_, err := s.probe(ctx, n)
	q.answered = err == nil || connect.IsWireError(err) || s.ctx.Err() != nil
	if !q.answered {
		s.logger.Warn("node stands still", "addr", n.url, "error", err)
		s.failed(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.answered {
		n.heard = now
	}
	n.question = nil
	close(q.over)
}

// others reports whether another node than n is up.
func (s *nodes) others(n *node, named bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.othersLocked(n, named)
}

// othersLocked is others.
//
// REQUIRES: s.mu.
func (s *nodes) othersLocked(n *node, named bool) bool {
	return slices.ContainsFunc(s.all, func(o *node) bool { return o != n && !o.down && (o.named || !named) })
}

// whileThere makes a call to a node, and ends it with errSilent when the node turns out to stand still.
func (s *nodes) whileThere(ctx context.Context, n *node, named bool, call func(context.Context) error) error {
	ctx, end := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	alarm := time.AfterFunc(stallAfter, func() {
		defer close(watched)
		s.watchCall(ctx, n, named, end)
	})
	err := call(ctx)
	end(nil)
	if !alarm.Stop() {
		<-watched
	}
	if err != nil && errors.Is(context.Cause(ctx), errSilent) && !connect.IsWireError(err) {
		return errSilent
	}
	return err
}

// watchCall asks about a node until ctx ends, and ends it when the node stands still.
func (s *nodes) watchCall(ctx context.Context, n *node, named bool, end context.CancelCauseFunc) {
	for {
		heard, silent := s.silence(ctx, n, named)
		if silent {
			end(errSilent)
			return
		}
		again := time.NewTimer(time.Until(heard.Add(stallAfter)))
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return
		}
	}
}
