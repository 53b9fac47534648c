package beaver_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/beaver-raft/beaver"
)

// TestForeignServer: who reaches another program by mistake is told so, and not what HTTP/2 thinks of its bytes.
func TestForeignServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { answerBadRequests(l, &served) })
	t.Cleanup(func() {
		_ = l.Close() // which ends the loop
		served.Wait()
	})
	c, err := beaver.NewClient(beaver.Config{Addr: "http://" + l.Addr().String(), RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Queues(t.Context()); err == nil || !strings.Contains(err.Error(), "does not speak HTTP/2") {
		t.Errorf("a call ended with: %v", err)
	}
	// A stream that is written to when the answer comes may also end with what the write met.
	if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"}); err == nil {
		t.Error("a job was stored by a server that stores none")
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// answerBadRequests answers the first bytes of every connection as a plain HTTP/1.1 server does that does not understand
// them, and then listens on until the client hangs up: one that hangs up first may reset the connection, and its answer with it.
func answerBadRequests(l net.Listener, served *sync.WaitGroup) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		served.Go(func() {
			defer func() { _ = conn.Close() }() // the client has gone
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				return
			}
			if _, err := io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn) // until the client hangs up, in whatever way
		})
	}
}
