package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// What a relay reads of a peer's connection: its first bytes say who dialled, as docs/format.md draws it under "Between nodes".
const (
	peerMagic         = "BVRPEER\n"
	introductionMagic = "BVRINTR\n"
	peerHelloBytes    = 40
	peerFromOffset    = 24

	relayBufferBytes = 64 << 10
	relayDialMax     = time.Second
)

// peerNetwork is what lies between the nodes of a fleet. It can cut a node off from all others, and needs no privileges for it: each
// node listens behind a relay, whose address is the only one that the others know.
//
// As on a real network, nobody is told of a cut. What was sent into it waits for the end of the cut, as TCP's own repeats would,
// and a connection that is made meanwhile comes to nothing.
type peerNetwork struct {
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup

	mu     sync.Mutex
	cut    map[uint64]bool
	healed chan struct{} // closed when no node is cut off any more; nil: none is
}

func newPeerNetwork() *peerNetwork {
	n := &peerNetwork{cut: make(map[uint64]bool)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// isolate cuts a node off from all others.
func (n *peerNetwork) isolate(node uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[node] = true
	if n.healed == nil {
		n.healed = make(chan struct{})
	}
}

// heal ends all cuts.
func (n *peerNetwork) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	if n.healed != nil {
		close(n.healed)
		n.healed = nil
	}
}

// barrier returns what to wait for before anything may pass between two nodes; nil: nothing. Node 0 is one that did not say who it is:
// nothing of it passes as long as anybody is cut off.
func (n *peerNetwork) barrier(from, to uint64) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] || from == 0 && len(n.cut) > 0 {
		return n.healed
	}
	return nil
}

// close ends all relays and their connections.
func (n *peerNetwork) close() {
	n.cancel()
	n.group.Wait()
}

// relay is where the others reach a node.
type relay struct {
	network *peerNetwork
	node    uint64
	address string
	target  string
	taken   atomic.Int64 // bytes that others have sent to the node

	mu       sync.Mutex
	listener net.Listener // nil: it is shut
}

// relay makes the relay of a node that listens to its peers at target. It is shut: whoever dials is refused, as by a machine on which
// no node runs.
func (n *peerNetwork) relay(node uint64, port int, target string) *relay {
	return &relay{network: n, node: node, address: "127.0.0.1:" + strconv.Itoa(port), target: target}
}

// open takes connections, before the node's process begins.
func (r *relay) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		return nil
	}
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		return fmt.Errorf("open the relay of node %d: %w", r.node, err)
	}
	r.listener = l
	r.network.group.Go(func() { r.accept(l) })
	return nil
}

// shut takes no more connections; those that are there end with the node's process.
func (r *relay) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		_ = r.listener.Close() // nothing is lost with it
		r.listener = nil
	}
}

func (r *relay) accept(l net.Listener) {
	defer context.AfterFunc(r.network.ctx, func() { _ = l.Close() })() // nothing is lost with it
	for {
		conn, err := l.Accept()
		if err != nil {
			return // it is shut
		}
		r.network.group.Go(func() { r.carry(conn) })
	}
}

// carry takes a connection to the node, and what is said by it to and fro.
func (r *relay) carry(dialler net.Conn) {
	defer context.AfterFunc(r.network.ctx, func() { _ = dialler.Close() })()
	defer func() { _ = dialler.Close() }() // whoever dialled dials again
	head, from, err := whoDials(dialler)
	if err != nil || r.network.barrier(from, r.node) != nil {
		r.network.hold(from, r.node)
		return
	}
	node, err := (&net.Dialer{Timeout: relayDialMax}).DialContext(r.network.ctx, "tcp", r.target)
	if err != nil {
		return // the node is down, and whoever dialled learns that
	}
	defer context.AfterFunc(r.network.ctx, func() { _ = node.Close() })()
	defer func() { _ = node.Close() }()
	if _, err := node.Write(head); err != nil {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{dialler, node}, {node, dialler}} {
		both.Go(func() {
			if way[1] == node {
				r.network.pass(way[0], counted{node, &r.taken}, from, r.node)
			} else {
				r.network.pass(way[0], way[1], from, r.node)
			}
			_, _ = dialler.Close(), node.Close() // the other way ends with this one
		})
	}
	both.Wait()
}

// counted is a writer that adds up what is written.
type counted struct {
	io.Writer
	bytes *atomic.Int64
}

func (c counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.bytes.Add(int64(n))
	return n, err
}

// whoDials reads the beginning of a connection, and which node it is of; 0: it does not say.
func whoDials(conn net.Conn) (head []byte, from uint64, err error) {
	head = make([]byte, peerHelloBytes)
	if _, err := io.ReadFull(conn, head[:len(peerMagic)]); err != nil {
		return nil, 0, err
	}
	switch string(head[:len(peerMagic)]) {
	case introductionMagic:
		return head[:len(peerMagic)], 0, nil
	case peerMagic:
	default:
		return nil, 0, errors.New("a connection does not begin as those between nodes do")
	}
	if _, err := io.ReadFull(conn, head[len(peerMagic):]); err != nil {
		return nil, 0, err
	}
	return head, binary.LittleEndian.Uint64(head[peerFromOffset:]), nil
}

// hold waits until nothing is between two nodes.
func (n *peerNetwork) hold(from, to uint64) {
	for healed := n.barrier(from, to); healed != nil; healed = n.barrier(from, to) {
		select {
		case <-healed:
		case <-n.ctx.Done():
			return
		}
	}
}

// pass carries what src says to dst, until one of them ends.
func (n *peerNetwork) pass(src io.Reader, dst io.Writer, from, to uint64) {
	buffer := make([]byte, relayBufferBytes)
	for {
		k, err := src.Read(buffer)
		n.hold(from, to)
		if _, err := dst.Write(buffer[:k]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
