package engine

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/shard"
)

// worker is what this node knows of a worker beyond the catalog: soft state, gone with the process. Every worker then
// gets a full TTL before it is judged.
type worker struct {
	id         WorkerID
	info       WorkerInfo
	registered time.Time
	ttl        time.Duration
	orphan     bool          // holds leases, but the catalog does not know it: it can only be lost
	farewell   atomic.Bool   // said goodbye, and not every shard has heard it
	doomed     atomic.Bool   // was silent for its TTL, and not every shard has heard it
	beat       atomic.Int64  // the last sign of life: time since the registry's epoch
	origin     atomic.Uint64 // the node that it came to; 0: this one
	given      atomic.Int64  // when it was given a full TTL, as beat
	severed    atomic.Int64  // when its connection broke there without a goodbye, as beat; 0: it did not, or the worker came back
	told       atomic.Int64  // of severed, to the node that judges
	want       atomic.Uint32
	stops      atomic.Bool  // it said that it stops
	wished     atomic.Bool  // whoever leads the catalog: want is what was asked for last
	heard      atomic.Int64 // the last sign of life that came to this node, as beat; 0: never
	reported   atomic.Int64 // of heard, to the node that judges
	epoch      time.Time

	once sync.Once
	gone chan struct{} // closed when it is lost or said goodbye

	debts   atomic.Int32 // len(owed)
	trailed atomic.Int32 // len(trails)

	home atomic.Uint64 // the node that last spoke for it, as its jobs' shards here know; 0: this one

	mu        sync.Mutex
	listeners []chan Notice            // REQUIRES: mu
	owed      map[shard.ID]knownLeases // REQUIRES: mu; what it knew of when it came back and the shard could not be asked
	trails    []*race                  // REQUIRES: mu; of its former fetches: what they got too late, oldest first
}

// knownLeases are the leases that a worker said it holds.
type knownLeases map[LeaseRef]bool

// owe says that the worker's leases on a shard, but for those it knows, have to be given back once the shard can be asked.
// Until then it fetches nothing there: what is unknown to it now must not be taken for what it was given since.
func (w *worker) owe(id shard.ID, known knownLeases) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owed == nil {
		w.owed = make(map[shard.ID]knownLeases)
	}
	w.owed[id] = known
	w.debts.Store(int32(len(w.owed)))
}

// owes reports whether the worker has to settle with a shard. No worker has to.
func (w *worker) owes(id shard.ID) bool {
	if w == nil || w.debts.Load() == 0 {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owed[id] != nil
}

// owedTo are the debts, for a walk while they change.
func (w *worker) owedTo() map[shard.ID]knownLeases {
	if w.debts.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.owed)
}

// forgive forgets all that the worker owes.
func (w *worker) forgive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed = nil
	w.debts.Store(0)
}

func (w *worker) settled(id shard.ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.owed, id)
	w.debts.Store(int32(len(w.owed)))
}

// touch gives a worker a full TTL from now.
func (w *worker) touch() { w.given.Store(int64(time.Since(w.epoch))) }

// hear takes a sign of life that came to this node. The worker is connected here.
func (w *worker) hear() {
	now := int64(time.Since(w.epoch))
	w.heard.Store(now)
	if w.origin.Load() == 0 && w.severed.Load() == 0 { // as nearly always: it costs no lock then
		w.beat.Store(now)
		return
	}
	w.signAt(time.Duration(now), 0)
}

// signAt takes a sign of life that came to a node, unless there was a later one.
func (w *worker) signAt(at time.Duration, origin uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.beat.Load() <= int64(at) {
		w.beat.Store(int64(at))
		w.origin.Store(origin)
		w.severed.Store(0)
	}
}

// sever takes note that the worker's connection to a node broke, unless another one heard of it since.
func (w *worker) sever(at time.Duration, origin uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.origin.Load() == origin {
		w.severed.Store(max(1, int64(at))) // 0 means that it did not break
	}
}

// unsever forgets a break, unless it was here and of late.
func (w *worker) unsever() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.origin.Load() != 0 || time.Since(w.epoch)-time.Duration(w.severed.Load()) > w.ttl {
		w.severed.Store(0)
	}
}

// heardLately reports whether it is this node that the worker is connected to, as far as its heartbeats tell.
func (w *worker) heardLately() bool {
	at := w.heard.Load()
	return at != 0 && time.Since(w.epoch)-time.Duration(at) <= w.ttl/2
}

// alive is when the worker was last known to be alive, or taken for that.
func (w *worker) alive() time.Duration { return time.Duration(max(w.beat.Load(), w.given.Load())) }

func (w *worker) lastBeat() time.Time { return w.epoch.Add(w.alive()) }

// silent reports whether the worker was silent for its TTL, or, once its connection broke, for the grace that it then has.
func (w *worker) silent(grace time.Duration) bool {
	now, severed := time.Since(w.epoch), w.severed.Load()
	return now-w.alive() > w.ttl || severed != 0 && now-time.Duration(max(severed, w.given.Load())) > grace
}

// leave marks the worker as gone. Its fetches end.
func (w *worker) leave() { w.once.Do(func() { close(w.gone) }) }

// goneChan is nil for no worker: nothing ever comes from it.
func (w *worker) goneChan() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.gone
}

func (w *worker) isGone() bool {
	if w == nil {
		return false
	}
	select {
	case <-w.gone:
		return true
	default:
		return false
	}
}

// notify passes a notice to whoever listens and has room; the next heartbeat tells it again.
func (w *worker) notify(n Notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ch := range w.listeners {
		select {
		case ch <- n:
		default:
		}
	}
}

func (w *worker) listen() (<-chan Notice, func()) {
	ch := make(chan Notice, NoticesMax)
	w.mu.Lock()
	w.listeners = append(w.listeners, ch)
	w.mu.Unlock()
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, l := range w.listeners {
			if l == ch {
				w.listeners = append(w.listeners[:i], w.listeners[i+1:]...)
				return
			}
		}
	}
}

// registry is the workers this node knows of.
type registry struct {
	ttl   time.Duration
	epoch time.Time

	mu      sync.RWMutex
	workers map[WorkerID]*worker // REQUIRES: mu
}

func newRegistry(ttl time.Duration) *registry {
	return &registry{ttl: ttl, epoch: time.Now(), workers: make(map[WorkerID]*worker)}
}

// ttlOf is a worker's own TTL: 80 to 90 % of the one that was asked for, so that those who came together do not beat together, and the
// jobs of a silent one are with others when that has passed: to look, to agree and to hand out takes a moment, too.
func (r *registry) ttlOf(id WorkerID) time.Duration {
	spread := time.Duration(uint64(id)*0x9e3779b97f4a7c15>>32) % 101
	return (r.ttl - r.ttl/5 + r.ttl/1000*spread).Round(time.Millisecond)
}

// add admits a worker of the catalog, with a full TTL.
func (r *registry) add(c *cluster.Worker) *worker {
	return r.put(&worker{id: c.ID, info: c.Info, registered: time.UnixMilli(int64(c.Registered))})
}

// adopt admits a worker that is known only by its leases. It does nothing when the worker is known already.
func (r *registry) adopt(id WorkerID) {
	if r.get(id) == nil {
		r.put(&worker{id: id, orphan: true})
	}
}

func (r *registry) put(w *worker) *worker {
	w.ttl, w.epoch, w.gone = r.ttlOf(w.id), r.epoch, make(chan struct{})
	w.touch()
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.workers[w.id]; old != nil && !old.orphan {
		return old
	}
	r.workers[w.id] = w
	return w
}

// now is the time as beats count it.
func (r *registry) now() time.Duration { return time.Since(r.epoch) }

func (r *registry) get(id WorkerID) *worker {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.workers[id]
}

func (r *registry) remove(id WorkerID) {
	r.mu.Lock()
	delete(r.workers, id)
	r.mu.Unlock()
}

func (r *registry) all() []*worker {
	r.mu.RLock()
	defer r.mu.RUnlock()
	ws := make([]*worker, 0, len(r.workers))
	for _, w := range r.workers {
		ws = append(ws, w)
	}
	return ws
}

func (r *registry) count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.workers)
}

// seenBy remembers which node speaks for a worker. A node that asks for itself is 0.
func (r *registry) seenBy(id WorkerID, node uint64) {
	if w := r.get(id); w != nil && w.home.Load() != node {
		w.home.Store(node)
	}
}

func (r *registry) notify(id WorkerID, n Notice) {
	if w := r.get(id); w != nil {
		w.notify(n)
	}
}
