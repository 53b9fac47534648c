package rpc

import (
	"context"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// The goroutines of a Work stream that face the engine: the fetcher and the finisher.

// fetch gets jobs for as many credits as there are, until ctx is done.
func (s *workStream) fetch(ctx context.Context) {
	r := engine.FetchRequest{
		Worker: s.worker, Queues: s.queues, Wait: queue.WaitMillisMax * time.Millisecond, OfStream: true,
	}
	pause := fetchPauseMin
	for ctx.Err() == nil {
		if err := s.compare(ctx); err != nil {
			s.abort(err)
			return
		}
		wait, credits := s.startFetch(ctx)
		if wait == nil {
			select {
			case <-s.wakeFetcher:
			case <-ctx.Done():
			}
			continue
		}
		r.Max = min(credits, queue.FetchMax)
		jobs, err := s.engine.Fetch(wait, &r)
		s.endFetch(jobs)
		if len(jobs) > 0 {
			s.dispatch()
		}
		if err == nil {
			pause = fetchPauseMin
			continue
		}
		if wait.Err() != nil {
			continue
		}
		if !passing(err) {
			s.abort(err)
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, fetchPauseMax)
	}
}

// passing tells that an error of a fetch may be gone a moment later.
func passing(err error) bool {
	own := asEngineError(err)
	if own.Reason == engine.ReasonCutOff {
		return false // the worker is served better by another node
	}
	code := own.Code
	return code == engine.CodeUnavailable || code == engine.CodeResourceExhausted || code == engine.CodeUnknownOutcome
}

// startFetch returns the context of the next fetch, or nil when there are no credits.
func (s *workStream) startFetch(ctx context.Context) (wait context.Context, credits int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.credits == 0 {
		return nil, 0
	}
	wait, s.stopWait = context.WithCancel(ctx)
	return wait, s.credits
}

func (s *workStream) endFetch(jobs []engine.FetchedJob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopWait()
	s.stopWait = nil
	s.credits = max(0, s.credits-len(jobs))
	s.out.jobs = append(s.out.jobs, jobs...)
	s.transit.depart(jobs)
}

// finish gives all waiting outcomes to the engine at once, again and again until there will be no more.
func (s *workStream) finish(ctx context.Context) {
	var batch []engine.Outcome
	var ended []engine.Ended
	for {
		requests, noMore := s.nextOutcomes()
		if len(requests) == 0 {
			if noMore {
				return
			}
			<-s.wakeFinisher
			continue
		}
		clear(batch)
		batch = batch[:0]
		for _, r := range requests {
			batch = append(batch, r.outcomes...)
		}
		var err error
		if ended, err = s.engine.Finish(ctx, s.worker, batch, ended[:0]); err != nil {
			s.abort(err)
			return
		}
		s.answer(batch, ended, requests[len(requests)-1].sequence)
		if i := slices.IndexFunc(ended, func(e engine.Ended) bool { return e.Err != nil && e.Err.Reason == engine.ReasonCutOff }); i >= 0 {
			s.abort(ended[i].Err) // The worker has its answers, and brings what was not done to another node.
		}
		for _, r := range requests {
			r.release()
		}
	}
}

// nextOutcomes takes messages from the backlog, as many as fit into one call of the engine.
func (s *workStream) nextOutcomes() (requests []*workRequest, noMore bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, r := range s.waiting {
		if count > 0 && count+len(r.outcomes) > OutcomesMax {
			break
		}
		count += len(r.outcomes)
		requests = append(requests, r)
	}
	s.waiting = slices.Delete(s.waiting, 0, len(requests))
	s.backlog -= count
	if count > 0 {
		wake(s.wakeReader)
	}
	return requests, s.noMore
}

// answer queues the answers to a batch of outcomes.
func (s *workStream) answer(batch []engine.Outcome, ended []engine.Ended, through uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.through = through
	for i := range ended {
		if ended[i].Err != nil {
			lease := engine.LeaseRef{ID: batch[i].ID, Token: batch[i].Token}
			s.out.refused = append(s.out.refused, refusal{lease: lease, err: ended[i].Err})
		}
	}
	wake(s.wakeWriter)
}
