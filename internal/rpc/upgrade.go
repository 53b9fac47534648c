package rpc

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
)

// A stream can leave HTTP behind: a POST of the stream's path over HTTP/1.1 with "Upgrade: beaver-stream" is answered with
// 101, and from then on both sides write the envelopes of Connect's streaming protocol straight to the connection:
//
//	┌──────────┬──────────────┬─────────────────┐
//	│ flags u8 │ length u32 BE│ message         │  flags 0: a protobuf message
//	└──────────┴──────────────┴─────────────────┘  flags 2: the end of this side; the server's says {"error": …} or {}
//
// It is the same stream with the same messages as over HTTP/2, for half the system calls and goroutine switches.
const (
	upgradeProtocol = "beaver-stream"
	flagEnd         = 2
	envelopeBytes   = 5

	upgradeStepBytes = 64 << 10 // read at once of a message for which there is no buffer yet
	upgradeBytesKept = 1 << 20  // of the buffer for one message

	lingerMax = time.Second // between the server's end and the close, for the client to read it
)

// streamFunc serves one stream and returns what it ends with.
type streamFunc func(context.Context, connect.StreamingHandlerConn) error

// wantsUpgrade reports whether the request is to become a bare stream.
func wantsUpgrade(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.Method == http.MethodPost && strings.EqualFold(r.Header.Get("Upgrade"), upgradeProtocol)
}

// serveUpgraded takes the connection over and serves the stream on it.
func (h *Handler) serveUpgraded(w http.ResponseWriter, r *http.Request, serve streamFunc) {
	netConn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot be upgraded", http.StatusNotImplemented)
		return
	}
	defer func() { _ = netConn.Close() }() // what mattered was flushed before
	c := &upgradedConn{
		conn: netConn, in: buffered.Reader, readMax: h.opts.RequestBytesMax,
		request: r.Header, response: make(http.Header), trailer: make(http.Header),
		spec: connect.Spec{StreamType: connect.StreamTypeBidi, Procedure: r.URL.Path},
		peer: connect.Peer{Addr: r.RemoteAddr, Protocol: upgradeProtocol},
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(r.Context()), controllerKey{}, c))
	defer cancel()
	c.cancel = cancel
	_ = netConn.SetDeadline(time.Time{}) // a connection that is gone says so at the first read
	hello := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + upgradeProtocol +
		"\r\nDate: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n\r\n"
	if _, err := io.WriteString(netConn, hello); err != nil {
		return
	}
	c.end(serve(ctx, c))
}

// upgradedConn is a stream on a bare connection. Receive and Send are each called by one goroutine at a time.
type upgradedConn struct {
	conn    net.Conn
	in      *bufio.Reader
	cancel  context.CancelFunc // of the stream's context, when the connection breaks
	readMax int

	request, response, trailer http.Header
	spec                       connect.Spec
	peer                       connect.Peer

	body []byte // Receive's, for messages that own no buffer
	out  []byte // Send's

	mu      sync.Mutex
	writeBy time.Time // REQUIRES: mu; when no write may go on any more; zero: each may take writeTimeout
}

var _ connect.StreamingHandlerConn = (*upgradedConn)(nil)

func (c *upgradedConn) Spec() connect.Spec           { return c.spec }
func (c *upgradedConn) Peer() connect.Peer           { return c.peer }
func (c *upgradedConn) RequestHeader() http.Header   { return c.request }
func (c *upgradedConn) ResponseHeader() http.Header  { return c.response }
func (c *upgradedConn) ResponseTrailer() http.Header { return c.trailer }

// Receive reads one message; io.EOF is the client's end.
func (c *upgradedConn) Receive(v any) error {
	var head [envelopeBytes]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return c.broken(err)
	}
	size := int(binary.BigEndian.Uint32(head[1:]))
	switch {
	case head[0] == flagEnd:
		return io.EOF
	case head[0] != 0:
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("envelope flags %d are not understood", head[0]))
	case size > c.readMax:
		return connect.NewError(connect.CodeResourceExhausted,
			fmt.Errorf("the message has %d bytes, at most %d are taken: send several smaller ones", size, c.readMax))
	}
	body := &c.body
	own, owns := v.(owner)
	if owns {
		body = own.buffer()
	}
	if cap(*body) > upgradeBytesKept && size <= upgradeBytesKept {
		*body = nil
	}
	var err error
	if *body, err = appendBody((*body)[:0], c.in, size); err != nil {
		return c.broken(err)
	}
	if owns {
		own.setOwn()
		return nil
	}
	return protoCodec{}.Unmarshal(*body, v)
}

// appendBody reads size bytes behind dst. Its memory grows with what comes, and not with what was announced.
func appendBody(dst []byte, in io.Reader, size int) ([]byte, error) {
	for size > 0 {
		n := min(size, max(cap(dst)-len(dst), upgradeStepBytes))
		dst = slices.Grow(dst, n)[:len(dst)+n]
		if _, err := io.ReadFull(in, dst[len(dst)-n:]); err != nil {
			return dst, err
		}
		size -= n
	}
	return dst, nil
}

// broken is what Receive returns when the connection fails. A connection that only ends was cut off: a client that means
// to end says so.
func (c *upgradedConn) broken(err error) error {
	if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
		c.cancel()
	}
	return connect.NewError(connect.CodeCanceled, fmt.Errorf("the connection broke: %w", err))
}

// Send writes one message.
func (c *upgradedConn) Send(v any) error {
	out, err := protoCodec{}.MarshalAppend(append(c.out[:0], 0, 0, 0, 0, 0), v)
	if err != nil {
		return err
	}
	if c.out = out; cap(out) > upgradeBytesKept {
		c.out = nil
	}
	return c.write(out)
}

// SetReadDeadline implements interrupter.
func (c *upgradedConn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline implements interrupter. It holds for all writes to come.
func (c *upgradedConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	return c.conn.SetWriteDeadline(t)
}

// boundWrite sets the deadline of the next write.
func (c *upgradedConn) boundWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	by := time.Now().Add(writeTimeout)
	if !c.writeBy.IsZero() && c.writeBy.Before(by) {
		by = c.writeBy
	}
	return c.conn.SetWriteDeadline(by)
}

// write finishes the envelope and sends it.
func (c *upgradedConn) write(envelope []byte) error {
	binary.BigEndian.PutUint32(envelope[1:], uint32(len(envelope)-envelopeBytes))
	if err := c.boundWrite(); err != nil {
		return c.broken(err)
	}
	if _, err := c.conn.Write(envelope); err != nil {
		c.cancel()
		return c.broken(err)
	}
	return nil
}

// end says how the stream ended, and waits a moment for the client to have read it: closing a connection with bytes that
// were never read would take the last message along.
func (c *upgradedConn) end(err error) {
	envelope := append(c.out[:0], flagEnd, 0, 0, 0, 0)
	if c.write(append(envelope, endMessage(err)...)) != nil {
		return
	}
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(lingerMax)) // without it the copy ends with the connection
	_, _ = io.Copy(io.Discard, c.in)                      // whatever comes, it is too late
}

// endMessage is the JSON of a stream's end, as in Connect's protocol.
func endMessage(err error) []byte {
	type detail struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	type wireError struct {
		Code    string   `json:"code"`
		Message string   `json:"message,omitempty"`
		Details []detail `json:"details,omitempty"`
	}
	var end struct {
		Error *wireError `json:"error,omitempty"`
	}
	if err != nil {
		answer := toConnect(err)
		end.Error = &wireError{Code: answer.Code().String(), Message: answer.Message()}
		for _, d := range answer.Details() {
			end.Error.Details = append(end.Error.Details, detail{d.Type(), base64.RawStdEncoding.EncodeToString(d.Bytes())})
		}
	}
	data, err := json.Marshal(end)
	if err != nil {
		return []byte("{}") // strings always marshal
	}
	return data
}
