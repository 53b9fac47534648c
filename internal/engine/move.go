package engine

import (
	"context"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// MoveQueue gives a queue another home. New jobs go there from now on; those that are in the old home finish there, and are fetched first.
// When it returns, the new home takes jobs. The move ends by itself, when nothing is left in the old home and clients repeat nothing that it
// answered, which is at once when it was not used. It may be repeated; a crash of whoever is at it is made up for by the node that leads
// the old home.
//
// Its steps, each of which may be made twice and by any node: the catalog records the move; the old home is closed; the new home is set
// up; the catalog records that this was done; and, at the end, that nothing is left. A job is stored in one home only: the old one takes
// none once it is closed, and a request that a session repeats is asked of the old home first, which knows whether it stored it, or
// remembers that it did not, as long as the move lasts.
func (e *Engine) MoveQueue(ctx context.Context, name string, to uint16) (QueueStatus, error) {
	if _, err := e.existing(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	if to == 0 || int(to) > e.Shards() {
		return QueueStatus{}, invalid("shard", "is %d; the data shards are 1 to %d", to, e.Shards())
	}
	q, err := e.settledQueue(ctx, name)
	if err != nil {
		return QueueStatus{}, err
	}
	if len(q.Home.Shards) > 1 {
		return QueueStatus{}, errPartitioned(name, q.Home.Shards)
	}
	if home := q.Shard(); home != to {
		encode := func(dst []byte) []byte { return cluster.AppendRelocate(dst, name, home, to) }
		if q.Had(to) {
			encode = func(dst []byte) []byte { return cluster.AppendSpread(dst, name, q.Home.ID, []uint16{to}) }
		}
		if r, err := e.catalog.propose(ctx, encode); err != nil {
			return QueueStatus{}, e.moveError(ctx, err, r, name)
		}
	}
	if err := e.openMove(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	if _, err := e.settledQueue(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	return e.Queue(ctx, name)
}

// settledQueue returns a queue's record, after it has ended its move if that can be.
func (e *Engine) settledQueue(ctx context.Context, name string) (q cluster.Queue, err error) {
	look := func() { q, _ = e.catalog.catalog.Queue(name) }
	if err := e.readCatalog(ctx, look); err != nil || !q.Moving() {
		return q, err
	}
	if err := e.settleMove(ctx, &q); err != nil {
		e.opts.Logger.Debug("a move could not be ended yet", slog.String("queue", name), slog.Any("error", err))
	}
	return q, e.readCatalog(ctx, look)
}

// openMove makes the steps of a move after its decision, if there is one, and has this node go to the new home.
func (e *Engine) openMove(ctx context.Context, name string) error {
	var q cluster.Queue
	if err := e.readCatalog(ctx, func() { q, _ = e.catalog.catalog.Queue(name) }); err != nil {
		return err
	}
	if q.Moving() && q.Opened == 0 {
		if err := e.configureQueue(ctx, &q); err != nil {
			return err
		}
		r, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendOpened(dst, &q) })
		if err != nil {
			return err
		}
		q = r.Queue
	}
	if q.ID != 0 {
		e.routes.publish(e.newRoute(&q))
	}
	return nil
}

// mover is the goroutine that completes the moves of queues whose old homes this node leads.
func (e *Engine) mover() {
	ticker := time.NewTicker(repairInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-e.background.Done():
			return
		}
		if err := e.finishMoves(e.background); err != nil && e.background.Err() == nil {
			e.opts.Logger.Warn("moves of queues could not be completed yet", slog.Any("error", err))
		}
	}
}

// finishMoves goes on with each move that waits for the node that leads its old home.
func (e *Engine) finishMoves(ctx context.Context) error {
	var moving []cluster.Queue
	if err := e.readReplica(ctx, catalogShard, func() {
		for q := range e.catalog.catalog.Queues() {
			if q.Moving() {
				moving = append(moving, *q)
			}
		}
	}); err != nil {
		return err
	}
	var failed error
	for i := range moving {
		q := &moving[i]
		if !e.leads(shard.ID(q.From.Shards[0])) {
			continue
		}
		err := e.openMove(ctx, q.Name)
		if err == nil && e.maySettle(ctx, q) {
			err = e.settleMove(ctx, q)
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// maySettle reports whether it is worth asking all old homes of a queue whether its move is over: as far as this node's replica of the first
// one tells, which it leads. Many queues may move for long.
func (e *Engine) maySettle(ctx context.Context, q *cluster.Queue) bool {
	p, now, may := e.pump(shard.ID(q.From.Shards[0])), e.opts.Clock.NowMillis(), false
	err := e.readReplica(ctx, p.shard, func() {
		info, _ := p.machine.Queue(q.From.ID)
		may = info.Live() == 0 && info.Unique == 0 && (q.Settles(queue.Millis(now)) || quietFor(p.machine.Answered(q.From.ID), now) >= queue.SessionIdleMillis)
	})
	return err == nil && may
}

// settleMove ends a move when nothing is left in the old homes, no unique key is held there by a job or its window, and no client may repeat
// what they answered: they have answered nothing
// for longer than that, or the move has lasted for longer. They are closed, so nothing comes to them any more.
//
// What they remember of a request that came since they were closed is that they refused it, and it went on to the new homes. A repeat that
// goes there at once is the same one; see heedMoves for one that shares what they remember with jobs of a queue that is still there.
func (e *Engine) settleMove(ctx context.Context, q *cluster.Queue) error {
	if q.Opened == 0 {
		return nil
	}
	left, err := e.lookBehind(ctx, q)
	if err != nil || !left.closed || left.jobs > 0 || left.keys > 0 {
		return err
	}
	encode := func(dst []byte) []byte { return cluster.AppendSettled(dst, q) }
	if !q.Settles(queue.Millis(e.opts.Clock.NowMillis())) {
		if left.repeatable > 0 {
			return nil
		}
		if alike, err := e.versionsAlike(ctx); err != nil || !alike {
			return err
		}
		encode = func(dst []byte) []byte { return cluster.AppendEmptied(dst, q) }
	}
	r, err := e.catalog.propose(ctx, encode)
	if err != nil {
		return err
	}
	e.routes.publish(e.newRoute(&r.Queue))
	if r.Code == cluster.CodeOK {
		e.opts.Logger.Info("a queue has moved", slog.String("queue", q.Name), slog.Any("from", q.From.Shards), slog.Any("to", q.Home.Shards))
	}
	return nil
}

// leftBehind is what the old homes of a queue that moves still have of it.
type leftBehind struct {
	closed     bool          // all of them
	jobs, dead uint64        // that have not ended, and those of them that are dead
	keys       uint64        // unique keys that are held
	repeatable time.Duration // for how long clients may repeat what they have answered
}

// lookBehind asks a queue's old homes what they still have of it.
func (e *Engine) lookBehind(ctx context.Context, q *cluster.Queue) (leftBehind, error) {
	left := leftBehind{closed: true}
	for _, id := range q.From.Shards {
		f, err := e.ask(ctx, &query{Kind: queryQueue, Shard: shard.ID(id), Queue: q.From.ID})
		if err != nil {
			return leftBehind{}, err
		}
		left.closed = left.closed && f.Info.Settings.Closed
		left.jobs += f.Info.Live()
		left.keys += f.Info.Unique
		left.dead += f.Info.ByState[queue.StateDead]
		left.repeatable = max(left.repeatable, time.Duration(queue.SessionIdleMillis-f.Quiet)*time.Millisecond)
	}
	if q.Opened != 0 { // it has answered nothing since
		since := e.opts.Clock.NowMillis() - int64(q.Opened)
		left.repeatable = min(left.repeatable, max(0, time.Duration(queue.SessionIdleMillis-since)*time.Millisecond))
	}
	return left, nil
}

// quietFor is findings.Quiet of a queue that answered at a time; 0: never.
func quietFor(answered queue.Millis, now int64) int64 {
	if answered == 0 {
		return queue.SessionIdleMillis
	}
	return max(0, now-int64(answered))
}

// versionsAlike reports whether all nodes run this node's version of the program: an older one would stop at the command that ends a move
// before its time.
func (e *Engine) versionsAlike(ctx context.Context) (bool, error) {
	alike := true
	err := e.readReplica(ctx, catalogShard, func() {
		for n := range e.catalog.catalog.Nodes() {
			alike = alike && (!n.State.Holds() || n.Info.Version == e.opts.Version)
		}
	})
	return alike, err
}

// moveError says what is in the way of other homes.
func (e *Engine) moveError(ctx context.Context, err error, r cluster.Result, name string) error {
	q := &r.Queue
	switch {
	case r.Code == cluster.CodeLimit:
		return newError(CodeResourceExhausted, ReasonLimit,
			"queue %q has had %d homes before, which is the limit, or a shard has as many queues as it takes (%d); it keeps its homes", name, cluster.FormersMax, cluster.QueuesMax)
	case r.Code != cluster.CodeMoving || !q.Moving():
		return err
	}
	left, failed := e.lookBehind(ctx, q)
	if failed != nil {
		return err
	}
	return errStillMoving(q, &left)
}
