package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
)

// shards are the data shards that this node knows of. They follow the catalog, and are there before the node runs its replicas of
// them: what is for a shard that is only on its way here goes to the node that leads it, or waits for its leader.
type shards struct {
	first   uint64                  // sequence number that each pump counts from
	mu      sync.Mutex              // adding
	current atomic.Pointer[[]*pump] // shards 1, 2, …; never changed in place
	adding  sync.Mutex              // held by who adds a replica
}

// data returns the pumps of all data shards, by shard. There may be more a moment later.
func (e *Engine) data() []*pump {
	if all := e.shards.current.Load(); all != nil {
		return *all
	}
	return nil
}

// pump returns a data shard's pump; nil when the node knows of no such shard.
func (e *Engine) pump(id shard.ID) *pump {
	all := e.data()
	if id == catalogShard || int(id) > len(all) {
		return nil
	}
	return all[id-1]
}

// shardsGrew makes the pumps of data shards that were not known before. It must not block: the catalog's replica calls it.
func (e *Engine) shardsGrew(count int) {
	e.shards.mu.Lock()
	defer e.shards.mu.Unlock()
	old := e.data()
	if count <= len(old) {
		return
	}
	all := append(make([]*pump, 0, count), old...)
	for id := shard.ID(len(old) + 1); int(id) <= count; id++ {
		p := newPump(id, e.opts.Node, e.shards.first, func() { e.wakeShard(id) }, pumpHooks{event: e.shardEvent, ran: e.ran})
		p.clock = func() Reading { return e.opts.Watch.Reading(time.Now()) }
		p.holdMillis = e.opts.WorkerTTL.Milliseconds()
		if e.clustered() {
			p.away = &outlet{engine: e, desk: &p.desk}
		}
		all = append(all, p)
	}
	e.shards.current.Store(&all)
}

// newDriver returns a data shard's pump to the host that begins to run its replica. An attempt before may have left something in its
// machine.
func (e *Engine) newDriver(id shard.ID) *pump {
	e.shardsGrew(int(id))
	p := e.pump(id)
	p.renew()
	return p
}

// Shards is how many data shards this node knows of.
func (e *Engine) Shards() int { return len(e.data()) }

// AddReplica begins to run this node's replica of a data shard that came after Open. The shards before it run already. It may be
// repeated when it failed, and one that runs is left alone. Errors: those of host.AddReplica.
func (e *Engine) AddReplica(ctx context.Context, r host.Replica) error {
	e.shards.adding.Lock()
	defer e.shards.adding.Unlock()
	if _, runs := e.host.LeadershipOf(r.Shard); runs {
		return nil
	}
	return e.host.AddReplica(ctx, r)
}

// home returns the pump of a job's shard. One that is not known here may have come to the cluster a moment ago: to call its jobs
// unknown would be wrong.
func (e *Engine) home(ctx context.Context, id JobID) (*pump, error) {
	if p := e.pump(shardID(id)); p != nil {
		return p, nil
	}
	if e.mayCome(shardID(id)) {
		if err := e.readCatalog(ctx, func() {}); err != nil {
			return nil, err
		}
		if p := e.pump(shardID(id)); p != nil {
			return p, nil
		}
	}
	return nil, errNoJob()
}

// homes finds the homes of many jobs. Those of shards that are not known here cost one look at the catalog together.
type homes struct {
	engine *Engine
	looked bool
	failed error // of that look
}

func (h *homes) of(ctx context.Context, id JobID) (*pump, error) {
	p := h.engine.pump(shardID(id))
	switch {
	case p != nil:
		return p, nil
	case !h.looked:
		p, err := h.engine.home(ctx, id)
		if h.looked = true; err != nil && asError(err).Reason != ReasonJobNotFound {
			h.failed = err
		}
		return p, err
	case h.failed != nil:
		return nil, h.failed
	}
	return nil, errNoJob()
}

// mayCome reports whether there may be a data shard that this node does not know of yet.
func (e *Engine) mayCome(id shard.ID) bool {
	return e.clustered() && id != catalogShard && id <= ShardsMax
}
