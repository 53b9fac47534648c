package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// loadsFresh is for how long what the shards have to do is taken for known.
const loadsFresh = time.Second

// placement chooses the homes of new queues.
type placement struct {
	mu     sync.Mutex
	loads  []cluster.Load    // REQUIRES: mu; of shards that can be placed on
	others []cluster.Load    // REQUIRES: mu; of those that nobody leads
	at     time.Time         // REQUIRES: mu; of loads
	placed map[string]uint16 // REQUIRES: mu; homes of queues in the making
}

// place chooses the home of a new queue. Until unplace it counts as one that is there, so that queues which are made at the same time do
// not all go to one shard. It runs on the catalog's goroutine.
func (pl *placement) place(c *cluster.Catalog, name string) uint16 {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.countWaiting(c)
	home := c.Place(pl.loads)
	if pl.placed == nil {
		pl.placed = make(map[string]uint16)
	}
	pl.placed[name] = home
	return home
}

// placeSeveral chooses the homes of a queue's partitions. It runs on the catalog's goroutine.
func (pl *placement) placeSeveral(c *cluster.Catalog, count int) []uint16 {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.countWaiting(c)
	return c.PlaceSeveral(slices.Concat(pl.loads, pl.others), count)
}

// countWaiting counts the queues in the making in the loads. REQUIRES: mu.
func (pl *placement) countWaiting(c *cluster.Catalog) {
	waiting := make(map[uint16]int)
	for other, home := range pl.placed {
		if _, there := c.Queue(other); !there {
			waiting[home]++
		}
	}
	for i := range pl.loads {
		pl.loads[i].Placed = waiting[pl.loads[i].Shard]
	}
}

func (pl *placement) unplace(name string) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	delete(pl.placed, name)
}

// weigh looks what the shards have to do, unless that was done a moment ago. Those that nobody leads now get no new queue while others
// can have it: they may be on their way.
func (e *Engine) weigh(ctx context.Context) {
	pl := &e.placement
	pumps := e.data()
	pl.mu.Lock()
	fresh := time.Since(pl.at) < loadsFresh && len(pl.loads)+len(pl.others) == len(pumps)
	pl.mu.Unlock()
	if fresh {
		return
	}
	now := e.opts.Clock.NowMillis()
	var able, others []cluster.Load
	for _, p := range pumps {
		load := cluster.Load{Shard: uint16(p.shard)}
		err := e.readReplica(ctx, p.shard, func() {
			totals := p.machine.Totals()
			load.Jobs, load.Rate = totals.Live(), p.rate.of(now)
		})
		if l, _ := e.host.LeadershipOf(p.shard); err == nil && l.Leader != 0 {
			load.Leader = uint64(l.Leader)
			able = append(able, load)
		} else {
			others = append(others, load)
		}
	}
	if len(able) == 0 {
		able, others = others, nil
	}
	pl.mu.Lock()
	defer pl.mu.Unlock()
	pl.loads, pl.others, pl.at = able, others, time.Now()
}

// rate counts what happens in about a minute, by the stamps of the log.
type rate struct {
	minute     int64
	this, last uint64 // in that minute, and in the one before
}

const minuteMillis = 60_000

func (r *rate) roll(now int64) {
	switch minute := now / minuteMillis; {
	case minute == r.minute+1:
		r.minute, r.this, r.last = minute, 0, r.this
	case minute > r.minute:
		r.minute, r.this, r.last = minute, 0, 0
	}
}

func (r *rate) add(now int64, n int) {
	r.roll(now)
	r.this += uint64(n)
}

// of is how many there were in the minute before now. Of the last minute as much counts as lies in it.
func (r *rate) of(now int64) uint64 {
	r.roll(now)
	return r.this + r.last*uint64(minuteMillis-max(now, 0)%minuteMillis)/minuteMillis
}
