//go:build unix

package chaos

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// proxies are a network for machines that allow no namespaces: each node is reached by way of this process, which holds up what the
// weather keeps. Bytes of a stream cannot be lost, so a loss is what TCP makes of one: a pause.
//
// A connection says nothing of the place that it comes from; but nodes speak in the clear here, and their greeting names the node.
type proxies struct {
	weather *weather
	ctx     context.Context
	cancel  context.CancelFunc
	group   sync.WaitGroup

	mu     sync.Mutex
	rng    *rand.Rand
	places map[uint64]int         // by node id
	fronts map[int][]net.Listener // by place
}

const (
	// retransmitWait is how long a lost packet holds up a stream.
	retransmitWait = 200 * time.Millisecond
	// holdLook is how often it is looked whether a way is still cut.
	holdLook = 10 * time.Millisecond
	// pieceBytesMax bounds what is carried at once, and pieces what is on its way.
	pieceBytesMax, pieces = 16 << 10, 64

	greetingMagic   = "BVRPEER\n"
	greetingBytes   = 40
	greetingFromsAt = 24 // where it names the node
)

func newProxies(w *weather, seed uint64) *proxies {
	ctx, cancel := context.WithCancel(context.Background())
	return &proxies{
		weather: w, ctx: ctx, cancel: cancel, rng: rand.New(rand.NewPCG(seed, 3000)), places: make(map[uint64]int), fronts: make(map[int][]net.Listener),
	}
}

func (p *proxies) String() string { return "a proxy in this process" }

func (p *proxies) secured() bool { return false }

// named implements network.
func (p *proxies) named(id uint64, place int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.places[id] = place
}

// settle implements network.
func (p *proxies) settle(place int) (addresses, error) {
	a := addresses{}
	for _, front := range []struct {
		back, public *string
		from         func(net.Conn) (int, []byte, error)
	}{
		{&a.listen, &a.public, func(net.Conn) (int, []byte, error) { return outside, nil, nil }},
		{&a.peerListen, &a.publicToPeer, p.greeted},
	} {
		back, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return a, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err := errors.Join(err, back.Close()); err != nil { // the node will listen there
			return a, err
		}
		*front.back, *front.public = back.Addr().String(), l.Addr().String()
		p.mu.Lock()
		p.fronts[place] = append(p.fronts[place], l)
		p.mu.Unlock()
		p.group.Go(func() { p.serve(l, place, back.Addr().String(), front.from) })
	}
	return a, nil
}

// leave implements network.
func (p *proxies) leave(place int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.fronts[place] {
		_ = l.Close() // serve ends
	}
	delete(p.fronts, place)
}

func (p *proxies) run(_ int, start func() error) error { return start() }

func (p *proxies) close() {
	p.cancel()
	p.mu.Lock()
	places := len(p.places) + len(p.fronts)
	p.mu.Unlock()
	for place := range places + 1 {
		p.leave(place)
	}
	p.group.Wait()
}

// greeted reads the greeting with which a node begins, and says where it is. Who introduces itself first is nobody yet.
func (p *proxies) greeted(c net.Conn) (int, []byte, error) {
	b := make([]byte, len(greetingMagic), greetingBytes)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != greetingMagic {
		return outside, b, err
	}
	b = b[:greetingBytes]
	if _, err := io.ReadFull(c, b[len(greetingMagic):]); err != nil {
		return outside, b, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.places[binary.LittleEndian.Uint64(b[greetingFromsAt:])], b, nil
}

// serve takes the connections to a place.
func (p *proxies) serve(l net.Listener, place int, back string, from func(net.Conn) (int, []byte, error)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		p.group.Go(func() {
			defer func() { _ = c.Close() }()
			defer context.AfterFunc(p.ctx, func() { _ = c.Close() })()
			at, said, err := from(c)
			if err != nil || !p.pass(direction{at, place}) {
				return
			}
			node, err := net.Dial("tcp", back)
			if err != nil {
				return
			}
			defer func() { _ = node.Close() }()
			defer context.AfterFunc(p.ctx, func() { _ = node.Close() })()
			if _, err := node.Write(said); err != nil {
				return
			}
			var both sync.WaitGroup
			both.Go(func() { p.stream(node, c, direction{at, place}) })
			both.Go(func() { p.stream(c, node, direction{place, at}) })
			both.Wait()
		})
	}
}

// pass waits until a way is open. It returns false when the network is closed.
func (p *proxies) pass(d direction) bool {
	for p.weather.cut(d) {
		if pause(p.ctx, holdLook) != nil {
			return false
		}
	}
	return p.ctx.Err() == nil
}

// piece is some bytes on their way, and when they arrive.
type piece struct {
	data []byte
	due  time.Time
}

// stream carries one direction of a connection, and closes what it ends at.
func (p *proxies) stream(to, from net.Conn, d direction) {
	way := make(chan piece, pieces)
	p.group.Go(func() {
		defer close(way)
		for {
			b := make([]byte, pieceBytesMax)
			n, err := from.Read(b)
			if n > 0 {
				p.mu.Lock()
				lost, delay := p.weather.fate(p.rng, d)
				p.mu.Unlock()
				if lost {
					delay += retransmitWait
				}
				way <- piece{b[:n], time.Now().Add(delay)}
			}
			if err != nil {
				return
			}
		}
	})
	failed := false
	for piece := range way { // to its end, so that who fills it is not held up
		if failed = failed || !p.pass(d) || pause(p.ctx, time.Until(piece.due)) != nil; failed {
			continue
		}
		_, err := to.Write(piece.data)
		if failed = err != nil; failed {
			_ = from.Close()
		}
	}
	if half, ok := to.(*net.TCPConn); ok && !failed {
		_ = half.CloseWrite() // the other direction may go on
		return
	}
	_ = to.Close()
}
