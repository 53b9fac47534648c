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
// When it returns, the new home takes jobs. The move ends by itself, some time after nothing is left in the old home. It may be
// repeated; a crash of whoever is at it is made up for by the node that leads the old home.
//
// Its steps, each of which may be made twice and by any node: the catalog records the move; the old home is closed; the new home is set
// up; the catalog records that this was done; and, at the end, that nothing is left. A job is stored in one home only: the old one takes
// none once it is closed, and a request that a session repeats is asked of the old home first, which knows whether it stored it, or
// remembers that it did not, as long as the move lasts.
func (e *Engine) MoveQueue(ctx context.Context, name string, to uint16) (QueueStatus, error) {
	if _, err := e.existing(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	var homes []uint16
	if err := e.readCatalog(ctx, func() {
		q, _ := e.catalog.catalog.Queue(name)
		homes = q.Home.Shards
	}); err != nil {
		return QueueStatus{}, err
	}
	if to == 0 || int(to) > e.Shards() {
		return QueueStatus{}, invalid("shard", "is %d; the data shards are 1 to %d", to, e.Shards())
	}
	if len(homes) > 1 {
		return QueueStatus{}, errPartitioned(name, homes)
	}
	if home := homes[0]; home != to {
		r, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendRelocate(dst, name, home, to) })
		if r.Code == cluster.CodeLimit {
			return QueueStatus{}, newError(CodeResourceExhausted, ReasonLimit, "queue %q has had %d homes before, which is the limit, or shard %d has as many queues as it takes (%d)", name, cluster.FormersMax, to, cluster.QueuesMax)
		}
		if err != nil {
			return QueueStatus{}, err
		}
	}
	if err := e.openMove(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	return e.Queue(ctx, name)
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
		if err == nil && q.Settles(queue.Millis(e.opts.Clock.NowMillis())) {
			err = e.settleMove(ctx, q)
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// settleMove ends a move when nothing is left in the old homes. They are closed, so nothing comes to them any more.
func (e *Engine) settleMove(ctx context.Context, q *cluster.Queue) error {
	for _, id := range q.From.Shards {
		f, err := e.ask(ctx, &query{Kind: queryQueue, Shard: shard.ID(id), Queue: q.From.ID})
		if err != nil || !f.Info.Settings.Closed || f.Info.Live() > 0 {
			return err
		}
	}
	r, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendSettled(dst, q) })
	if err != nil {
		return err
	}
	e.routes.publish(e.newRoute(&r.Queue))
	if r.Code == cluster.CodeOK {
		e.opts.Logger.Info("a queue has moved", slog.String("queue", q.Name), slog.Any("from", q.From.Shards), slog.Any("to", q.Home.Shards))
	}
	return nil
}
