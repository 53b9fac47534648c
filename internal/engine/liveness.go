package engine

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
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
	w := e.workers.add(&cluster.Worker{ID: r.Worker, Info: info, Registered: queue.Millis(e.opts.Clock.NowMillis())})
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

// Heartbeat is a worker's sign of life. The reply says which of the jobs it holds it should stop, and which it holds no
// longer. Of a shard that cannot be asked it says nothing: the next one does. A worker that was lost is told so (WORKER_LOST)
// and must register again.
func (e *Engine) Heartbeat(ctx context.Context, id WorkerID, held []LeaseRef) (HeartbeatReply, error) {
	w, err := e.liveWorker(id)
	if err != nil {
		return HeartbeatReply{}, err
	}
	w.touch() // whatever it says, it lives
	if len(held) > HeldMax {
		return HeartbeatReply{}, invalid("held", "has %d leases; at most %d fit one heartbeat", len(held), HeldMax)
	}
	reply := HeartbeatReply{State: WorkerState(w.want.Load()), TTL: w.ttl}
	asking, cancel := context.WithTimeout(ctx, w.ttl/beatShare)
	defer cancel()
	for _, p := range e.pumps {
		var mine []LeaseRef
		for _, ref := range held {
			if shardID(ref.ID) == p.shard {
				mine = append(mine, ref)
			}
		}
		if len(mine) == 0 {
			continue
		}
		if err := e.ask(asking, p, func() { p.judge(id, mine, &reply) }); err != nil && !e.others(ctx, err) {
			return reply, hostError(err)
		}
	}
	for _, ref := range held {
		if e.pump(shardID(ref.ID)) == nil {
			reply.Lost = append(reply.Lost, ref)
		}
	}
	return reply, nil
}

// others reports whether a call that failed on one shard should go on with the others: it should unless its caller left or
// the node stops.
func (e *Engine) others(ctx context.Context, err error) bool {
	return ctx.Err() == nil && e.background.Err() == nil && asError(err).Reason != ReasonStopping
}

// ask reads on a shard, and says at once when it has no leader here.
func (e *Engine) ask(ctx context.Context, p *pump, fn func()) error {
	if err := p.leaderless(); err != nil {
		return err
	}
	return e.host.Read(ctx, p.shard, fn)
}

// judge sorts out of a worker's leases those it lost and those it should cancel. It runs on the shard's goroutine.
func (p *pump) judge(id WorkerID, held []LeaseRef, reply *HeartbeatReply) {
	for _, ref := range held {
		if !p.machine.Holds(id, ref.ID.Pos, ref.Token) {
			reply.Lost = append(reply.Lost, ref)
			continue
		}
		if info, ok := p.machine.Job(ref.ID.Pos, 0, 0); ok && info.CancelRequested {
			reply.Cancel = append(reply.Cancel, ref)
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
	known := make(knownLeases, len(held))
	for _, ref := range held {
		known[ref] = true
	}
	asking, cancel := context.WithTimeout(ctx, w.ttl/beatShare)
	defer cancel()
	for _, p := range e.pumps {
		if err := e.releaseUnknown(asking, p, id, known); err != nil {
			if !e.others(ctx, err) {
				return reply, err
			}
			w.owe(p.shard, known)
		}
	}
	return reply, nil
}

// releaseUnknown gives back what a worker holds on a shard and does not know of.
func (e *Engine) releaseUnknown(ctx context.Context, p *pump, id WorkerID, known knownLeases) error {
	var leases []queue.Lease
	if err := e.ask(ctx, p, func() { leases = p.machine.WorkerLeases(id) }); err != nil {
		return hostError(err)
	}
	leases = slices.DeleteFunc(leases, func(l queue.Lease) bool {
		return known[LeaseRef{ID: JobID{Shard: uint16(p.shard), Pos: l.Pos}, Token: l.Token}]
	})
	for len(leases) > 0 {
		n := min(len(leases), FinishMax)
		if err := p.do(ctx, p.releaseCall(leases[:n])); err != nil {
			return err
		}
		leases = leases[n:]
	}
	return nil
}

// settleDebts asks the shards that could not be asked when a worker came back.
func (e *Engine) settleDebts() {
	paid := false
	for _, w := range e.workers.all() {
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
	w, err := e.liveWorker(id)
	if err != nil {
		return err
	}
	w.touch()
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
	for _, p := range e.pumps {
		if err := e.takeLeases(ctx, p, ids, encode); err != nil {
			if !e.others(ctx, err) {
				return err
			}
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
	var holders []WorkerID
	if err := e.ask(ctx, p, func() {
		for _, id := range ids {
			if len(p.machine.WorkerLeases(id)) > 0 {
				holders = append(holders, id)
			}
		}
	}); err != nil {
		return hostError(err)
	}
	if len(holders) == 0 {
		return nil
	}
	c := p.newCall()
	c.urgent = true
	for _, id := range holders {
		c.items.Commit(encode(c.items.Buf(), id))
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

// SignalWorker sets what the server wants of a worker; it learns it with its next heartbeat.
func (e *Engine) SignalWorker(_ context.Context, id WorkerID, s WorkerState) error {
	if s > WorkerStop {
		return invalid("state", "is %d; want run, quiet or stop", s)
	}
	w, err := e.liveWorker(id)
	if err != nil {
		return err
	}
	w.want.Store(uint32(s))
	return nil
}

// monitor finds silent workers and workers that only leases know of. It is the engine's one goroutine of long life.
func (e *Engine) monitor() {
	interval := e.opts.WorkerTTL / 5
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last := time.Now()
	for round := 1; ; round++ {
		select {
		case <-ticker.C:
		case <-e.background.Done():
			return
		}
		// When the node itself stood still, nobody could reach it: the workers' silence is its own.
		if now := time.Now(); now.Sub(last) > interval+e.opts.WorkerTTL/2 {
			for _, w := range e.workers.all() {
				w.touch()
			}
		}
		last = time.Now()
		if round%10 == 0 {
			if err := e.adoptHolders(e.background); err != nil && e.background.Err() == nil {
				e.opts.Logger.Warn("could not look for leases of unknown workers", slog.Any("error", err))
			}
		}
		e.settleDebts()
		e.judgeWorkers()
	}
}

// judgeWorkers dismisses the workers that were silent for their TTL, and those whose goodbye not every shard has heard. Those
// that it cannot dismiss now it tries again.
func (e *Engine) judgeWorkers() {
	var silent, left []WorkerID
	for _, w := range e.workers.all() {
		switch {
		case w.farewell.Load():
			left = append(left, w.id)
		case w.silent():
			w.leave()
			silent = append(silent, w.id)
		}
	}
	e.dismissAll(left, queue.AppendWorkerGone)
	for _, lost := range e.dismissAll(silent, queue.AppendWorkerLost) {
		e.lost.Add(uint64(len(lost)))
		e.opts.Logger.Info("workers lost: silent for too long", slog.Int("workers", len(lost)), slog.Uint64("first", uint64(lost[0])))
	}
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
	for _, p := range e.pumps {
		var holders []queue.WorkerCount
		if err := e.ask(ctx, p, func() { holders = p.machine.Workers() }); err != nil {
			failed = hostError(err)
			continue
		}
		for _, h := range holders {
			e.workers.adopt(h.Worker)
		}
	}
	return failed
}
