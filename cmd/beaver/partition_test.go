package main

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// echoNode listens as a node would and sends back what comes.
func echoNode(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // nothing is under way
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn) // until the test closes its end
				_ = conn.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// hello connects to a relay and says hello as a node does, which comes back if it passes.
func hello(t *testing.T, from uint64, to *relay) (conn net.Conn, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", to.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed
	b := make([]byte, peerHelloBytes)
	copy(b, peerMagic)
	binary.LittleEndian.PutUint64(b[peerFromOffset:], from)
	say(t, conn, string(b))
	return conn, string(b)
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// comes reports whether a text comes within a time.
func comes(t *testing.T, conn net.Conn, text string, within time.Duration) bool {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	_, err := io.ReadFull(conn, got)
	return err == nil && string(got) == text
}

// TestPeerNetwork: a node that is cut off is so both ways, the others talk on, and after the end of the cut what was held arrives.
func TestPeerNetwork(t *testing.T) {
	network := newPeerNetwork()
	defer network.close()
	var relays [3]*relay
	for i := range relays {
		port, err := freePort()
		if err != nil {
			t.Fatal(err)
		}
		relays[i] = network.relay(uint64(i+1), port, echoNode(t))
		if err := relays[i].open(); err != nil {
			t.Fatal(err)
		}
	}
	const moment, long = 100 * time.Millisecond, 10 * time.Second
	connect := func(from uint64, to *relay) net.Conn {
		t.Helper()
		conn, text := hello(t, from, to)
		if !comes(t, conn, text, long) {
			t.Fatalf("what node %d says to node %d does not arrive", from, to.node)
		}
		return conn
	}
	out, in, others := connect(1, relays[1]), connect(3, relays[0]), connect(3, relays[1])

	network.isolate(1)
	if say(t, others, "on"); !comes(t, others, "on", long) {
		t.Error("two nodes do not talk though neither is cut off")
	}
	for name, conn := range map[string]net.Conn{"out": out, "in": in} {
		if say(t, conn, "held"); comes(t, conn, "held", moment) {
			t.Errorf("a node that is cut off is not: %s", name)
		}
	}
	for _, way := range []struct {
		from uint64
		to   *relay
	}{{2, relays[0]}, {1, relays[2]}, {0, relays[2]}} {
		if conn, text := hello(t, way.from, way.to); comes(t, conn, text, moment) {
			t.Errorf("a new connection from %d to %d passes the cut", way.from, way.to.node)
		}
	}
	network.heal()
	for name, conn := range map[string]net.Conn{"out": out, "in": in} {
		if !comes(t, conn, "held", long) {
			t.Errorf("what was held does not arrive after the cut: %s", name)
		}
	}
	connect(2, relays[0])

	relays[0].shut()
	if conn, err := net.Dial("tcp", relays[0].address); err == nil {
		_ = conn.Close()
		t.Error("a node that does not run is not refused")
	}
	if err := relays[0].open(); err != nil {
		t.Fatal(err)
	}
	connect(2, relays[0])
}
