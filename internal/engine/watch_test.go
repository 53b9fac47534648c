package engine

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// jumping is the clocks of a machine that a test has stand still.
type jumping struct{ even, wall atomic.Int64 }

func (j *jumping) read(time.Time) Reading {
	return Reading{time.Duration(j.even.Load()), time.Duration(j.wall.Load())}
}

// NowMillis implements host.Clock.
func (j *jumping) NowMillis() int64 { return time.Duration(j.wall.Load()).Milliseconds() }

// pass lets time pass, as each clock counts it.
func (j *jumping) pass(even, wall time.Duration) {
	j.even.Add(int64(even))
	j.wall.Add(int64(wall))
}

func newJumping() *jumping {
	j := &jumping{}
	j.pass(time.Hour, time.Duration(time.Now().UnixNano()))
	return j
}

// TestWatch: an era ends when nothing was known of the node for longer than StillMax, by whichever clock, and once.
func TestWatch(t *testing.T) {
	for name, c := range map[string]struct {
		even, wall time.Duration
		stood      bool
	}{
		"stopped":            {StillMax + 1, StillMax + 1, true},
		"suspended":          {0, StillMax + 1, true},
		"and its clock lost": {StillMax + 1, -time.Hour, true},
		"long enough":        {StillMax, StillMax, false},
		"set back":           {time.Second, -time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			clocks := newJumping()
			w := NewWatch(clocks.read)
			for range 100 { // it goes on for much longer, and ticks
				clocks.pass(StillTick, StillTick)
				w.Tick()
			}
			early := w.Reading(time.Now())
			if era := w.Era(early); era != 1 {
				t.Fatalf("era %d while the node goes on", era)
			}
			clocks.pass(c.even, c.wall)
			want := Era(1)
			if c.stood {
				want = 2
			}
			var all sync.WaitGroup
			for i := range 20 { // whoever looks, and the tick among them, sees the same
				all.Go(func() {
					if i == 10 {
						w.Tick()
					}
					if era := w.Now(); era != want {
						t.Errorf("era %d, want %d", era, want)
					}
				})
			}
			all.Wait()
			if era := w.Era(early); era != want {
				t.Errorf("who read the clocks before finds era %d, want %d", era, want)
			}
			select {
			case <-w.Changed():
				if g := w.Gone(); !c.stood || g != (Reading{c.even, c.wall}) {
					t.Errorf("an era begins after %+v", g)
				}
			default:
				if c.stood {
					t.Error("nobody is told that an era begins")
				}
			}
			w.Tick()
			clocks.pass(StillMax, StillMax)
			if era := w.Now(); era != want {
				t.Errorf("era %d in the end, want %d", era, want)
			}
		})
	}
}

// TestWaitedCalls: a call that waited for longer than StillMax is not proposed, nor sent to another node, and is told so. Those that
// are no enqueues wait as long as they want.
func TestWaitedCalls(t *testing.T) {
	clocks := newJumping()
	p := newPump(1, 1, 0, func() {}, pumpHooks{})
	p.clock = func() Reading { return clocks.read(time.Time{}) }
	p.away = &outlet{desk: &p.desk}
	p.Leadership(true, 1)
	submit := func(received Reading) *call {
		c := p.newCall()
		c.received = received
		c.items.Commit(queue.AppendTick(c.items.Buf()))
		if err := p.submit(c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	any, old := submit(Reading{}), submit(clocks.read(time.Time{}))
	clocks.pass(0, 1)
	young := submit(clocks.read(time.Time{}))
	clocks.pass(0, StillMax)
	var b shard.BatchBuilder
	b.Reset()
	if p.Gather(&b, 1); b.Items() != 2 {
		t.Errorf("%d items are proposed, want 2", b.Items())
	}
	<-old.done
	wantError(t, old.err, CodeUnavailable, ReasonWaited)
	if any.state.Load() != callFlying || young.state.Load() != callFlying {
		t.Error("one that may wait was not proposed")
	}

	old = submit(clocks.read(time.Time{}))
	clocks.pass(StillMax+1, 0)
	b.Reset()
	if p.Gather(&b, 2); b.Items() != 0 {
		t.Errorf("%d items are proposed, want none", b.Items())
	}
	<-old.done // though nothing is settled
	wantError(t, old.err, CodeUnavailable, ReasonWaited)

	any, old = submit(Reading{}), submit(clocks.read(time.Time{}))
	p.away.waiting, p.incoming = p.incoming, nil
	clocks.pass(StillMax+1, 0)
	if taken := p.away.take(false); len(taken) != 1 || taken[0] != any {
		t.Errorf("%d calls go to another node, want 1", len(taken))
	}
	<-old.done
	wantError(t, old.err, CodeUnavailable, ReasonWaited)
	if n, bytes := p.waiting.Load(), p.bytes.Load(); n != 0 || bytes != 0 {
		t.Errorf("%d calls of %d bytes are taken for waiting", n, bytes)
	}
}

// TestStoodStill: when a lone node goes on that was suspended for longer than a session lasts, nothing is stored that waited meanwhile,
// wherever it did: before the engine, before its shard, or on its way from another node. What comes afterwards is stored at once.
func TestStoodStill(t *testing.T) {
	clocks := newJumping()
	watch := NewWatch(clocks.read)
	e := open(t, vfs.NewSim(1, vfs.SimOptions{}), func(o *Options) { o.Clock, o.Watch = clocks, watch })
	request := func(sequence uint64, era Era) *EnqueueRequest {
		return &EnqueueRequest{Session: SessionID{1}, Sequence: sequence, Jobs: jobs("q", 1), Era: era}
	}
	stored := func() uint64 { return e.Stats().Stored }
	suspend := func() { clocks.pass(0, time.Hour) }
	first, err := e.Enqueue(t.Context(), request(1, watch.Now()), nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := e.Enqueue(t.Context(), request(1, watch.Now()), nil); err != nil || again[0].ID != first[0].ID || !again[0].Duplicate {
		t.Fatalf("%+v, %v", again, err)
	}

	era := watch.Now()
	suspend()
	_, err = e.Enqueue(t.Context(), request(1, era), nil)
	wantError(t, err, CodeUnavailable, ReasonWaited)

	p := e.routes.byName("q").homes[0].pump
	var pending PendingEnqueue
	onShard(t, e, p, func() {
		e.BeginEnqueue(t.Context(), request(1, watch.Now()), nil, &pending)
		suspend()
	})
	_, err = pending.Wait(t.Context())
	wantError(t, err, CodeUnavailable, ReasonWaited)

	c := p.newCall()
	c.items.Commit(queue.AppendEnqueue(c.items.Buf(), SessionID{1}, 1, 1, false, 1))
	c.items.Commit(queue.AppendJob(c.items.Buf(), &Spec{Queue: e.routes.byName("q").homes[0].id, Kind: "k"}))
	message := appendCommands(nil, p.shard, []*call{c})
	ctx := WithEra(t.Context(), watch.Now())
	suspend()
	answer, err := e.ServeCall(ctx, 2, callCommands, message)
	if err != nil {
		t.Fatal(err)
	}
	r := reader{b: answer}
	if r.u8() != answerFailed {
		t.Fatalf("a forwarded request was carried out that had waited: %x", answer)
	}
	wantError(t, r.error(), CodeUnavailable, ReasonWaited)
	if n := stored(); n != 1 {
		t.Errorf("%d jobs are stored, want 1", n)
	}
	if _, err := e.Enqueue(t.Context(), request(2, watch.Now()), nil); err != nil || stored() != 2 {
		t.Errorf("a new request: %v; %d jobs are stored", err, stored())
	}
	if answer, err = e.ServeCall(WithEra(t.Context(), watch.Now()), 2, callCommands, message); err != nil || answer[0] != answerOK || stored() != 3 {
		t.Errorf("a new request of another node: %x, %v; %d jobs are stored", answer, err, stored())
	}
}

// TestLateTick: a tick that was held up after it had read the clocks does not make the node stand still twice.
func TestLateTick(t *testing.T) {
	clocks := newJumping()
	read, held, goOn := atomic.Bool{}, make(chan struct{}), make(chan struct{})
	w := NewWatch(func(at time.Time) Reading {
		r := clocks.read(at)
		if read.CompareAndSwap(true, false) {
			close(held)
			<-goOn
		}
		return r
	})
	read.Store(true)
	var late sync.WaitGroup
	late.Go(w.Tick)
	<-held
	clocks.pass(time.Hour, time.Hour)
	if era := w.Now(); era != 2 {
		t.Errorf("era %d, want 2", era)
	}
	close(goOn)
	late.Wait()
	if era := w.Now(); era != 2 {
		t.Errorf("era %d after a late tick, want 2", era)
	}
}
