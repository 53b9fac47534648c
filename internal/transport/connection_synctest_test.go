package transport

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// knock makes a connection by hand, as node 1 to node 2, and gets through the handshake.
func knock(t *testing.T, p *pipes, of purpose) net.Conn {
	t.Helper()
	c, err := p.dial(t.Context(), "node-2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := greet(c, hello{protocolVersion, of, testCluster, 1, 2}); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestViolations: a peer that does not keep to the protocol is cut off, and nothing of the wrong frame is used.
func TestViolations(t *testing.T) {
	le := binary.LittleEndian
	request := func(id uint64) []byte {
		b := le.AppendUint64(appendFrameHead(nil, frameRequest, requestHeadBytes), id)
		return append(b, make([]byte, 8)...)
	}
	for _, c := range []struct {
		name string
		of   purpose
		send []byte
		want string
	}{
		{"unknown kind", forMessages, appendFrameHead(nil, 99, 0), "kind 99"},
		{"another purpose's kind", forMessages, appendFrameHead(nil, frameTransfer, 10), "on a connection for messages"},
		{"the other direction's kind", forCalls, appendFrameHead(nil, frameAnswer, answerHeadBytes), "on a connection for calls"},
		{"a frame over the limit", forTransfers, appendFrameHead(nil, frameTransfer, 1<<31), "2147483648 bytes"},
		{"a batch that lies", forMessages, append(appendFrameHead(nil, frameBatch, 8), 1, 0, 0, 0, 0, 0, 0, 0), "1 messages"},
		{"an id that is under way", forCalls, append(request(4), request(4)...), "two calls with the id 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, h, logs := newPipes(), newRecord(), newLogs()
				h.serve = stuck
				two := p.node(t, 2, h, func(c *Config) { c.Logger = logs.logger() })
				setPeer(t, two, 1, "node-1")
				conn := knock(t, p, c.of)
				if _, err := conn.Write(c.send); err != nil {
					t.Fatal(err)
				}
				if b, _ := io.ReadAll(conn); len(b) > 0 {
					t.Errorf("%x came back", b)
				}
				if text := logs.await("cannot be understood"); !strings.Contains(text, c.want) {
					t.Error(text)
				}
				if len(h.arrived()) > 0 || len(h.transfers()) > 0 {
					t.Error("something reached the handler")
				}
			})
		})
	}
}

// TestReplacedConnection: a peer's new connection ends the one before, and is read when that one is out of the handler's hands.
func TestReplacedConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h := newPipes(), newRecord()
		entered, leave := make(chan struct{}), make(chan struct{})
		h.onMessage = func() {
			entered <- struct{}{}
			<-leave
		}
		two := p.node(t, 2, h, nil)
		setPeer(t, two, 1, "node-1")
		batch := func(commit uint64) []byte {
			return written(t, func(w *frameWriter) {
				o := &outbox{bytesMax: QueueBytesDefault, counters: &counters{}, wake: make(chan struct{}, 1)}
				o.push(1, []*raftpb.Message{heartbeat(commit)})
				o.fill(w)
			})
		}
		first := knock(t, p, forMessages)
		if _, err := first.Write(batch(1)); err != nil {
			t.Fatal(err)
		}
		<-entered
		second := knock(t, p, forMessages)
		go func() { _, _ = second.Write(batch(2)) }()
		synctest.Wait()
		if _, err := first.Read(make([]byte, 1)); err == nil {
			t.Fatal("the first connection is still there")
		}
		select {
		case <-entered:
			t.Fatal("both are in the handler")
		default:
		}
		leave <- struct{}{}
		<-entered
		leave <- struct{}{}
		synctest.Wait()
		if len(h.arrived()) != 2 || h.arrived()[1].message.GetCommit() != 2 {
			t.Fatalf("%v", h.arrived())
		}
	})
}

// TestCloseWaits: when Close returns, no method of the handler is being called, and none will be.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, h1, h2 := newPipes(), newRecord(), newRecord()
		leave := make(chan struct{})
		h2.onMessage = func() { <-leave }
		one, two := p.pair(t, h1, h2, nil)
		one.Send(2, 1, []*raftpb.Message{heartbeat(1)})
		synctest.Wait()
		closed := make(chan struct{})
		go func() {
			_ = two.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("Close did not wait for the handler")
		default:
		}
		close(leave)
		<-closed
		one.Send(2, 1, []*raftpb.Message{heartbeat(2)})
		time.Sleep(time.Minute)
		if len(h2.arrived()) != 1 {
			t.Fatal("a message came after Close")
		}
	})
}
