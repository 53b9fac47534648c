package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

const testCluster = 0xab

// record is a handler that keeps what it is given.
type record struct {
	mu        sync.Mutex
	messages  []received
	chunks    []receivedChunk
	up, down  []uint64
	gone      []uint64
	causes    []error
	onMessage func() // called in Receive, after it was recorded
	serve     func(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error)
	changed   chan struct{} // signalled by everything
}

type received struct {
	from    uint64
	shard   uint16
	message *raftpb.Message
}

type receivedChunk struct {
	from  uint64
	shard uint16
	kind  uint8
	data  []byte
}

func newRecord() *record { return &record{changed: make(chan struct{}, 1)} }

func (r *record) Receive(from uint64, shard uint16, messages []*raftpb.Message) {
	r.mu.Lock()
	for _, m := range messages {
		r.messages = append(r.messages, received{from, shard, m})
	}
	r.mu.Unlock()
	signal(r.changed)
	if r.onMessage != nil {
		r.onMessage()
	}
}

func (r *record) ReceiveTransfer(from uint64, shard uint16, kind uint8, data []byte) {
	r.mu.Lock()
	r.chunks = append(r.chunks, receivedChunk{from, shard, kind, data})
	r.mu.Unlock()
	signal(r.changed)
}

func (r *record) ServeCall(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
	if r.serve == nil {
		return nil, errors.New("this node serves no calls")
	}
	return r.serve(ctx, from, kind, body)
}

func (r *record) PeerUp(node uint64) {
	r.mu.Lock()
	r.up = append(r.up, node)
	r.mu.Unlock()
	signal(r.changed)
}

func (r *record) PeerDown(node uint64, cause error) {
	r.mu.Lock()
	r.down = append(r.down, node)
	r.causes = append(r.causes, cause)
	r.mu.Unlock()
	signal(r.changed)
}

func (r *record) PeerGone(node uint64) {
	r.mu.Lock()
	r.gone = append(r.gone, node)
	r.mu.Unlock()
	signal(r.changed)
}

// arrived returns the messages so far, transfers the chunks, failures why a peer could not be reached, and cuts and ups how often it
// could not and could. They look under the lock: a transport that a test looks at goes on, and a pause of all its goroutines does not
// order what they write later after what the test has read.
func (r *record) arrived() []received {
	return look(r, func() []received { return slices.Clone(r.messages) })
}

func (r *record) transfers() []receivedChunk {
	return look(r, func() []receivedChunk { return slices.Clone(r.chunks) })
}

func (r *record) failures() []error { return look(r, func() []error { return slices.Clone(r.causes) }) }
func (r *record) cuts() int         { return look(r, func() int { return len(r.down) }) }
func (r *record) ups() int          { return look(r, func() int { return len(r.up) }) }

func look[T any](r *record, get func() T) T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return get()
}

// until waits for a condition on what was recorded. The test's own time limit bounds it.
func (r *record) until(condition func() bool) {
	for {
		r.mu.Lock()
		ok := condition()
		r.mu.Unlock()
		if ok {
			return
		}
		<-r.changed
	}
}

// failure waits for the first report of a peer that cannot be reached, and returns its cause.
func (r *record) failure() (cause error) {
	r.until(func() bool {
		if len(r.causes) == 0 {
			return false
		}
		cause = r.causes[0]
		return true
	})
	return cause
}

// pipes is a network of net.Pipe: addresses are names.
type pipes struct {
	mu        sync.Mutex
	listeners map[string]*pipeListener
	conns     []net.Conn
	dials     atomic.Int64
	silent    atomic.Bool // everything written is swallowed
}

func newPipes() *pipes { return &pipes{listeners: map[string]*pipeListener{}} }

type pipeListener struct {
	name   string
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr(l.name) }

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

func (p *pipes) listen(name string) *pipeListener {
	l := &pipeListener{name: name, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	p.listeners[name] = l
	p.mu.Unlock()
	return l
}

func (p *pipes) dial(ctx context.Context, address string) (net.Conn, error) {
	p.dials.Add(1)
	p.mu.Lock()
	l := p.listeners[address]
	p.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("nobody listens at %q", address)
	}
	near, far := net.Pipe()
	select {
	case l.conns <- &pipeConn{Conn: far, p: p}:
		p.mu.Lock()
		p.conns = append(p.conns, near, far)
		p.mu.Unlock()
		return &pipeConn{Conn: near, p: p}, nil
	case <-l.closed:
		return nil, fmt.Errorf("nobody listens at %q any more", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// cut closes all connections there were so far.
func (p *pipes) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// pipeConn is one end of a connection. Once it has swallowed something, nothing comes through any more: there are no gaps in a stream.
type pipeConn struct {
	net.Conn
	p     *pipes
	muted atomic.Bool
}

func (c *pipeConn) Write(b []byte) (int, error) {
	if c.p.silent.Load() {
		c.muted.Store(true)
	}
	if c.muted.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// node starts a transport at the address "node-N".
func (p *pipes) node(t *testing.T, node uint64, handler Handler, edit func(*Config)) *Transport {
	t.Helper()
	config := Config{Cluster: testCluster, Node: node, Listener: p.listen(fmt.Sprintf("node-%d", node)), Dial: p.dial}
	if edit != nil {
		edit(&config)
	}
	tr, err := New(config, handler)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// pair is two nodes that know each other.
func (p *pipes) pair(t *testing.T, h1, h2 Handler, edit func(*Config)) (one, two *Transport) {
	t.Helper()
	one, two = p.node(t, 1, h1, edit), p.node(t, 2, h2, edit)
	setPeer(t, one, 2, "node-2")
	setPeer(t, two, 1, "node-1")
	return one, two
}

func setPeer(t *testing.T, tr *Transport, node uint64, address string) {
	t.Helper()
	if err := tr.SetPeer(node, address); err != nil {
		t.Fatal(err)
	}
}

// tcp starts a transport at a loopback address.
func tcp(t testing.TB, node uint64, handler Handler, security Security) (*Transport, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr, err := New(Config{Cluster: testCluster, Node: node, Listener: listener, Security: security, TransferRate: -1}, handler)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tr.Close() })
	return tr, listener.Addr().String()
}

// appendOf is an append message of one entry.
func appendOf(index uint64, data []byte) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(7)), LogTerm: new(uint64(7)),
		Index: new(index - 1), Commit: new(index - 1),
		Entries: []*raftpb.Entry{{Term: new(uint64(7)), Index: new(index), Data: data}},
	}
}

func heartbeat(commit uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), To: new(uint64(2)), From: new(uint64(1)), Term: new(uint64(7)), Commit: new(commit),
	}
}

// logs keeps what was logged, a line each.
type logs struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func newLogs() *logs { return &logs{more: make(chan struct{}, 1)} }

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	l.lines = append(l.lines, string(b))
	l.mu.Unlock()
	signal(l.more)
	return len(b), nil
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// await waits for a line that contains a text.
func (l *logs) await(text string) string {
	for {
		l.mu.Lock()
		for _, line := range l.lines {
			if strings.Contains(line, text) {
				l.mu.Unlock()
				return line
			}
		}
		l.mu.Unlock()
		<-l.more
	}
}
