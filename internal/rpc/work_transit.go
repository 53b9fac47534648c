package rpc

import (
	"context"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// A lease may be the worker's without the worker knowing: its job was lost between the log and the handler by a bug, or
// could not be given back while the node was overloaded. A heartbeat that names all that the worker holds brings such
// leases to light, but only together with what the worker cannot have named: jobs that were on their way to it when it
// wrote. So the worker counts the jobs that it takes in, and the stream remembers those beyond the count: as many as it has
// given credits for.
//
// The fetcher compares, between two fetches: then no lease is granted whose job is not in transit yet. A lease goes back that was left
// out twice, a TTL apart: of one that was left out once it is only sure that the worker did not know it when it wrote, and
// that may be long ago, if this node stood still and the worker has gone on to another one, where it was given more.

// transit is what of the jobs of a stream the worker may not know yet, and what it last said to hold. The stream's mutex
// guards it.
//
// Invariant: received + len(leases) are the jobs of the stream so far; jobs are sent in the order of leases.
type transit struct {
	counts   bool // the worker says how many jobs it took in
	received uint64
	leases   []engine.LeaseRef // of the jobs behind those
	held     []engine.LeaseRef // all that the worker held of those received; not yet compared
	pending  bool              // held is to be compared
	compared time.Time         // when held was last to be compared
	doubted  []engine.LeaseRef // of the fetcher only: what was left out the last time
}

// depart notes jobs that are about to be sent.
func (t *transit) depart(jobs []engine.FetchedJob) {
	if !t.counts {
		return
	}
	for i := range jobs {
		t.leases = append(t.leases, engine.LeaseRef{ID: jobs[i].ID, Token: jobs[i].Token})
	}
}

// arrived takes note of how many jobs reached the worker, and, once in a TTL, has what it holds compared with its leases.
func (s *workStream) arrived(in *workRequest) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.transit
	switch sent := t.received + uint64(len(t.leases)); {
	case !t.counts && in.complete:
		return invalid("complete", "belongs into the first message of a stream, too: jobs are counted from there")
	case !t.counts:
		return nil
	case in.received < t.received || in.received > sent:
		return invalid("received", "is %d: it was %d before, and %d jobs were sent", in.received, t.received, sent)
	}
	t.leases = slices.Delete(t.leases, 0, int(in.received-t.received))
	t.received = in.received
	if len(t.leases) > HeldMax {
		return invalid("received", "is %d, and %d jobs were sent behind them: count jobs as they come", t.received, len(t.leases))
	}
	if !in.complete {
		return nil
	}
	if t.pending && s.stopWait != nil {
		s.stopWait() // the fetch has been waiting for a whole heartbeat
	}
	now := time.Now()
	if !t.pending && now.Sub(t.compared) < s.ttl {
		return nil
	}
	t.compared, t.pending = now, true
	t.held = append(t.held[:0], in.held...)
	wake(s.wakeFetcher)
	return nil
}

// compare gives back the leases that the worker left out, if it is time to. Only an error that ends the stream is one: what
// cannot be compared now is compared with a later heartbeat.
//
// REQUIRES: no fetch is under way.
func (s *workStream) compare(ctx context.Context) error {
	var known []engine.LeaseRef
	pending := false
	s.locked(func() {
		t := &s.transit
		if pending, t.pending = t.pending, false; pending {
			known = slices.Concat(t.held, t.leases)
		}
	})
	if !pending || len(known) > HeldMax {
		return nil
	}
	doubted, err := s.engine.CompareWorker(ctx, s.worker, known, s.transit.doubted)
	if err != nil && ctx.Err() == nil && !passing(err) {
		return err
	}
	s.transit.doubted = doubted
	return nil
}
