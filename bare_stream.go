package beaver

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// A stream leaves HTTP behind where it can: after an upgrade of an HTTP/1.1 connection both sides write the envelopes of
// Connect's streaming protocol (flags, length, message) straight to it. That halves the latency of a lone job, and the CPU
// of many. Where a proxy is in the way, or the server does not know it, the stream is an ordinary one over HTTP/2.
const (
	upgradeProtocol = "beaver-stream"
	flagEnd         = 2
	envelopeBytes   = 5
	bareBufferBytes = 64 << 10
	bareBytesKept   = 1 << 20 // of the buffer for one message, once a smaller one comes
)

// errNoUpgrade says that the server, or what stands before it, does not upgrade connections.
var errNoUpgrade = errors.New("the connection cannot be upgraded")

// errHungUp says that the connection ended instead of an answer to the upgrade, or of a TLS handshake: a server that stops, or
// one that speaks only HTTP/2. Over that it is tried at once, and the next stream asks again.
var errHungUp = errors.New("the connection ended when it was asked to be upgraded")

// bareDialer opens bare streams to one server.
type bareDialer struct {
	host   string      // with port
	tls    *tls.Config // nil: in clear text
	denied atomic.Bool // somebody on the way does not upgrade: do not ask again
}

// newBareDialer returns nil where bare streams cannot be: behind a proxy.
func newBareDialer(addr string) *bareDialer {
	u, err := url.Parse(addr)
	if err != nil || u.Path != "" {
		return nil
	}
	if proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u}); proxy != nil || err != nil {
		return nil
	}
	d, port := &bareDialer{host: u.Host}, "80"
	if u.Scheme == "https" {
		d.tls, port = &tls.Config{ServerName: u.Hostname(), NextProtos: []string{"http/1.1"}}, "443"
	}
	if u.Port() == "" {
		d.host = net.JoinHostPort(u.Hostname(), port)
	}
	return d
}

// dial connects and upgrades. The stream ends with ctx.
func (d *bareDialer) dial(ctx context.Context, procedure string) (*bareStream, error) {
	dialing, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: silenceMax, Interval: time.Second, Count: 5}}
	conn, err := dialer.DialContext(dialing, "tcp", d.host)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, unreachedError{err})
	}
	if err := boundUnanswered(conn); err != nil {
		_ = conn.Close() // nothing was sent
		return nil, connect.NewError(connect.CodeUnavailable, unreachedError{err})
	}
	if conn, err = d.secure(dialing, conn); err != nil {
		return nil, unreachedError{err}
	}
	s := &bareStream{conn: conn, in: bufio.NewReaderSize(conn, bareBufferBytes)}
	s.release = context.AfterFunc(ctx, func() { _ = conn.Close() }) // whoever reads or writes gets the error
	if err := s.upgrade(d.host, procedure); err != nil {
		_ = s.CloseResponse() // it failed already
		return nil, unreachedError{err}
	}
	return s, nil
}

// noProtocolAlert is what a TLS server says that has none of the protocols which the client offers.
const noProtocolAlert tls.AlertError = 120

// secure makes TLS of the connection if the server's URL asks for it. It closes the connection when it fails.
func (d *bareDialer) secure(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if d.tls == nil {
		return conn, nil
	}
	secured := tls.Client(conn, d.tls)
	err := secured.HandshakeContext(ctx)
	if err == nil {
		return secured, nil
	}
	_ = conn.Close() // it failed already
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" {
		if alert.Err.Error() == noProtocolAlert.Error() {
			return nil, errNoUpgrade // HTTP/1.1 is not spoken here
		}
		return nil, errHungUp // over HTTP/2 it either goes well or says why not
	}
	if hungUp(err) {
		return nil, errHungUp
	}
	return nil, connect.NewError(connect.CodeUnavailable, err)
}

func hungUp(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) }

// bareEnqueue opens a bare enqueue stream if it can, and else the other.
func bareEnqueue(ctx context.Context, d *bareDialer, other func(context.Context) enqueueStream) enqueueStream {
	return eitherEnqueue{newEitherStream(ctx, d, beaverv1connect.JobServiceEnqueueStreamProcedure, other)}
}

// bareWork opens a bare Work stream if it can, and else the other.
func bareWork(ctx context.Context, d *bareDialer, other func(context.Context) workStream) workStream {
	return eitherWork{newEitherStream(ctx, d, beaverv1connect.JobServiceWorkProcedure, other)}
}

// bareStream is a stream on a connection of its own. Send and Receive may run at once, but each only once at a time.
type bareStream struct {
	conn    net.Conn
	in      *bufio.Reader
	release func() bool
	header  http.Header
	out     []byte // Send's
	body    []byte // Receive's
}

func (s *bareStream) upgrade(host, procedure string) error {
	if err := s.conn.SetDeadline(time.Now().Add(dialMax)); err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	hello := "POST " + procedure + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: Upgrade\r\nUpgrade: " + upgradeProtocol +
		"\r\nContent-Type: application/connect+proto\r\nContent-Length: 0\r\n\r\n"
	if _, err := io.WriteString(s.conn, hello); err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	start, err := s.in.Peek(len("HTTP/"))
	switch {
	case hungUp(err):
		return errHungUp
	case err == nil && string(start) != "HTTP/":
		return errNoUpgrade // HTTP/2 alone is spoken here
	}
	res, err := http.ReadResponse(s.in, &http.Request{Method: http.MethodPost})
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("upgrade: %w", err))
	}
	switch res.StatusCode {
	case http.StatusSwitchingProtocols:
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("upgrade: %s", res.Status))
	default:
		return errNoUpgrade
	}
	s.header = res.Header
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return nil
}

// send writes one envelope, whose message encode appends.
func (s *bareStream) send(flags byte, encode func(dst []byte) ([]byte, error)) error {
	out, err := encode(append(s.out[:0], flags, 0, 0, 0, 0))
	if err != nil {
		return err
	}
	s.out = out
	binary.BigEndian.PutUint32(out[1:], uint32(len(out)-envelopeBytes))
	if _, err := s.conn.Write(out); err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return nil
}

// receive reads one message; io.EOF is the server's end.
func (s *bareStream) receive(m proto.Message) error {
	var head [envelopeBytes]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the connection broke: %w", err))
	}
	size := int(binary.BigEndian.Uint32(head[1:]))
	if size > readBytesMax {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("the server's message has %d bytes, more than %d", size, readBytesMax))
	}
	if cap(s.body) > bareBytesKept && size <= bareBytesKept {
		s.body = nil
	}
	var err error
	if s.body, err = appendBody(s.body[:0], s.in, size); err != nil {
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the connection broke: %w", err))
	}
	switch head[0] {
	case 0:
		return proto.Unmarshal(s.body, m)
	case flagEnd:
		return endOf(s.body)
	}
	return connect.NewError(connect.CodeInternal, fmt.Errorf("the server's envelope flags %d are not understood", head[0]))
}

// appendBody reads size bytes behind dst. Its memory grows with what comes, and not with what was announced.
func appendBody(dst []byte, in io.Reader, size int) ([]byte, error) {
	for size > 0 {
		n := min(size, max(cap(dst)-len(dst), bareBufferBytes))
		dst = slices.Grow(dst, n)[:len(dst)+n]
		if _, err := io.ReadFull(in, dst[len(dst)-n:]); err != nil {
			return dst, err
		}
		size -= n
	}
	return dst, nil
}

// endOf is what the end of a stream says: io.EOF, or the server's error.
func endOf(message []byte) error {
	var end struct {
		Error *struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Details []struct {
				Type  string `json:"type"`
				Value string `json:"value"`
			} `json:"details"`
		} `json:"error"`
	}
	if err := json.Unmarshal(message, &end); err != nil {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("the end of the stream: %w", err))
	}
	if end.Error == nil {
		return io.EOF
	}
	var code connect.Code
	if err := code.UnmarshalText([]byte(end.Error.Code)); err != nil {
		code = connect.CodeUnknown // of a newer server
	}
	e := connect.NewWireError(code, errors.New(end.Error.Message))
	for _, d := range end.Error.Details {
		var info beaverv1.ErrorInfo
		value, err := base64.RawStdEncoding.DecodeString(d.Value)
		if err != nil || d.Type != string(info.ProtoReflect().Descriptor().FullName()) || proto.Unmarshal(value, &info) != nil {
			continue // of a newer server: the code and the message still stand
		}
		if detail, err := connect.NewErrorDetail(&info); err == nil {
			e.AddDetail(detail)
		}
	}
	return e
}

// CloseRequest ends this side of the stream.
func (s *bareStream) CloseRequest() error {
	return s.send(flagEnd, func(dst []byte) ([]byte, error) { return append(dst, "{}"...), nil })
}

// CloseResponse closes the connection.
func (s *bareStream) CloseResponse() error {
	s.release()
	return s.conn.Close()
}

// ordinary is what the streams over HTTP/2 have in common with the bare ones.
type ordinary interface {
	CloseRequest() error
	CloseResponse() error
}

// eitherStream is a bare stream, or an ordinary one where that cannot be. It connects when it is first used.
type eitherStream[O ordinary] struct {
	open  func() (*bareStream, error)
	other func() O

	once     sync.Once
	bare     *bareStream // nil: ordinary
	ordinary O
	err      error
}

func newEitherStream[O ordinary](ctx context.Context, d *bareDialer, procedure string, other func(context.Context) O) *eitherStream[O] {
	return &eitherStream[O]{
		other: func() O { return other(ctx) },
		open: func() (*bareStream, error) {
			if d.denied.Load() {
				return nil, errNoUpgrade
			}
			s, err := d.dial(ctx, procedure)
			if errors.Is(err, errNoUpgrade) {
				d.denied.Store(true)
			}
			return s, err
		},
	}
}

func (s *eitherStream[O]) connect() error {
	s.once.Do(func() {
		if s.bare, s.err = s.open(); errors.Is(s.err, errNoUpgrade) || errors.Is(s.err, errHungUp) {
			s.ordinary, s.err = s.other(), nil
		}
	})
	return s.err
}

// CloseRequest ends this side of the stream.
func (s *eitherStream[O]) CloseRequest() error {
	if err := s.connect(); err != nil {
		return err
	}
	if s.bare != nil {
		return s.bare.CloseRequest()
	}
	return s.ordinary.CloseRequest()
}

// CloseResponse lets go of the stream.
func (s *eitherStream[O]) CloseResponse() error {
	if err := s.connect(); err != nil {
		return err
	}
	if s.bare != nil {
		return s.bare.CloseResponse()
	}
	return s.ordinary.CloseResponse()
}

// eitherEnqueue is the enqueue stream.
type eitherEnqueue struct{ *eitherStream[enqueueStream] }

func (s eitherEnqueue) Send(m *enqueueMessage) error {
	if err := s.connect(); err != nil {
		return err
	}
	if s.bare == nil {
		return s.ordinary.Send(m)
	}
	return s.bare.send(0, func(dst []byte) ([]byte, error) { return enqueueCodec{}.MarshalAppend(dst, m) })
}

func (s eitherEnqueue) Receive() (*beaverv1.EnqueueStreamResponse, error) {
	if err := s.connect(); err != nil {
		return nil, err
	}
	if s.bare == nil {
		return s.ordinary.Receive()
	}
	m := new(beaverv1.EnqueueStreamResponse)
	return m, s.bare.receive(m)
}

// eitherWork is the Work stream.
type eitherWork struct{ *eitherStream[workStream] }

func (s eitherWork) Send(m *beaverv1.WorkRequest) error {
	if err := s.connect(); err != nil {
		return err
	}
	if s.bare == nil {
		return s.ordinary.Send(m)
	}
	return s.bare.send(0, func(dst []byte) ([]byte, error) { return proto.MarshalOptions{}.MarshalAppend(dst, m) })
}

func (s eitherWork) Receive() (*beaverv1.WorkResponse, error) {
	if err := s.connect(); err != nil {
		return nil, err
	}
	if s.bare == nil {
		return s.ordinary.Receive()
	}
	m := new(beaverv1.WorkResponse)
	return m, s.bare.receive(m)
}

// ResponseHeader is valid after Receive.
func (s eitherWork) ResponseHeader() http.Header {
	if s.bare != nil {
		return s.bare.header
	}
	return s.ordinary.ResponseHeader()
}
