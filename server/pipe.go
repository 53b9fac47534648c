package server

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// pipeBytes is the buffer of one direction of a connection in memory.
const pipeBytes = 256 << 10

// pipeListener accepts connections from within the process.
type pipeListener struct {
	watch *engine.Watch
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener(watch *engine.Watch) *pipeListener {
	return &pipeListener{watch: watch, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

// dial connects to the listener; address does not matter.
func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	era := l.watch.Now() // nothing is sent before it
	here, there := newPipe()
	select {
	case l.conns <- &madeConn{there, era}:
		return here, nil
	case <-l.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// transport speaks HTTP/2 over the pipe.
func (l *pipeListener) transport() *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: protocols, DialContext: l.dial, DisableCompression: true}
}

// madeConn is the server's end of a connection in memory, which knows in which era it was made.
type madeConn struct {
	net.Conn
	era engine.Era
}

// Era is the era in which the connection was made.
func (c *madeConn) Era() engine.Era { return c.era }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "memory" }
func (pipeAddr) String() string  { return "in-process" }

// newPipe returns both ends of a connection in memory. Unlike net.Pipe it buffers, so that a writer need not wait for the
// reader's turn.
func newPipe() (a, b net.Conn) {
	ab, ba := newHalf(), newHalf()
	return &pipeConn{in: ba, out: ab}, &pipeConn{in: ab, out: ba}
}

type pipeConn struct{ in, out *half }

func (c *pipeConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *pipeConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *pipeConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

func (c *pipeConn) LocalAddr() net.Addr  { return pipeAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readDeadline, t)
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readDeadline, t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeDeadline, t)
	return nil
}

// half is one direction of a pipe: a bounded buffer.
type half struct {
	mu     sync.Mutex
	change sync.Cond // of anything below
	buf    []byte
	start  int // of what is unread
	closed bool

	readDeadline, writeDeadline deadline
}

// deadline is a point in time after which one side's calls fail; zero is never.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func newHalf() *half {
	h := &half{}
	h.change.L = &h.mu
	return h
}

func (h *half) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.start == len(h.buf) {
		switch {
		case h.closed:
			return 0, io.EOF
		case h.readDeadline.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		h.change.Wait()
	}
	n := copy(p, h.buf[h.start:])
	h.start += n
	if h.start == len(h.buf) {
		h.buf, h.start = h.buf[:0], 0
	}
	h.change.Broadcast()
	return n, nil
}

func (h *half) write(p []byte) (written int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(p) > 0 {
		room := pipeBytes - (len(h.buf) - h.start)
		switch {
		case h.closed:
			return written, io.ErrClosedPipe
		case h.writeDeadline.passed():
			return written, os.ErrDeadlineExceeded
		case room == 0:
			h.change.Wait()
			continue
		}
		if h.start > 0 && len(h.buf)+min(room, len(p)) > pipeBytes {
			h.buf, h.start = h.buf[:copy(h.buf, h.buf[h.start:])], 0
		}
		n := min(room, len(p))
		h.buf = append(h.buf, p[:n]...)
		p, written = p[n:], written+n
		h.change.Broadcast()
	}
	return written, nil
}

func (h *half) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, d := range []*deadline{&h.readDeadline, &h.writeDeadline} {
		if d.timer != nil {
			d.timer.Stop()
		}
	}
	h.change.Broadcast()
}

// setDeadline sets one of h's deadlines and wakes who waits when it passes.
func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if wait := time.Until(t); !t.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.change.Broadcast()
		})
	}
	h.change.Broadcast()
}
