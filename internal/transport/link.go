package transport

import (
	"bufio"
	"crypto/tls"
	"net"
	"time"
)

// link is an established connection, with or without TLS on it. Both directions fail when no byte moves for silenceMax.
type link struct {
	raw     net.Conn // closing it cuts the link at once; TLS's own farewell could block
	conn    net.Conn // what is read and written
	silence time.Duration
	// buffered gathers small vectors into large records. Without TLS the kernel takes vectors as they are.
	buffered *bufio.Writer
}

// timedConn is the connection below TLS. A read or write that makes no progress for long fails.
type timedConn struct {
	net.Conn
	silence time.Duration
	r       *bufio.Reader // TLS asks for one record after the other; the kernel is asked for what is there
}

// timedReads sets the deadline of each read.
type timedReads struct {
	conn    net.Conn
	silence time.Duration
}

func (t timedReads) Read(b []byte) (int, error) {
	if err := t.conn.SetReadDeadline(time.Now().Add(t.silence)); err != nil {
		return 0, err
	}
	return t.conn.Read(b)
}

func newTimedConn(c net.Conn, silence time.Duration) *timedConn {
	return &timedConn{Conn: c, silence: silence, r: bufio.NewReaderSize(timedReads{c, silence}, bufferBytes)}
}

func (t *timedConn) Read(b []byte) (int, error) { return t.r.Read(b) }

func (t *timedConn) Write(b []byte) (int, error) {
	if err := t.SetWriteDeadline(time.Now().Add(t.silence)); err != nil {
		return 0, err
	}
	return t.Conn.Write(b)
}

// plainLink is a link that is not encrypted.
func plainLink(raw net.Conn, silence time.Duration) link {
	return link{raw: raw, conn: raw, silence: silence}
}

func secureLink(raw net.Conn, secured *tls.Conn, silence time.Duration) link {
	return link{raw: raw, conn: secured, silence: silence, buffered: bufio.NewWriterSize(secured, bufferBytes)}
}

// Read reads bytes of the peer.
func (l link) Read(b []byte) (int, error) {
	if l.buffered != nil {
		return l.conn.Read(b)
	}
	return timedReads{l.raw, l.silence}.Read(b)
}

// write writes all vectors, and consumes them.
func (l link) write(vectors *net.Buffers) error {
	if l.buffered == nil {
		if err := l.raw.SetWriteDeadline(time.Now().Add(l.silence)); err != nil {
			return err
		}
		_, err := vectors.WriteTo(l.raw)
		return err
	}
	for _, b := range *vectors {
		if _, err := l.buffered.Write(b); err != nil {
			return err
		}
	}
	return l.buffered.Flush()
}

// cut ends the link for both sides and whoever reads or writes it. It may be called by anyone, and more than once.
func (l link) cut() {
	_ = l.raw.Close() // there is nobody to tell
}
