package host

import (
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Transport carries what replicas say to those on other nodes. It is bounded and best effort: what is sent may be lost, late,
// repeated or out of order. Its methods never block, and any goroutine may call them. What comes from other nodes it hands to
// Host.Receive and Host.ReceiveTransfer, and it tells Host.PeerDown what was lost, and Host.PeerGone whose process has ended.
type Transport interface {
	// Send sends messages to replicas of a shard on a node. It is false when not all were taken. It may keep the messages, which
	// nobody changes, and not the slice.
	Send(to uint64, shard uint16, messages []*raftpb.Message) bool
	// SendTransfer sends a chunk of a snapshot, or an acknowledgement; kind is that of package transfer. It is false when there is
	// no room: the chunk is offered again later. It may keep data, which nobody changes.
	SendTransfer(to uint64, shard uint16, kind uint8, data []byte) bool
	// TransfersWait reports whether some of what SendTransfer has taken for a node, of a shard, has not left yet. What waits of other
	// shards does not count: that of this one may be lost meanwhile, as when a connection broke.
	TransfersWait(to uint64, shard uint16) bool
}

// mail is what other nodes, and the way to them, have for a loop.
type mail struct {
	messages []*raftpb.Message
	bytes    int // of their entries
	lost     []shard.NodeID
	gone     []shard.NodeID
}

func entryBytes(m *raftpb.Message) (n int) {
	for _, e := range m.GetEntries() {
		n += len(e.GetData())
	}
	return n
}

// Receive takes messages that a node sent to a shard. They are the host's from then on. Dropped and counted are those that do not
// come from where they say, and those that find no room; ignored are those for another replica than the one that runs here.
// It never blocks, and any goroutine may call it.
func (h *Host) Receive(from uint64, id uint16, messages []*raftpb.Message) {
	l := h.loop(shard.ID(id))
	if l == nil {
		return
	}
	l.mu.Lock()
	for _, m := range messages {
		switch {
		case shard.ReplicaID(m.GetTo()) != l.replica || l.quitted:
		case uint64(shard.ReplicaID(m.GetFrom()).Node()) != from:
			h.messagesDropped.Add(1)
		default:
			size := entryBytes(m)
			if n := len(l.mail.messages); n >= InboxMessagesMax || n > 0 && l.mail.bytes+size > InboxBytesMax {
				h.messagesDropped.Add(1)
				continue
			}
			l.mail.messages = append(l.mail.messages, m)
			l.mail.bytes += size
		}
	}
	l.mu.Unlock()
	l.poke()
}

// ReceiveTransfer takes a chunk of a snapshot, or an acknowledgement, that a node sent to a shard. It is the host's from then on,
// and dropped when there is no room. It never blocks, and any goroutine may call it.
func (h *Host) ReceiveTransfer(from uint64, id uint16, kind uint8, data []byte) {
	if l := h.loop(shard.ID(id)); l != nil && l.carrier != nil {
		l.carrier.receive(parcel{from, kind, data})
	}
}

// PeerDown says that messages to a node were lost. Any goroutine may call it.
func (h *Host) PeerDown(node uint64, _ error) {
	h.tell(shard.NodeID(node), func(m *mail) *[]shard.NodeID { return &m.lost })
}

// PeerGone says that a node's process has ended, by all signs: its groups need not wait until they miss it. Any goroutine may call it.
func (h *Host) PeerGone(node uint64) {
	h.tell(shard.NodeID(node), func(m *mail) *[]shard.NodeID { return &m.gone })
}

// tell puts a node on a list of each loop's mail.
func (h *Host) tell(node shard.NodeID, list func(*mail) *[]shard.NodeID) {
	for _, l := range h.table.Load().loops {
		if l.alone { // Should it have got company since, the group finds out by itself.
			continue
		}
		l.mu.Lock()
		if nodes := list(&l.mail); len(*nodes) < shard.MembersMax && !slices.Contains(*nodes, node) {
			*nodes = append(*nodes, node)
		}
		l.mu.Unlock()
		l.poke()
	}
}

// PeerUp says that messages to a node have a connection. There is nothing to do: who answers is reached.
func (h *Host) PeerUp(uint64) {}

// send gives messages to the network, those for one node together.
func (l *loop) send(messages []*raftpb.Message) {
	if l.h.opts.Transport == nil {
		return
	}
	for i, m := range messages {
		to := shard.ReplicaID(m.GetTo())
		sent := slices.ContainsFunc(messages[:i], func(o *raftpb.Message) bool { return shard.ReplicaID(o.GetTo()).Node() == to.Node() })
		if sent {
			continue
		}
		l.sending = l.sending[:0]
		for _, o := range messages[i:] {
			if shard.ReplicaID(o.GetTo()).Node() == to.Node() {
				l.sending = append(l.sending, o)
			}
		}
		if !l.h.opts.Transport.Send(uint64(to.Node()), uint16(l.id), l.sending) {
			l.rep.Unreachable(to)
		}
	}
	clear(l.sending)
}

// unpack gives the replica what the network brought.
func (l *loop) unpack(now replica.Instant, m *mail) error {
	for _, msg := range m.messages {
		if err := l.rep.Step(msg); err != nil {
			return err
		}
	}
	clear(m.messages)
	for _, node := range m.gone {
		if err := l.rep.PeerGone(now, node); err != nil {
			return err
		}
	}
	if len(m.lost) > 0 {
		members := l.rep.Members()
		for _, set := range [][]shard.ReplicaID{members.Voters, members.Outgoing, members.Learners} {
			for _, r := range set {
				if r != l.replica && slices.Contains(m.lost, r.Node()) {
					l.rep.Unreachable(r)
				}
			}
		}
	}
	return nil
}
