package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/queue"
)

// AppendCreateSpread encodes: make a queue with a partition on each of several shards. An existing one is left as it is.
func AppendCreateSpread(dst []byte, name string, shards []uint16, s *queue.Settings) []byte {
	dst = appendText(append(dst, commandCreateSpread), name)
	return AppendSettings(appendList(dst, shards), s)
}

// AppendSpread encodes: a queue has its partitions on other shards, of whatever number, from now on. id is the one that it has on its
// present ones, as whoever decided this knows it.
func AppendSpread(dst []byte, name string, id queue.QueueID, shards []uint16) []byte {
	dst = appendText(append(dst, commandSpread), name)
	return appendList(binary.AppendUvarint(dst, uint64(id)), shards)
}

// appendSpreadStep encodes a step of a spread, which the id of the new homes names.
func appendSpreadStep(dst []byte, q *Queue) []byte {
	return binary.AppendUvarint(appendText(dst, q.Name), uint64(q.Home.ID))
}

// applySpread carries out the commands of queues whose partitions change.
func (c *Catalog) applySpread(kind byte, d *decoder) Result {
	name := d.text(QueueNameBytesMax)
	if kind == commandCreateSpread {
		shards, settings := d.list(), d.settings()
		if !d.end() || !ValidQueueName(name) {
			return Result{Code: CodeMalformed}
		}
		return c.create(name, shards, settings)
	}
	id := queue.QueueID(d.uint(1<<32 - 1))
	var shards []uint16
	if kind == commandSpread {
		shards = d.list()
	}
	if !d.end() || id == 0 {
		return Result{Code: CodeMalformed}
	}
	q, ok := c.queues.Get(name)
	if !ok {
		return Result{Code: CodeNotFound}
	}
	under := q.Moving() && q.From.ID != q.Home.ID && q.Home.ID == id
	switch kind {
	case commandSpread:
		return c.spread(q, id, shards)
	case commandSpreadOpened:
		return c.opened(q, under)
	default:
		return c.settled(q, under)
	}
}

// spread gives a queue homes under a new id. Repeated, it finds the move under way.
func (c *Catalog) spread(q *Queue, id queue.QueueID, shards []uint16) Result {
	switch {
	case slices.Equal(q.Home.Shards, shards):
		return Result{Code: CodeExists, Queue: *q}
	case q.Moving() || q.Home.ID != id:
		return Result{Code: CodeMoving, Queue: *q}
	}
	return c.rehome(q, Homes{ID: c.lastQueue + 1, Shards: shards}, slices.Clone(q.Formers))
}

// crowded reports whether one of the shards has as many queues as it takes, those counted that have left it and have their past there.
func (c *Catalog) crowded(shards []uint16) bool {
	return slices.ContainsFunc(shards, func(s uint16) bool { return c.berths[s] >= QueuesMax })
}
