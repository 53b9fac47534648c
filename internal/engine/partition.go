package engine

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
)

// partitionOf says to which of a queue's partitions a job goes: by its ordering key, so that jobs with the same one go to the same
// partition; by its unique key, which is so held on one; or by the turn of its request. It must never give another answer: a request
// that is repeated brings its jobs where they are.
func partitionOf(count int, s *Spec, turn uint64) int {
	switch {
	case count == 1:
		return 0
	case s.OrderingKey != "":
		return int(keyHash(s.OrderingKey) % uint64(count))
	case s.UniqueKey != "":
		return int(keyHash(s.UniqueKey) % uint64(count))
	}
	return int(turn % uint64(count))
}

// bound reports whether one of a job's keys says to which partition it goes.
func bound(s *Spec) bool { return s.OrderingKey != "" || s.UniqueKey != "" }

// keyHash is FNV-1a with a finisher that spreads the last bytes over all bits; docs/format.md has it.
func keyHash(key string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	return h ^ h>>33
}

// turnOf is a request's turn: jobs without such a key that come together stay together, on one partition of their queue. The requests
// of a session go round, and the repeat of one goes where it went.
func (e *Engine) turnOf(r *EnqueueRequest) uint64 {
	if r.Session != (SessionID{}) {
		return binary.LittleEndian.Uint64(r.Session[:]) + r.Sequence
	}
	return e.requests.Add(1)
}

// ownWhole marks the berths of atomic requests.
const ownWhole = 1 << 63

// together finds the shard for all jobs of an atomic request, and reports whether there is one: that has the one home of the queues
// that have one, the partitions of the keys, and a partition of each other queue. old tells the queues that are taken for where
// they were before they began to move; nil: none.
//
// Its berth there is that of the queues' ids, so that the same shard remembers another request when one of the queues has other homes.
func (p *PendingEnqueue) together(old func(*route) bool) bool {
	var able []*pump
	var last *route
	jobs := p.request.Jobs
	homesOf := func(i int) (*route, []home) {
		rt := p.view.byID[jobs[i].Spec.Queue]
		if old != nil && old(rt) {
			return rt, rt.from
		}
		return rt, rt.homes
	}
	for i := range jobs {
		rt, homes := homesOf(i)
		if rt == last && !bound(&jobs[i].Spec) {
			continue
		}
		last = rt
		if len(homes) > 1 && bound(&jobs[i].Spec) {
			at := partitionOf(len(homes), &jobs[i].Spec, p.turn)
			homes = homes[at : at+1]
		}
		if i == 0 {
			for _, h := range homes {
				able = append(able, h.pump)
			}
			continue
		}
		able = slices.DeleteFunc(able, func(p *pump) bool {
			return !slices.ContainsFunc(homes, func(h home) bool { return h.pump == p })
		})
	}
	if len(able) == 0 {
		return false
	}
	p.at, p.homes = berth{pump: able[p.turn%uint64(len(able))]}, nil
	own := shapeSeed
	for i := range jobs {
		rt, homes := homesOf(i)
		h := homes[slices.IndexFunc(homes, func(h home) bool { return h.pump == p.at.pump })]
		jobs[i].Spec.Queue = h.id
		moves := rt.moves
		if old != nil && old(rt) {
			moves--
		}
		if moves > 0 {
			own = own.with(0, h.id)
			p.at.own = ownWhole | uint64(own)
		}
	}
	return true
}

// PartitionQueue gives a queue so many partitions, each on a shard of its own, and changes its settings as UpdateQueue does. The queue is
// made when it does not exist. Another number of partitions is a move to other homes: see MoveQueue. So jobs that come before it are
// fetched before those that come after it, of whatever partition, and a request that a session repeats is the same one.
func (e *Engine) PartitionQueue(ctx context.Context, name string, count int, edit func(*Settings)) (QueueStatus, error) {
	if !cluster.ValidQueueName(name) {
		return QueueStatus{}, badQueueName("queue", name)
	}
	if err := e.checkPartitions(count); err != nil {
		return QueueStatus{}, err
	}
	e.weigh(ctx)
	if _, err := e.settledQueue(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	var q cluster.Queue
	var there bool
	var shards []uint16
	if err := e.readCatalog(ctx, func() {
		if q, there = e.catalog.catalog.Queue(name); !there || len(q.Home.Shards) != count {
			shards = e.placement.placeSeveral(e.catalog.catalog, count)
		}
	}); err != nil {
		return QueueStatus{}, err
	}
	settings := queue.DefaultSettings()
	if there {
		settings = q.Settings
		settings.Retry.List = slices.Clone(settings.Retry.List) // records are shared
	}
	edit(&settings)
	settings = settings.WithDefaults()
	if err := settings.Validate(); err != nil {
		return QueueStatus{}, fieldError(err)
	}
	if len(shards) > 0 {
		encode := func(dst []byte) []byte { return cluster.AppendCreateSpread(dst, name, shards, &settings) }
		if there {
			encode = func(dst []byte) []byte { return cluster.AppendSpread(dst, name, q.Home.ID, shards) }
		}
		r, err := e.catalog.propose(ctx, encode)
		switch {
		case err != nil:
			return QueueStatus{}, e.moveError(ctx, err, r, name)
		case len(r.Queue.Home.Shards) != count: // somebody else made it just now
			return e.PartitionQueue(ctx, name, count, edit)
		}
		if err := e.configureQueue(ctx, &r.Queue); err != nil {
			return QueueStatus{}, err
		}
	}
	if err := e.openMove(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	if _, err := e.settledQueue(ctx, name); err != nil {
		return QueueStatus{}, err
	}
	return e.UpdateQueue(ctx, name, edit)
}

func (e *Engine) checkPartitions(count int) *Error {
	switch shards := e.Shards(); {
	case count < 1 || count > PartitionsMax:
		return invalid("partitions", "is %d; it must lie between 1 and %d", count, PartitionsMax)
	case count > shards:
		return invalid("partitions", "is %d, and there are %d data shards: each partition has one of its own; add shards first, with beaver cluster add-shards or a higher --shards", count, shards)
	}
	return nil
}
