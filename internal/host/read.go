package host

import (
	"context"
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

// Finish implements replica.Read: it runs fn, unless the caller has given up, or err says why it cannot run.
func (c *readCall) Finish(err error) {
	if c.taken.Swap(true) {
		return
	}
	if err == nil {
		c.fn()
	}
	c.done <- err
}

// Abandoned implements replica.Read.
func (c *readCall) Abandoned() bool { return c.taken.Load() }

// Reader runs fn on the shard's goroutine between applies, after making sure by ReadIndex that the state includes every
// operation acknowledged before the call. It returns ctx's error, or ErrNotLeader, ErrStopped.
type Reader interface {
	Read(ctx context.Context, id shard.ID, fn func()) error
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
	l := h.loop(id)
	if l == nil {
		return ErrNoShard
	}
	if err := l.submit(call); err != nil {
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
func (l *loop) submit(call *readCall) error {
	l.mu.Lock()
	switch {
	case l.quitted:
		l.mu.Unlock()
		return ErrStopped
	case len(l.inbox)+int(l.unserved.Load()) >= ReadsWaitingMax:
		l.mu.Unlock()
		l.poke() // The loop drops the calls that were given up.
		return ErrOverloaded
	}
	l.inbox = append(l.inbox, call)
	l.mu.Unlock()
	l.poke()
	return nil
}

// Payload implements Payloads.
func (h *Host) Payload(id shard.ID, index uint64, ordinal int) (shard.Header, []byte, error) {
	l := h.loop(id)
	if l == nil {
		return shard.Header{}, nil, ErrNoShard
	}
	rep := l.shared.Load()
	if rep == nil {
		return shard.Header{}, nil, ErrNoShard
	}
	return rep.Payload(index, ordinal)
}

// Batch implements Payloads.
func (h *Host) Batch(id shard.ID, index uint64, items int) (shard.Batch, bool) {
	l := h.loop(id)
	if l == nil {
		return shard.Batch{}, false
	}
	rep := l.shared.Load()
	if rep == nil {
		return shard.Batch{}, false
	}
	if items < batchShareMin {
		return rep.Batch(index, items)
	}
	return l.batches.get(index, func() (shard.Batch, bool) { return rep.Batch(index, items) })
}
