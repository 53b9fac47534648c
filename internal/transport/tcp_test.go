package transport

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

func testSecret() []byte { return bytes.Repeat([]byte("s3cret/"), 5) }

// TestLoopback: everything there is, over real connections, with and without TLS.
func TestLoopback(t *testing.T) {
	for name, security := range map[string]Security{"insecure": Insecure(), "secret": Secret(testSecret())} {
		t.Run(name, func(t *testing.T) {
			h1, h2 := newRecord(), newRecord()
			h2.serve = func(_ context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
				return fmt.Appendf(nil, "%d/%d/%d", from, kind, len(body)), nil
			}
			one, address1 := tcp(t, 1, h1, security)
			two, address2 := tcp(t, 2, h2, security)
			setPeer(t, one, 2, address2)
			setPeer(t, two, 1, address1)

			const count = 2000
			data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14) // 256 KiB
			for i := uint64(1); i <= count; i++ {
				m := appendOf(i, data[:i*100%20_000])
				if i%100 == 0 {
					m = appendOf(i, data)
				}
				if !one.Send(2, uint16(i%3), []*raftpb.Message{m}) {
					// The queue is full: go on when some of it has arrived.
					h2.until(func() bool { return len(h2.messages) >= int(i)-200 })
					if !one.Send(2, uint16(i%3), []*raftpb.Message{m}) {
						t.Fatal("the queue stays full")
					}
				}
			}
			chunk := append([]byte(nil), data...)
			if !one.SendTransfer(2, 5, 9, chunk) {
				t.Fatal("the chunk was not taken")
			}
			answer, err := one.Call(t.Context(), 2, 8, data)
			if err != nil || string(answer) != "1/8/262144" {
				t.Fatalf("%q, %v", answer, err)
			}
			if !two.Send(1, 4, []*raftpb.Message{heartbeat(5)}) {
				t.Fatal("the heartbeat was not taken")
			}
			h1.until(func() bool { return len(h1.messages) == 1 })
			h2.until(func() bool { return len(h2.messages) == count && len(h2.chunks) == 1 })
			for i, r := range h2.arrived() {
				index := uint64(i + 1)
				want := data[:index*100%20_000]
				if index%100 == 0 {
					want = data
				}
				entry := r.message.Entries[0]
				if r.from != 1 || r.shard != uint16(index%3) || entry.GetIndex() != index || !bytes.Equal(entry.Data, want) {
					t.Fatalf("message %d: from %d, shard %d, index %d, %d bytes", i, r.from, r.shard, entry.GetIndex(), len(entry.Data))
				}
			}
			if c := h2.transfers()[0]; c.from != 1 || c.shard != 5 || c.kind != 9 || !bytes.Equal(c.data, chunk) {
				t.Fatalf("chunk from %d, shard %d, kind %d, %d bytes", c.from, c.shard, c.kind, len(c.data))
			}
			s := one.Stats().Peers[0]
			if !s.Messages.Connected || s.Messages.MessagesOut != count || s.Messages.FramesOut > count || s.Calls.MessagesIn != 1 || s.RoundTrip == 0 {
				t.Fatalf("%+v", s)
			}
		})
	}
}
