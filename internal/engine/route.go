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

// home is a shard that has jobs of a queue, and the id that the queue has there.
type home struct {
	pump *pump
	id   queue.QueueID
}

// route is where a queue lives. It never changes once published; when the queue moves, another takes its place.
type route struct {
	name    string
	version uint64                     // of the record that it is made of
	homes   []home                     // where its new jobs go, by partition
	from    []home                     // the homes before, by partition, while the queue moves; else empty
	all     []home                     // those that it moves from, since their jobs are older, its homes, and those that it had before
	formers [][]home                   // the homes that it had before, newest first; from is the first of them
	moves   uint64                     // how often it moved
	meters  *meters                    // nil for queues beyond QueueLabelsMax
	oldest  []atomic.Pointer[storedAt] // for each of all
}

// moving reports whether there may be jobs where the queue was before.
func (rt *route) moving() bool { return len(rt.from) > 0 }

// isOldHome reports whether a home took the queue's new jobs before it began to move.
func (rt *route) isOldHome(h home) bool { return slices.Contains(rt.from, h) }

// sameAs reports whether a queue lives where the route says. It does when it has moved as often, and moves as long as the route does.
func (rt *route) sameAs(q *cluster.Queue) bool {
	return rt.moves == q.Moves && rt.moving() == q.Moving()
}

// newRoute makes a queue's route of its record. The shards of a record are known: they were in the catalog before it.
func (e *Engine) newRoute(q *cluster.Queue) *route {
	rt := &route{name: q.Name, version: q.Version, homes: e.homesOf(&q.Home), moves: q.Moves}
	if q.Moving() {
		rt.from = e.homesOf(&q.From)
	}
	rt.all = slices.Concat(rt.from, rt.homes)
	for i := range q.Formers {
		homes := e.homesOf(&q.Formers[i])
		rt.formers = append(rt.formers, homes)
		for _, h := range homes {
			if !slices.Contains(rt.all, h) {
				rt.all = append(rt.all, h)
			}
		}
	}
	slices.Reverse(rt.formers)
	rt.oldest = make([]atomic.Pointer[storedAt], len(rt.all))
	return rt
}

func (e *Engine) homesOf(h *cluster.Homes) []home {
	homes := make([]home, len(h.Shards))
	for i, id := range h.Shards {
		homes[i] = home{e.pump(shard.ID(id)), h.ID}
	}
	return homes
}

// storedAt remembers when the job at a position was stored, so that watching a queue does not read the log each time.
type storedAt struct {
	pos   queue.Pos
	stamp int64
}

// table is an immutable view of all routes.
type table struct {
	byName map[string]*route
	byID   map[queue.QueueID]*route // by all ids that the queues have or had
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
		case rt.version <= there.version || rt.moves == there.moves && rt.moving() == there.moving():
			continue
		default:
			rt.meters = there.meters
			next.moved = make(chan struct{})
		}
		next.byName[rt.name] = rt
		for _, h := range rt.all {
			next.byID[h.id] = rt
		}
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

// configureQueue brings a queue's settings to its homes. Those that it moves from are closed before, so that no new home takes a job
// while an old one still would: jobs that come one after the other keep their order.
func (e *Engine) configureQueue(ctx context.Context, q *cluster.Queue) error {
	if q.Moving() {
		closed := q.Settings
		closed.Closed = true
		if err := e.configureHomes(ctx, q, &q.From, &closed); err != nil {
			return err
		}
	}
	return e.configureHomes(ctx, q, &q.Home, &q.Settings)
}

// configureHomes brings a queue's settings to some of its homes, side by side. A shard ignores a version it has seen.
func (e *Engine) configureHomes(ctx context.Context, q *cluster.Queue, at *cluster.Homes, s *queue.Settings) error {
	calls := make([]*call, len(at.Shards))
	homes := e.homesOf(at)
	for i, h := range homes {
		if h.pump == nil {
			return newError(CodeFailedPrecondition, ReasonInternal,
				"queue %q lives on shard %d, but this node was started with %d shards; start it with as many as before", q.Name, at.Shards[i], e.Shards())
		}
	}
	var failed error
	for i, h := range homes {
		c := h.pump.newCall()
		c.urgent = true
		c.items.Commit(queue.AppendConfigure(c.items.Buf(), h.id, q.Version, s))
		if err := h.pump.submit(c); err != nil {
			failed = err
			continue
		}
		calls[i] = c
	}
	for i, c := range calls {
		if c == nil {
			continue
		}
		if err := homes[i].pump.wait(ctx, c); err != nil {
			failed = err
			continue
		}
		if err := refusal(c.results[0]); err != nil {
			failed = err
		}
		c.free()
	}
	return failed
}

func badQueueName(field, name string) *Error {
	if name == "" {
		return invalid(field, "is missing or empty; want the name of a queue")
	}
	return invalid(field, "%.140q is no queue name: want 1 to %d of letters, digits and . _ : / -", name, cluster.QueueNameBytesMax)
}
