package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// Homes are the shards that take a queue's jobs, one for each of its partitions, and the id that the queue has on them.
type Homes struct {
	ID     queue.QueueID
	Shards []uint16 // by partition, no two the same; never changed in place
}

// Place is where a queue lives, and where it lived before.
//
// A move begins with its decision: Home is what takes new jobs from then on, and From what took them before, which takes no more as soon
// as it has heard of it; the new homes are set up after that. Opened says when both was done. The move ends when nothing is left in the
// old homes, and nobody repeats to the new ones what an old one has answered: at once, when whoever ends it has made sure of both.
//
// A queue that moves from one shard to another keeps its id. One whose partitions change, or that comes back to a shard, gets another for the
// new homes, so that a shard which is among the old and the new ones can take no more jobs under the one, and take them under the other.
type Place struct {
	Home    Homes
	From    Homes        // the homes before, while jobs of the queue may be there; zero: it does not move
	Opened  queue.Millis // when the old homes were closed and the new ones set up; 0: not yet
	Formers []Homes      // all homes before, From among them, oldest first; never changed in place
	Moves   uint64       // how often its homes changed
}

// Shard is the home of the queue, or of its first partition.
func (p *Place) Shard() uint16 { return p.Home.Shards[0] }

// Moving reports whether jobs may be in the homes before.
func (p *Place) Moving() bool { return p.From.ID != 0 }

// Had reports whether a shard is or was a home of the queue under its present id. It does not become one again under that id: who has not
// heard that the queue left, and came back, would take it for the one that it was.
func (p *Place) Had(shard uint16) bool {
	under := func(h Homes) bool { return h.ID == p.Home.ID && slices.Contains(h.Shards, shard) }
	return under(p.Home) || slices.ContainsFunc(p.Formers, under)
}

// settleMillis is how long after its opening a move may end when it is not known what sessions of the old homes remember: none of them is
// then as it was before, and clients have given up to repeat what they had sent there.
const settleMillis = queue.SessionIdleMillis

// Settles reports whether the move of a queue may end at a time, if nothing is left in the old homes, whatever they have answered.
func (p *Place) Settles(now queue.Millis) bool {
	return p.Moving() && p.Opened != 0 && now >= p.Opened+settleMillis
}

// AppendRelocate encodes: a queue moves from its home to another shard.
func AppendRelocate(dst []byte, name string, from, to uint16) []byte {
	return appendHomes(append(dst, commandRelocate), name, from, to)
}

// AppendOpened encodes: the old homes of a queue are closed, and the new ones are set up.
func AppendOpened(dst []byte, q *Queue) []byte {
	if q.From.ID != q.Home.ID {
		return appendSpreadStep(append(dst, commandSpreadOpened), q)
	}
	return appendHomes(append(dst, commandOpened), q.Name, q.From.Shards[0], q.Shard())
}

// AppendSettled encodes: nothing of a queue is left in its old homes.
func AppendSettled(dst []byte, q *Queue) []byte {
	if q.From.ID != q.Home.ID {
		return appendSpreadStep(append(dst, commandSpreadSettled), q)
	}
	return appendHomes(append(dst, commandSettled), q.Name, q.From.Shards[0], q.Shard())
}

// AppendEmptied encodes: nothing of a queue is left in its old homes, and no client may repeat what they have answered. It is AppendSettled
// for whoever has made sure of both: the old homes are closed, so both stay as they are.
func AppendEmptied(dst []byte, q *Queue) []byte {
	return binary.AppendUvarint(appendText(append(dst, commandEmptied), q.Name), q.Moves)
}

func appendHomes(dst []byte, name string, from, to uint16) []byte {
	dst = appendText(dst, name)
	dst = binary.AppendUvarint(dst, uint64(from))
	return binary.AppendUvarint(dst, uint64(to))
}

// applyMove carries out the commands of queues that move.
func (c *Catalog) applyMove(kind byte, d *decoder) Result {
	name, from, to := d.text(QueueNameBytesMax), uint16(d.uint(ShardsMax)), uint16(d.uint(ShardsMax))
	if !d.end() || from == 0 || to == 0 || from == to {
		return Result{Code: CodeMalformed}
	}
	q, ok := c.queues.Get(name)
	if !ok {
		return Result{Code: CodeNotFound}
	}
	under := q.From.ID == q.Home.ID && q.From.Shards[0] == from && q.Shard() == to
	switch kind {
	case commandRelocate:
		return c.relocate(q, from, to)
	case commandOpened:
		return c.opened(q, under)
	default:
		return c.settled(q, under)
	}
}

// applyEmptied carries out AppendEmptied.
func (c *Catalog) applyEmptied(d *decoder) Result {
	name, moves := d.text(QueueNameBytesMax), d.uint(1<<63-1)
	if !d.end() {
		return Result{Code: CodeMalformed}
	}
	q, ok := c.queues.Get(name)
	switch {
	case !ok:
		return Result{Code: CodeNotFound}
	case !q.Moving() || q.Opened == 0 || q.Moves != moves:
		return Result{Code: CodeExists, Queue: *q}
	}
	return c.settle(q)
}

// relocate begins a move to another shard. Repeated, it finds the move under way.
func (c *Catalog) relocate(q *Queue, from, to uint16) Result {
	switch {
	case len(q.Home.Shards) > 1:
		return Result{Code: CodePartitioned, Queue: *q}
	case q.Shard() == to:
		return Result{Code: CodeExists, Queue: *q}
	case q.Moving() || q.Shard() != from:
		return Result{Code: CodeMoving, Queue: *q}
	}
	formers := slices.DeleteFunc(slices.Clone(q.Formers), func(h Homes) bool {
		return h.ID == q.Home.ID && (h.Shards[0] == to || h.Shards[0] == from)
	})
	return c.rehome(q, Homes{ID: q.Home.ID, Shards: []uint16{to}}, formers)
}

// rehome gives a queue new homes, after those in formers and its present ones.
func (c *Catalog) rehome(q *Queue, to Homes, formers []Homes) Result {
	moved := *q
	moved.Formers = append(formers, q.Home)
	if countHomes(moved.Formers) > FormersMax || c.crowded(to.Shards) {
		return Result{Code: CodeLimit, Queue: *q}
	}
	moved.Home, moved.From, moved.Opened = to, q.Home, 0
	moved.Moves++
	moved.Version++ // so that all homes take in their new settings
	c.lastQueue = max(c.lastQueue, to.ID)
	return c.replace(&moved)
}

// opened notes that the move is under way.
func (c *Catalog) opened(q *Queue, under bool) Result {
	if !under || q.Opened != 0 {
		return Result{Code: CodeExists, Queue: *q}
	}
	moved := *q
	moved.Opened = c.now
	return c.replace(&moved)
}

// settled ends the move, when its time has come.
func (c *Catalog) settled(q *Queue, under bool) Result {
	if !under || !q.Settles(c.now) {
		return Result{Code: CodeExists, Queue: *q}
	}
	return c.settle(q)
}

func (c *Catalog) settle(q *Queue) Result {
	moved := *q
	moved.From, moved.Opened = Homes{}, 0
	moved.Version++
	return c.replace(&moved)
}

func (c *Catalog) replace(q *Queue) Result {
	c.putQueue(q)
	return Result{Code: CodeOK, Queue: *q}
}

func countHomes(all []Homes) int {
	n := 0
	for i := range all {
		n += len(all[i].Shards)
	}
	return n
}

// plain reports whether a queue has had one partition always, and has not come back to a shard: its record then is as it was before
// there were others.
func (q *Queue) plain() bool {
	simple := func(h Homes) bool { return h.ID == q.ID && len(h.Shards) == 1 }
	return simple(q.Home) && q.Moves == uint64(len(q.Formers)) && !slices.ContainsFunc(q.Formers, func(h Homes) bool { return !simple(h) })
}

// appendPlace appends what follows the settings in a queue's record. Of a queue that has had one partition always, and never moved, that is
// nothing, and of one that moved, and never came back to a shard: from v, opened v, formers v × (shard v). Of any other it is three zeros
// and home, from or an id of 0 v, opened v, moves v, formers v × homes; homes are id v, shards v × (shard v).
func appendPlace(dst []byte, q *Queue) []byte {
	switch {
	case !q.plain():
		dst = appendShards(append(dst, 0, 0, 0), &q.Home)
		if dst = binary.AppendUvarint(dst, uint64(q.From.ID)); q.Moving() {
			dst = appendList(dst, q.From.Shards)
		}
		dst = binary.AppendUvarint(dst, uint64(q.Opened))
		dst = binary.AppendUvarint(dst, q.Moves)
		dst = binary.AppendUvarint(dst, uint64(len(q.Formers)))
		for i := range q.Formers {
			dst = appendShards(dst, &q.Formers[i])
		}
	case len(q.Formers) > 0:
		from := uint16(0)
		if q.Moving() {
			from = q.From.Shards[0]
		}
		dst = binary.AppendUvarint(dst, uint64(from))
		dst = binary.AppendUvarint(dst, uint64(q.Opened))
		dst = binary.AppendUvarint(dst, uint64(len(q.Formers)))
		for _, h := range q.Formers {
			dst = binary.AppendUvarint(dst, uint64(h.Shards[0]))
		}
	}
	return dst
}

func appendShards(dst []byte, h *Homes) []byte {
	return appendList(binary.AppendUvarint(dst, uint64(h.ID)), h.Shards)
}

func appendList(dst []byte, shards []uint16) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(shards)))
	for _, s := range shards {
		dst = binary.AppendUvarint(dst, uint64(s))
	}
	return dst
}

// place takes what appendPlace appended. first is the shard of the record.
func (d *decoder) place(q *Queue, first uint16) {
	q.Home = Homes{ID: q.ID, Shards: []uint16{first}}
	if d.bad || len(d.b) == 0 {
		return
	}
	from, opened, count := uint16(d.uint(ShardsMax)), queue.Millis(d.uint(millisMax)), int(d.uint(FormersMax))
	if from == 0 && opened == 0 && count == 0 {
		d.placeOfAny(q, first)
		return
	}
	q.Opened, q.Moves = opened, uint64(count)
	for range count {
		former := Homes{ID: q.ID, Shards: []uint16{uint16(d.uint(ShardsMax))}}
		if former.Shards[0] == from {
			q.From = former
		}
		q.Formers = append(q.Formers, former)
	}
	if count == 0 || from != 0 && !q.Moving() || !q.placed() {
		d.fail()
	}
}

// placeOfAny takes the record of a queue that is not plain.
func (d *decoder) placeOfAny(q *Queue, first uint16) {
	q.Home = d.homes()
	if id := queue.QueueID(d.uint(1<<32 - 1)); id != 0 {
		q.From = Homes{ID: id, Shards: d.list()}
	}
	q.Opened, q.Moves = queue.Millis(d.uint(millisMax)), d.uint(1<<63-1)
	total := 0
	for range d.uint(FormersMax) {
		h := d.homes()
		if total += len(h.Shards); d.bad || total > FormersMax {
			d.fail()
			return
		}
		q.Formers = append(q.Formers, h)
	}
	if d.bad || q.plain() || q.Shard() != first || !q.placed() {
		d.fail()
	}
}

// placed reports whether a place is one that a queue can have.
func (q *Queue) placed() bool {
	known := !q.Moving()
	for i, h := range q.Formers {
		same := func(o Homes) bool { return o.ID == h.ID && slices.Equal(o.Shards, h.Shards) }
		if same(q.Home) || slices.ContainsFunc(q.Formers[:i], same) || h.Shards[0] == 0 {
			return false
		}
		known = known || same(q.From)
	}
	return known && (q.Moving() || q.Opened == 0) && q.Moves >= uint64(min(1, len(q.Formers)))
}

func (d *decoder) homes() Homes {
	h := Homes{ID: queue.QueueID(d.uint(1<<32 - 1)), Shards: nil}
	if h.Shards = d.list(); h.ID == 0 {
		d.fail()
	}
	return h
}

// list takes the shards of a queue's partitions.
func (d *decoder) list() []uint16 {
	var shards []uint16
	for range d.uint(PartitionsMax) {
		s := uint16(d.uint(ShardsMax))
		if s == 0 || slices.Contains(shards, s) {
			d.fail()
		}
		shards = append(shards, s)
	}
	if len(shards) == 0 || d.bad {
		d.fail()
		return []uint16{0}
	}
	return shards
}
