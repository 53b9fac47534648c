package host

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// The loop sleeps until the driver's next timer, and gathers then although nobody woke it.
func TestWakeup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), newMemLog(), nil)
		d := n.drivers[0]
		due := time.Now().Add(90 * time.Second)
		set := func(at int64) {
			if err := n.StaleRead(t.Context(), 0, func() { d.wakeupAt = at }); err != nil {
				t.Error(err)
			}
		}
		set(due.UnixMilli())
		synctest.Wait()
		before := d.count()
		time.Sleep(89 * time.Second)
		synctest.Wait()
		if got := d.count(); got != before {
			t.Errorf("gathered %d times before the timer is due", got-before)
		}
		a := d.push("timer")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		select {
		case <-a.done:
		default:
			t.Error("the timer was due and nothing was gathered")
		}
		// A timer that stays due without effect does not make the loop spin.
		before = d.count()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := d.count() - before; got > int(time.Second/replica.WakeupMin)+1 {
			t.Errorf("gathered %d times in a second", got)
		}
		set(0)
		n.mustClose(t)
	})
}

// An idle shard that is alone sleeps: no ticks, no gathering.
func TestIdleSleeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		synctest.Wait()
		gathers, flushes := n.drivers[0].count(), log.flushCount()
		time.Sleep(time.Hour)
		synctest.Wait()
		if g, f := n.drivers[0].count()-gathers, log.flushCount()-flushes; g+f > 0 {
			t.Errorf("an idle hour: gathered %d times, flushed %d times", g, f)
		}
		n.mustClose(t)
	})
}

// While one flush is under way what arrives gathers, and all of it is the next batch but one.
func TestBatchesGatherDuringFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		synctest.Wait()
		log.mu.Lock()
		log.onFlush = func() error { time.Sleep(10 * time.Millisecond); return nil }
		log.mu.Unlock()
		flushes := log.flushCount()
		var all []*addition
		for range 1000 {
			all = append(all, n.drivers[0].push("k"))
			n.Wake(0)
			if len(all) <= 2 {
				synctest.Wait()
			}
		}
		for i, a := range all {
			<-a.done
			if a.value != uint64(i+1) {
				t.Fatalf("addition %d got %d", i, a.value)
			}
		}
		if f := log.flushCount() - flushes; f > 3 {
			t.Errorf("%d flushes for 1000 additions", f)
		}
		n.mustClose(t)
	})
}

// No answer leaves while its flush is under way.
func TestNoAnswerBeforeFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		hold := make(chan error)
		log.mu.Lock()
		log.onFlush = func() error { return <-hold }
		log.mu.Unlock()
		for _, size := range []int{1, 2 * replica.FlushHereBytes} {
			a := n.drivers[0].push(strings.Repeat("k", size))
			n.Wake(0)
			synctest.Wait()
			select {
			case <-a.done:
				t.Fatal("answered before it was durable")
			default:
			}
			hold <- nil
			<-a.done
		}
		// The flush fails: whoever waits hears that the outcome is unknown.
		a := n.drivers[0].push("last")
		n.Wake(0)
		broken := errors.New("broken disk")
		hold <- broken
		<-a.done
		if !errors.Is(a.err, errUnknown) {
			t.Errorf("got %v", a.err)
		}
		if err := <-n.fatal; !errors.Is(err, broken) {
			t.Errorf("fatal: %v", err)
		}
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// What a shard appends while another one flushes by itself is left to the log writer, which waits for its turn.
func TestWriterWaitsForLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		synctest.Wait()
		hold := make(chan error)
		log.mu.Lock()
		log.onFlush = func() error { return <-hold }
		log.mu.Unlock()
		flushes := log.flushCount()
		var all []*addition
		for id := range shard.ID(2) {
			all = append(all, n.drivers[id].push("k"))
			n.Wake(id)
			synctest.Wait()
		}
		if f := log.flushCount() - flushes; f != 1 {
			t.Errorf("%d flushes are under way", f)
		}
		for i, a := range all {
			hold <- nil
			<-a.done
			synctest.Wait()
			if f := log.flushCount() - flushes; f != 2 {
				t.Errorf("%d flushes after answer %d", f, i)
			}
		}
		close(hold)
		n.mustClose(t)
	})
}

// A proposal over the limit of uncommitted bytes is dropped, certainly not committed, and told so; the one before it
// goes through.
func TestDroppedProposal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, func(o *Options) { o.UncommittedBytes = shard.BatchBytesMax })
		log.mu.Lock()
		log.onFlush = func() error { time.Sleep(time.Millisecond); return nil }
		log.mu.Unlock()
		big := strings.Repeat("k", shard.CommandBytesMax)
		first, second := n.drivers[0].push(big), n.drivers[0].push(big)
		n.Wake(0)
		<-first.done
		<-second.done
		if first.err != nil || !errors.Is(second.err, shard.ErrDropped) {
			t.Errorf("first %v, second %v", first.err, second.err)
		}
		if s := n.Stats().Shards[0]; s.Dropped != 1 {
			t.Errorf("%d dropped", s.Dropped)
		}
		n.mustClose(t)
		if v := n.drivers[0].values[big]; v != 1 {
			t.Errorf("the counter is %d", v)
		}
	})
}

// Reads beyond the limit are refused; a caller that gives up does not have its function run later.
func TestReadLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		synctest.Wait()
		entered, leave := make(chan struct{}), make(chan struct{})
		go func() {
			_ = n.StaleRead(context.Background(), 0, func() { close(entered); <-leave })
		}()
		<-entered
		ctx, cancel := context.WithCancel(t.Context())
		results := make(chan error, ReadsWaitingMax)
		ran := false
		for range ReadsWaitingMax {
			go func() { results <- n.Read(ctx, 0, func() { ran = true }) }()
		}
		synctest.Wait()
		if err := n.Read(ctx, 0, func() {}); !errors.Is(err, ErrOverloaded) {
			t.Errorf("one read too many: %v", err)
		}
		cancel()
		for range ReadsWaitingMax {
			if err := <-results; !errors.Is(err, context.Canceled) {
				t.Errorf("a cancelled read: %v", err)
			}
		}
		close(leave)
		synctest.Wait()
		if err := n.Read(t.Context(), 0, func() {}); err != nil {
			t.Error(err)
		}
		if ran {
			t.Error("a read ran after its caller had given up")
		}
		if err := n.Read(t.Context(), 9, func() {}); !errors.Is(err, ErrNoShard) {
			t.Errorf("a shard that is not there: %v", err)
		}
		n.mustClose(t)
	})
}

// An idle shard whose newest snapshot holds all its entries, but not the older one, moves its index by an empty entry,
// so that the log may let go of the file.
func TestIdleShardDoesNotPinTheLog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := newMemLog()
		n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
		a, err := n.add(1, "only")
		if err != nil {
			t.Fatal(err)
		}
		log.mu.Lock()
		log.needs = []wal.ShardID{1}
		log.mu.Unlock()
		n.kickMaintainer()
		time.Sleep(time.Second)
		log.mu.Lock()
		keep, snapshots := log.retained[1], n.Stats().Shards[1].Snapshots
		log.needs = nil
		log.mu.Unlock()
		if keep.KeepFrom <= a.index || !keep.Live.Contains(a.index) {
			t.Errorf("the log keeps from %d; the entry is at %d, live %v", keep.KeepFrom, a.index, keep.Live)
		}
		if snapshots > uint64(time.Second/replica.WantedPause)+1 {
			t.Errorf("%d snapshots in a second", snapshots)
		}
		n.mustClose(t)
	})
}
