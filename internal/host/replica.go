package host

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// inlineFlushBytes is the largest append that the shard loop makes durable by itself when nobody else flushes: that
	// saves two switches between goroutines, a sixth of the time of 64 callers. A larger one goes to the log writer, so
	// that the next batch gathers meanwhile.
	inlineFlushBytes = 128 << 10
	// wakeupMin is the shortest sleep before a timer of the driver that it said is due and did nothing about.
	wakeupMin = time.Millisecond
)

// waiting is an append that waits to be durable.
type waiting struct {
	position wal.Position
	done     shard.Done
}

// replica runs one shard: its loop turns the shard, gathers commands into batches, applies, and answers. All fields
// that say nothing else belong to the loop.
type replica struct {
	h      *Host
	id     shard.ID
	driver Driver
	sh     *shard.Shard

	signal chan struct{} // one element: something happened
	led    chan struct{} // closed when it leads for the first time
	awaits atomic.Uint64 // the position that the oldest waiting append needs; 0 is none
	wanted atomic.Bool   // the maintainer wants a snapshot

	unserved atomic.Int64 // reads taken out of the inbox that wait for their index

	mu       sync.Mutex
	inbox    []*readCall     // guarded by mu
	stored   *snapshotResult // guarded by mu: what the snapshotter finished
	quitted  bool            // guarded by mu: the loop is gone
	reported ShardStats      // guarded by mu

	builder  shard.BatchBuilder
	inflight []uint64  // sequences proposed and not applied, oldest first
	full     bool      // the last batch was at least half full
	waits    []waiting // oldest first
	lastPos  wal.Position
	handed   wal.Position // what was appended up to it was flushed, or the writer was asked to
	unsynced int          // bytes appended behind handed

	leading  bool // as told to the driver
	term     uint64
	reads    []readGroup
	nextRead uint64
	nextTick time.Time
	settle   bool // something was applied or dropped since Settled

	restored wal.Retention // what the restored snapshot refers to, until the maintainer takes it
	snap     snapshotState
	count    ShardStats // counters and facts that turn into reported
}

func newReplica(h *Host, id shard.ID) *replica {
	r := &replica{
		h:        h,
		id:       id,
		signal:   make(chan struct{}, 1),
		led:      make(chan struct{}),
		nextRead: 1,
	}
	r.count.ID = id
	r.driver = h.opts.NewDriver(id, h)
	return r
}

// poke wakes the loop. Any goroutine may call it; it never blocks.
func (r *replica) poke() {
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// run is the shard loop.
func (r *replica) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	err := r.sh.CampaignAlone()
	for err == nil {
		if err = r.turn(); err != nil || r.finished() {
			break
		}
		if pause, ok := r.pause(); ok {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-r.signal:
		case <-timer.C:
		case <-r.h.aborted:
			err = ErrStopped
		}
	}
	if err != nil && !r.h.failed.Load() && !isStopped(r.h.aborted) {
		r.h.fail(err)
	}
	r.quit()
}

func isStopped(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// quit answers everybody who still waits. What is in flight may yet turn out committed after the next start.
func (r *replica) quit() {
	for _, seq := range r.inflight {
		r.driver.Dropped(seq, true)
	}
	r.inflight = nil
	if r.leading {
		r.leading = false
		r.driver.Leadership(false, r.term)
	}
	r.driver.Settled()
	r.mu.Lock()
	r.quitted = true
	calls := r.inbox
	r.inbox = nil
	r.mu.Unlock()
	for _, c := range calls {
		c.finish(ErrStopped)
	}
	r.refuseReads(ErrStopped)
	r.report()
}

// turn runs the shard until there is nothing left to do without waiting. Each round does all that a turn does: a shard
// that always has one more small command makes it durable by itself, round after round, and must not keep others waiting.
func (r *replica) turn() error {
	for {
		if r.h.failed.Load() {
			return ErrStopped
		}
		if err := r.receive(); err != nil {
			return err
		}
		for r.sh.HasReady() {
			if err := r.process(); err != nil {
				return err
			}
		}
		r.lead()
		r.serveReads()
		if r.settle {
			r.settle = false
			r.driver.Settled()
		}
		if err := r.snapshot(); err != nil {
			return err
		}
		proposed, err := r.gather()
		if err != nil {
			return err
		}
		if proposed {
			continue
		}
		flushed, err := r.flush()
		if err != nil {
			return err
		}
		r.report()
		if !flushed && !r.sh.HasReady() {
			return nil
		}
	}
}

// receive takes in what happened outside: time, acknowledgements of the log writer, reads.
func (r *replica) receive() error {
	if err := r.tick(); err != nil {
		return err
	}
	if err := r.complete(); err != nil {
		return err
	}
	return r.takeReads()
}

// tick gives the shard its time, if time means anything to it.
func (r *replica) tick() error {
	if !r.sh.NeedsTicks() {
		r.nextTick = time.Time{}
		return nil
	}
	now := time.Now()
	switch {
	case r.nextTick.IsZero():
		r.nextTick = now.Add(r.h.opts.TickInterval)
	case !now.Before(r.nextTick):
		// Ticks that were missed stay missed: a stalled node should not hurry into an election.
		r.nextTick = now.Add(r.h.opts.TickInterval)
		return r.sh.Tick()
	}
	return nil
}

// pause is how long the loop may sleep; false is until somebody pokes.
func (r *replica) pause() (time.Duration, bool) {
	pause, timed := time.Duration(0), false
	if !r.nextTick.IsZero() {
		pause, timed = time.Until(r.nextTick), true
	}
	if at := latest(r.snap.notBefore, r.snap.wantedAfter); r.wanted.Load() && !r.snap.running && at.After(time.Now()) {
		if untilRetry := time.Until(at); !timed || untilRetry < pause {
			pause, timed = untilRetry, true
		}
	}
	if r.leading && !r.h.closing.Load() && r.mayPropose() {
		if at := r.driver.Wakeup(); at != 0 {
			untilDue := max(time.Duration(at-r.h.opts.Clock.NowMillis())*time.Millisecond, wakeupMin)
			if !timed || untilDue < pause {
				pause, timed = untilDue, true
			}
		}
	}
	return max(pause, 0), timed
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// complete delivers the acknowledgements of appends that are durable now.
func (r *replica) complete() error {
	done := 0
	for done < len(r.waits) && r.h.isDurable(r.waits[done].position) {
		if err := r.sh.AppendDone(r.waits[done].done); err != nil {
			return err
		}
		done++
	}
	if done == 0 {
		return nil
	}
	clear(r.waits[:done])
	r.waits = append(r.waits[:0], r.waits[done:]...)
	r.setAwaits()
	return nil
}

// setAwaits tells the writer which position to wake this loop at. The writer may have passed it in the meantime, so the
// loop looks once more.
func (r *replica) setAwaits() {
	if len(r.waits) == 0 {
		r.awaits.Store(0)
		return
	}
	r.awaits.Store(uint64(r.waits[0].position))
	if r.h.isDurable(r.waits[0].position) {
		r.poke()
	}
}

// process carries out one Ready of the shard.
func (r *replica) process() error {
	eff, err := r.sh.Ready()
	if err != nil {
		return err
	}
	// A group of one has nobody to send to; replication brings a transport.
	invariant.Check(len(eff.Messages) == 0, "shard %d has %d messages and nobody to send them to", r.id, len(eff.Messages))
	if err := r.append(&eff.Append); err != nil {
		return err
	}
	if eff.Committed.Len() > 0 {
		if len(r.waits) > 0 {
			r.handToWriter() // Sync one batch while applying the other.
		}
		r.settle = true
		if err := r.sh.Apply(eff.Committed); err != nil {
			return err
		}
	}
	for _, state := range eff.Reads {
		r.readAt(state)
	}
	return nil
}

// append writes to the log's buffer. It becomes durable by a flush: the loop's own, or the writer's.
func (r *replica) append(a *shard.Append) error {
	if !a.Empty() {
		position, err := r.appendToLog(a)
		if err != nil {
			return err
		}
		r.lastPos = position
		size := 0
		for i := range a.Entries {
			size += len(a.Entries[i].Data)
		}
		r.unsynced += size
		r.h.appendedBytes(size)
	}
	if !a.Done.Waits() {
		return nil // Nobody waits for it: it becomes durable together with what comes next.
	}
	r.waits = append(r.waits, waiting{r.lastPos, a.Done})
	if len(r.waits) == 1 {
		r.setAwaits()
	}
	if len(r.waits) > 1 || r.unsynced > inlineFlushBytes {
		r.handToWriter()
	}
	return nil
}

// appendToLog appends, and makes room first when the shards together run ahead of the disk: this shard waits for it.
func (r *replica) appendToLog(a *shard.Append) (wal.Position, error) {
	for {
		position, err := r.h.log.Append(r.id, a.HardState, a.Entries)
		switch {
		case err == nil:
			return position, nil
		case !errors.Is(err, wal.ErrBacklogged):
			return 0, fmt.Errorf("shard %d: append to log: %w", r.id, err)
		}
		r.h.flushMu.Lock()
		ok := r.h.flush(r)
		r.h.flushMu.Unlock()
		if !ok {
			return 0, ErrStopped
		}
	}
}

// handToWriter leaves the flush of what was appended to the log writer.
func (r *replica) handToWriter() {
	if r.lastPos > r.handed {
		r.handed, r.unsynced = r.lastPos, 0
		r.h.kickWriter()
	}
}

// flush makes a small append durable right here, when nobody else is flushing; otherwise it leaves it to the writer. It
// reports whether acknowledgements were delivered.
func (r *replica) flush() (bool, error) {
	if len(r.waits) == 0 {
		return false, nil
	}
	if r.h.isDurable(r.waits[0].position) {
		return true, r.complete()
	}
	if r.waits[len(r.waits)-1].position <= r.handed {
		return false, nil
	}
	if !r.h.flushMu.TryLock() {
		r.handToWriter()
		return false, nil
	}
	ok := r.h.flush(r)
	r.h.flushMu.Unlock()
	if !ok {
		return false, ErrStopped
	}
	r.handed, r.unsynced = r.lastPos, 0
	return true, r.complete()
}

// lead tells the driver when the lead was won or lost. A lost lead leaves what was in flight undecided.
func (r *replica) lead() {
	leading, term := r.sh.Leading()
	if leading == r.leading && (!leading || term == r.term) {
		return
	}
	if r.leading {
		for _, seq := range r.inflight {
			r.count.Dropped++
			r.driver.Dropped(seq, true)
		}
		r.inflight = r.inflight[:0]
		r.settle = true
		r.refuseReads(ErrNotLeader)
		r.driver.Leadership(false, r.term)
	}
	r.leading, r.term = leading, term
	if leading {
		r.driver.Leadership(true, term)
		if !isStopped(r.led) {
			close(r.led)
		}
	}
}
