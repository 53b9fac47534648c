package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// Place is where a queue lives, and where it lived before.
//
// A move begins with its decision: Shard is the new home from then on, and From the old one, which takes no more jobs as soon as it has
// heard of it; the new one is set up after that. Opened says when both was done. The move ends when nothing is left in the old
// home, and nobody repeats to the new one what the old one has answered.
type Place struct {
	Shard   uint16       // its home
	From    uint16       // the home before, while jobs of the queue may be there; 0: it does not move
	Opened  queue.Millis // when the old home was closed and the new one set up; 0: not yet
	Formers []uint16     // all homes before, From among them, oldest first; never changed in place
}

// settleMillis is how long after its opening a move may end at the earliest: no session of the old home is then as it was before, and
// clients have given up to repeat what they had sent there.
const settleMillis = queue.SessionIdleMillis

// Settles reports whether the move of a queue may end at a time, if nothing is left in the old home.
func (p *Place) Settles(now queue.Millis) bool {
	return p.From != 0 && p.Opened != 0 && now >= p.Opened+settleMillis
}

// AppendRelocate encodes: a queue moves from its home to another shard.
func AppendRelocate(dst []byte, name string, from, to uint16) []byte {
	return appendHomes(append(dst, commandRelocate), name, from, to)
}

// AppendOpened encodes: the old home of a queue is closed, and the new one is set up.
func AppendOpened(dst []byte, name string, from, to uint16) []byte {
	return appendHomes(append(dst, commandOpened), name, from, to)
}

// AppendSettled encodes: nothing of a queue is left in its old home.
func AppendSettled(dst []byte, name string, from, to uint16) []byte {
	return appendHomes(append(dst, commandSettled), name, from, to)
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
	under := q.From == from && q.Shard == to
	switch kind {
	case commandRelocate:
		return c.relocate(q, from, to)
	case commandOpened:
		if !under || q.Opened != 0 {
			return Result{Code: CodeExists, Queue: *q}
		}
		moved := *q
		moved.Opened = c.now
		return c.replace(&moved)
	default:
		if !under || !q.Settles(c.now) {
			return Result{Code: CodeExists, Queue: *q}
		}
		moved := *q
		moved.From, moved.Opened = 0, 0
		moved.Version++
		return c.replace(&moved)
	}
}

// relocate begins a move. Repeated, it finds the move under way.
func (c *Catalog) relocate(q *Queue, from, to uint16) Result {
	switch {
	case q.Shard == to:
		return Result{Code: CodeExists, Queue: *q}
	case q.From != 0 || q.Shard != from:
		return Result{Code: CodeMoving, Queue: *q}
	case len(q.Formers) >= FormersMax && !slices.Contains(q.Formers, to):
		return Result{Code: CodeLimit, Queue: *q}
	}
	moved := *q
	formers := slices.DeleteFunc(slices.Clone(q.Formers), func(s uint16) bool { return s == to || s == from })
	moved.Formers = append(formers, from)
	moved.Shard, moved.From, moved.Opened = to, from, 0
	moved.Version++ // so that both homes take in their new settings
	return c.replace(&moved)
}

func (c *Catalog) replace(q *Queue) Result {
	c.putQueue(q)
	return Result{Code: CodeOK, Queue: *q}
}

// appendMoves appends what only a queue has that moved once: from v, opened v, formers v × (shard v).
func appendMoves(dst []byte, p *Place) []byte {
	if len(p.Formers) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(dst, uint64(p.From))
	dst = binary.AppendUvarint(dst, uint64(p.Opened))
	dst = binary.AppendUvarint(dst, uint64(len(p.Formers)))
	for _, s := range p.Formers {
		dst = binary.AppendUvarint(dst, uint64(s))
	}
	return dst
}

// moves takes what appendMoves appended, if it did.
func (d *decoder) moves(p *Place) {
	if d.bad || len(d.b) == 0 {
		return
	}
	p.From, p.Opened = uint16(d.uint(ShardsMax)), queue.Millis(d.uint(millisMax))
	for range d.uint(FormersMax) {
		s := uint16(d.uint(ShardsMax))
		if s == 0 || s == p.Shard || slices.Contains(p.Formers, s) {
			d.fail()
		}
		p.Formers = append(p.Formers, s)
	}
	if len(p.Formers) == 0 || p.From != 0 && !slices.Contains(p.Formers, p.From) || p.From == 0 && p.Opened != 0 {
		d.fail()
	}
}
