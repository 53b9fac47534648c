package engine

import (
	"context"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Fetch leases up to Max jobs of the queues to the worker and returns them with their payloads; it waits up to Wait for
// the first. The answer is empty when there was none. Queues that do not exist yet are waited for, and not made. No more
// is leased than FetchBytesMax of jobs: what does not fit one answer stays for others.
//
// Of queues on several shards those are served whose shards can serve; the others' come when their shards do. It is an
// error only when none can.
//
// When ctx ends, what was or is being leased is taken back: the jobs are in their old places, and no attempt began.
func (e *Engine) Fetch(ctx context.Context, r *FetchRequest) ([]FetchedJob, error) {
	w, err := e.checkFetch(ctx, r)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(r.Wait)
	if jobs, err := e.catchUp(ctx, w, r); err != nil || len(jobs) > 0 {
		return jobs, err
	}
	for {
		view := e.routes.table()
		legs, old, missing, owing := e.plan(view, r, w)
		if len(old) > 0 {
			if jobs, err := e.fetchOld(ctx, r, old, w); err != nil || len(jobs) > 0 {
				return jobs, err
			}
		}
		var ft *fetch
		var end fetchEnd
		if len(legs) > 0 && e.clustered() {
			jobs, end, err := e.fetchAcross(ctx, r, legs, w, until, missing, view)
			if err != nil || end != endQueueCame {
				return jobs, err
			}
			continue
		}
		switch {
		case len(legs) == 0 && owing != nil:
			err = owing
		case len(legs) == 0:
			end, err = e.awaitQueue(ctx, view, w, time.Until(until))
		case r.Wait <= 0:
			ft, end, err = e.fetchOnce(ctx, nil, r, legs, w)
		default:
			ft, end, err = e.fetchParked(ctx, r, legs, w, time.Until(until), view.awaited(missing))
		}
		if err != nil {
			return nil, err
		}
		if end == endQueueCame {
			continue
		}
		if ft == nil || len(ft.leases) == 0 {
			ft.free()
			return nil, nil
		}
		jobs, err := e.unpack(ctx, ft, w)
		if err != nil {
			return nil, err
		}
		if len(jobs) > 0 || r.Wait <= 0 {
			return jobs, nil
		}
		// All payloads were damaged: go on waiting for sound ones.
	}
}

// fetchOld fetches from homes that queues move from, without waiting: what is ready there is older than all in their new homes. A home
// that cannot be asked now holds up nothing.
func (e *Engine) fetchOld(ctx context.Context, r *FetchRequest, legs []leg, w *worker) ([]FetchedJob, error) {
	now := *r
	now.Wait = 0
	var jobs []FetchedJob
	var ft *fetch
	var err error
	if e.clustered() {
		jobs, _, err = e.fetchAcross(ctx, &now, legs, w, time.Now(), false, nil)
	} else if ft, _, err = e.fetchOnce(ctx, nil, &now, legs, w); err == nil && ft != nil {
		jobs, err = e.unpack(ctx, ft, w)
	}
	if err != nil && ofOneShard(err) && asError(err).Code != CodeUnknownOutcome {
		return nil, nil
	}
	return jobs, err
}

// unpack loads what a fetch was granted and frees it. What is of no use to the caller any more is taken back.
func (e *Engine) unpack(ctx context.Context, ft *fetch, w *worker) ([]FetchedJob, error) {
	defer ft.free()
	jobs, err := e.load(ctx, ft)
	gone := w.isGone()
	if err == nil && (gone || ctx.Err() != nil) {
		e.takeBackLeases(ft.from, ft.leases)
		if err = contextError(ctx.Err()); gone {
			err = errWorkerLost()
		}
	}
	if err != nil {
		return nil, err
	}
	return jobs, nil
}

// fetchEnd says why a fetch stopped waiting.
type fetchEnd uint8

const (
	endAnswered fetchEnd = iota
	endOver
	endMoved     // shards have other leaders
	endQueueCame // a queue was made: look again whether it is one of ours
)

func (e *Engine) checkFetch(ctx context.Context, r *FetchRequest) (*worker, error) {
	switch {
	case len(r.Queues) == 0:
		return nil, invalid("queues", "is empty; name 1 to %d queues", queue.FetchQueuesMax)
	case len(r.Queues) > queue.FetchQueuesMax:
		return nil, tooLarge("queues", "has %d names; at most %d fit one fetch", len(r.Queues), queue.FetchQueuesMax)
	case r.Max < 1 || r.Max > queue.FetchMax:
		return nil, invalid("max", "is %d; it must lie between 1 and %d", r.Max, queue.FetchMax)
	case r.Wait < 0 || r.Wait > queue.WaitMillisMax*time.Millisecond:
		return nil, invalid("wait", "is %v; it must lie between 0 and %v", r.Wait, queue.WaitMillisMax*time.Millisecond)
	case r.Worker != 0 && r.Lease != 0:
		return nil, invalid("lease", "is for fetches without a worker; a worker holds its jobs as long as it lives")
	case r.Lease != 0 && (r.Lease < AnonymousLeaseMin || r.Lease > queue.LeaseMillisMax*time.Millisecond):
		return nil, invalid("lease", "is %v; it must lie between %v and %v", r.Lease, AnonymousLeaseMin, queue.LeaseMillisMax*time.Millisecond)
	}
	for _, name := range r.Queues {
		if e.routes.byName(name) == nil && !cluster.ValidQueueName(name) {
			return nil, badQueueName("queues", name)
		}
	}
	if r.Worker == 0 {
		return nil, nil
	}
	w, err := e.meetWorker(ctx, r.Worker)
	if err != nil {
		return nil, err
	}
	if !r.OfStream {
		w.hear()
	}
	return w, nil
}

// leg is what a fetch asks of one shard.
type leg struct {
	pump   *pump
	queues []queue.QueueID
}

// plan sorts a fetch's queues by their shards, in the order given, and tells whether to look again when the table changes,
// since some do not exist yet, or the worker has to settle with their shard first; owing then says so. old are the legs to homes that
// queues move from, which are among the others too.
func (e *Engine) plan(view *table, r *FetchRequest, w *worker) (legs, old []leg, missing bool, owing error) {
	for _, name := range r.Queues {
		rt := view.byName[name]
		if rt == nil {
			missing = true
			continue
		}
		for _, h := range rt.from {
			if w.owes(h.pump.shard) {
				missing, owing = true, errNotLeader()
				continue
			}
			legs, old = addToLeg(legs, h), addToLeg(old, h)
		}
		for _, h := range rt.homes {
			if w.owes(h.pump.shard) {
				missing, owing = true, errNotLeader()
				continue
			}
			legs = addToLeg(legs, h)
		}
	}
	return legs, old, missing, owing
}

// addToLeg adds a home to the leg of its shard, or to another one when that is as long as one may be.
func addToLeg(legs []leg, h home) []leg {
	for i := range legs {
		if legs[i].pump != h.pump {
			continue
		}
		if slices.Contains(legs[i].queues, h.id) {
			return legs // named twice
		}
		if len(legs[i].queues) < queue.FetchQueuesMax {
			legs[i].queues = append(legs[i].queues, h.id)
			return legs
		}
	}
	return append(legs, leg{pump: h.pump, queues: []queue.QueueID{h.id}})
}

// awaitQueue waits for a queue to be made, as none of the fetch's exists.
func (e *Engine) awaitQueue(ctx context.Context, view *table, w *worker, wait time.Duration) (fetchEnd, error) {
	if wait <= 0 {
		return endOver, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-view.changed:
		return endQueueCame, nil
	case <-timer.C:
		return endOver, nil
	case <-ctx.Done():
		return endOver, contextError(ctx.Err())
	case <-w.goneChan():
		return endOver, errWorkerLost()
	case <-e.background.Done():
		return endOver, errStopping()
	}
}

// fetchOnce asks one shard after the other and does not wait. It starts with another shard each time, and passes over those
// that cannot serve: it fails when none can. When stop is closed it ends, with what it was granted until then.
func (e *Engine) fetchOnce(ctx context.Context, stop <-chan struct{}, r *FetchRequest, legs []leg, w *worker) (*fetch, fetchEnd, error) {
	turn := 0
	if len(legs) > 1 {
		turn = int(e.turn.Add(1) % uint64(len(legs)))
	}
	asked := 0
	var failed error
	for i := range legs {
		l := legs[(turn+i)%len(legs):][:1]
		ft := e.newFetch(r, l, true)
		end, err := e.runFetch(ctx, ft, w, 0, stop)
		if err != nil {
			if !ofOneShard(err) {
				return nil, end, err
			}
			failed = err
			continue
		}
		asked++
		if len(ft.leases) > 0 {
			return ft, end, nil
		}
		ft.free()
	}
	if asked == 0 {
		return nil, endOver, failed
	}
	return nil, endOver, nil
}

// fetchParked parks a fetch on all its shards. Of several it asks one after the other before: which of them is the first to look at a fetch
// that is parked at all is nobody's choice, and one that is seldom the first would starve. When changed is closed it ends, with what it was
// granted until then.
func (e *Engine) fetchParked(ctx context.Context, r *FetchRequest, legs []leg, w *worker, wait time.Duration, changed <-chan struct{}) (*fetch, fetchEnd, error) {
	if len(legs) > 1 {
		ft, end, err := e.fetchOnce(ctx, changed, r, legs, w)
		if ft != nil || err != nil && !ofOneShard(err) {
			return ft, end, err
		}
	}
	ft := e.newFetch(r, legs, false)
	end, err := e.runFetch(ctx, ft, w, max(wait, 0), changed)
	if err != nil {
		return nil, end, err
	}
	return ft, end, nil
}

// newFetch makes a fetch with one part per leg. Only fetches on one shard come from and go to the pool: other shards may
// still look at one that one of them has served.
func (e *Engine) newFetch(r *FetchRequest, legs []leg, once bool) *fetch {
	var ft *fetch
	if len(legs) == 1 {
		ft, _ = e.spareFetches.Get().(*fetch)
	}
	if ft == nil {
		ft = &fetch{pool: &e.spareFetches, done: make(chan struct{}, 1)}
	}
	ft.once, ft.max, ft.err = once, r.Max, nil
	ft.leases = ft.leases[:0]
	ft.state.Store(fetchParked)
	for len(ft.parts) < len(legs) {
		ft.parts = append(ft.parts, &part{fetch: ft})
	}
	var lease time.Duration
	if r.Worker == 0 {
		if lease = r.Lease; lease == 0 {
			lease = AnonymousLeaseDefault
		}
	}
	bytesMax := FetchBytesMax
	if r.afar {
		bytesMax = farFetchBytesMax
	}
	for i, l := range legs {
		pt := ft.parts[i]
		pt.pump = l.pump
		pt.queues = append(pt.queues[:0], l.queues...)
		for len(pt.nodes) < len(l.queues) {
			pt.nodes = append(pt.nodes, node{})
		}
		pt.nodes = pt.nodes[:len(l.queues)]
		for j := range pt.nodes {
			pt.nodes[j] = node{part: pt}
		}
		pt.items.Reset()
		pt.items.Commit(queue.AppendFetch(pt.items.Buf(), r.Worker, pt.queues, r.Max, bytesMax, lease.Milliseconds()))
	}
	return ft
}

// free gives a fetch back that its caller is done with and no pump holds.
func (ft *fetch) free() {
	if ft != nil && len(ft.parts) == 1 {
		ft.pool.Put(ft)
	}
}

// runFetch parks a fetch and waits for its answer, for wait at most. With a nil error the fetch is the caller's again
// and parked nowhere; with an error it must not be touched any more.
func (e *Engine) runFetch(ctx context.Context, ft *fetch, w *worker, wait time.Duration, changed <-chan struct{}) (fetchEnd, error) {
	ft.open.Store(int32(len(ft.parts)))
	for i, pt := range ft.parts {
		asleep, err := pt.pump.park(pt)
		switch {
		case err == nil, asleep && ft.doze():
		case asleep && !ft.leave(): // a shard that served just now has it
		default:
			if i > 0 {
				e.abandon(ft)
			}
			return endOver, err
		}
	}
	var over <-chan time.Time
	if !ft.once {
		if ft.timer == nil {
			ft.timer = time.NewTimer(wait)
		} else {
			ft.timer.Reset(wait)
		}
		defer ft.timer.Stop()
		over = ft.timer.C
	}
	end := endAnswered
	var err error
	select {
	case <-ft.done:
		return endAnswered, e.finishFetch(ft)
	case <-over:
		end = endOver
	case <-changed:
		end = endQueueCame
	case <-ctx.Done():
		err = contextError(ctx.Err())
	case <-w.goneChan():
		err = errWorkerLost()
	}
	if ft.leave() {
		return end, err
	}
	if err != nil {
		e.awaitAbandoned(ft, w)
		return end, err
	}
	select {
	case <-ft.done:
		if err := e.finishFetch(ft); err != nil {
			return end, err
		}
		if len(ft.leases) > 0 {
			end = endAnswered
		}
		return end, nil
	case <-ctx.Done():
		e.awaitAbandoned(ft, w)
		return end, contextError(ctx.Err())
	}
}

// awaitAbandoned waits for the answer of a fetch that is not wanted any more, a commit away, and takes back what it was granted: then the
// caller's next fetch finds all in its place. When it takes long, the fetch is left to the pumps.
func (e *Engine) awaitAbandoned(ft *fetch, w *worker) {
	over := time.NewTimer(settleWait)
	defer over.Stop()
	select {
	case <-ft.done:
		if err := e.finishFetch(ft); err == nil && len(ft.leases) > 0 {
			e.takeBackLeases(ft.from, ft.leases)
		}
	case <-over.C:
		e.abandon(ft)
	case <-w.goneChan():
		e.abandon(ft)
	}
}

// leave takes a parked fetch back. When it sits in an entry the answer is a commit away: leave then reports false, and
// that answer is the last, should it be empty.
func (ft *fetch) leave() bool {
	for {
		switch ft.state.Load() {
		case fetchParked:
			if ft.state.CompareAndSwap(fetchParked, fetchGone) {
				ft.unpark()
				return true
			}
		case fetchClaimed:
			if ft.state.CompareAndSwap(fetchClaimed, fetchClaimedLast) {
				return false
			}
		default:
			return false
		}
	}
}

// finishFetch takes an answered fetch back from the pumps.
func (e *Engine) finishFetch(ft *fetch) error {
	ft.unpark()
	return ft.err
}

// unpark takes a fetch that no shard may claim any more out of all lanes.
func (ft *fetch) unpark() {
	for _, pt := range ft.parts {
		pt.pump.unpark(pt)
	}
}

// abandon leaves a fetch to the pumps, or takes back what it was granted already.
func (e *Engine) abandon(ft *fetch) {
	for {
		switch s := ft.state.Load(); s {
		case fetchDone:
			<-ft.done
			ft.unpark()
			if len(ft.leases) > 0 {
				e.takeBackLeases(ft.from, ft.leases)
			}
			return
		default:
			if ft.state.CompareAndSwap(s, fetchGone) {
				ft.unpark()
				return
			}
		}
	}
}

// load reads the payloads of what a fetch was granted. A job whose payload is damaged is reported to the machine, which
// buries it, and left out. On another error all leases are taken back. So they are when this node leads the shard no more: what it has lost,
// or has not yet of a shard that it left and came back to, the node that leads now may have.
func (e *Engine) load(ctx context.Context, ft *fetch) ([]FetchedJob, error) {
	jobs := make([]FetchedJob, 0, len(ft.leases))
	items := leasedItems{host: e.host, shard: ft.from.shard, leases: ft.leases}
	for i := range ft.leases {
		l := &ft.leases[i]
		h, item, err := items.read(i)
		if beingMended(err) != nil {
			h, item, err = e.readMended(ctx, ft.from.shard, l.Pos, err)
		}
		var spec Spec
		if err == nil {
			spec, err = queue.DecodeSpec(item)
			if err != nil {
				err = &damagedSpecError{cause: err}
			}
		}
		if isDamage(err) {
			if e.leads(ft.from.shard) {
				e.bury(ft.from, l, err)
				continue
			}
			err = errNotLeader()
		}
		if err != nil {
			e.takeBackLeases(ft.from, ft.leases)
			return nil, hostError(err)
		}
		j := FetchedJob{
			ID:    JobID{Shard: uint16(ft.from.shard), Pos: l.Pos},
			Token: l.Token, Attempt: l.Attempt, Failures: l.Failures, Crashes: l.Crashes, Spec: spec,
		}
		if l.Deadline != 0 {
			j.Deadline = time.UnixMilli(int64(l.Deadline))
		}
		if rt := e.routes.byID(l.Queue); rt != nil {
			j.QueueName = rt.name
			if rt.meters != nil && l.Attempt == 1 {
				rt.meters.wait.add(time.Duration(ft.stamp-max(h.Stamp, int64(spec.RunAt))) * time.Millisecond)
			}
		}
		jobs = append(jobs, j)
	}
	return jobs, nil
}

// leasedItems reads the items of leases one after another. Neighbours are mostly from one entry, which is then opened once.
type leasedItems struct {
	host   host.Payloads
	shard  shard.ID
	leases []queue.Lease
	batch  shard.Batch
	index  uint64 // of the entry last tried; 0: none yet
	open   bool   // batch is that entry
}

// read returns the item of lease i.
func (r *leasedItems) read(i int) (shard.Header, []byte, error) {
	pos := r.leases[i].Pos
	if pos.Index() != r.index {
		same := 1
		for i+same < len(r.leases) && r.leases[i+same].Pos.Index() == pos.Index() {
			same++
		}
		r.index = pos.Index()
		r.batch, r.open = r.host.Batch(r.shard, r.index, same)
	}
	if !r.open {
		return r.host.Payload(r.shard, pos.Index(), pos.Ordinal())
	}
	item, err := r.batch.Item(pos.Ordinal())
	return r.batch.Header, item, err
}
