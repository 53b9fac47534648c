package engine

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// route is where a queue lives. It never changes once published; when the queue moves, another takes its place.
type route struct {
	name    string
	id      queue.QueueID
	version uint64  // of the record that it is made of
	pump    *pump   // its home
	from    *pump   // the home before, while the queue moves; else nil
	formers []*pump // all homes before, from among them
	meters  *meters // nil for queues beyond QueueLabelsMax
	oldest  atomic.Pointer[storedAt]
}

// homes are all shards that may have something of the queue: the one it moves from first, since its jobs are older.
func (rt *route) homes() []*pump {
	if len(rt.formers) == 0 {
		return []*pump{rt.pump}
	}
	all := make([]*pump, 0, len(rt.formers)+1)
	if rt.from != nil {
		all = append(all, rt.from)
	}
	all = append(all, rt.pump)
	for _, p := range rt.formers {
		if p != rt.from {
			all = append(all, p)
		}
	}
	return all
}

// berth is where the queue's new jobs go.
func (rt *route) berth() berth {
	if len(rt.formers) > 0 {
		return berth{rt.pump, rt.id}
	}
	return berth{rt.pump, 0}
}

// oldBerth is where they went before the queue began to move. REQUIRES: it moves.
func (rt *route) oldBerth() berth {
	if len(rt.formers) > 1 {
		return berth{rt.from, rt.id}
	}
	return berth{rt.from, 0}
}

// sameAs reports whether a queue lives where the route says.
func (rt *route) sameAs(q *cluster.Queue) bool {
	return rt.pump.shard == shard.ID(q.Shard) && len(rt.formers) == len(q.Formers) &&
		(rt.from == nil && q.From == 0 || rt.from != nil && rt.from.shard == shard.ID(q.From))
}

// newRoute makes a queue's route of its record. The shards of a record are known: they were in the catalog before it.
func (e *Engine) newRoute(q *cluster.Queue) *route {
	rt := &route{name: q.Name, id: q.ID, version: q.Version, pump: e.pump(shard.ID(q.Shard)), from: e.pump(shard.ID(q.From))}
	for _, id := range q.Formers {
		rt.formers = append(rt.formers, e.pump(shard.ID(id)))
	}
	return rt
}

// storedAt remembers when the job at a position was stored, so that watching a queue does not read the log each time.
type storedAt struct {
	shard shard.ID
	pos   queue.Pos
	stamp int64
}

// table is an immutable view of all routes.
type table struct {
	byName map[string]*route
	byID   map[queue.QueueID]*route
	// changed is closed when a newer table is published, and moved when one is in which a queue lives elsewhere.
	changed, moved chan struct{}
}

// awaited is closed when a fetch that is parked has to look again where its queues live. That of another node has no table.
func (t *table) awaited(missing bool) <-chan struct{} {
	switch {
	case t == nil:
		return nil
	case missing:
		return t.changed
	}
	return t.moved
}

// routes finds a queue's home without a lock. Publishing copies the table: queues come seldom and are bounded.
type routes struct {
	current atomic.Pointer[table]
	mu      sync.Mutex // publishing
}

func newRoutes() *routes {
	r := &routes{}
	r.current.Store(&table{
		byName:  make(map[string]*route),
		byID:    make(map[queue.QueueID]*route),
		changed: make(chan struct{}),
		moved:   make(chan struct{}),
	})
	return r
}

func (r *routes) byName(name string) *route    { return r.current.Load().byName[name] }
func (r *routes) byID(id queue.QueueID) *route { return r.current.Load().byID[id] }
func (r *routes) table() *table                { return r.current.Load() }

// publish adds routes. One whose name is there already takes that one's place when it is of a later record, and its queue lives elsewhere.
func (r *routes) publish(added ...*route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.current.Load()
	next := &table{byName: maps.Clone(old.byName), byID: maps.Clone(old.byID), changed: make(chan struct{}), moved: old.moved}
	for _, rt := range added {
		switch there := next.byName[rt.name]; {
		case there == nil:
			if len(next.byName) < QueueLabelsMax {
				rt.meters = &meters{}
			}
		case rt.version <= there.version || rt.pump == there.pump && rt.from == there.from:
			continue
		default:
			rt.meters = there.meters
			next.moved = make(chan struct{})
		}
		next.byName[rt.name] = rt
		next.byID[rt.id] = rt
	}
	r.current.Store(next)
	close(old.changed)
	if next.moved != old.moved {
		close(old.moved)
	}
}

// sorted returns all routes by name.
func (r *routes) sorted() []*route {
	view := r.table()
	return slices.SortedFunc(maps.Values(view.byName), func(a, b *route) int { return strings.Compare(a.name, b.name) })
}

// creation is a queue in the making; everyone who wants it waits for the same one.
type creation struct {
	done  chan struct{}
	route *route
	err   error
}

// ensureQueue returns a queue's route, making the queue with default settings when it does not exist. The making goes on
// when ctx ends.
func (e *Engine) ensureQueue(ctx context.Context, name string) (*route, error) {
	if rt := e.routes.byName(name); rt != nil {
		return rt, nil
	}
	c, err := e.startCreation(name)
	if err != nil {
		return nil, err
	}
	select {
	case <-c.done:
		return c.route, c.err
	case <-ctx.Done():
		return nil, contextError(ctx.Err())
	}
}

// startCreation joins or starts the making of a queue.
func (e *Engine) startCreation(name string) (*creation, error) {
	if !cluster.ValidQueueName(name) {
		return nil, badQueueName("queue", name)
	}
	e.creating.Lock()
	defer e.creating.Unlock()
	if rt := e.routes.byName(name); rt != nil { // just made
		c := &creation{done: make(chan struct{}), route: rt}
		close(c.done)
		return c, nil
	}
	if c := e.creations[name]; c != nil {
		return c, nil
	}
	if len(e.creations) >= CreationsMax {
		return nil, newError(CodeUnavailable, ReasonOverloaded, "%d queues are being made at this moment; try again", CreationsMax)
	}
	c := &creation{done: make(chan struct{})}
	e.creations[name] = c
	started := e.spawn(func() {
		c.route, c.err = e.createQueue(name)
		e.creating.Lock()
		delete(e.creations, name)
		e.creating.Unlock()
		close(c.done)
	})
	if !started {
		delete(e.creations, name)
		return nil, errStopping()
	}
	return c, nil
}

// createQueue makes a queue in the catalog and then on its shard, so that no job ever meets a shard that does not know
// its queue. Each step may be repeated; what a crash leaves half done, the next start completes.
func (e *Engine) createQueue(name string) (*route, error) {
	var home uint16
	e.weigh(e.background)
	if err := e.readCatalog(e.background, func() { home = e.placement.place(e.catalog.catalog, name) }); err != nil {
		return nil, err
	}
	defer e.placement.unplace(name)
	settings := queue.DefaultSettings()
	r, err := e.catalog.propose(e.background, func(dst []byte) []byte {
		return cluster.AppendCreateQueue(dst, name, home, &settings)
	})
	if err != nil {
		return nil, err
	}
	if err := e.configureQueue(e.background, &r.Queue); err != nil {
		return nil, err
	}
	e.routes.publish(e.newRoute(&r.Queue))
	return e.routes.byName(name), nil
}

// configureQueue brings a queue's settings to its home. One that it moves from is closed before, so that the new home takes no job
// while the old one still would: jobs that come one after the other keep their order.
func (e *Engine) configureQueue(ctx context.Context, q *cluster.Queue) error {
	if q.From != 0 {
		closed := q.Settings
		closed.Closed = true
		if err := e.configureShard(ctx, q, shard.ID(q.From), &closed); err != nil {
			return err
		}
	}
	return e.configureShard(ctx, q, shard.ID(q.Shard), &q.Settings)
}

// configureShard brings a queue's settings to a shard, which ignores a version it has seen.
func (e *Engine) configureShard(ctx context.Context, q *cluster.Queue, id shard.ID, s *queue.Settings) error {
	p := e.pump(id)
	if p == nil {
		return newError(CodeFailedPrecondition, ReasonInternal,
			"queue %q lives on shard %d, but this node was started with %d shards; start it with as many as before", q.Name, id, e.Shards())
	}
	c := p.newCall()
	c.urgent = true
	c.items.Commit(queue.AppendConfigure(c.items.Buf(), q.ID, q.Version, s))
	if err := p.do(ctx, c); err != nil {
		return err
	}
	err := refusal(c.results[0])
	c.free()
	if err != nil {
		return err
	}
	return nil
}

func badQueueName(field, name string) *Error {
	return invalid(field, "%.140q is no queue name: want 1 to %d of letters, digits and . _ : / -", name, cluster.QueueNameBytesMax)
}
