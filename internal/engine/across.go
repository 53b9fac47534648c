package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

// site is a node, and those shards of a fetch that it leads.
type site struct {
	node uint64
	here bool
	legs []leg
}

// sites sorts a fetch's legs by the nodes that lead their shards, as this node knows it. Legs whose shards nobody leads are left out.
func (e *Engine) sites(legs []leg) []site {
	var all []site
	for _, l := range legs {
		lead, _ := e.host.LeadershipOf(l.pump.shard)
		node := uint64(lead.Leader)
		if !lead.Leading && (node == 0 || node == e.opts.Node) {
			continue
		}
		i := slices.IndexFunc(all, func(s site) bool { return s.here == lead.Leading && (s.here || s.node == node) })
		if i < 0 {
			all = append(all, site{node: node, here: lead.Leading})
			i = len(all) - 1
		}
		all[i].legs = append(all[i].legs, l)
	}
	return all
}

func sameSites(a, b []site) bool {
	return slices.EqualFunc(a, b, func(x, y site) bool {
		return x.node == y.node && x.here == y.here && slices.EqualFunc(x.legs, y.legs, func(l, m leg) bool { return l.pump == m.pump })
	})
}

// fetchAcross fetches from shards that any nodes lead. First it asks them one after the other, so that a worker that finds work gets no
// more than it can hold; when there is none it parks on all of them, takes what comes first, and gives back what comes second.
func (e *Engine) fetchAcross(ctx context.Context, r *FetchRequest, legs []leg, w *worker, until time.Time, missing bool, view *table) ([]FetchedJob, fetchEnd, error) {
	s := e.search(legs[0].pump.shard)
	for {
		moved, began := e.host.Moved(), time.Now()
		sites := e.sites(legs)
		jobs, end, err := e.fetchOn(ctx, r, legs, sites, w, until, missing, view, moved)
		if err != nil && asError(err).Code == CodeUnknownOutcome && r.Wait > 0 {
			// Jobs may have been leased that the worker will never hear of. They come to light when it says next what it holds.
			end, err = endMoved, nil
		}
		if time.Since(began) > searchPauseMax {
			s = e.search(legs[0].pump.shard) // it was served: patience begins anew
		}
		own := asErrorOrNil(err)
		switch {
		case own == nil && end != endMoved:
			return jobs, end, nil
		case own == nil:
			s.failed(nil)
		case r.Wait <= 0 || !nothingHappened(own) && own.Reason != ReasonUnreachable || e.background.Err() != nil:
			return nil, end, own
		default:
			s.failed(own)
		}
		pause := min(s.pause, time.Until(until))
		if own != nil && (time.Now().After(s.until) || pause <= 0) {
			return nil, endOver, own
		}
		if own != nil && s.hopeless() {
			return nil, endOver, errNodeCutOff()
		}
		timer := time.NewTimer(pause)
		select {
		case <-moved:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, endOver, contextError(ctx.Err())
		}
	}
}

// fetchOn is one round of fetchAcross. endMoved says that the shards may have other leaders now.
func (e *Engine) fetchOn(
	ctx context.Context, r *FetchRequest, legs []leg, sites []site, w *worker, until time.Time, missing bool, view *table, moved <-chan struct{},
) ([]FetchedJob, fetchEnd, error) {
	if len(sites) == 0 {
		return nil, endOver, errNotLeader()
	}
	if r.Wait <= 0 || len(sites) > 1 {
		jobs, err := e.fetchTurn(ctx, r, sites, w)
		if err != nil || len(jobs) > 0 || r.Wait <= 0 {
			return jobs, endAnswered, err
		}
	}
	wait := max(time.Until(until), 0)
	if one := sites[0]; len(sites) == 1 && one.here && len(one.legs) == len(legs) {
		return e.fetchAtHome(ctx, r, legs, w, wait, missing, view)
	}
	race := &race{engine: e, results: make(chan catch, len(sites))}
	run, cancel := context.WithCancel(ctx)
	defer race.end()
	defer cancel()
	for _, s := range sites {
		if !e.spawn(func() { race.deliver(e.fetchAt(run, s, r, w, wait)) }) {
			return nil, endOver, errStopping()
		}
	}
	changed := view.awaited(missing)
	over := time.NewTimer(wait + fetchSlack)
	defer over.Stop()
	var failed error
	for left := len(sites); left > 0; {
		select {
		case c := <-race.results:
			switch left--; {
			case len(c.jobs) > 0:
				return c.jobs, endAnswered, nil
			case c.err != nil && asError(c.err).Code == CodeUnknownOutcome:
				return nil, endOver, c.err
			case c.err != nil && left > 0 && nothingHappened(asError(c.err)):
				return nil, endMoved, nil
			case c.err != nil:
				failed = c.err
			}
		case <-moved:
			moved = e.host.Moved()
			if !sameSites(e.sites(legs), sites) {
				return nil, endMoved, nil
			}
		case <-changed:
			return nil, endQueueCame, nil
		case <-over.C:
			return nil, endOver, nil
		case <-ctx.Done():
			return nil, endOver, contextError(ctx.Err())
		case <-w.goneChan():
			return nil, endOver, errWorkerLost()
		case <-e.background.Done():
			return nil, endOver, errStopping()
		}
	}
	return nil, endOver, failed
}

// fetchAtHome is a round of fetchAcross when this node leads all the shards: then it is as on a single node.
func (e *Engine) fetchAtHome(ctx context.Context, r *FetchRequest, legs []leg, w *worker, wait time.Duration, missing bool, view *table) ([]FetchedJob, fetchEnd, error) {
	ft, end, err := e.fetchParked(ctx, r, legs, w, wait, missing, view)
	if err != nil || ft == nil || len(ft.leases) == 0 {
		if err == nil {
			ft.free()
		}
		return nil, end, err
	}
	jobs, err := e.unpack(ctx, ft, w)
	return jobs, end, err
}

// fetchTurn asks one site after the other, without waiting, and begins with another one each time. It fails when none can be asked.
func (e *Engine) fetchTurn(ctx context.Context, r *FetchRequest, sites []site, w *worker) ([]FetchedJob, error) {
	turn := int(e.sitting.Add(1) % uint64(len(sites)))
	asked := false
	var failed error
	for i := range sites {
		c := e.fetchAt(ctx, sites[(turn+i)%len(sites)], r, w, 0)
		switch {
		case ctx.Err() != nil:
			e.giveBack(c.jobs)
			return nil, contextError(ctx.Err())
		case len(c.jobs) > 0:
			return c.jobs, nil
		case c.err == nil:
			asked = true
		case !ofOneShard(c.err), asError(c.err).Code == CodeUnknownOutcome:
			return nil, c.err
		default:
			failed = c.err
		}
	}
	if asked {
		return nil, nil
	}
	return nil, failed
}

// catch is what a fetch brought from one site.
type catch struct {
	jobs []FetchedJob
	err  error
}

func (e *Engine) fetchAt(ctx context.Context, s site, r *FetchRequest, w *worker, wait time.Duration) catch {
	var c catch
	if s.here {
		c.jobs, c.err = e.fetchHere(ctx, r, s.legs, w, wait)
	} else {
		c.jobs, c.err = e.fetchThere(ctx, s.node, r, s.legs, wait)
	}
	return c
}

// race is a fetch that is parked at several sites. The first catch is the caller's; what comes when it is over is given back.
type race struct {
	engine  *Engine
	results chan catch // has room for all

	mu   sync.Mutex
	over bool // REQUIRES: mu
}

func (r *race) deliver(c catch) {
	r.mu.Lock()
	over := r.over
	if !over {
		r.results <- c
	}
	r.mu.Unlock()
	if over {
		r.engine.giveBack(c.jobs)
	}
}

func (r *race) end() {
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	for {
		select {
		case c := <-r.results:
			r.engine.giveBack(c.jobs)
		default:
			return
		}
	}
}

// giveBack gives jobs back that nobody wants any more, no attempt counted. Nobody waits for it.
func (e *Engine) giveBack(jobs []FetchedJob) {
	leases := make(map[*pump][]queue.Lease)
	for i := range jobs {
		p := e.pump(shardID(jobs[i].ID))
		leases[p] = append(leases[p], queue.Lease{Pos: jobs[i].ID.Pos, Token: jobs[i].Token})
	}
	for p, some := range leases {
		if p != nil {
			e.release(p, some)
		}
	}
}
