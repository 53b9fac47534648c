package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/shard"
)

// readCall is a read that waits for its shard.
type readCall struct {
	fn    func()
	stale bool
	taken atomic.Bool // by the shard that runs fn, or by the caller that gives up
	done  chan error
}

// finish runs fn, unless the caller has given up, or err says why it cannot run.
func (c *readCall) finish(err error) {
	if c.taken.Swap(true) {
		return
	}
	if err == nil {
		c.fn()
	}
	c.done <- err
}

// readGroup is all reads that asked for an index at once.
type readGroup struct {
	id    uint64
	index uint64 // to be applied first; 0 while unknown
	calls []*readCall
}

var (
	_ Reader   = (*Host)(nil)
	_ Payloads = (*Host)(nil)
)

// Read runs fn on the shard's goroutine between applies, after making sure that the state includes every operation
// acknowledged before the call. fn has not run when Read returns an error: ctx's, ErrNotLeader, ErrNoShard,
// ErrOverloaded or ErrStopped.
func (h *Host) Read(ctx context.Context, id shard.ID, fn func()) error {
	return h.read(ctx, id, &readCall{fn: fn, done: make(chan error, 1)})
}

// StaleRead is Read without asking who leads: it may miss the newest operations when this replica lags or was deposed.
func (h *Host) StaleRead(ctx context.Context, id shard.ID, fn func()) error {
	return h.read(ctx, id, &readCall{fn: fn, stale: true, done: make(chan error, 1)})
}

func (h *Host) read(ctx context.Context, id shard.ID, call *readCall) error {
	r := h.byID[id]
	if r == nil {
		return ErrNoShard
	}
	if err := r.submit(call); err != nil {
		return err
	}
	select {
	case err := <-call.done:
		return err
	case <-ctx.Done():
		if !call.taken.Swap(true) {
			return ctx.Err()
		}
		return <-call.done // It is running, or has run.
	}
}

// submit puts a read into the shard's inbox.
func (r *replica) submit(call *readCall) error {
	r.mu.Lock()
	switch {
	case r.quitted:
		r.mu.Unlock()
		return ErrStopped
	case len(r.inbox)+int(r.unserved.Load()) >= ReadsWaitingMax:
		r.mu.Unlock()
		r.poke() // The loop drops the calls that were given up.
		return ErrOverloaded
	}
	r.inbox = append(r.inbox, call)
	r.mu.Unlock()
	r.poke()
	return nil
}

// takeReads moves the inbox into the shard: stale reads run now, the others ask for an index together.
func (r *replica) takeReads() error {
	if r.unserved.Load() >= ReadsWaitingMax/2 {
		r.dropGivenUp()
	}
	leading, _ := r.sh.Leading()
	group := readGroup{id: r.nextRead}
	r.mu.Lock()
	calls := r.inbox
	r.inbox = nil
	for _, c := range calls {
		if leading && !c.stale {
			group.calls = append(group.calls, c)
		}
	}
	r.unserved.Add(int64(len(group.calls)))
	r.mu.Unlock()
	for _, c := range calls {
		switch {
		case c.stale:
			c.finish(nil)
		case !leading:
			c.finish(ErrNotLeader)
		}
	}
	if len(group.calls) == 0 {
		return nil
	}
	r.nextRead++
	r.reads = append(r.reads, group)
	return r.sh.ReadIndex(group.id)
}

// dropGivenUp forgets the calls that nobody waits for any more.
func (r *replica) dropGivenUp() {
	left := 0
	for i := range r.reads {
		g := &r.reads[i]
		g.calls = slices.DeleteFunc(g.calls, func(c *readCall) bool { return c.taken.Load() })
		left += len(g.calls)
	}
	r.reads = slices.DeleteFunc(r.reads, func(g readGroup) bool { return len(g.calls) == 0 })
	r.unserved.Store(int64(left))
}

// readAt records the index that a group has to wait for.
func (r *replica) readAt(state shard.ReadState) {
	for i := range r.reads {
		if r.reads[i].id == state.ID {
			r.reads[i].index = state.Index
		}
	}
}

// serveReads runs the reads whose index is applied.
func (r *replica) serveReads() {
	applied, _, _ := r.sh.Applied()
	left := r.reads[:0]
	for _, g := range r.reads {
		if g.index == 0 || g.index > applied {
			left = append(left, g)
			continue
		}
		for _, c := range g.calls {
			c.finish(nil)
		}
		r.unserved.Add(-int64(len(g.calls)))
	}
	clear(r.reads[len(left):])
	r.reads = left
}

// refuseReads answers all waiting reads with err.
func (r *replica) refuseReads(err error) {
	for _, g := range r.reads {
		for _, c := range g.calls {
			c.finish(err)
		}
	}
	r.reads = nil
	r.unserved.Store(0)
}

// Payload implements Payloads.
func (h *Host) Payload(id shard.ID, index uint64, ordinal int) (shard.Header, []byte, error) {
	r := h.byID[id]
	if r == nil {
		return shard.Header{}, nil, ErrNoShard
	}
	if header, item, ok, err := r.sh.CachedItem(index, ordinal); ok {
		return header, item, err
	}
	header, item, err := shard.ReadItem(entryReader{h.log, id, index}, ordinal)
	if _, damaged := errors.AsType[*shard.DamagedItemError](err); !damaged {
		return header, item, err
	}
	// The log knows file and offset, and whether the damage is in this item or was only in what was read this time.
	entry, whole := h.log.Read(id, index)
	if whole != nil {
		return shard.Header{}, nil, fmt.Errorf("shard %d, entry %d: %w: %w", id, index, err, whole)
	}
	if header, item, err = shard.ItemAt(entry.Data, ordinal); err != nil {
		err = fmt.Errorf("shard %d, entry %d: %w", id, index, err)
	}
	return header, item, err
}

// Batch implements Payloads.
func (h *Host) Batch(id shard.ID, index uint64, items int) (shard.Batch, bool) {
	r := h.byID[id]
	if r == nil {
		return shard.Batch{}, false
	}
	if b, ok := r.sh.CachedBatch(index); ok {
		return b, true
	}
	if items < batchItemsMin {
		return shard.Batch{}, false
	}
	entry, err := h.log.Read(id, index)
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
	log   nodeLog
	id    shard.ID
	index uint64
}

func (e entryReader) ReadAt(p []byte, off int64) (int, error) {
	return e.log.ReadPart(e.id, e.index, p, off)
}
