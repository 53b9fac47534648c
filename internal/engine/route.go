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

// route is where a queue lives. It never changes once published.
type route struct {
	name   string
	id     queue.QueueID
	pump   *pump
	meters *meters // nil for queues beyond QueueLabelsMax
	oldest atomic.Pointer[storedAt]
}

// storedAt remembers when the job at a position was stored, so that watching a queue does not read the log each time.
type storedAt struct {
	pos   queue.Pos
	stamp int64
}

// table is an immutable view of all routes.
type table struct {
	byName map[string]*route
	byID   map[queue.QueueID]*route
	// changed is closed when a newer table is published.
	changed chan struct{}
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
	})
	return r
}

func (r *routes) byName(name string) *route    { return r.current.Load().byName[name] }
func (r *routes) byID(id queue.QueueID) *route { return r.current.Load().byID[id] }
func (r *routes) table() *table                { return r.current.Load() }

// publish adds routes; one whose name is there already is dropped.
func (r *routes) publish(added ...*route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.current.Load()
	next := &table{byName: maps.Clone(old.byName), byID: maps.Clone(old.byID), changed: make(chan struct{})}
	for _, rt := range added {
		if next.byName[rt.name] != nil {
			continue
		}
		if len(next.byName) < QueueLabelsMax {
			rt.meters = &meters{}
		}
		next.byName[rt.name] = rt
		next.byID[rt.id] = rt
	}
	r.current.Store(next)
	close(old.changed)
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
	if err := e.configureShard(e.background, &r.Queue); err != nil {
		return nil, err
	}
	rt := &route{name: name, id: r.Queue.ID, pump: e.pump(shard.ID(r.Queue.Shard))}
	e.routes.publish(rt)
	return e.routes.byName(name), nil
}

// configureShard brings a queue's settings to its shard, which ignores a version it has seen.
func (e *Engine) configureShard(ctx context.Context, q *cluster.Queue) error {
	p := e.pump(shard.ID(q.Shard))
	if p == nil {
		return newError(CodeFailedPrecondition, ReasonInternal,
			"queue %q lives on shard %d, but this node was started with %d shards; start it with as many as before", q.Name, q.Shard, e.Shards())
	}
	c := p.newCall()
	c.urgent = true
	c.items.Commit(queue.AppendConfigure(c.items.Buf(), q.ID, q.Version, &q.Settings))
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
