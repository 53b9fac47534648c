package engine

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// race is a fetch that is parked at several sites. The first catch is its caller's. Then the other sites are told to let the fetch leave, and
// each says in the end what it was granted until then: it may be that several grant at the same moment.
//
// What comes second is older than all that its shard has left, so it must be with the consumer, or back in its place, before the consumer is
// handed anything else: else the jobs of an ordering key were out of order. A fetch without a worker waits for it, and so does one that got
// nothing. That of a worker is answered at once; the rest trails behind it, and the worker's next fetch begins by waiting for that, and takes
// what comes. If there is none just then, it goes back to its place.
type race struct {
	engine  *Engine
	max     int
	queues  []string
	worker  *worker // nil: none
	leave   context.CancelFunc
	results chan catch // has room for all
	left    int        // of the results that were not received

	// Of a race that trails.
	late    chan []FetchedJob // to a fetch that waits for it
	settled chan struct{}     // closed when nothing comes any more
}

// startRace parks a fetch at several sites. Its racers outlive their caller, since what they catch must not be lost.
func (e *Engine) startRace(r *FetchRequest, sites []site, w *worker, wait time.Duration) (*race, error) {
	wanted, leave := context.WithCancel(e.background)
	race := &race{
		engine: e, max: r.Max, queues: r.Queues, worker: w, leave: leave, results: make(chan catch, len(sites)),
		late: make(chan []FetchedJob), settled: make(chan struct{}),
	}
	for _, s := range sites {
		if !e.spawn(func() { race.results <- e.fetchAt(e.calls, wanted, s, r, w, wait) }) {
			race.follow()
			return nil, errStopping()
		}
		race.left++
	}
	return race, nil
}

// run waits for the first catch, or for what ends the race before, and settles the rest. same tells whether the sites are still the right
// ones when moved says that some shards have other leaders.
func (r *race) run(ctx context.Context, same func() bool, wait time.Duration, moved, changed <-chan struct{}) ([]FetchedJob, fetchEnd, error) {
	jobs, end, err := r.first(ctx, same, wait, moved, changed)
	switch {
	case r.left == 0:
		r.leave()
		return jobs, end, err
	case len(jobs) > 0 && r.worker != nil, r.worker.isGone(), r.engine.background.Err() != nil, end == endOver && err == nil:
		r.follow()
		return jobs, end, err
	}
	patience := settleWait
	if end == endMoved {
		patience = movedGrace // one of them may be dead
	}
	if jobs = r.gather(jobs, patience); ctx.Err() != nil {
		r.engine.takeBack(jobs)
		return nil, endOver, contextError(ctx.Err())
	}
	if len(jobs) > 0 {
		return jobs, endAnswered, nil
	}
	return nil, end, err
}

// first is the first catch, or why there is none. endOver without an error says that a site does not answer.
func (r *race) first(ctx context.Context, same func() bool, wait time.Duration, moved, changed <-chan struct{}) ([]FetchedJob, fetchEnd, error) {
	over := time.NewTimer(wait + fetchSlack)
	defer over.Stop()
	var failed error
	for r.left > 0 {
		select {
		case c := <-r.results:
			switch r.left--; {
			case len(c.jobs) > 0:
				return c.jobs, endAnswered, nil
			case c.err != nil && asError(c.err).Code == CodeUnknownOutcome:
				return nil, endOver, c.err
			case c.err != nil && r.left > 0 && nothingHappened(asError(c.err)):
				return nil, endMoved, nil
			case c.err != nil:
				failed = c.err
			}
		case <-moved:
			moved = r.engine.host.Moved()
			if !same() {
				return nil, endMoved, nil
			}
		case <-changed:
			return nil, endQueueCame, nil
		case <-over.C:
			return nil, endOver, nil
		case <-ctx.Done():
			return nil, endOver, contextError(ctx.Err())
		case <-r.worker.goneChan():
			return nil, endOver, errWorkerLost()
		case <-r.engine.background.Done():
			return nil, endOver, errStopping()
		}
	}
	return nil, endOver, failed
}

// gather has all sites let the fetch leave and adds to its jobs what they granted until then. What does not fit is taken back. A worker is
// answered with the first that comes, if there is nothing yet; the others trail behind.
func (r *race) gather(jobs []FetchedJob, patience time.Duration) []FetchedJob {
	r.leave()
	over := time.NewTimer(patience)
	defer over.Stop()
	for r.left > 0 {
		select {
		case c := <-r.results:
			r.left--
			fit := fitting(jobs, c.jobs, r.max)
			jobs = append(jobs, c.jobs[:fit]...)
			r.engine.takeBack(c.jobs[fit:])
			if len(jobs) == 0 || r.worker == nil {
				continue
			}
		case <-over.C:
		}
		r.follow()
		break
	}
	return jobs
}

// fitting says how many more jobs fit one answer.
func fitting(have, more []FetchedJob, most int) int {
	bytes := 0
	for i := range have {
		bytes += answerBytes(&have[i])
	}
	for i := range more {
		if bytes += answerBytes(&more[i]); len(have)+i == most || len(have)+i > 0 && bytes > FetchBytesMax {
			return i
		}
	}
	return len(more)
}

// answerBytes is about what a job counts of FetchBytesMax.
func answerBytes(j *FetchedJob) int {
	size := len(j.Spec.Payload)
	for _, kv := range j.Spec.Metadata {
		size += len(kv.Key) + len(kv.Value)
	}
	return max(size, queue.SmallJobBytes)
}

// follow leaves what is left of the race to a goroutine of its own.
func (r *race) follow() {
	r.leave()
	if r.left == 0 {
		return
	}
	r.worker.trail(r)
	if !r.engine.spawn(r.settle) {
		r.settle() // the engine is closing, and waits for the caller, or for nobody
	}
}

// settle hands what comes yet to a fetch of the worker that waits for it, or takes it back.
func (r *race) settle() {
	for ; r.left > 0; r.left-- {
		c := <-r.results
		if len(c.jobs) == 0 {
			continue
		}
		select {
		case r.late <- c.jobs:
		default:
			r.engine.takeBack(c.jobs)
		}
	}
	r.worker.untrail(r)
	close(r.settled)
}

// catchUp waits until all is settled that trails behind the worker's former fetches, but not for long, however many those are. What comes of
// it is a fetch's answer, if that is for the same queues.
func (e *Engine) catchUp(ctx context.Context, w *worker, r *FetchRequest) ([]FetchedJob, error) {
	t := w.trailing()
	if t == nil {
		return nil, nil
	}
	over := time.NewTimer(settleWait)
	defer over.Stop()
	for ; t != nil; t = w.trailing() {
		late := t.late
		if r == nil || !slices.Equal(r.Queues, t.queues) {
			late = nil
		}
		select {
		case jobs := <-late:
			fit := fitting(nil, jobs, r.Max)
			e.takeBack(jobs[fit:])
			return jobs[:fit], nil
		case <-t.settled:
		case <-over.C:
			w.untrail(t) // so that nobody else waits for it
			return nil, nil
		case <-ctx.Done():
			return nil, contextError(ctx.Err())
		case <-w.goneChan():
			return nil, errWorkerLost()
		}
	}
	return nil, nil
}

// trail takes note of a race that is not settled. It does nothing for no worker.
func (w *worker) trail(r *race) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trails = append(w.trails, r)
	w.trailed.Store(int32(len(w.trails)))
}

// untrail forgets a race.
func (w *worker) untrail(r *race) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trails = slices.DeleteFunc(w.trails, func(t *race) bool { return t == r })
	w.trailed.Store(int32(len(w.trails)))
}

// trailing is the oldest race of the worker that is not settled; nil: there is none.
func (w *worker) trailing() *race {
	if w == nil || w.trailed.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.trails) == 0 {
		return nil
	}
	return w.trails[0]
}

// takeBack takes jobs back that nobody was told of: they are in their places again, and no attempt began, when it returns. It does not wait for
// long.
func (e *Engine) takeBack(jobs []FetchedJob) {
	if len(jobs) == 0 {
		return
	}
	leases := make(map[*pump][]queue.Lease)
	for i := range jobs {
		p := e.pump(shardID(jobs[i].ID))
		leases[p] = append(leases[p], queue.Lease{Pos: jobs[i].ID.Pos, Token: jobs[i].Token})
	}
	for p, some := range leases {
		if p != nil {
			e.takeBackLeases(p, some)
		}
	}
}

// takeBackLeases is takeBack for leases of one shard.
func (e *Engine) takeBackLeases(p *pump, leases []queue.Lease) {
	c := p.takeBackCall(leases)
	err := p.submit(c)
	if err == nil {
		over := time.NewTimer(settleWait)
		defer over.Stop()
		select {
		case <-c.done:
			if err = c.err; err == nil {
				c.free()
			}
		case <-over.C: // it goes on alone
		}
	}
	if err != nil {
		e.opts.Logger.Warn("leases of an abandoned fetch could not be taken back; their jobs wait for the worker to end or the lease to run out",
			slog.Int("shard", int(p.shard)), slog.Int("jobs", len(leases)), slog.Any("error", err))
	}
}
