package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// Config describes a node's end of the cluster's connections. Zero means the default, where there is one.
type Config struct {
	// Cluster and Node are who this node is. With Introduce, Cluster may be 0 until Identify tells it, and so may Node.
	Cluster, Node uint64
	// Introduce answers nodes that introduce themselves before they have anything to do with each other's cluster: founders to
	// each other, and whoever wants to join. It is called by several goroutines at once, and ctx ends after IntroductionTimeMax.
	// Nil refuses them, and so does an error, which is logged.
	Introduce func(ctx context.Context, from Introduced, body []byte) (answer []byte, err error)
	// Listener takes the peers' connections. It belongs to the transport once New has succeeded.
	Listener net.Listener
	// Security is how nodes know each other. Without any, only loopback addresses may talk to each other.
	Security Security
	// Logger takes what happens to connections; nil discards it.
	Logger *slog.Logger
	// Dial makes a connection to a peer's address; nil is TCP. It returns soon after ctx ends.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Era numbers the times between which this node stood still, so that what may have waited for it meanwhile can be told: see EraOf. Nil:
	// that does not matter. Any goroutine calls it.
	Era func() uint64

	// PingInterval is how often each connection asks for a sign of life. It and SilenceMax are the same on all nodes.
	PingInterval time.Duration
	// SilenceMax is how long a connection may bring nothing, or take nothing, before it is cut. A peer must be able to take in
	// the largest entry in this time. At least four times PingInterval.
	SilenceMax time.Duration
	// DialTimeout bounds an attempt to connect, with its handshake.
	DialTimeout time.Duration
	// BackoffMin and BackoffMax bound the pause after a failed attempt; each is drawn from the upper half of its length.
	BackoffMin, BackoffMax time.Duration
	// QueueBytes bounds the entry data that waits for one peer.
	QueueBytes int
	// TransferRate is how many bytes of transfers go out a second, to all peers together, from TransferRateMin to TransferRateMax; -1 is
	// no limit.
	TransferRate int
}

// Handler takes what peers send. Its methods are called by several goroutines at once; messages and transfers of one peer come from
// one goroutine each, in the order of their sending. They must not block for long, since the peer waits for signs of life from the same
// goroutine (ServeCall excepted), and must not call Close. What they are given belongs to them, but for the body of a call.
//
// from is verified: it is the node that the connection belongs to. What the messages say of their sender is not: a handler that relies on
// Message.From holds it against from.
type Handler interface {
	// Receive takes messages for one shard. They may lack some that were sent before; none comes twice or out of order.
	Receive(from uint64, shard uint16, messages []*raftpb.Message)
	// ReceiveTransfer takes a chunk or an acknowledgement of a snapshot's transfer.
	ReceiveTransfer(from uint64, shard uint16, kind uint8, data []byte)
	// ServeCall answers a call, on a goroutine of its own. body is its own until it returns, and the answer may be a part of it. ctx
	// ends with the caller's: at its deadline, when it gives up, when the connection is lost. The caller gets the answer, or the error's
	// text as a *RemoteError; an error after the end of ctx is an unknown outcome to it.
	ServeCall(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error)
	// PeerUp tells that messages to a peer have a connection from now on.
	PeerUp(node uint64)
	// PeerDown tells that an attempt to connect failed or that a connection for messages was lost; what waited for the peer was
	// dropped. It is told at each attempt; those are made when there is something to send, and after a connection was lost.
	PeerDown(node uint64, cause error)
	// PeerGone tells that a peer's process has ended, by all signs: its connections for messages are lost, and its machine says that
	// nobody listens at its address. It may be wrong, as when the peer has moved or something on the way says so.
	PeerGone(node uint64)
}

// withDefaults fills in what is zero, and refuses what cannot be.
func (c Config) withDefaults() (Config, error) {
	c.PingInterval = orDefault(c.PingInterval, PingIntervalDefault)
	c.SilenceMax = orDefault(c.SilenceMax, SilenceMaxDefault)
	c.DialTimeout = orDefault(c.DialTimeout, DialTimeoutDefault)
	c.BackoffMin = orDefault(c.BackoffMin, BackoffMinDefault)
	c.BackoffMax = orDefault(c.BackoffMax, BackoffMaxDefault)
	c.QueueBytes = orDefault(c.QueueBytes, QueueBytesDefault)
	c.TransferRate = orDefault(c.TransferRate, TransferRateDefault)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		dialer := net.Dialer{KeepAlive: -1} // pings do it
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	switch {
	case (c.Cluster == 0 || c.Node == 0) && c.Introduce == nil, c.Node == 0 && c.Cluster != 0:
		return c, errors.New("transport: a node needs its id and its cluster's, which are not 0")
	case c.Listener == nil:
		return c, errors.New("transport: a listener is missing")
	case c.PingInterval < 0 || c.DialTimeout < 0 || c.QueueBytes < 0:
		return c, errors.New("transport: times and sizes are not negative")
	case c.SilenceMax < 4*c.PingInterval:
		return c, fmt.Errorf("transport: SilenceMax %v must be at least four times PingInterval %v, or a late ping cuts a good connection", c.SilenceMax, c.PingInterval)
	case c.BackoffMin < 0 || c.BackoffMax < c.BackoffMin:
		return c, fmt.Errorf("transport: BackoffMax %v is below BackoffMin %v", c.BackoffMax, c.BackoffMin)
	case c.QueueBytes < MessageBytesMax:
		return c, fmt.Errorf("transport: QueueBytes %d must be at least %d, or the largest message can never be sent", c.QueueBytes, MessageBytesMax)
	case c.TransferRate != -1 && (c.TransferRate < TransferRateMin || c.TransferRate > TransferRateMax):
		return c, fmt.Errorf("transport: TransferRate is %d to %d bytes a second, or -1 for no limit", TransferRateMin, TransferRateMax)
	}
	return c, nil
}

func orDefault[T time.Duration | int](value, fallback T) T {
	if value == 0 {
		return fallback
	}
	return value
}
