package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

// beingMended returns what to wait for when an item is damaged here and other members are asked for it; else nil.
func beingMended(err error) <-chan struct{} {
	if damage, ok := errors.AsType[*wal.CorruptError](err); ok {
		return damage.Mending
	}
	return nil
}

// readMended waits a while for an item that other members are asked for. What they do not have either stays damaged.
func (e *Engine) readMended(ctx context.Context, id shard.ID, pos queue.Pos, err error) (h shard.Header, item []byte, _ error) {
	timer := time.NewTimer(mendWait)
	defer timer.Stop()
	for {
		mended := beingMended(err)
		if mended == nil {
			return h, item, err
		}
		select {
		case <-mended:
			h, item, err = e.host.Payload(id, pos.Index(), pos.Ordinal())
		case <-timer.C:
			return h, nil, errMending()
		case <-ctx.Done():
			return h, nil, ctx.Err()
		}
	}
}

// damagedSpecError says that an item whose checksum holds is not the job it should be.
type damagedSpecError struct{ cause error }

func (e *damagedSpecError) Error() string {
	return "the job in the log does not decode: " + e.cause.Error()
}
func (e *damagedSpecError) Unwrap() error { return e.cause }

// isDamage reports whether a payload is lost for good, rather than unreadable for the moment.
func isDamage(err error) bool {
	if err == nil {
		return false
	}
	if _, ok := errors.AsType[*wal.CorruptError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*shard.DamagedItemError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*damagedSpecError](err); ok {
		return true
	}
	return errors.Is(err, wal.ErrCompacted) || errors.Is(err, shard.ErrNoItem)
}

// bury tells the machine that a leased job's payload is damaged. Only the node that leads the shard may say so: see load.
func (e *Engine) bury(p *pump, l *queue.Lease, cause error) {
	e.damaged.Add(1)
	id := JobID{Shard: uint16(p.shard), Pos: l.Pos}
	e.opts.Logger.Error("a job's payload is damaged: the job is dead",
		slog.String("job", id.String()), slog.Int("shard", int(p.shard)), slog.Uint64("index", l.Pos.Index()), slog.Any("error", cause))
	c := p.newCall()
	c.urgent, c.foreign = true, true
	c.items.Commit(queue.AppendDamaged(c.items.Buf(), l.Pos, l.Token))
	if err := p.submit(c); err != nil {
		e.opts.Logger.Warn("a damaged job could not be buried; it stays leased until its worker ends", slog.String("job", id.String()), slog.Any("error", err))
	}
}
