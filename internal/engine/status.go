package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
)

// QueueStatus is a queue as the catalog and its shard know it.
type QueueStatus struct {
	Name             string
	Shard            uint16          // its home, or that of its first partition
	Shards           []uint16        // its homes, by partition
	MovingFrom       uint16          // the home before, or the first of those, while the queue moves; else 0
	MovingFromShards []uint16        // the homes before, while the queue moves
	LeftBehind       uint64          // jobs that have not ended in the homes before
	Info             queue.QueueInfo // of all homes together; the settings are those of a home
	OldestReadyAt    time.Time       // when the oldest ready job was stored; zero: none is ready
}

// WorkerStatus is a registered worker as this node sees it.
type WorkerStatus struct {
	ID           WorkerID
	Info         WorkerInfo
	RegisteredAt time.Time
	LastBeat     time.Time // the last sign of life this node has seen
	TTL          time.Duration
	Running      int // leases held, over all shards
	State        WorkerState
	Node         uint64 // that it is connected to; 0: not known
}

// NodeStatus describes this node.
type NodeStatus struct {
	Node      uint64
	ClusterID string // 16 hexadecimal digits
	Version   string
	StartedAt time.Time
	Ready     bool
	Reason    string // why not ready
	DiskFull  bool   // new jobs are refused until there is room
	Load      NodeLoad
	Queues    int
	Workers   int
	Shards    []ShardStatus
	Host      host.Stats // log, disk, snapshots and recovery
}

// ShardStatus describes one shard's replica on this node.
type ShardStatus struct {
	ID            uint16
	Leading       bool
	Term          uint64
	Leader        uint64 // node id; 0 when unknown
	Applied       uint64
	Last          uint64 // index of the log's last entry, applied or not
	SnapshotIndex uint64
	SnapshotBytes int64
	SnapshotAt    time.Time // zero: there is none, or it was stored before the node started
	Fingerprint   uint64
	Jobs          uint64 // not ended
	Problem       string // why the shard does not serve; empty: it does
}

// Status describes the node. A shard that does not answer in time says so instead of how many jobs it has.
func (e *Engine) Status(ctx context.Context) (NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, statsWait)
	defer cancel()
	h := e.host.Stats()
	s := NodeStatus{
		Node: e.opts.Node, ClusterID: fmt.Sprintf("%016x", h.Cluster), Version: e.opts.Version, StartedAt: e.started,
		DiskFull: e.host.Full(), Queues: len(e.routes.table().byName), Workers: e.workers.count(), Host: h, Load: e.Load(),
	}
	s.Ready, s.Reason = e.Ready()
	for _, hs := range h.Shards {
		st := ShardStatus{
			ID: uint16(hs.ID), Leading: hs.Leading, Term: hs.Term, Leader: hs.Leader, Applied: hs.Applied, Last: hs.Last,
			Fingerprint: hs.Fingerprint,
		}
		if hs.SnapshotBytes > 0 { // what a shard begins with has an index too, and is no snapshot
			st.SnapshotIndex, st.SnapshotBytes = hs.SnapshotIndex, hs.SnapshotBytes
		}
		if hs.SnapshotMillis != 0 {
			st.SnapshotAt = time.UnixMilli(hs.SnapshotMillis)
		}
		if !hs.Leading && (hs.Leader == 0 || !e.clustered()) {
			st.Problem = "it has no leader here"
		}
		if hs.Hole > 0 {
			st.Problem = fmt.Sprintf("entry %d of its log is damaged: it takes no part until another node has sent it", hs.Hole)
		}
		if hs.HolesBarren {
			st.Problem = fmt.Sprintf("entry %d of its log is damaged, and no other node has it: it waits for a snapshot; if none comes, remove this node and let it join anew", hs.Hole)
		}
		if p := e.pump(hs.ID); p != nil {
			e.describeShard(ctx, p, &st)
		}
		s.Shards = append(s.Shards, st)
	}
	return s, nil
}

// describeShard adds what the machine of a data shard says.
func (e *Engine) describeShard(ctx context.Context, p *pump, st *ShardStatus) {
	var totals queue.Totals
	if err := e.host.StaleRead(ctx, p.shard, func() { totals = p.machine.Totals() }); err != nil {
		st.Problem = "it does not answer: " + hostError(err).Error()
	}
	st.Jobs = totals.Live()
	for _, err := range []*Error{p.diverged.Load(), p.doubted.Load()} {
		if err != nil {
			st.Problem = err.Message
		}
	}
}

// Workers returns the registered workers, by id.
func (e *Engine) Workers(ctx context.Context) ([]WorkerStatus, error) {
	running := make(map[WorkerID]int)
	for _, p := range e.data() {
		f, err := e.ask(ctx, &query{Kind: queryHolders, Shard: p.shard})
		if err != nil {
			return nil, err
		}
		for _, h := range f.Holders {
			running[h.Worker] += h.Running
		}
	}
	f, err := e.ask(ctx, &query{Kind: queryWorkers, Shard: catalogShard})
	if err != nil {
		return nil, err
	}
	if err := e.catalog.reach.await(ctx, f.Index); err != nil {
		return nil, err
	}
	seen := make(map[WorkerID]seenWorker, len(f.Workers))
	for _, s := range f.Workers {
		seen[s.ID] = s
	}
	all := e.workers.statuses()
	for i := range all {
		w := &all[i]
		w.Running = running[w.ID]
		if here := e.workers.get(w.ID); here != nil && here.heardLately() {
			w.Node = e.opts.Node
		}
		if s, ok := seen[w.ID]; ok {
			w.LastBeat, w.State = time.Now().Add(-time.Duration(s.Silent)*time.Millisecond), s.Wish
			if s.Node != 0 {
				w.Node = s.Node
			}
		}
	}
	return all, nil
}

// seen is what the node that leads the catalog, this one, knows of the registered workers.
func (r *registry) seen(self uint64) []seenWorker {
	var all []seenWorker
	for _, w := range r.all() {
		if !w.orphan {
			s := seenWorker{ID: w.id, Silent: time.Since(w.lastBeat()).Milliseconds(), Wish: WorkerState(w.want.Load()), Node: w.origin.Load()}
			if s.Node == 0 && w.heard.Load() != 0 {
				s.Node = self
			}
			all = append(all, s)
		}
	}
	return all
}

// statuses are the registered workers as this node sees them, by id.
func (r *registry) statuses() []WorkerStatus {
	known := r.all()
	slices.SortFunc(known, func(a, b *worker) int { return cmp.Compare(a.id, b.id) })
	all := make([]WorkerStatus, 0, len(known))
	for _, w := range known {
		if w.orphan {
			continue
		}
		all = append(all, WorkerStatus{
			ID: w.id, Info: w.info, RegisteredAt: w.registered, LastBeat: w.lastBeat(), TTL: w.ttl, State: WorkerState(w.want.Load()),
		})
	}
	return all
}
