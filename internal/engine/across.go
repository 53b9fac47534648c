package engine

import (
	"context"
	"slices"
	"time"
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
// more than it can hold; when there is none it parks on all of them, and takes what comes first; see race for what comes second.
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
		return e.fetchAtHome(ctx, r, legs, w, wait, view.awaited(missing))
	}
	race, err := e.startRace(r, sites, w, wait)
	if err != nil {
		return nil, endOver, err
	}
	return race.run(ctx, func() bool { return sameSites(e.sites(legs), sites) }, wait, moved, view.awaited(missing))
}

// fetchAtHome is a round of fetchAcross when this node leads all the shards: then it is as on a single node.
func (e *Engine) fetchAtHome(ctx context.Context, r *FetchRequest, legs []leg, w *worker, wait time.Duration, changed <-chan struct{}) ([]FetchedJob, fetchEnd, error) {
	ft, end, err := e.fetchParked(ctx, r, legs, w, wait, changed)
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
		c := e.fetchAt(ctx, ctx, sites[(turn+i)%len(sites)], r, w, 0)
		switch {
		case ctx.Err() != nil:
			e.takeBack(c.jobs)
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

// fetchAt fetches at one site until wanted ends, and then leaves in an orderly way: it says what it was granted until then. When ctx ends it
// leaves this node's own pumps at once.
func (e *Engine) fetchAt(ctx, wanted context.Context, s site, r *FetchRequest, w *worker, wait time.Duration) catch {
	var c catch
	if s.here {
		c.jobs, c.err = e.fetchHere(ctx, wanted.Done(), r, s.legs, w, wait)
	} else {
		c.jobs, c.err = e.fetchThere(wanted, s.node, r, s.legs, wait)
	}
	return c
}
