package sim

import (
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// In some runs some jobs have unique keys, of which there are few. They are drawn apart, so that all else of a run is drawn as it
// would be.

const (
	keysPerQueue = 3
	windowMillis = 5000 // the longest
)

// key gives a job a unique key, perhaps.
func (p *producer) key(spec *queue.Spec) {
	c := p.keys
	if !p.c.w.plan.keyed || !c.percent(40) {
		return
	}
	spec.UniqueKey = fmt.Sprint("key", c.IntN(keysPerQueue))
	if c.percent(20) {
		spec.OrderingKey = "o"
	}
	if c.percent(30) {
		spec.UniqueUntil = queue.UniqueUntilStarted
	}
	if c.percent(30) {
		spec.UniqueForMillis = 1 + c.Int64N(windowMillis)
	}
}

// uniqueKey is what the oracle tells unique keys apart by.
type uniqueKey struct {
	queue            queue.QueueID
	ordering, unique string
}

// keyed is what the oracle knows of a job with a unique key: from the answers to commands, and from the state of the job alone. The
// machine's own account of who holds what is what is to be judged.
type keyed struct {
	pos     queue.Pos
	key     uniqueKey
	started bool         // it gives its key up when it is leased
	window  queue.Millis // its end; 0: it has none
	lease   queue.Token  // that it gave its key up for, or was taken back since; 0: none
	left    uint64       // the entry in which it did
	unsure  bool         // that lease was taken back: it has its key again, unless another job had taken it
}

// keyHolders are a shard's jobs with unique keys.
type keyHolders struct {
	jobs  map[queue.Pos]*keyed
	byKey map[uniqueKey][]*keyed // those that may hold the key still, or again
}

func newKeyHolders() keyHolders {
	return keyHolders{jobs: make(map[queue.Pos]*keyed), byKey: make(map[uniqueKey][]*keyed)}
}

// holds tells whether a job holds its key at the end of an entry, and whether it can have held it at some moment of that.
func (k *keyed) holds(m *queue.Machine, index uint64) (certainly, perhaps bool) {
	now, info := m.Now(), queue.JobInfo{}
	if k.window > now {
		return true, true
	}
	switch info, _ = m.Job(k.pos, k.key.queue, 0); {
	case info.State == queue.StateUnknown: // it was forgotten, nobody knows when
		return false, true
	case ended(info.State), info.State == queue.StateDead:
		return false, info.EndedAt == now
	case k.lease != 0:
		return false, k.unsure || k.left == index
	}
	return true, true
}

// keep follows a job that was stored.
func (o *oracle) keep(m *queue.Machine, pos queue.Pos, item []byte) {
	if queue.BatchVersion(item) == 1 {
		return // without a key
	}
	s := o.specOf(pos, item)
	k := &keyed{pos: pos, key: uniqueKey{s.Queue, s.OrderingKey, s.UniqueKey}, started: s.UniqueUntil == queue.UniqueUntilStarted}
	if s.UniqueForMillis > 0 {
		k.window = m.Now() + queue.Millis(s.UniqueForMillis)
	}
	o.keys.jobs[pos] = k
	o.keys.byKey[k.key] = append(o.keys.byKey[k.key], k)
	o.alone(m, k)
}

func (o *oracle) specOf(pos queue.Pos, item []byte) queue.Spec {
	s, err := queue.DecodeSpec(item)
	if err != nil {
		o.w.fail("job %d.%d was taken and does not decode: %v", pos.Index(), pos.Ordinal(), err)
	}
	return s
}

// alone checks that nobody else holds the key that a job was given. Those that can never hold it again are forgotten.
func (o *oracle) alone(m *queue.Machine, k *keyed) {
	o.keys.byKey[k.key] = slices.DeleteFunc(o.keys.byKey[k.key], func(other *keyed) bool {
		certainly, perhaps := other.holds(m, m.Applied())
		if certainly && other != k {
			o.w.fail("jobs %d.%d and %d.%d hold one unique key", other.pos.Index(), other.pos.Ordinal(), k.pos.Index(), k.pos.Ordinal())
		}
		info, _ := m.Job(other.pos, k.key.queue, 0)
		return !perhaps && ended(info.State)
	})
}

// heldBy checks who is named as the holder of a unique key.
func (o *oracle) heldBy(m *queue.Machine, key uniqueKey, r queue.Result) {
	k := o.keys.jobs[r.Pos]
	if r.Shard != uint16(o.shard) || k == nil || k.key != key {
		o.w.fail("job %d.%d of shard %d is named as the holder of the unique key %v, and is %v", r.Pos.Index(), r.Pos.Ordinal(), r.Shard, key, k)
	}
	if _, perhaps := k.holds(m, m.Applied()); !perhaps {
		o.w.fail("job %d.%d is named as the holder of the unique key %v, and has let go of it", r.Pos.Index(), r.Pos.Ordinal(), key)
	}
}

// existing checks who is named to a job whose unique key was held; repeat: it was so named once, and may have ended since.
func (o *oracle) existing(m *queue.Machine, pos queue.Pos, item []byte, r queue.Result, repeat bool) {
	s := o.specOf(pos, item)
	key := uniqueKey{s.Queue, s.OrderingKey, s.UniqueKey}
	if k := o.keys.jobs[r.Pos]; repeat && k != nil && k.key == key {
		return
	}
	o.heldBy(m, key, r)
	o.w.counts.Deduplicated++
}

// started has a job give its key up that is leased, if that is when it does.
func (h *keyHolders) started(l queue.Lease, index uint64) {
	if k := h.jobs[l.Pos]; k != nil && k.started && (k.lease == 0 || k.unsure) {
		k.lease, k.left, k.unsure = l.Token, index, false
	}
}

// takenBack has a job have its key again whose lease was taken back, perhaps.
func (h *keyHolders) takenBack(pos queue.Pos, token queue.Token) {
	if k := h.jobs[pos]; k != nil && k.lease == token {
		k.unsure = true
	}
}

// retried checks what became of a dead job that was to be retried: it has its key again, or another one has it.
func (o *oracle) retried(m *queue.Machine, pos queue.Pos, r queue.Result) {
	k := o.keys.jobs[pos]
	switch {
	case k == nil && r.Code == queue.CodeKeyHeld:
		o.w.fail("job %d.%d has no unique key, and %d.%d is called its holder", pos.Index(), pos.Ordinal(), r.Pos.Index(), r.Pos.Ordinal())
	case k == nil:
	case r.Code == queue.CodeKeyHeld:
		o.heldBy(m, k.key, r)
		o.w.counts.KeptDead++
	case r.Code == queue.CodeOK:
		k.lease, k.unsure = 0, false
		o.alone(m, k)
	}
}

// rekey is what a machine with a deliberate bug makes of jobs with unique keys.
func (b *bugs) rekey(items [][]byte) [][]byte {
	items = slices.Clone(items)
	for i, item := range items {
		if queue.BatchVersion(item) == 1 {
			continue
		}
		s, err := queue.DecodeSpec(item)
		if err != nil {
			continue // the oracle says so
		}
		switch b.bug {
		case BugSplitKeys:
			s.UniqueKey += fmt.Sprint(s.Priority % 2)
		case BugLeaveKeys:
			s.UniqueUntil, s.UniqueForMillis = queue.UniqueUntilStarted, 0
		default: // BugKeepKeys
			s.UniqueForMillis = queue.UniqueForMillisMax
		}
		items[i] = queue.AppendJob(nil, &s)
	}
	return items
}
