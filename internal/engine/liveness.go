package engine

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// RegisterWorker admits a worker and returns its id and its TTL: it is lost, and its jobs are given to others, when it is
// silent for so long.
func (e *Engine) RegisterWorker(ctx context.Context, info WorkerInfo) (WorkerID, time.Duration, error) {
	if err := info.Validate(); err != nil {
		return 0, 0, fieldError(err)
	}
	r, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendRegisterWorker(dst, &info) })
	if err != nil {
		return 0, 0, err
	}
	w := e.workers.get(r.Worker)
	if w == nil {
		return 0, 0, errWorkerLost()
	}
	e.met(w)
	return w.id, w.ttl, nil
}

// liveWorker returns a registered worker that was not lost.
func (e *Engine) liveWorker(id WorkerID) (*worker, error) {
	w := e.workers.get(id)
	if w == nil || w.orphan || w.isGone() {
		return nil, errWorkerLost()
	}
	return w, nil
}

// meetWorker is liveWorker for one that comes to this node. It may have registered at another a moment ago, and the catalog here be late:
// to call it lost would cost it its jobs.
func (e *Engine) meetWorker(ctx context.Context, id WorkerID) (*worker, error) {
	if w := e.workers.get(id); e.clustered() && (w == nil || w.orphan) {
		if err := e.readCatalog(ctx, func() {}); err != nil {
			return nil, err
		}
	}
	return e.liveWorker(id)
}

// Heartbeat is a worker's sign of life. The reply says which of the jobs it holds it should stop, and which it holds no
// longer. Of a shard that cannot be asked it says nothing: the next one does. A worker that was lost is told so (WORKER_LOST)
// and must register again; one whose node is cut off (CUT_OFF) should go to another, since nobody hears here that it lives.
func (e *Engine) Heartbeat(ctx context.Context, id WorkerID, held []LeaseRef) (HeartbeatReply, error) {
	w, err := e.meetWorker(ctx, id)
	if err != nil {
		return HeartbeatReply{}, err
	}
	e.met(w) // whatever it says, it lives
	if len(held) > HeldMax {
		return HeartbeatReply{}, tooLarge("held", "has %d leases; at most %d fit one heartbeat", len(held), HeldMax)
	}
	reply := HeartbeatReply{State: WorkerState(w.want.Load()), TTL: w.ttl}
	asking, cancel := context.WithTimeout(ctx, w.ttl/beatShare)
	defer cancel()
	pumps := e.data()
	mine := byShard(pumps, held)
	judged := make([]findings, len(pumps))
	for i, err := range e.eachShard(pumps, func(i int, p *pump) error {
		return e.judge(asking, p, id, mine[i], &judged[i])
	}) {
		if err != nil && (!e.others(ctx, err) || isCutOff(err)) {
			return reply, err
		}
		for _, l := range judged[i].Cancel {
			reply.Cancel = append(reply.Cancel, l.ref(pumps[i].shard))
		}
		for _, l := range judged[i].Lost {
			reply.Lost = append(reply.Lost, l.ref(pumps[i].shard))
		}
	}
	for _, ref := range held {
		if id := shardID(ref.ID); (id == catalogShard || int(id) > len(pumps)) && !e.mayCome(id) {
			reply.Lost = append(reply.Lost, ref)
		}
	}
	return reply, nil
}

// byShard sorts leases by their shards, in the order of pumps.
func byShard(pumps []*pump, held []LeaseRef) [][]heldLease {
	mine := make([][]heldLease, len(pumps))
	for _, ref := range held {
		if id := shardID(ref.ID); id != catalogShard && int(id) <= len(pumps) {
			mine[id-1] = append(mine[id-1], heldLease{ref.ID.Pos, ref.Token})
		}
	}
	return mine
}

func (l heldLease) ref(id shard.ID) LeaseRef {
	return LeaseRef{ID: JobID{Shard: uint16(id), Pos: l.Pos}, Token: l.Token}
}

// eachShard does something for every one of these data shards and returns what came of each. With other nodes it is done side by side: a shard
// without a leader takes its time, and must not take that of the others.
func (e *Engine) eachShard(pumps []*pump, do func(i int, p *pump) error) []error {
	failed := make([]error, len(pumps))
	if !e.clustered() {
		for i, p := range pumps {
			failed[i] = do(i, p)
		}
		return failed
	}
	var all sync.WaitGroup
	for i, p := range pumps {
		all.Go(func() { failed[i] = do(i, p) })
	}
	all.Wait()
	return failed
}

// judge asks a shard about leases that a worker named.
func (e *Engine) judge(ctx context.Context, p *pump, id WorkerID, held []heldLease, out *findings) error {
	for some := range slices.Chunk(held, heldPerQuery) {
		f, err := e.ask(ctx, &query{Kind: queryJudge, Shard: p.shard, Worker: id, Held: some})
		if err != nil {
			return err
		}
		out.Cancel, out.Lost = append(out.Cancel, f.Cancel...), append(out.Lost, f.Lost...)
	}
	return nil
}

// others reports whether a call that failed on one shard should go on with the others: it should unless its caller left or
// the node stops.
func (e *Engine) others(ctx context.Context, err error) bool {
	return ctx.Err() == nil && e.background.Err() == nil && asError(err).Reason != ReasonStopping
}

// judge sorts out of a worker's leases those it lost and those it should cancel. It runs on the shard's goroutine.
func (p *pump) judge(q *query, f *findings) {
	for _, l := range q.Held {
		if !p.machine.Holds(q.Worker, l.Pos, l.Token) {
			f.Lost = append(f.Lost, l)
			continue
		}
		if info, ok := p.machine.Job(l.Pos, 0, 0); ok && info.CancelRequested {
			f.Cancel = append(f.Cancel, l)
		}
	}
}

// ResumeWorker is a Heartbeat of a worker that connects again: besides, leases that it does not know of are given back,
// no attempt counted. They were on their way to it when the connection or the node died. A shard that cannot be asked now
// is asked by the monitor, and the worker fetches nothing from it before.
func (e *Engine) ResumeWorker(ctx context.Context, id WorkerID, held []LeaseRef) (HeartbeatReply, error) {
	reply, err := e.Heartbeat(ctx, id, held)
	if err != nil {
		return reply, err
	}
	w := e.workers.get(id)
	if w == nil {
		return reply, errWorkerLost()
	}
	known := leaseSet(held)
	asking, cancel := context.WithTimeout(ctx, w.ttl/beatShare)
	defer cancel()
	pumps := e.data()
	for i, err := range e.eachShard(pumps, func(_ int, p *pump) error { return e.releaseUnknown(asking, p, id, known) }) {
		if err == nil {
			w.settled(pumps[i].shard)
			continue
		}
		if !e.others(ctx, err) || isCutOff(err) {
			return reply, err
		}
		w.owe(pumps[i].shard, known)
	}
	return reply, nil
}

// settleDebts asks the shards that could not be asked when a worker came back.
func (e *Engine) settleDebts() {
	paid := false
	for _, w := range e.workers.all() {
		if e.clustered() && !w.heardLately() {
			continue // it went to another node, which knows better what it holds
		}
		for id, known := range w.owedTo() {
			ctx, cancel := context.WithTimeout(e.background, e.opts.WorkerTTL)
			err := e.releaseUnknown(ctx, e.pump(id), w.id, known)
			cancel()
			if err == nil {
				w.settled(id)
				paid = true
			}
		}
	}
	if paid {
		e.routes.publish() // nothing: fetches look again where they may go
	}
}

// DeregisterWorker lets a worker go: its leases go back at once, and no crash is counted. On a shard that does not serve at
// the moment they go back when it does.
func (e *Engine) DeregisterWorker(ctx context.Context, id WorkerID) error {
	w, err := e.meetWorker(ctx, id)
	if err != nil {
		return err
	}
	w.hear()
	_, _ = e.catchUp(ctx, w, nil) // what it was not told of is taken back, as no attempt
	w.leave()
	if err := e.dismiss(ctx, []WorkerID{id}, queue.AppendWorkerGone); err != nil {
		w.farewell.Store(true)
		if !ofOneShard(err) {
			return err
		}
	}
	return nil
}

// dismiss gives back the leases of workers that were marked as gone, on every shard that it can reach, and when it has
// reached all takes them out of the catalog. It may be repeated when it fails.
func (e *Engine) dismiss(ctx context.Context, ids []WorkerID, encode func([]byte, WorkerID) []byte) error {
	var failed error
	for _, err := range e.eachShard(e.data(), func(_ int, p *pump) error { return e.takeLeases(ctx, p, ids, encode) }) {
		if err != nil && !e.others(ctx, err) {
			return err
		}
		if err != nil {
			failed = err
		}
	}
	if failed != nil {
		return failed
	}
	c := e.catalog.newCall()
	c.urgent = true
	for _, id := range ids {
		c.items.Commit(cluster.AppendRemoveWorker(c.items.Buf(), id))
	}
	if err := e.catalog.do(ctx, c); err != nil {
		return err
	}
	c.free()
	for _, id := range ids {
		e.workers.remove(id)
	}
	return nil
}

// takeLeases gives back what workers hold on one shard, if it answers within a TTL.
func (e *Engine) takeLeases(ctx context.Context, p *pump, ids []WorkerID, encode func([]byte, WorkerID) []byte) error {
	ctx, cancel := context.WithTimeout(ctx, e.opts.WorkerTTL)
	defer cancel()
	f, err := e.ask(ctx, &query{Kind: queryHolders, Shard: p.shard, Workers: ids})
	if err != nil {
		return err
	}
	if len(f.Holders) == 0 {
		return nil
	}
	c := p.newCall()
	c.urgent = true
	for _, h := range f.Holders {
		c.items.Commit(encode(c.items.Buf(), h.Worker))
	}
	if err := p.do(ctx, c); err != nil {
		return err
	}
	c.free()
	return nil
}

// Notices returns what a connected worker should hear between heartbeats, and a function that ends it. The channel is
// bounded: what does not fit comes with the next heartbeat. It is never closed.
func (e *Engine) Notices(id WorkerID) (<-chan Notice, func()) {
	w := e.workers.get(id)
	if w == nil {
		return make(chan Notice), func() {}
	}
	return w.listen()
}

// SignalWorker sets what the server wants of a worker; it learns it with its next heartbeat, or the one after that when it is connected
// to another node.
func (e *Engine) SignalWorker(ctx context.Context, id WorkerID, s WorkerState) error {
	if s > WorkerStop {
		return invalid("state", "is %d; want run, quiet or stop", s)
	}
	_, err := e.ask(ctx, &query{Kind: querySignal, Shard: catalogShard, Worker: id, Wish: s})
	if err != nil && asError(err).Reason == ReasonWorkerLost { // who asks is not the worker
		return newError(CodeNotFound, ReasonWorkerLost, "no worker with this id is registered: it was silent for too long, said goodbye, or never came")
	}
	return err
}

// WorkerStops says that a worker stops by itself. It is listed as one that is to stop from then on, on all nodes: the one that leads the catalog is
// told, by way of the same wish that an operator may have. If it cannot be, the worker is listed as before until it has said goodbye.
func (e *Engine) WorkerStops(id WorkerID) {
	w := e.workers.get(id)
	if w == nil || w.stops.Swap(true) || WorkerState(w.want.Load()) == WorkerStop {
		return
	}
	e.spawn(func() {
		ctx, cancel := context.WithTimeout(e.background, LeaderWaitMax)
		defer cancel()
		if err := e.SignalWorker(ctx, id, WorkerStop); err != nil && e.background.Err() == nil {
			e.opts.Logger.Debug("it could not be told that a worker stops", slog.Uint64("worker", uint64(id)), slog.Any("error", err))
		}
	})
}

// monitor finds silent workers, and workers that only leases know of. What it does takes its time when a shard does not answer.
func (e *Engine) monitor() {
	ticker := time.NewTicker(e.opts.WorkerTTL / lookShare)
	defer ticker.Stop()
	for round := 1; ; round++ {
		select {
		case <-ticker.C:
		case <-e.background.Done():
			return
		}
		if e.judging() && round%(2*lookShare) == 0 {
			if err := e.adoptHolders(e.background); err != nil && e.background.Err() == nil {
				e.opts.Logger.Warn("could not look for leases of unknown workers", slog.Any("error", err))
			}
		}
		if round%(lookShare/pulseShare) == 0 {
			e.settleDebts()
		}
		e.judgeWorkers(e.judging())
	}
}

// judgeWorkers dismisses the workers that were silent for their TTL, and those whose goodbye not every shard has heard. Those
// that it cannot dismiss now it tries again. Who was silent it knows only when it is the one that judges.
func (e *Engine) judgeWorkers(judging bool) {
	var silent, left []WorkerID
	grace := e.severedGrace()
	for _, w := range e.workers.all() {
		switch {
		case w.farewell.Load():
			left = append(left, w.id)
		case judging && (w.silent(grace) || w.doomed.Load()):
			silent = append(silent, w.id)
		}
	}
	if len(silent) > 0 && e.clustered() && e.stillLeads(catalogShard) != nil {
		silent = nil
	}
	for _, id := range silent {
		if w := e.workers.get(id); w != nil {
			w.doomed.Store(true) // whatever it says from now on
			w.leave()
		}
	}
	e.dismissAll(left, queue.AppendWorkerGone)
	for _, lost := range e.dismissAll(silent, queue.AppendWorkerLost) {
		e.lost.Add(uint64(len(lost)))
		e.opts.Logger.Info("workers lost: silent for too long", slog.Int("workers", len(lost)), slog.Uint64("first", uint64(lost[0])))
	}
}

// stillLeads asks the shard's group whether this node leads it.
func (e *Engine) stillLeads(id shard.ID) error {
	ctx, cancel := context.WithTimeout(e.background, e.opts.WorkerTTL)
	defer cancel()
	return e.host.Read(ctx, id, func() {})
}

// dismissAll dismisses workers by the command's worth and returns those that are gone for good.
func (e *Engine) dismissAll(ids []WorkerID, encode func([]byte, WorkerID) []byte) (done [][]WorkerID) {
	slices.Sort(ids)
	for some := range slices.Chunk(ids, lostPerCall) {
		err := e.dismiss(e.background, some, encode)
		switch {
		case err == nil:
			done = append(done, some)
		case e.background.Err() == nil:
			e.opts.Logger.Warn("not all jobs of workers that are gone could be given back yet", slog.Int("workers", len(some)), slog.Any("error", err))
		}
	}
	return done
}

// adoptHolders admits workers that hold leases and that nobody knows, with a full TTL: what a crash between giving back
// leases and leaving the catalog can leave behind.
func (e *Engine) adoptHolders(ctx context.Context) (failed error) {
	for _, err := range e.eachShard(e.data(), func(_ int, p *pump) error {
		f, err := e.ask(ctx, &query{Kind: queryHolders, Shard: p.shard})
		if err != nil {
			return err
		}
		for _, h := range f.Holders {
			e.workers.adopt(h.Worker)
		}
		return nil
	}) {
		if err != nil {
			failed = err
		}
	}
	return failed
}
