package host

import (
	"errors"
	"fmt"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// maintainBytes is how much is appended before the maintainer looks for work.
	maintainBytes = 4 << 20
	// maintainInterval is how long it waits at most: an idle log has work too, when a disk that was full has room again, or
	// a snapshot let files go.
	maintainInterval = 5 * time.Second
	// leisurePause lies between two steps of work that nothing waits for: a thirtieth of the disk's time, or so.
	leisurePause = 20 * time.Millisecond
	// maintainRetry is how long the maintainer waits when the disk is full, or short of something else.
	maintainRetry = time.Second
	// unreadableRetry lies between two tries to read what the disk refused to.
	unreadableRetry = time.Minute
	// scrubInterval and scrubBytes say how fast the maintainer reads through what the log keeps, to find what the disk damaged: half a
	// gigabyte in an hour.
	scrubInterval = 30 * time.Second
	scrubBytes    = 4 << 20
)

// writeLog is the log writer: group commit that clocks itself. While one sync is in flight the shards append behind it,
// and all of that is the next one.
func (h *Host) writeLog() {
	for {
		select {
		case <-h.flushKick:
		case <-h.aborted:
			return
		case <-h.stop:
			return
		}
		h.flushing.acquire()
		ok := h.flush(nil)
		h.flushing.release()
		if !ok {
			return
		}
	}
}

// kickWriter asks the log writer to make durable what was appended.
func (h *Host) kickWriter() {
	select {
	case h.flushKick <- struct{}{}:
	default: // It was asked already and has not begun.
	}
}

// flush makes everything appended before it durable and wakes the shards that wait for it, but for self. It reports
// whether it worked: after a failure nothing is answered any more. REQUIRES: h.flushing.
func (h *Host) flush(self *loop) bool {
	if h.failed.Load() {
		return false
	}
	started := time.Now()
	position, err := h.log.Flush()
	if err != nil {
		h.fail(fmt.Errorf("write log: %w", err))
		return false
	}
	h.flushMicros.add(micros(time.Since(started)))
	h.durable.Store(uint64(position))
	for _, l := range h.table.Load().loops {
		if awaits := l.awaits.Load(); l != self && awaits != 0 && awaits <= uint64(position) {
			l.poke()
		}
	}
	return true
}

// flushAll makes everything appended before it durable.
func (h *Host) flushAll() error {
	h.flushing.acquire()
	defer h.flushing.release()
	if !h.flush(nil) {
		return ErrStopped
	}
	return nil
}

// isDurable reports whether a position is durable.
func (h *Host) isDurable(p wal.Position) bool { return uint64(p) <= h.durable.Load() }

// appendedBytes counts what went to the log, and wakes the maintainer every so often.
func (h *Host) appendedBytes(n int) {
	if h.sinceMaintain.Add(int64(n)) >= maintainBytes {
		h.sinceMaintain.Store(0)
		h.kickMaintainer()
	}
}

func (h *Host) kickMaintainer() {
	select {
	case h.maintainKick <- struct{}{}:
	default:
	}
}

// maintain is the maintainer: it takes the log's background work in steps, and asks for the snapshots without which
// sealed files cannot go.
func (h *Host) maintain() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	unreadable := time.NewTicker(unreadableRetry)
	defer unreadable.Stop()
	scrub := time.NewTicker(scrubInterval)
	defer scrub.Stop()
	for {
		select {
		case <-h.maintainKick:
		case <-timer.C:
		case <-unreadable.C:
			h.log.RetryUnreadable()
		case <-scrub.C:
			h.scrub()
		case <-h.aborted:
			return
		case <-h.stop:
			return
		}
		pause, ok := h.maintainAll()
		if !ok {
			return
		}
		timer.Reset(pause)
		for _, id := range h.log.NeedsSnapshot() {
			if l := h.loop(id); l != nil && !l.wanted.Swap(true) {
				l.poke()
			}
		}
	}
}

// maintainAll does what there is to do. A pause says when to try again; ok is false when the maintainer must stop.
func (h *Host) maintainAll() (pause time.Duration, ok bool) {
	for more := true; more; {
		var (
			err    error
			damage *wal.CorruptError
		)
		more, err = h.log.Maintain()
		switch {
		case err == nil:
		case replica.NoSpace(err):
			h.opts.Logger.Warn("log maintenance waits for disk space", "error", err)
			return maintainRetry, true
		case errors.As(err, &damage):
			// Nothing was dropped, and what is damaged is refused when it is read. The rest goes on.
			h.opts.Logger.Error("log maintenance met damage: check the disk", "shard", damage.Shard, "index", damage.Index, "error", err)
		case errors.Is(err, wal.ErrRetry):
			h.opts.Logger.Warn("log maintenance tries again", "error", err)
			return maintainRetry, true
		default:
			if !errors.Is(err, wal.ErrClosed) { // Else the writer has told of the failure.
				h.fail(fmt.Errorf("maintain log: %w", err))
			}
			return 0, false
		}
		if isStopped(h.aborted) || isStopped(h.stop) || more && h.log.Leisure() && !h.rest() {
			return 0, false
		}
	}
	return maintainInterval, true
}

// rest lets a moment pass, unless the maintainer is wanted. It returns false when the maintainer must stop.
func (h *Host) rest() bool {
	timer := time.NewTimer(leisurePause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.maintainKick:
	case <-h.aborted:
		return false
	case <-h.stop:
		return false
	}
	return true
}

// scrub reads on through the log. What is damaged is noted there, for those who can ask other members.
func (h *Host) scrub() {
	if _, err := h.log.Scrub(scrubBytes); err != nil && !errors.Is(err, wal.ErrClosed) {
		h.opts.Logger.Error("the log has damage: check the disk", "error", err)
	}
}
