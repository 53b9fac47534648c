package engine

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// follower is told what the catalog's replica on this node applies, whoever proposed it. Its methods run on the shard's goroutine and
// must not block.
type follower interface {
	workerCame(w *cluster.Worker)
	workerWent(id WorkerID)
	queueChanged()
	shardsGrew(count int)
	nodesSeen(c *cluster.Catalog)
	catalogReplaced(c *cluster.Catalog)
	catalogLed(term uint64)
}

// nobody is the follower of a catalog from which nobody serves.
type nobody struct{}

func (nobody) workerCame(*cluster.Worker)       {}
func (nobody) workerWent(WorkerID)              {}
func (nobody) queueChanged()                    {}
func (nobody) shardsGrew(int)                   {}
func (nobody) nodesSeen(*cluster.Catalog)       {}
func (nobody) catalogReplaced(*cluster.Catalog) {}
func (nobody) catalogLed(uint64)                {}

func (e *Engine) workerCame(w *cluster.Worker) { e.workers.add(w) }

// workerWent forgets a worker that left the catalog. Its fetches end, here too if another node dismissed it.
func (e *Engine) workerWent(id WorkerID) {
	if w := e.workers.get(id); w != nil {
		w.leave()
		e.workers.remove(id)
	}
}

func (e *Engine) queueChanged() {
	select {
	case e.learn <- struct{}{}:
	default:
	}
}

// catalogReplaced compares what this node knows with a catalog that came as a whole.
func (e *Engine) catalogReplaced(c *cluster.Catalog) {
	for w := range c.Workers() {
		e.workers.add(w)
	}
	for _, w := range e.workers.all() {
		if _, ok := c.Worker(w.id); !ok && !w.orphan {
			e.workerWent(w.id)
		}
	}
	e.queueChanged()
}

// catalogLed makes this node the one that judges workers, now that it leads the catalog.
func (e *Engine) catalogLed(term uint64) {
	e.workers.takeOver()
	e.judges.Store(term)
}

// learner is the goroutine that makes this node's routes follow the catalog, when there are other nodes that change it: those who wait
// for a queue find it, whoever made it. Now and then it looks for queues that whoever changed them did not bring to their shard.
func (e *Engine) learner() {
	retry := time.NewTimer(0)
	repair := time.NewTicker(repairInterval)
	defer retry.Stop()
	defer repair.Stop()
	for {
		var err error
		select {
		case <-e.learn:
			err = e.learnQueues(e.background)
		case <-retry.C:
			err = e.learnQueues(e.background)
		case <-repair.C:
			err = e.repairQueues(e.background)
		case <-e.background.Done():
			return
		}
		if err != nil && e.background.Err() == nil {
			e.opts.Logger.Warn("queues of the catalog could not be looked up on their shards yet", slog.Any("error", err))
			retry.Reset(learnPause)
		}
	}
}

// learnQueues publishes the queues that this node's replica of the catalog has and its routes have not, or elsewhere.
func (e *Engine) learnQueues(ctx context.Context) error {
	var unknown []cluster.Queue
	view := e.routes.table()
	if err := e.readReplica(ctx, catalogShard, func() {
		for q := range e.catalog.catalog.Queues() {
			if rt := view.byName[q.Name]; rt == nil || !rt.sameAs(q) {
				unknown = append(unknown, *q)
			}
		}
	}); err != nil {
		return err
	}
	if len(unknown) == 0 {
		return nil
	}
	return e.reconcileQueues(ctx, unknown)
}

// repairQueues brings settings to the shards that this node leads, should the node that changed them have died before it did.
func (e *Engine) repairQueues(ctx context.Context) error {
	var behind []cluster.Queue
	for _, p := range e.data() {
		if !e.leads(p.shard) {
			continue
		}
		versions := make(map[queue.QueueID]uint64)
		if err := e.readReplica(ctx, p.shard, func() { p.addVersions(versions) }); err != nil {
			return err
		}
		if err := e.readReplica(ctx, catalogShard, func() {
			for q := range e.catalog.catalog.Queues() {
				late := func(h *cluster.Homes) bool {
					return slices.Contains(h.Shards, uint16(p.shard)) && versions[h.ID] < q.Version
				}
				if late(&q.Home) || late(&q.From) {
					behind = append(behind, *q)
				}
			}
		}); err != nil {
			return err
		}
	}
	if len(behind) == 0 {
		return nil
	}
	return e.reconcileQueues(ctx, behind)
}

// addVersions adds the versions of the queues that the machine has. It runs on the shard's goroutine.
func (p *pump) addVersions(to map[queue.QueueID]uint64) {
	for _, info := range p.machine.Queues() {
		to[info.Queue] = info.Version
	}
}

// reconcileQueues brings queues of the catalog to their shards, where they are not there yet, and publishes their routes.
func (e *Engine) reconcileQueues(ctx context.Context, queues []cluster.Queue) error {
	versions := make(map[uint16]map[queue.QueueID]uint64)
	for i := range queues {
		for _, id := range queues[i].Home.Shards {
			if versions[id] != nil || e.pump(shard.ID(id)) == nil {
				continue
			}
			versions[id] = make(map[queue.QueueID]uint64)
			f, err := e.ask(ctx, &query{Kind: queryQueues, Shard: shard.ID(id)})
			if err != nil {
				return err
			}
			for _, info := range f.Infos {
				versions[id][info.Queue] = info.Version
			}
		}
	}
	found := make([]*route, 0, len(queues))
	for i := range queues {
		q := &queues[i]
		if slices.ContainsFunc(q.Home.Shards, func(id uint16) bool { return versions[id][q.Home.ID] < q.Version }) {
			if err := e.configureQueue(ctx, q); err != nil {
				return err
			}
		}
		found = append(found, e.newRoute(q))
	}
	e.routes.publish(found...)
	return nil
}
