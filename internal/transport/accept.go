package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"time"
)

// accept is the goroutine of the listener.
func (t *Transport) accept() {
	pause := time.Duration(0)
	for {
		raw, err := t.config.Listener.Accept()
		if err == nil {
			pause = 0
			t.admit(raw)
			continue
		}
		if t.ctx.Err() != nil {
			return
		}
		// The system is short of something, or the listener is broken. Either may pass; spinning would not help.
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		t.config.Logger.Error("no connection of a peer can be accepted", slog.Any("error", err))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-t.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// admit begins the handshake of a connection. When too many have begun theirs, the one that has taken the longest ends: a peer's takes a moment,
// and whoever holds up many and says nothing must not keep peers out. An introduction, which may have to wait, is not ended.
func (t *Transport) admit(raw net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.shaking) >= handshakesMax {
		t.hurry()
	}
	if t.closed || len(t.shaking) >= handshakesMax {
		t.refused.Add(1)
		_ = raw.Close()
		return
	}
	t.shaken++
	t.shaking[raw] = t.shaken
	t.wait.Go(func() { t.meet(raw) })
}

// noTurn is in shaking instead of the place of who has begun to introduce itself.
const noTurn = math.MaxUint64

// hurry ends the oldest handshake. REQUIRES: t.mu.
func (t *Transport) hurry() {
	var oldest net.Conn
	for raw, place := range t.shaking {
		if place != noTurn && (oldest == nil || place < t.shaking[oldest]) {
			oldest = raw
		}
	}
	if oldest != nil {
		delete(t.shaking, oldest)
		_ = oldest.Close()
	}
}

// introduces notes that a connection is one of who introduces itself, unless it was ended.
func (t *Transport) introduces(raw net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.shaking[raw]; ok {
		t.shaking[raw] = noTurn
	}
}

// inbound is a connection that a peer made.
type inbound struct {
	t        *Transport
	p        *peer
	purpose  purpose
	counters *counters
	link     link
	era      uint64        // in which it was accepted
	done     chan struct{} // closed when nothing of it is handed to the handler any more
}

type inboundKey struct {
	node    uint64
	purpose purpose
}

// meet is the goroutine of an accepted connection, the *reader*: it goes through the handshake, and then reads until the end.
func (t *Transport) meet(raw net.Conn) {
	defer func() { _ = raw.Close() }()
	timer := time.AfterFunc(t.config.DialTimeout, func() { _ = raw.Close() })
	era := t.era() // before the welcome, which a peer's calls come after
	k, h, introduced, err := t.greeted(raw, timer)
	timer.Stop()
	var in, before *inbound
	if err == nil && !introduced {
		in, before, err = t.enter(k, h, era)
	}
	t.mu.Lock()
	delete(t.shaking, raw)
	t.mu.Unlock()
	if err != nil {
		t.refuse(&HandshakeError{Address: addressOf(raw), Version: h.version, Cluster: h.cluster, Node: h.from, Cause: err})
		return
	}
	if introduced {
		return
	}
	if before != nil {
		// Nothing of the connection before may come after what comes by this one.
		before.link.cut()
		<-before.done
	}
	in.p.heard()
	in.read()
}

func addressOf(c net.Conn) string {
	if a := c.RemoteAddr(); a != nil {
		return a.String()
	}
	return "unknown"
}

// greeted goes through the handshake of a peer. A node that introduces itself is answered here, and that is all. timer bounds it.
func (t *Transport) greeted(raw net.Conn, timer *time.Timer) (k link, h hello, introduced bool, err error) {
	k, state, err := t.secure(t.ctx, raw, true, alpn)
	if err != nil {
		return link{}, hello{}, false, err
	}
	first := make([]byte, len(magic))
	_, err = io.ReadFull(k, first)
	introduced = err == nil && string(first) == introductionMagic
	switch {
	case introduced:
		t.introduces(raw)
		timer.Reset(IntroductionTimeMax)
		err = t.introduced(k, state)
	case err == nil && state != nil && state.NegotiatedProtocol != alpn:
		err = ErrNoPeer
	case err == nil && state == nil && looksLikeTLS(first):
		err = turnAwayTLS(k, first)
	case err == nil:
		own := t.who()
		h, err = receive(struct {
			io.Reader
			io.Writer
		}{io.MultiReader(bytes.NewReader(first), k), k.conn}, own.cluster, own.node, func(h hello) verdict {
			knows := func(node uint64) bool { return t.peer(node) != nil }
			return h.judge(own.cluster, own.node, knows, func(node uint64) bool { return t.names(state, node) })
		})
	}
	switch {
	case errors.Is(err, io.EOF):
		err = errNoHello
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = ErrNoPeer
	}
	return k, h, introduced, err
}

// enter makes an accepted connection its peer's, in place of the one before for the same purpose.
func (t *Transport) enter(k link, h hello, era uint64) (in, before *inbound, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[h.from]
	if t.closed {
		return nil, nil, ErrClosed
	}
	if p == nil {
		return nil, nil, errRemoved // between the welcome and now
	}
	if t.era() != era {
		return nil, nil, errEarlier // else CutEarlier could have passed it over
	}
	key := inboundKey{h.from, h.purpose}
	before = t.inbounds[key]
	in = &inbound{t: t, p: p, purpose: h.purpose, counters: &p.counters[h.purpose], link: k, era: era, done: make(chan struct{})}
	t.inbounds[key] = in
	return in, before, nil
}

// refuse logs why a connection was refused: not each one, or whoever can reach the port could fill the disk.
func (t *Transport) refuse(err error) {
	refused := t.refused.Add(1)
	if errors.Is(err, ErrClosed) || t.ctx.Err() != nil {
		return
	}
	now := time.Since(t.epoch)
	last := t.refusedAt.Load()
	if last != 0 && now-time.Duration(last) < refusalLogGap || !t.refusedAt.CompareAndSwap(last, max(1, int64(now))) {
		return
	}
	t.config.Logger.Warn("refused a connection", slog.Any("error", err), slog.Uint64("refused", refused))
}

// read serves the connection until it ends.
func (in *inbound) read() {
	var s *server
	var err error
	if in.purpose == forCalls {
		s, err = in.serveCalls()
	} else {
		err = in.receive()
	}
	in.link.cut()
	in.t.mu.Lock()
	if key := (inboundKey{in.p.node, in.purpose}); in.t.inbounds[key] == in {
		delete(in.t.inbounds, key)
	}
	in.t.mu.Unlock()
	close(in.done)
	if in.purpose == forMessages {
		in.p.doubted()
	}
	if errors.Is(err, ErrMalformed) {
		in.t.config.Logger.Error("a peer sent what cannot be understood; its connection was cut",
			slog.Uint64("node", in.p.node), slog.String("purpose", in.purpose.String()), slog.Any("error", err))
	}
	if s != nil {
		s.served.Wait()
	}
}

// receive hands messages or transfers to the handler, and answers pings.
func (in *inbound) receive() error {
	r, w := newFrameReader(in.link, in.purpose, false), newFrameWriter(in.link)
	for {
		kind, length, err := r.next()
		if err != nil {
			return err
		}
		in.counters.framesIn.Add(1)
		in.counters.bytesIn.Add(uint64(frameHeadBytes + length))
		switch kind {
		case framePing:
			var b []byte
			if b, err = r.fixed(pingBytes); err == nil {
				w.ping(framePong, binary.LittleEndian.Uint64(b))
				_, _, err = w.flush()
			}
		case frameBatch:
			var envelopes []envelope
			if envelopes, err = r.messages(length); err == nil {
				in.deliver(envelopes)
			}
		default:
			err = in.transfer(r, length)
		}
		if err != nil {
			return err
		}
	}
}

// deliver hands over the messages of a frame, those in a row for one shard together.
func (in *inbound) deliver(envelopes []envelope) {
	in.counters.messagesIn.Add(uint64(len(envelopes)))
	messages := messagesOf(envelopes)
	for from := 0; from < len(envelopes); {
		to := from + 1
		for to < len(envelopes) && envelopes[to].shard == envelopes[from].shard {
			to++
		}
		in.t.handler.Receive(in.p.node, envelopes[from].shard, messages[from:to:to])
		from = to
	}
}

func (in *inbound) transfer(r *frameReader, length int) error {
	head, err := r.fixed(transferHeadBytes)
	if err != nil {
		return err
	}
	shard, kind := binary.LittleEndian.Uint16(head), head[2]
	data, err := r.body(length - transferHeadBytes)
	if err != nil {
		return err
	}
	in.counters.messagesIn.Add(1)
	in.t.handler.ReceiveTransfer(in.p.node, shard, kind, data)
	return nil
}

// secure puts TLS on a connection, or sees that it needs none. The state is nil without TLS. A client asks for a protocol, alpn or
// alpnIntroduction; a server takes either.
func (t *Transport) secure(ctx context.Context, raw net.Conn, server bool, protocol string) (link, *tls.ConnectionState, error) {
	silence := t.config.SilenceMax
	if protocol == alpnIntroduction {
		silence = IntroductionTimeMax // the other side may have to ask further nodes
	}
	if err := boundUnanswered(raw, silence); err != nil {
		return link{}, nil, err
	}
	if t.config.Security.mode == insecure {
		if !local(raw.LocalAddr()) || !local(raw.RemoteAddr()) {
			return link{}, nil, securityError("%w", errNotLocal)
		}
		return plainLink(raw, silence), nil, nil
	}
	timed := newTimedConn(raw, silence)
	var secured *tls.Conn
	if server {
		if err := turnAway(timed); err != nil {
			return link{}, nil, err
		}
		secured = tls.Server(timed, t.serverConfig())
	} else if c := t.credentialsFor(protocol); c != nil {
		secured = tls.Client(timed, c.client)
	} else {
		return link{}, nil, errNoIdentity
	}
	if err := secured.HandshakeContext(ctx); err != nil {
		return link{}, nil, explained(err)
	}
	state := secured.ConnectionState()
	return secureLink(raw, secured, silence), &state, nil
}

// names reports whether the other side's certificate names a node. Without TLS there is nothing that could say otherwise.
func (t *Transport) names(state *tls.ConnectionState, node uint64) bool {
	return state == nil || names(state.PeerCertificates[0], t.who().cluster, node)
}

// credentialsFor are those for a protocol; nil when there are none.
func (t *Transport) credentialsFor(protocol string) *credentials {
	if protocol == alpnIntroduction {
		return t.strangers.Load()
	}
	return t.credentials.Load()
}

// serverConfig shows each client the credentials of the protocol that it asks for.
func (t *Transport) serverConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(client *tls.ClientHelloInfo) (*tls.Config, error) {
		protocol := alpn
		if slices.Contains(client.SupportedProtos, alpnIntroduction) {
			protocol = alpnIntroduction
		}
		if c := t.credentialsFor(protocol); c != nil {
			return c.server, nil
		}
		return nil, errNoIdentity
	}}
}
