package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Transport is a node's end of the connections to its peers. All methods may be called by several goroutines at once.
type Transport struct {
	config      Config
	handler     Handler
	identity    atomic.Pointer[identity]    // nil until it is known
	credentials atomic.Pointer[credentials] // nil without security, and before the identity is known
	strangers   atomic.Pointer[credentials] // for introductions; nil without security
	epoch       time.Time                   // of the stamps in pings
	budget      *budget
	ctx         context.Context // ends with Close
	cancel      context.CancelCauseFunc
	wait        sync.WaitGroup // for all goroutines
	requests    bodies
	refused     atomic.Uint64
	refusedAt   atomic.Int64 // since epoch, when a refusal was logged last

	mu       sync.RWMutex
	closed   bool
	peers    map[uint64]*peer
	shaking  map[net.Conn]uint64 // accepted, and not through the handshake: in which order they came, or noTurn
	shaken   uint64              // the last of them
	inbounds map[inboundKey]*inbound
}

// peer is another node, and what goes there.
type peer struct {
	node   uint64
	ctx    context.Context // ends when the peer is removed or the transport closed
	cancel context.CancelCauseFunc
	slots  slots

	outbox   *outbox
	chunks   *chunks
	caller   *caller
	lanes    [purposeEnd]*lane
	counters [purposeEnd]counters

	mu        sync.Mutex
	at        string        // its address
	roundTrip time.Duration // smoothed
}

// identity is who this node is.
type identity struct{ cluster, node uint64 }

// New starts a transport that has no peers yet. It fails when the configuration cannot be, or when the security is none and
// the listener can be reached from other machines.
func New(config Config, handler Handler) (*Transport, error) {
	checkLimits()
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	if config.Security.mode == insecure && !local(config.Listener.Addr()) {
		return nil, securityError("the listener %s can be reached from other machines: %w", config.Listener.Addr(), errNotLocal)
	}
	t := &Transport{
		config: config, handler: handler, epoch: time.Now(),
		budget: &budget{rate: config.TransferRate, at: time.Now()},
		peers:  map[uint64]*peer{}, shaking: map[net.Conn]uint64{}, inbounds: map[inboundKey]*inbound{},
	}
	if config.Introduce != nil {
		strangers, err := config.Security.introduction(config.Node)
		if err != nil {
			return nil, err
		}
		t.strangers.Store(strangers)
	}
	if config.Cluster != 0 {
		if err := t.Identify(config.Cluster, config.Node); err != nil {
			return nil, err
		}
	}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	t.wait.Go(t.accept)
	return t, nil
}

// Identify tells who this node is, once, when that was not known at the start. Until then no peer can be set, and what would
// be one is refused.
func (t *Transport) Identify(cluster, node uint64) error {
	if cluster == 0 || node == 0 {
		return errors.New("transport: a node needs its id and its cluster's, which are not 0")
	}
	c, err := t.config.Security.credentials(cluster, node)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.identity.Load() != nil {
		return errors.New("transport: this node has its identity already")
	}
	t.credentials.Store(c)
	t.identity.Store(&identity{cluster, node})
	return nil
}

// who is this node; zero before Identify.
func (t *Transport) who() identity {
	if i := t.identity.Load(); i != nil {
		return *i
	}
	return identity{}
}

// Reload takes new credentials, for the connections that are made from now on. Whether there is security cannot be changed.
func (t *Transport) Reload(security Security) error {
	if (security.mode == insecure) != (t.config.Security.mode == insecure) {
		return securityError("it cannot be switched on or off while the node runs")
	}
	own := t.who()
	if t.config.Introduce != nil {
		strangers, err := security.introduction(own.node)
		if err != nil {
			return err
		}
		t.strangers.Store(strangers)
	}
	if own.node != 0 {
		c, err := security.credentials(own.cluster, own.node)
		if err != nil {
			return err
		}
		t.credentials.Store(c)
	}
	return nil
}

// Close cuts all connections and waits for all goroutines, those that serve calls included. Calls of this node end with an error.
func (t *Transport) Close() error {
	t.mu.Lock()
	already := t.closed
	t.closed = true
	t.cancel(ErrClosed)
	var err error
	if !already {
		err = t.config.Listener.Close()
	}
	for raw := range t.shaking {
		_ = raw.Close()
	}
	for _, in := range t.inbounds {
		in.link.cut()
	}
	for _, p := range t.peers {
		p.cut(ErrClosed)
	}
	t.mu.Unlock()
	t.wait.Wait()
	return err
}

// SetPeer makes a node known as a peer, or tells its new address. It is dialled when there is something to send.
func (t *Transport) SetPeer(node uint64, address string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[node]
	switch {
	case t.closed:
		return ErrClosed
	case t.who().node == 0:
		return errors.New("transport: this node does not know yet who it is")
	case node == 0 || node == t.who().node:
		return fmt.Errorf("transport: node %d cannot be a peer of node %d", node, t.who().node)
	case p == nil && len(t.peers) >= PeersMax:
		return fmt.Errorf("transport: %d peers are known; no more are possible", PeersMax)
	case p == nil:
		t.peers[node] = t.newPeer(node, address)
	case p.move(address):
		p.cut(errMoved)
	}
	return nil
}

// RemovePeer cuts all connections of a peer and refuses it from now on. A method of the handler that is being called for the peer may still
// be going on.
func (t *Transport) RemovePeer(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[node]
	if p == nil {
		return
	}
	delete(t.peers, node)
	p.cancel(errRemoved)
	p.cut(errRemoved)
	for purpose := range purposeEnd {
		if in := t.inbounds[inboundKey{node, purpose}]; in != nil {
			in.link.cut() // it stays in the table until it has ended, so that a new one waits for it
		}
	}
}

// newPeer starts a peer's goroutines. REQUIRES: t.mu.
func (t *Transport) newPeer(node uint64, address string) *peer {
	p := &peer{node: node, at: address}
	p.ctx, p.cancel = context.WithCancelCause(t.ctx)
	wakes := [purposeEnd]chan struct{}{}
	for purpose := forMessages; purpose < purposeEnd; purpose++ {
		wakes[purpose] = make(chan struct{}, 1)
	}
	p.outbox = &outbox{bytesMax: t.config.QueueBytes, counters: &p.counters[forMessages], wake: wakes[forMessages]}
	p.chunks = &chunks{
		budget: t.budget, counters: &p.counters[forTransfers], wake: wakes[forTransfers], shards: map[uint16]waiting{},
	}
	p.caller = &caller{node: node, counters: &p.counters[forCalls], wake: wakes[forCalls], sent: map[uint64]*call{}}
	sources := [purposeEnd]source{forMessages: p.outbox, forTransfers: p.chunks, forCalls: p.caller}
	for purpose := forMessages; purpose < purposeEnd; purpose++ {
		l := &lane{
			t: t, p: p, purpose: purpose, source: sources[purpose], counters: &p.counters[purpose],
			wake: wakes[purpose], hurry: make(chan struct{}, 1), doubt: make(chan struct{}, 1),
		}
		p.lanes[purpose] = l
		t.wait.Go(l.run)
	}
	return p
}

func (t *Transport) peer(node uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[node]
}

// Send sends messages of one shard to a node, as soon as the connection takes them; messages for other shards go along. It never
// blocks. It is false when not all could be taken: there is no connection and none to be had at once, too much waits, or a message is
// none that travels, such as a snapshot. What was taken may get lost too.
//
// The slice is the caller's again when Send returns. The messages and all they point to are kept until they are written, and must
// not be changed any more.
func (t *Transport) Send(to uint64, shard uint16, messages []*raftpb.Message) bool {
	p := t.peer(to)
	if p == nil {
		return false
	}
	dropped, unfit := p.outbox.push(shard, messages)
	if unfit != nil {
		t.config.Logger.Error("a message that cannot be sent was dropped", slog.Uint64("node", to), slog.Int("shard", int(shard)),
			slog.String("type", unfit.GetType().String()), slog.Int("entries", len(unfit.Entries)))
	}
	return dropped == 0
}

// SendTransfer sends a chunk or an acknowledgement of a snapshot's transfer. It never blocks, and is false when the chunk was not
// taken. data must not be changed any more.
func (t *Transport) SendTransfer(to uint64, shard uint16, kind uint8, data []byte) bool {
	p := t.peer(to)
	return p != nil && p.chunks.push(chunk{shard, kind, data})
}

// TransfersWait reports whether chunks or acknowledgements of a shard wait to be sent to a peer, by the pace of its connection or of
// TransferRate.
func (t *Transport) TransfersWait(to uint64, shard uint16) bool {
	p := t.peer(to)
	return p != nil && p.chunks.wait(shard)
}

// Call asks a node and waits for its answer. The handler there sees ctx end. Errors say whether it can have seen the call at all: see
// ErrUnreachable and ErrUnknownOutcome. body must not be changed until the call ends, nor after an error.
func (t *Transport) Call(ctx context.Context, to uint64, kind uint8, body []byte) ([]byte, error) {
	p := t.peer(to)
	switch {
	case t.ctx.Err() != nil:
		return nil, fmt.Errorf("call node %d: %w", to, ErrClosed)
	case p == nil:
		return nil, fmt.Errorf("call node %d: %w: %w", to, ErrUnreachable, errNotPeer)
	}
	answer, err := p.caller.do(ctx, kind, body)
	if err != nil {
		return nil, fmt.Errorf("call node %d: %w", to, err)
	}
	return answer, nil
}

// Undelivered reports whether an error of Call says that the other node's handler certainly did not see the call.
func (t *Transport) Undelivered(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, ErrBusy) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrClosed)
}

func (p *peer) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

// move reports whether the address is another one.
func (p *peer) move(address string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	moved := p.at != address
	p.at = address
	return moved
}

// cut ends the connections that were made to the peer.
func (p *peer) cut(cause error) {
	for _, l := range p.lanes {
		if l != nil {
			l.cut(cause)
		}
	}
}

// heard ends the pauses after failures: the peer has just made a connection, so it is there.
func (p *peer) heard() {
	for _, l := range p.lanes {
		if l != nil {
			signal(l.hurry)
		}
	}
}

// doubted says that a connection which the peer made is lost.
func (p *peer) doubted() { signal(p.lanes[forMessages].doubt) }

// hears reports whether a peer has a connection for messages to this node.
func (t *Transport) hears(node uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.inbounds[inboundKey{node, forMessages}] != nil
}

// measured takes the time that a ping took.
func (p *peer) measured(d time.Duration) {
	if d <= 0 || d > time.Minute {
		return // the stamp was not ours
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roundTrip == 0 {
		p.roundTrip = d
	}
	p.roundTrip += (d - p.roundTrip) / 8
}
