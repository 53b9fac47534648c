package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Read is a linearizable read that waits for its replica.
type Read interface {
	// Finish ends the read, once: with nil between two applies, when the state includes every operation acknowledged
	// before the read came; with a *NotLeaderError or what Stop was given when that cannot be known here.
	Finish(err error)
	// Abandoned reports that nobody waits for it any more.
	Abandoned() bool
}

// readGroup is all reads that asked for an index at once.
type readGroup struct {
	id    uint64
	index uint64 // to be applied first; 0 while unknown
	reads []Read
}

// Read takes a read. The owner bounds how many wait; see ReadsWaiting.
func (r *Replica) Read(read Read) { r.asked = append(r.asked, read) }

// ReadsWaiting is the number of reads taken and not finished.
func (r *Replica) ReadsWaiting() int { return r.waiting + len(r.asked) }

// ask makes a group of the reads that came, which ask for an index together.
func (r *Replica) ask() error {
	if r.ReadsWaiting() >= ReadsWaitingMax/2 {
		r.dropAbandoned()
	}
	if len(r.asked) == 0 {
		return nil
	}
	// Only a lead that the driver was told of is also told to be over, which answers the reads that wait.
	if leading, _ := r.leads(); !leading || !r.leading {
		err := r.notLeader()
		for _, read := range r.asked {
			read.Finish(err)
		}
		clear(r.asked)
		r.asked = r.asked[:0]
		return nil
	}
	group := readGroup{id: r.nextRead, reads: r.asked}
	r.asked = nil
	r.nextRead++
	r.waiting += len(group.reads)
	r.reads = append(r.reads, group)
	return r.sh.ReadIndex(group.id)
}

// dropAbandoned forgets the reads that nobody waits for any more.
func (r *Replica) dropAbandoned() {
	r.waiting = 0
	for i := range r.reads {
		g := &r.reads[i]
		g.reads = slices.DeleteFunc(g.reads, Read.Abandoned)
		r.waiting += len(g.reads)
	}
	r.reads = slices.DeleteFunc(r.reads, func(g readGroup) bool { return len(g.reads) == 0 })
}

// readAt records the index that a group has to wait for.
func (r *Replica) readAt(state shard.ReadState) {
	for i := range r.reads {
		if r.reads[i].id == state.ID {
			r.reads[i].index = state.Index
		}
	}
}

// serveReads finishes the reads whose index is applied.
func (r *Replica) serveReads() {
	if len(r.reads) == 0 {
		return
	}
	applied, _, _ := r.sh.Applied()
	left := r.reads[:0]
	for _, g := range r.reads {
		if g.index == 0 || g.index > applied {
			left = append(left, g)
			continue
		}
		for _, read := range g.reads {
			read.Finish(nil)
		}
		r.waiting -= len(g.reads)
	}
	clear(r.reads[len(left):])
	r.reads = left
}

// refuseReads answers all waiting reads with err.
func (r *Replica) refuseReads(err error) {
	for _, g := range r.reads {
		for _, read := range g.reads {
			read.Finish(err)
		}
	}
	for _, read := range r.asked {
		read.Finish(err)
	}
	r.reads, r.asked, r.waiting = nil, nil, 0
}

// Payload returns the batch header and one item of an entry, checked against its checksums: from memory when the entry is
// recent, else from the log. The item must not be changed. Any goroutine may call it. Errors: wal.ErrCompacted,
// wal.ErrUnavailable, shard.ErrNoItem, *wal.CorruptError, *shard.DamagedItemError, *shard.NewerBatchError.
func (r *Replica) Payload(index uint64, ordinal int) (shard.Header, []byte, error) {
	if header, item, ok, err := r.sh.CachedItem(index, ordinal); ok {
		return header, item, err
	}
	id := r.cfg.Shard
	header, item, err := shard.ReadItem(entryReader{r.cfg.Log, id, index}, ordinal)
	if _, damaged := errors.AsType[*shard.DamagedItemError](err); !damaged {
		return header, item, r.damaged(index, err)
	}
	// The log knows file and offset, and whether the damage is in this item or was only in what was read this time.
	entry, whole := r.cfg.Log.Read(id, index)
	if whole != nil {
		return shard.Header{}, nil, fmt.Errorf("shard %d, entry %d: %w: %w", id, index, err, r.damaged(index, whole))
	}
	if header, item, err = shard.ItemAt(entry.Data, ordinal); err != nil {
		err = fmt.Errorf("shard %d, entry %d: %w", id, index, err)
	}
	return header, item, err
}

// Batch returns a whole entry of which the caller wants so many items: from memory when it is recent, else from the log
// if that is worth while. False is no error: then read item by item with Payload, which also says what is wrong. Any
// goroutine may call it.
func (r *Replica) Batch(index uint64, items int) (shard.Batch, bool) {
	if b, ok := r.sh.CachedBatch(index); ok {
		return b, true
	}
	if items < batchItemsMin {
		return shard.Batch{}, false
	}
	entry, err := r.cfg.Log.Read(r.cfg.Shard, index)
	if err != nil {
		return shard.Batch{}, false
	}
	b, err := shard.OpenBatch(entry.Data)
	return b, err == nil
}

// batchItemsMin is from how many items on one read of a whole entry is cheaper than a read of each.
const batchItemsMin = 4

// entryReader reads the data of one entry of the log.
type entryReader struct {
	log   Log
	id    shard.ID
	index uint64
}

func (e entryReader) ReadAt(p []byte, off int64) (int, error) {
	return e.log.ReadPart(e.id, e.index, p, off)
}
