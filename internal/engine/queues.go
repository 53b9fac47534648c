package engine

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// ConfigureQueue replaces a queue's settings, but not whether it is paused; zero fields mean their defaults. The queue is
// made when it does not exist.
func (e *Engine) ConfigureQueue(ctx context.Context, name string, s Settings) (QueueStatus, error) {
	return e.UpdateQueue(ctx, name, func(old *Settings) {
		s.Paused = old.Paused
		*old = s
	})
}

// UpdateQueue changes a queue's settings by edit, which sees the present ones: defaults, when the queue is made by this
// call. Updates come one after the other, on whatever nodes, and each edit sees what the one before it left: it is called again when
// another one came first.
func (e *Engine) UpdateQueue(ctx context.Context, name string, edit func(*Settings)) (QueueStatus, error) {
	if !cluster.ValidQueueName(name) {
		return QueueStatus{}, badQueueName("queue", name)
	}
	for {
		old := cluster.Queue{Settings: queue.DefaultSettings()}
		if err := e.readCatalog(ctx, func() {
			if q, ok := e.catalog.catalog.Queue(name); ok {
				old = q
			}
		}); err != nil {
			return QueueStatus{}, err
		}
		settings := old.Settings
		settings.Retry.List = slices.Clone(settings.Retry.List) // records are shared
		edit(&settings)
		settings = settings.WithDefaults()
		if err := settings.Validate(); err != nil {
			return QueueStatus{}, fieldError(err)
		}
		if _, err := e.ensureQueue(ctx, name); err != nil {
			return QueueStatus{}, err
		}
		s, err := e.changeQueue(ctx, &queueChange{Name: name, From: max(old.Version, 1), Settings: &settings})
		if err == nil || asError(err).Reason != ReasonConflict {
			return s, err
		}
	}
}

// PauseQueue stops a queue's jobs from being fetched; running ones go on.
func (e *Engine) PauseQueue(ctx context.Context, name string) (QueueStatus, error) {
	return e.setPaused(ctx, name, true)
}

// ResumeQueue undoes PauseQueue.
func (e *Engine) ResumeQueue(ctx context.Context, name string) (QueueStatus, error) {
	return e.setPaused(ctx, name, false)
}

func (e *Engine) setPaused(ctx context.Context, name string, paused bool) (QueueStatus, error) {
	if _, err := e.existing(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	return e.changeQueue(ctx, &queueChange{Name: name, Paused: paused})
}

// queueChange is a change of a queue's settings: of all, if they are still those of a version, or of whether it is paused.
type queueChange struct {
	Name     string
	From     uint64    `json:",omitzero"`
	Settings *Settings `json:",omitzero"`
	Paused   bool      `json:",omitzero"`
}

// changeQueue changes a queue's record in the catalog and brings the settings to its shard. When it fails in between,
// repeating it completes it, or the node that leads the shard does.
func (e *Engine) changeQueue(ctx context.Context, change *queueChange) (QueueStatus, error) {
	f, err := e.ask(ctx, &query{Kind: queryChange, Shard: catalogShard, Change: change})
	if err != nil {
		return QueueStatus{}, err
	}
	if err := e.catalog.reach.await(ctx, f.Index); err != nil {
		return QueueStatus{}, errUnknownOutcome(err)
	}
	if err := e.configureQueue(ctx, f.Changed); err != nil {
		return QueueStatus{}, err
	}
	return e.Queue(ctx, change.Name)
}

// changeHere answers queryChange. The lock keeps what it compares as it is until the change is applied: changes are made on the node
// that leads the catalog alone, and one that loses the lead in between has its command refused.
func (e *Engine) changeHere(ctx context.Context, change *queueChange) (*findings, error) {
	e.naming.Lock()
	defer e.naming.Unlock()
	encode := func(dst []byte) []byte { return cluster.AppendPauseQueue(dst, change.Name, change.Paused) }
	if change.Settings != nil {
		version := uint64(0)
		if err := e.host.Read(ctx, catalogShard, func() {
			q, _ := e.catalog.catalog.Queue(change.Name)
			version = q.Version
		}); err != nil {
			return nil, hostError(err)
		}
		if version != change.From {
			return nil, newError(CodeAborted, ReasonConflict, "the queue's settings were changed by somebody else at the same time; look at them and try again")
		}
		encode = func(dst []byte) []byte { return cluster.AppendConfigureQueue(dst, change.Name, change.Settings) }
	}
	r, index, err := e.catalog.proposeHere(ctx, encode)
	if err != nil {
		return nil, err
	}
	return &findings{Index: index, Changed: &r.Queue}, nil
}

// Queue returns one queue's status.
func (e *Engine) Queue(ctx context.Context, name string) (QueueStatus, error) {
	rt, err := e.existing(ctx, name)
	if err != nil {
		return QueueStatus{}, err
	}
	for {
		s, newer := rt.status(), rt
		for _, h := range rt.all {
			f, err := e.ask(ctx, &query{Kind: queryQueue, Shard: h.pump.shard, Queue: h.id})
			if err != nil {
				return QueueStatus{}, err
			}
			if newer, err = e.newerRoute(ctx, newer, h, f); err != nil {
				return QueueStatus{}, err
			}
			s.add(rt, h, &f.Info, f.Oldest)
		}
		if newer == rt {
			return s, nil
		}
		rt = newer
	}
}

// status begins the status of a queue, to which what each of its homes knows is added.
func (rt *route) status() QueueStatus {
	s := QueueStatus{Name: rt.name, Shards: shardsOf(rt.homes), MovingFromShards: shardsOf(rt.from)}
	s.Shard = s.Shards[0]
	if rt.moving() {
		s.MovingFrom = s.MovingFromShards[0]
	}
	return s
}

func shardsOf(homes []home) []uint16 {
	var shards []uint16
	for _, h := range homes {
		shards = append(shards, uint16(h.pump.shard))
	}
	return shards
}

// add adds what one of a queue's homes knows of it.
func (s *QueueStatus) add(rt *route, h home, info *queue.QueueInfo, oldest int64) {
	if h == rt.homes[0] {
		s.Info.Queue, s.Info.Version, s.Info.Settings = info.Queue, info.Version, info.Settings
	}
	if rt.isOldHome(h) {
		s.LeftBehind += info.Live()
	}
	s.Info.Add(info)
	if at := unixMilli(oldest); oldest != 0 && (s.OldestReadyAt.IsZero() || at.Before(s.OldestReadyAt)) {
		s.OldestReadyAt = at
	}
}

// Queues returns the status of all queues, by name.
func (e *Engine) Queues(ctx context.Context) ([]QueueStatus, error) {
	type known struct {
		info   queue.QueueInfo
		oldest int64
	}
	at := make(map[*pump]map[queue.QueueID]known)
	for _, p := range e.data() {
		f, err := e.ask(ctx, &query{Kind: queryQueues, Shard: p.shard})
		if err != nil {
			return nil, err
		}
		at[p] = make(map[queue.QueueID]known, len(f.Infos))
		for i, info := range f.Infos {
			at[p][info.Queue] = known{info, f.Oldests[i]}
		}
	}
	routes := e.routes.sorted()
	all := make([]QueueStatus, 0, len(routes))
	for _, rt := range routes {
		if slices.ContainsFunc(rt.homes, func(h home) bool { return at[h.pump][h.id].info.Settings.Closed }) {
			if _, err := e.relearn(ctx); err != nil {
				return nil, err
			}
			if e.routes.byName(rt.name) != rt {
				return e.Queues(ctx) // it has moved, and its new homes may be on shards that were not asked
			}
		}
		s := rt.status()
		for _, h := range rt.all {
			k := at[h.pump][h.id]
			s.add(rt, h, &k.info, k.oldest)
		}
		all = append(all, s)
	}
	return all, nil
}

// storedAt is when a queue's oldest ready job was stored: the stamp of its entry; 0 when it is not known.
func (e *Engine) storedAt(id shard.ID, info *queue.QueueInfo) int64 {
	pos := info.OldestReady
	if pos == 0 {
		return 0
	}
	var last *atomic.Pointer[storedAt]
	if rt := e.routes.byID(info.Queue); rt != nil {
		if at := slices.IndexFunc(rt.all, func(h home) bool { return h.id == info.Queue && h.pump.shard == id }); at >= 0 {
			last = &rt.oldest[at]
		}
	}
	if last != nil {
		if known := last.Load(); known != nil && known.pos == pos {
			return known.stamp
		}
	}
	h, _, err := e.host.Payload(id, pos.Index(), pos.Ordinal())
	if err != nil {
		return 0
	}
	if last != nil {
		last.Store(&storedAt{pos: pos, stamp: h.Stamp})
	}
	return h.Stamp
}
