package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// source is what a lane sends. But for fill and take, which the lane's goroutines call, any goroutine may call at any time.
type source interface {
	// fill puts what waits into the writer, about a frame's worth, and reports whether that was anything. A pause asks to be called
	// again after it.
	fill(w *frameWriter) (pause time.Duration, any bool)
	// take reads a frame that came back, other than a pong. An error cuts the connection.
	take(r *frameReader, kind frameKind, length int) error
	// fail drops all that waits and refuses more, because of cause, until resume.
	fail(cause error)
	resume()
	waiting() (messages, bytes int)
}

// lane is the connection that this node makes to a peer for one purpose: it dials when there is something to send, writes, and
// after a failure pauses and begins anew.
//
// It is self-clocked: while one write is on its way, the next one's frames gather.
//
// A lane for messages also dials when a connection of its peer was lost, to find out whether the peer's process has ended: who
// follows it need not wait for the time after which it is missed.
type lane struct {
	t        *Transport
	p        *peer
	purpose  purpose
	source   source
	counters *counters
	wake     chan struct{} // something waits
	hurry    chan struct{} // the peer was heard of: a pause is over
	doubt    chan struct{} // a connection was lost: see whether the peer is there

	connected atomic.Bool

	mu    sync.Mutex
	conn  net.Conn // the present one
	cause error    // why it was cut from this side

	logged string // the last failure that was logged; of run
}

// run is the lane's goroutine, the *writer*.
func (l *lane) run() {
	pause := l.t.config.BackoffMin
	for {
		select {
		case <-l.p.ctx.Done():
			l.source.fail(context.Cause(l.p.ctx))
			return
		case <-l.wake:
			if n, _ := l.source.waiting(); n == 0 {
				continue
			}
		case <-l.doubt:
		}
		lasted, err := l.connect()
		l.source.fail(err)
		if l.p.ctx.Err() != nil {
			return
		}
		l.report(err)
		if l.purpose == forMessages && (lasted > 0 || !errors.Is(err, syscall.ECONNREFUSED) && pause < l.t.config.BackoffMax) {
			signal(l.doubt)
		}
		if lasted > l.t.config.BackoffMax || errors.Is(err, errMoved) {
			pause = l.t.config.BackoffMin
		}
		l.rest(pause)
		pause = min(2*pause, l.t.config.BackoffMax)
		select { // what was put into the row before it was emptied
		case <-l.wake:
		default:
		}
		l.source.resume()
	}
}

// rest waits for a pause to end; with jitter, so that the nodes of a cluster do not knock in step.
func (l *lane) rest(pause time.Duration) {
	select { // news from before the failure
	case <-l.hurry:
	default:
	}
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.hurry:
	case <-l.p.ctx.Done():
	}
}

func (l *lane) report(err error) {
	if text := err.Error(); text != l.logged {
		l.logged = text
		l.t.config.Logger.Warn("no connection to a peer", slog.Uint64("node", l.p.node),
			slog.String("purpose", l.purpose.String()), slog.Any("error", err))
	}
	if l.purpose != forMessages {
		return
	}
	l.t.handler.PeerDown(l.p.node, err)
	if errors.Is(err, syscall.ECONNREFUSED) && !l.t.hears(l.p.node) {
		l.t.handler.PeerGone(l.p.node)
	}
}

// connect makes one connection and serves it until it ends. It returns how long it was up, and always an error.
func (l *lane) connect() (time.Duration, error) {
	k, err := l.dial()
	if err != nil {
		return 0, err
	}
	began := time.Now()
	l.logged = ""
	l.t.config.Logger.Info("connected to a peer", slog.Uint64("node", l.p.node), slog.String("purpose", l.purpose.String()))
	l.connected.Store(true)
	if l.purpose == forMessages {
		l.t.handler.PeerUp(l.p.node)
	}
	err = l.converse(k)
	l.connected.Store(false)
	if cause := l.release(); cause != nil {
		err = cause
	}
	return time.Since(began), err
}

// dial makes a connection, with its handshake. The connection is the lane's until release.
func (l *lane) dial() (link, error) {
	address := l.p.address()
	ctx, cancel := context.WithTimeout(l.p.ctx, l.t.config.DialTimeout)
	defer cancel()
	raw, err := l.t.config.Dial(ctx, address)
	if err != nil {
		return link{}, err
	}
	if err := l.hold(raw, address); err != nil {
		return link{}, err
	}
	// The timer bounds the whole handshake; deadlines of single reads would let it drag on.
	deadline, _ := ctx.Deadline()
	timer := time.AfterFunc(time.Until(deadline), func() { _ = raw.Close() })
	k, w, err := l.shake(ctx, raw)
	if timedOut := !timer.Stop(); err != nil || timedOut {
		_ = raw.Close()
		if cause := l.release(); cause != nil {
			return link{}, cause
		}
		switch {
		case timedOut:
			err = context.DeadlineExceeded
		case unanswered(err):
			err = errNoWelcome
		}
		return link{}, &HandshakeError{Address: address, Dialled: true, Version: w.version, Cluster: w.cluster, Node: w.node, Cause: err}
	}
	return k, nil
}

func (l *lane) shake(ctx context.Context, raw net.Conn) (link, welcome, error) {
	k, state, err := l.t.secure(ctx, raw, false, alpn)
	if err != nil {
		return link{}, welcome{}, err
	}
	h := hello{protocolVersion, l.purpose, l.t.who().cluster, l.t.who().node, l.p.node}
	w, err := greet(struct {
		io.Reader
		io.Writer
	}{k, k.conn}, h)
	if err == nil && !l.t.names(state, l.p.node) {
		err = ErrOtherCertificate // it says that it is the one, and cannot prove it
	}
	return k, w, err
}

// hold makes a connection the lane's, so that cut finds it.
func (l *lane) hold(raw net.Conn, address string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := context.Cause(l.p.ctx)
	if err == nil && l.p.address() != address {
		err = errMoved
	}
	if err != nil {
		_ = raw.Close()
		return err
	}
	l.conn, l.cause = raw, nil
	return nil
}

func (l *lane) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	cause := l.cause
	l.conn, l.cause = nil, nil
	return cause
}

// cut ends the present connection, if any.
func (l *lane) cut(cause error) {
	l.mu.Lock()
	if l.conn != nil && l.cause == nil {
		l.cause = cause
		_ = l.conn.Close()
	}
	l.mu.Unlock()
	signal(l.hurry)
}

// converse writes what the source has until the connection ends, and waits for its reader.
func (l *lane) converse(k link) error {
	var readErr error
	done := make(chan struct{})
	go func() { // the *answer reader*
		defer close(done)
		readErr = l.read(k)
		k.cut()
	}()
	writeErr := l.write(k, done)
	k.cut()
	<-done
	if writeErr == nil || errors.Is(writeErr, net.ErrClosed) || errors.Is(writeErr, io.ErrClosedPipe) {
		return readErr
	}
	return writeErr
}

// write returns nil when the reader is done.
func (l *lane) write(k link, done <-chan struct{}) error {
	w := newFrameWriter(k)
	pings := time.NewTicker(l.t.config.PingInterval)
	defer pings.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	w.ping(framePing, stampSince(l.t.epoch))
	for {
		pause, any := l.source.fill(w)
		select {
		case <-pings.C:
			w.ping(framePing, stampSince(l.t.epoch))
		default:
		}
		if !w.empty() {
			bytes, frames, err := w.flush()
			if err != nil {
				return err
			}
			l.counters.bytesOut.Add(uint64(bytes))
			l.counters.framesOut.Add(uint64(frames))
		}
		if any && pause == 0 {
			continue
		}
		var timer <-chan time.Time
		if pause > 0 {
			again.Reset(pause)
			timer = again.C
		}
		select {
		case <-l.wake:
		case <-timer:
		case <-pings.C:
			w.ping(framePing, stampSince(l.t.epoch))
		case <-done:
			return nil
		}
	}
}

func (l *lane) read(k link) error {
	r := newFrameReader(k, l.purpose, true)
	for {
		kind, length, err := r.next()
		if err != nil {
			return err
		}
		l.counters.framesIn.Add(1)
		l.counters.bytesIn.Add(uint64(frameHeadBytes + length))
		if kind != framePong {
			if err := l.source.take(r, kind, length); err != nil {
				return err
			}
			continue
		}
		b, err := r.fixed(pingBytes)
		if err != nil {
			return err
		}
		l.p.measured(time.Duration(stampSince(l.t.epoch) - binary.LittleEndian.Uint64(b)))
	}
}
