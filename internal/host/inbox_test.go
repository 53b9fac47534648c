package host

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
)

// mailbox is a host with a loop that takes messages and does nothing with them.
func mailbox() (*Host, *loop) {
	h := &Host{}
	l := &loop{h: h, id: 1, replica: shard.NewReplicaID(1, 0), signal: make(chan struct{}, 1)}
	l.carrier = &carrier{l: l, signal: make(chan struct{}, 1)}
	h.table.Store(&table{})
	h.list(l)
	return h, l
}

// heard is a message with so many bytes.
func heard(from, to shard.ReplicaID, size int) *raftpb.Message {
	m := &raftpb.Message{Type: raftpb.MsgApp.Enum(), From: new(uint64(from)), To: new(uint64(to))}
	if size > 0 {
		m.Entries = []*raftpb.Entry{{Data: make([]byte, size)}}
	}
	return m
}

// An inbox believes nothing that does not come from the node it names, and has limits on both counts.
func TestInbox(t *testing.T) {
	t.Parallel()
	me, other, old := shard.NewReplicaID(1, 0), shard.NewReplicaID(2, 7), shard.NewReplicaID(1, 9)
	h, l := mailbox()
	check := func(what string, messages int, dropped uint64) {
		t.Helper()
		if len(l.mail.messages) != messages || h.messagesDropped.Load() != dropped {
			t.Errorf("%s: %d messages wait, %d were dropped; want %d and %d", what, len(l.mail.messages), h.messagesDropped.Load(), messages, dropped)
		}
	}
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, 0)})
	check("a message", 1, 0)
	h.Receive(2, 9, []*raftpb.Message{heard(other, me, 0)})
	check("of a shard that is not here", 1, 0)
	h.Receive(2, 1, []*raftpb.Message{heard(other, old, 0)})
	check("for another replica of this node", 1, 0)
	h.Receive(3, 1, []*raftpb.Message{heard(other, me, 0)})
	check("of a node that is another", 1, 1)

	for range InboxMessagesMax - 1 {
		h.Receive(2, 1, []*raftpb.Message{heard(other, me, 0)})
	}
	check("as many as may wait", InboxMessagesMax, 1)
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, 0)})
	check("one more", InboxMessagesMax, 2)

	h, l = mailbox()
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, InboxBytesMax+1)})
	check("a larger one than fits, alone", 1, 0)
	h, l = mailbox()
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, 1), heard(other, me, InboxBytesMax-1), heard(other, me, 0)})
	check("as many bytes as may wait", 3, 0)
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, 1), heard(other, me, 0)})
	check("one byte more", 4, 1)

	for range 2 {
		for node := range uint64(shard.MembersMax + 5) {
			h.PeerDown(node+1, nil)
		}
	}
	if n := len(l.mail.lost); n != shard.MembersMax {
		t.Errorf("%d lost nodes wait", n)
	}
	l.quitted = true
	h.Receive(2, 1, []*raftpb.Message{heard(other, me, 0)})
	check("when the loop is gone", 4, 1)
}

// Chunks of snapshots have limits of their own.
func TestParcels(t *testing.T) {
	t.Parallel()
	h, l := mailbox()
	for range ParcelsMax + 1 {
		h.ReceiveTransfer(2, 1, 1, nil)
	}
	if c := l.carrier; len(c.parcels) != ParcelsMax || h.chunksDropped.Load() != 1 {
		t.Errorf("%d chunks wait, %d were dropped", len(c.parcels), h.chunksDropped.Load())
	}
	h, l = mailbox()
	h.ReceiveTransfer(2, 1, 1, make([]byte, ParcelBytesMax))
	h.ReceiveTransfer(2, 1, 1, make([]byte, 1))
	h.ReceiveTransfer(2, 7, 1, make([]byte, 1))
	if c := l.carrier; len(c.parcels) != 1 || h.chunksDropped.Load() != 1 {
		t.Errorf("%d chunks wait, %d were dropped", len(c.parcels), h.chunksDropped.Load())
	}
}
