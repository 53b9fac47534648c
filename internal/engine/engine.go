package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Engine is the jobs of one node. Its methods may be called from any goroutine. They retain nothing of their arguments
// after they have returned.
//
// Its goroutines are named in the package's documentation; Close waits for all of them.
type Engine struct {
	opts      Options
	host      *host.Host
	waker     atomic.Pointer[host.Host] // host, for the pumps, which run before Open has it
	catalog   *catalogPump
	shards    shards
	placement placement
	routes    *routes
	workers   *registry
	started   time.Time

	creating  sync.Mutex
	creations map[string]*creation // REQUIRES: creating
	naming    sync.Mutex           // held while a queue's settings change: read, edit, write

	learn    chan struct{} // the catalog's queues changed
	courier  courier
	usher    usher
	older    atomic.Pointer[olderNode] // one for which jobs with unique keys are refused; nil: there is none
	judges   atomic.Uint64             // the newest term of the catalog in which this node judges workers
	pulsed   atomic.Int64              // when the pulse came last, as beats count time
	hurry    chan struct{}             // the pulse is wanted now
	visitors visitors                  // fetches of other nodes

	meter      meter         // of what this node does
	heartbeats heartbeats    // of the other nodes
	fetches    atomic.Uint64 // the newest name of a fetch at another node

	background context.Context // ends when Close begins to wait
	cancel     context.CancelFunc
	calls      context.Context // of calls to other nodes; ends a little later
	endCalls   context.CancelFunc
	life       sync.Mutex
	closing    bool // REQUIRES: life
	goroutines sync.WaitGroup
	ready      atomic.Pointer[string] // why not ready; nil: ready

	spareFetches sync.Pool // of *fetch on one shard

	lost     atomic.Uint64 // workers
	damaged  atomic.Uint64 // payloads
	turn     atomic.Uint64 // which shard a fetch asks first
	sitting  atomic.Uint64 // which node
	requests atomic.Uint64 // enqueues without a session

	called     [callKinds]atomic.Uint64 // other nodes, by kind of the call
	callMeters [callKinds]histogram     // of calls that were answered, but for fetches
}

// Open starts the node's shards on its data directory, waits until it leads them, and completes what a crash left half
// done between the catalog and the shards.
func Open(ctx context.Context, opts Options) (*Engine, error) {
	checkLimits()
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, opts.Fatal = untilFatal(ctx, opts.Fatal)
	e := &Engine{
		opts:      opts,
		routes:    newRoutes(),
		workers:   newRegistry(opts.WorkerTTL),
		started:   time.Now(),
		creations: make(map[string]*creation),
		learn:     make(chan struct{}, 1),
		hurry:     make(chan struct{}, 1),
	}
	e.usher.parked = make(map[uint64]int)
	e.usher.guests = make(map[uint64]guest)
	e.fetches.Store(rand.Uint64()) // another node may still have fetches of this one's earlier life
	e.visitors.all = make(map[visitor]context.CancelFunc)
	e.courier = courier{engine: e, waiting: make(map[uint64][]addressed), sending: make(map[uint64]bool)}
	e.background, e.cancel = context.WithCancel(context.Background())
	e.calls, e.endCalls = context.WithCancel(context.Background())
	e.notReady("recovering")
	if err := e.openHost(ctx); err != nil {
		e.cancel()
		e.endCalls()
		return nil, orFatal(ctx, err)
	}
	e.spawn(e.herald)
	e.spawn(e.surveyor)
	bring := e.reconcile
	if e.clustered() {
		bring = e.join
		e.spawn(e.watchLeaders)
	}
	if err := bring(ctx); err != nil {
		return nil, orFatal(ctx, errors.Join(err, e.Close(ctx)))
	}
	if e.opts.Joined != nil {
		if err := e.opts.Joined(ctx, e); err != nil {
			return nil, orFatal(ctx, errors.Join(err, e.Close(ctx)))
		}
	}
	e.pulsed.Store(int64(e.workers.now()))
	e.spawn(e.pulse)
	e.spawn(e.monitor)
	e.spawn(e.mover)
	if e.clustered() {
		e.spawn(e.learner)
	}
	e.ready.Store(nil)
	return e, nil
}

// fatalError is the cause of a context that ended since Options.Fatal was called.
type fatalError struct{ error }

// untilFatal is a context that ends when the node has to, and what is to be called then. While Open waits for others, nothing else would
// tell it that the shards that it waits for have stopped.
func untilFatal(ctx context.Context, tell func(error)) (context.Context, func(error)) {
	ctx, end := context.WithCancelCause(ctx)
	return ctx, func(err error) {
		end(fatalError{err})
		tell(err)
	}
}

// orFatal is what made the node end, if that is why err came to be: all that followed from it says less.
func orFatal(ctx context.Context, err error) error {
	if fatal, ok := errors.AsType[fatalError](context.Cause(ctx)); ok {
		return fatal.error
	}
	return err
}

// openHost makes the pumps and starts the shards under them.
func (e *Engine) openHost(ctx context.Context) error {
	// Sequence numbers pair entries with those who wait for them. The log may hold entries of this node's earlier lives,
	// so each life counts from a random start.
	first := rand.Uint64() >> 1
	e.shards.first = first
	e.catalog = newCatalogPump(e.opts.Node, first, func() { e.wakeShard(catalogShard) }, e)
	if e.clustered() {
		e.catalog.away = &outlet{engine: e, desk: &e.catalog.desk}
	}
	e.shardsGrew(e.opts.Shards)
	var ids []shard.ID
	for id := range shard.ID(e.opts.Shards + 1) {
		if len(e.opts.Replicas) == 0 {
			ids = append(ids, id)
		}
	}
	h, err := host.Open(ctx, host.Options{
		FS: e.opts.FS, Dir: e.opts.Dir, Node: e.opts.Node, Cluster: e.opts.Cluster,
		Shards: ids, Replicas: e.opts.Replicas, Transport: e.opts.Transport,
		Clock: e.opts.Clock, Logger: e.opts.Logger, Fatal: e.opts.Fatal,
		NewDriver: func(id shard.ID, _ host.Payloads) host.Driver {
			if id == catalogShard {
				return e.catalog
			}
			return e.newDriver(id)
		},
		NewMachine: func(id shard.ID) shard.StateMachine {
			if id == catalogShard {
				return newCatalogPump(e.opts.Node, first, func() {}, nobody{})
			}
			return newPump(id, e.opts.Node, first, func() {}, pumpHooks{})
		},
		SnapshotBytes: e.opts.SnapshotBytes, CacheBytes: e.opts.CacheBytes, WAL: e.opts.WAL,
		Progress: e.opts.Progress,
	})
	if err != nil {
		return fmt.Errorf("start the shards: %w", err)
	}
	e.host = h
	e.waker.Store(h)
	if e.opts.Serving != nil {
		e.opts.Serving(e)
	}
	if e.opts.Hosted != nil {
		e.opts.Hosted(h)
	}
	return nil
}

// wakeShard tells the shard that its pump has something. Before the host is there nothing can be submitted.
func (e *Engine) wakeShard(id shard.ID) {
	if h := e.waker.Load(); h != nil {
		h.Wake(id)
	}
}

// reconcile brings the shards in line with the catalog: every queue is configured on its home, and every worker that
// is registered or holds leases gets a full TTL from now.
func (e *Engine) reconcile(ctx context.Context) error {
	var queues []cluster.Queue
	var id cluster.ID
	if err := e.readCatalog(ctx, func() {
		id = e.catalog.catalog.ID()
		for q := range e.catalog.catalog.Queues() {
			queues = append(queues, *q)
		}
	}); err != nil {
		return fmt.Errorf("read the catalog: %w", err)
	}
	if err := e.agreeOnCluster(ctx, id); err != nil {
		return err
	}
	for _, w := range e.workers.all() {
		w.touch()
	}
	if err := e.reconcileQueues(ctx, queues); err != nil {
		return err
	}
	if e.clustered() {
		return nil // whoever leads the catalog looks for holders that nobody knows
	}
	return e.adoptHolders(ctx)
}

// join reconciles a node of several. The groups may have no leaders yet, or the wrong ones: it goes on until ctx ends. It logs why when
// that changes: a node may wait for hours for the others.
func (e *Engine) join(ctx context.Context) error {
	logged := ""
	for {
		err := e.reconcile(ctx)
		if err == nil || ctx.Err() != nil || !ofOneShard(err) && asError(err).Code != CodeDeadlineExceeded {
			return err
		}
		if why := err.Error(); why != logged {
			logged = why
			e.opts.Logger.Info("waiting for the cluster's shards to have leaders", slog.Any("error", err))
		}
		select {
		case <-e.host.Moved():
		case <-time.After(searchPauseMax):
		case <-ctx.Done():
		}
	}
}

func (e *Engine) agreeOnCluster(ctx context.Context, id cluster.ID) error {
	own := cluster.ID(e.host.Stats().Cluster)
	switch {
	case id == own || own == 0:
		return nil
	case id != 0:
		return newError(CodeFailedPrecondition, ReasonInternal,
			"the catalog belongs to cluster %016x, but the data directory is of cluster %016x; it was put together from two directories", id, own)
	}
	_, err := e.catalog.propose(ctx, func(dst []byte) []byte { return cluster.AppendInit(dst, own) })
	return err
}

// Close refuses new requests, lets those in flight finish, and stops the shards.
func (e *Engine) Close(ctx context.Context) error {
	e.life.Lock()
	if e.closing {
		e.life.Unlock()
		return nil
	}
	e.closing = true
	e.life.Unlock()
	e.notReady("stopping")
	e.cancel()
	grace := time.AfterFunc(closeGrace, e.endCalls)
	e.goroutines.Wait()
	grace.Stop()
	e.endCalls()
	for _, p := range e.data() {
		err := e.host.StaleRead(ctx, p.shard, p.drain)
		if errors.Is(err, host.ErrNoShard) {
			p.drain() // nothing runs with it
		} else if err != nil {
			break // the host has failed or ctx has ended: abort answers them
		}
	}
	err := e.host.Close(ctx)
	e.catalog.abort()
	for _, p := range e.data() {
		p.abort()
	}
	if err != nil {
		return fmt.Errorf("stop the shards: %w", err)
	}
	return nil
}

// spawn runs f in a goroutine that Close waits for; false when the engine is closing.
func (e *Engine) spawn(f func()) bool {
	e.life.Lock()
	defer e.life.Unlock()
	if e.closing {
		return false
	}
	e.goroutines.Go(f)
	return true
}

func (e *Engine) notReady(why string) { e.ready.Store(&why) }

// Ready reports whether the node serves, and if not why.
func (e *Engine) Ready() (bool, string) {
	if why := e.ready.Load(); why != nil {
		return false, *why
	}
	for _, p := range e.data() {
		if err := p.diverged.Load(); err != nil {
			return false, err.Message
		}
	}
	if e.cutOff() {
		return false, "cut off: too few of the other nodes are heard of"
	}
	return true, ""
}

// shardEvent passes what a shard says about a worker's lease on to the worker. It runs on the shard's goroutine.
func (e *Engine) shardEvent(id shard.ID, ev queue.Event) {
	w := e.workers.get(ev.Worker)
	if ev.Worker == 0 || w == nil {
		return
	}
	n := Notice{
		Lease:  LeaseRef{ID: JobID{Shard: uint16(id), Pos: ev.Pos}, Token: ev.Token},
		Cancel: ev.Kind == queue.EventCancel,
	}
	if node := w.home.Load(); node != 0 {
		e.courier.push(node, addressed{ev.Worker, n})
		return
	}
	w.notify(n)
}

// ran records how long an attempt ran. It runs on a shard's goroutine.
func (e *Engine) ran(q queue.QueueID, d time.Duration) {
	if rt := e.routes.byID(q); rt != nil && rt.meters != nil {
		rt.meters.run.add(d)
	}
}
