package host

import (
	"slices"
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/transfer"
)

// network carries messages between the hosts of one process, at once and in order, unless a node is cut off.
type network struct {
	mu    sync.Mutex
	nodes map[uint64]*node
	cut   map[uint64]bool
	bytes map[uint64]int // of transfers, by receiver
	left  map[uint64]int // how many pieces of snapshots get through to a receiver; all when it has none here
}

func newNetwork() *network {
	return &network{nodes: map[uint64]*node{}, cut: map[uint64]bool{}, bytes: map[uint64]int{}, left: map[uint64]int{}}
}

// plug connects a node.
func (n *network) plug(id uint64, o *node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes[id] = o
}

// link is the network as one node sees it.
type link struct {
	net  *network
	from uint64
}

func (n *network) host(from, to uint64) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] || n.nodes[from] == nil || n.nodes[to] == nil { // what crashed says nothing
		return nil
	}
	return n.nodes[to].Host
}

func (n *network) cutOff(node uint64, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[node] = cut
}

func (n *network) isCut(node uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cut[node]
}

// let lets so many more pieces of snapshots through to a node; all when it is negative.
func (n *network) let(node uint64, pieces int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if delete(n.left, node); pieces >= 0 {
		n.left[node] = pieces
	}
}

// received is how many bytes of snapshots a node was sent.
func (n *network) received(node uint64) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.bytes[node]
}

func (l link) Send(to uint64, id uint16, messages []*raftpb.Message) bool {
	h := l.net.host(l.from, to)
	if h == nil {
		return false
	}
	var copies []*raftpb.Message
	for _, m := range messages {
		c := &raftpb.Message{
			Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit,
			Vote: m.Vote, Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context,
		}
		for _, e := range m.Entries {
			c.Entries = append(c.Entries, &raftpb.Entry{Term: e.Term, Index: e.Index, Type: e.Type, Data: slices.Clone(e.Data)})
		}
		copies = append(copies, c)
	}
	h.Receive(l.from, id, copies)
	return true
}

// TransfersWait implements Transport: everything arrives at once.
func (l link) TransfersWait(uint64, uint16) bool { return false }

func (l link) SendTransfer(to uint64, id uint16, kind uint8, data []byte) bool {
	h := l.net.host(l.from, to)
	if h == nil {
		return false
	}
	l.net.mu.Lock()
	l.net.bytes[to] += len(data)
	left, counted := l.net.left[to]
	counted = counted && transfer.Kind(kind) < transfer.KindAck
	if counted {
		l.net.left[to] = max(left-1, 0)
	}
	l.net.mu.Unlock()
	if counted && left == 0 {
		return false
	}
	h.ReceiveTransfer(l.from, id, kind, slices.Clone(data))
	return true
}
