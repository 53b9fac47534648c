package server

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// gate accepts connections of clients, while fewer than so many are open; further ones wait in the kernel's queue. It notes in which era of
// the node each was accepted, and lets none in that may have waited in that queue while the node stood still, or for longer than
// engine.StillMax since there was no room: its requests may be of any age, and whoever made it has other ones by now.
type gate struct {
	net.Listener
	watch *engine.Watch
	slots chan struct{} // nil: there is no limit
	done  chan struct{}
	once  sync.Once

	// The rest but open is Accept's, which one goroutine calls.
	era      engine.Era     // nothing waits in the queue that came before it
	full     bool           // nothing could be accepted of late, and the queue was not seen empty since
	fullFrom engine.Reading // since when something may wait

	mu   sync.Mutex
	open map[*gatedConn]struct{} // REQUIRES: mu
}

// newGate makes a gate for so many connections; 0 is any number.
func newGate(l net.Listener, most int, watch *engine.Watch) *gate {
	g := &gate{Listener: l, watch: watch, done: make(chan struct{}), era: watch.Now(), open: make(map[*gatedConn]struct{})}
	if most > 0 {
		g.slots = make(chan struct{}, most)
	}
	return g
}

// Accept implements net.Listener. The era is read before a connection is taken and looked at after it: what was taken in between, and
// came before, is noticed.
func (g *gate) Accept() (net.Conn, error) {
	for {
		if err := g.room(); err != nil {
			return nil, err
		}
		era := g.watch.Now()
		fresh := g.freshen(era)
		g.look()
		c, err := g.Listener.Accept()
		if err != nil {
			g.leave()
			if g.woken(err) {
				continue
			}
			g.fill() // there may be no file handle for a long time
			return nil, err
		}
		own := &gatedConn{Conn: c, gate: g, era: era}
		if made, ok := c.(interface{ Era() engine.Era }); ok {
			own.era = made.Era() // it knows better when nothing had been sent by it
		} else if !fresh || g.watch.Now() != era {
			_ = c.Close() // it may have waited all the time
			g.leave()
			continue
		}
		g.mu.Lock()
		g.open[own] = struct{}{}
		g.mu.Unlock()
		if g.watch.Now() != own.era {
			_ = own.Close() // closeEarlier may have passed before it was there
			continue
		}
		return own, nil
	}
}

// room waits until another connection may be open.
func (g *gate) room() error {
	if g.slots == nil {
		return nil
	}
	select {
	case g.slots <- struct{}{}:
	default:
		g.fill()
		select {
		case g.slots <- struct{}{}:
		case <-g.done:
			return net.ErrClosed
		}
	}
	return nil
}

// fill notes that nothing is accepted from now on, unless it was noted before.
func (g *gate) fill() {
	if !g.full {
		g.full, g.fullFrom = true, g.watch.Reading(time.Now())
	}
}

func (g *gate) leave() {
	if g.slots != nil {
		<-g.slots
	}
}

// freshen closes what waits in the kernel's queue, if some of it may have waited for too long, and reports whether nothing of that kind is left.
// Without file handles nothing can be closed.
func (g *gate) freshen(era engine.Era) bool {
	if era == g.era && (!g.full || g.watch.Reading(time.Now()).Since(g.fullFrom) <= engine.StillMax) {
		return true
	}
	if !g.empty() {
		return false
	}
	g.era, g.full = era, false
	return true
}

// look notes that nothing waits any more, so far as the system tells.
func (g *gate) look() {
	if l, ok := g.Listener.(*net.TCPListener); ok && g.full {
		g.full = oneWaits(l)
	}
}

// empty closes what waits in the kernel's queue, and reports whether it got to its end.
func (g *gate) empty() bool {
	l, ok := g.Listener.(*net.TCPListener)
	return !ok || closeWaiting(l)
}

// wake has Accept look at the era again: a connection that comes from now on has not waited.
func (g *gate) wake() {
	if l, ok := g.Listener.(*net.TCPListener); ok {
		_ = l.SetDeadline(time.Now()) // fails when it is closed, and then nobody waits
	}
}

// woken reports whether Accept failed for nothing but wake.
func (g *gate) woken(err error) bool {
	l, ok := g.Listener.(*net.TCPListener)
	return ok && errors.Is(err, os.ErrDeadlineExceeded) && l.SetDeadline(time.Time{}) == nil
}

// closeEarlier closes the connections that were accepted in an earlier era.
func (g *gate) closeEarlier() {
	now := g.watch.Now()
	g.mu.Lock()
	var earlier []*gatedConn
	for c := range g.open {
		if c.era != now {
			earlier = append(earlier, c)
		}
	}
	g.mu.Unlock()
	for _, c := range earlier {
		_ = c.Close()
	}
}

// Close implements net.Listener.
func (g *gate) Close() error {
	g.once.Do(func() { close(g.done) })
	return g.Listener.Close()
}

// gatedConn gives its slot back when it is closed.
type gatedConn struct {
	net.Conn
	gate *gate
	era  engine.Era
	once sync.Once
}

// Era is the era in which the connection was accepted.
func (c *gatedConn) Era() engine.Era { return c.era }

func (c *gatedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.gate.leave()
		c.gate.mu.Lock()
		defer c.gate.mu.Unlock()
		delete(c.gate.open, c)
	})
	return err
}
