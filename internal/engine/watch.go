package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Reading is what a machine's clocks say. The one that goes evenly stands still while the machine is suspended, and the wall clock can be set:
// what passes by either of them is taken for passed.
type Reading struct {
	Even time.Duration // since any moment, the same for all readings of a process
	Wall time.Duration // since 1970
}

// Since is how long ago an earlier reading was, by the clock that says more.
func (r Reading) Since(earlier Reading) time.Duration {
	return max(r.Even-earlier.Even, r.Wall-earlier.Wall)
}

// Era numbers the times between which a node stood still, from 1. What a connection of an earlier era brings may have waited, in the machine's
// buffers or in the process, for as long as the node stood.
type Era uint64

// eraKey is where a context says by a connection of which era its request came.
type eraKey struct{}

// WithEra is a context for what comes by a connection that was accepted in an era.
func WithEra(ctx context.Context, era Era) context.Context {
	return context.WithValue(ctx, eraKey{}, era)
}

// EraOf is the era of the connection by which a request came; 0: by none.
func EraOf(ctx context.Context) Era {
	era, _ := ctx.Value(eraKey{}).(Era)
	return era
}

// Watch finds out that its node stood still for longer than StillMax: its process was stopped, or its machine was suspended. It keeps a mark of
// when the node was last known to go on. Nobody has to notice in time: whoever looks finds that the mark is too old, or that somebody found
// it before, and so nobody who looks after the node stood still takes it for the same era. A wall clock that is set forward by as much cannot be told from
// a machine that was suspended.
//
// Any goroutine may call its methods.
type Watch struct {
	read func(time.Time) Reading
	mark atomic.Pointer[mark]

	mu      sync.Mutex    // REQUIRES: to change mark
	changed chan struct{} // an era has begun
}

// mark is when a node was known to go on.
type mark struct {
	at   Reading
	era  Era
	gone Reading // what passed by each clock until the era began
}

// covers reports whether a reading is of the mark's era, or of one before.
func (m *mark) covers(now Reading) bool {
	return now.Even < m.at.Even || now.Since(m.at) <= StillMax
}

// NewWatch makes a Watch. read is what the clocks say at a time; nil: what that time says.
func NewWatch(read func(time.Time) Reading) *Watch {
	if read == nil {
		start := time.Now()
		read = func(t time.Time) Reading {
			return Reading{Even: t.Sub(start), Wall: time.Duration(t.UnixNano())}
		}
	}
	w := &Watch{read: read, changed: make(chan struct{}, 1)}
	w.mark.Store(&mark{at: read(time.Now()), era: 1})
	return w
}

// Reading is what the clocks said at a time that this process read.
func (w *Watch) Reading(t time.Time) Reading { return w.read(t) }

// Era is the era at a reading of now. Unless the node stood still since its mark, it costs one load.
//
// Who wants to know whether something came in the era of its connection reads the clocks first, and looks then: had the node stood still
// before the reading, the era would be another one, and what it stands still afterwards shows in the age of the reading.
func (w *Watch) Era(now Reading) Era {
	if m := w.mark.Load(); m.covers(now) {
		return m.era
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.mark.Load()
	if m.covers(now) {
		return m.era // somebody else found out first
	}
	w.mark.Store(&mark{at: now, era: m.era + 1, gone: Reading{now.Even - m.at.Even, now.Wall - m.at.Wall}})
	select {
	case w.changed <- struct{}{}:
	default:
	}
	return m.era + 1
}

// Now is the era now.
func (w *Watch) Now() Era { return w.Era(w.read(time.Now())) }

// Tick says that the node goes on. It is to be called every StillTick.
func (w *Watch) Tick() {
	now := w.read(time.Now())
	w.Era(now)
	w.mu.Lock()
	defer w.mu.Unlock()
	m := *w.mark.Load()
	if now.Even < m.at.Even {
		return // this goroutine was held up, and somebody looked later
	}
	m.at = now
	w.mark.Store(&m)
}

// Changed has something when an era has begun since it was last taken from.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Gone is what passed by each clock while the node stood still before the present era.
func (w *Watch) Gone() Reading { return w.mark.Load().gone }
