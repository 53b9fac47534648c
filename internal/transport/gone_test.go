package transport

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// TestGone: whoever talked to a peer hears at once, and without having something to say, that its process has ended.
func TestGone(t *testing.T) {
	for name, security := range map[string]Security{"insecure": Insecure(), "secret": Secret(testSecret())} {
		t.Run(name, func(t *testing.T) {
			h1, h2 := newRecord(), newRecord()
			one, address1 := tcp(t, 1, h1, security)
			two, address2 := tcp(t, 2, h2, security)
			setPeer(t, one, 2, address2)
			setPeer(t, two, 1, address1)
			one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
			h2.until(func() bool { return len(h2.messages) > 0 })
			two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
			h1.until(func() bool { return len(h1.messages) > 0 })
			if err := two.Close(); err != nil {
				t.Fatal(err)
			}
			h1.until(func() bool { return len(h1.gone) > 0 })
			if h1.gone[0] != 2 {
				t.Fatalf("node %d is gone, want 2", h1.gone[0])
			}
		})
	}
}

// TestNotGone: a peer that talks to this node is not gone, even though nobody listens at the address that is known of it.
func TestNotGone(t *testing.T) {
	h1, h2 := newRecord(), newRecord()
	one, address1 := tcp(t, 1, h1, Insecure())
	two, _ := tcp(t, 2, h2, Insecure())
	unused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wrong := unused.Addr().String()
	if err := unused.Close(); err != nil {
		t.Fatal(err)
	}
	setPeer(t, one, 2, wrong)
	setPeer(t, two, 1, address1)
	two.Send(1, 1, []*raftpb.Message{heartbeat(1)})
	h1.until(func() bool { return len(h1.messages) > 0 })
	one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
	if cause := h1.failure(); !errors.Is(cause, syscall.ECONNREFUSED) {
		t.Fatal(cause)
	}
	if err := one.Close(); err != nil { // waits for the report
		t.Fatal(err)
	}
	if len(h1.gone) > 0 {
		t.Fatalf("nodes %v are said to be gone", h1.gone)
	}
}
