package server

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/engine"
)

// still is clocks that a test lets jump, as those of a machine that was suspended.
type still struct{ ahead atomic.Int64 }

func (s *still) by() time.Duration     { return time.Duration(s.ahead.Load()) }
func (s *still) stand(d time.Duration) { s.ahead.Add(int64(d)) }

// keptConn is a connection that a client keeps.
type keptConn struct {
	net.Conn
	in *bufio.Reader
}

func keep(t *testing.T, addr string) *keptConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &keptConn{c, bufio.NewReader(c)}
}

// ask sends an enqueue of a session.
func (c *keptConn) ask(t *testing.T, sequence int) {
	t.Helper()
	body := fmt.Sprintf(`{"session":"AAAAAAAAAAAAAAAAAAAAAQ==","sequence":%d,"queue":"q"}`, sequence)
	if _, err := fmt.Fprintf(c, "POST /beaver.v1.JobService/Enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
}

func (c *keptConn) answer(t *testing.T) (status int, body string) {
	t.Helper()
	res, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

// TestStoodStill: a node that stood still refuses what comes by a connection from before, and closes it. Clients go on by new ones, and
// nothing is stored twice.
func TestStoodStill(t *testing.T) {
	var clocks still
	n := newTestNode(t, Options{ahead: clocks.by})
	kept, idle := keep(t, n.Addr()), keep(t, n.Addr())
	for _, c := range []*keptConn{kept, idle} {
		c.ask(t, 1)
		if status, body := c.answer(t); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	remote, err := beaver.Open(t.Context(), n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	near, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*beaver.Client{remote, near} {
		t.Cleanup(func() { _ = c.Close(t.Context()) })
		if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "others"}); err != nil {
			t.Fatal(err)
		}
	}

	clocks.stand(time.Hour)
	kept.ask(t, 1)
	if status, body := kept.answer(t); status != http.StatusServiceUnavailable || !strings.Contains(body, engine.ReasonWaited) {
		t.Errorf("a request that may have waited: %d %s", status, body)
	}
	for _, c := range []*keptConn{kept, idle} {
		if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("the connection is not closed: %v", err)
		}
	}
	fresh := keep(t, n.Addr())
	fresh.ask(t, 2)
	if status, body := fresh.answer(t); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	for _, c := range []*beaver.Client{remote, near} {
		if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "others"}); err != nil {
			t.Error(err)
		}
	}
	for queue, want := range map[string]uint64{"q": 2, "others": 4} {
		q, err := remote.Queue(t.Context(), queue)
		if err != nil {
			t.Fatal(err)
		}
		if q.Ready != want {
			t.Errorf("queue %s has %d jobs, want %d", queue, q.Ready, want)
		}
	}
}

// gateUnderTest is a gate before a TCP listener.
func gateUnderTest(t *testing.T, most int) (*gate, *still) {
	t.Helper()
	var clocks still
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := newGate(l, most, newWatch(clocks.by))
	t.Cleanup(func() { _ = g.Close() })
	return g, &clocks
}

// accepting has a gate accept one connection.
func accepting(t *testing.T, g *gate) <-chan net.Conn {
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := g.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	}()
	return accepted
}

// isCut reports whether the other side has closed a connection.
func (c *keptConn) isCut() bool {
	_, err := c.Read(make([]byte, 1))
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

// TestGateStoodStill: connections that waited to be accepted while the node stood still are closed, and the next one is let in.
func TestGateStoodStill(t *testing.T) {
	g, clocks := gateUnderTest(t, 0)
	var waited []*keptConn
	for range 5 {
		waited = append(waited, keep(t, g.Addr().String()))
	}
	clocks.stand(time.Hour)
	accepted := accepting(t, g)
	for _, c := range waited {
		if !c.isCut() {
			t.Error("a connection that waited is open")
		}
	}
	c := letIn(t, g, accepted).(*gatedConn)
	if c.Era() != 2 {
		t.Errorf("the connection is of era %d, want 2", c.Era())
	}
	clocks.stand(time.Hour)
	if g.closeEarlier(); len(g.open) != 0 {
		t.Error("a connection of an earlier era is open")
	}
}

// TestGateIsWoken: a gate that waits for a connection while the node stands still lets the next one in, once it is woken.
func TestGateIsWoken(t *testing.T) {
	g, clocks := gateUnderTest(t, 0)
	accepted := accepting(t, g)
	clocks.stand(time.Hour)
	g.wake()
	if c := letIn(t, g, accepted).(*gatedConn); c.Era() != 2 {
		t.Errorf("the connection is of era %d, want 2", c.Era())
	}
}

// letIn connects until a connection is accepted: one that comes while the gate closes what waited is closed with it.
func letIn(t *testing.T, g *gate, accepted <-chan net.Conn) net.Conn {
	t.Helper()
	for {
		c := keep(t, g.Addr().String())
		if err := c.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		c.isCut() // or that time has passed
		select {
		case in := <-accepted:
			return in
		default:
		}
	}
}

// TestGateNotFullAnyMore: a gate that was full once, and behind which nothing waited then, lets in all who come later, be it by minutes.
func TestGateNotFullAnyMore(t *testing.T) {
	g, clocks := gateUnderTest(t, 1)
	accepts := func(want *keptConn) {
		t.Helper()
		c, err := g.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if c.RemoteAddr().String() != want.LocalAddr().String() {
			t.Errorf("%v was let in, want %v: those before it were closed", c.RemoteAddr(), want.LocalAddr())
		}
		_ = c.Close()
	}
	g.full, g.fullFrom = true, g.watch.Reading(time.Now()) // as Accept finds it
	accepts(keep(t, g.Addr().String()))
	g.look() // as Accept does next
	for range 20 {
		clocks.stand(engine.StillTick)
		g.watch.Tick()
	}
	one, two := keep(t, g.Addr().String()), keep(t, g.Addr().String())
	accepts(one)
	accepts(two)
}

// noHandles is a listener that has no file handle for a connection.
type noHandles struct{ net.Listener }

func (noHandles) Accept() (net.Conn, error) { return nil, syscall.EMFILE }

// TestGateWithoutHandles: while nothing can be accepted, what waits grows old as it does when there is no room, and the room is given back.
func TestGateWithoutHandles(t *testing.T) {
	g, _ := gateUnderTest(t, 1)
	g.Listener = noHandles{g.Listener}
	for range 3 {
		if _, err := g.Accept(); !errors.Is(err, syscall.EMFILE) {
			t.Fatal(err)
		}
	}
	if !g.full || len(g.slots) != 0 {
		t.Errorf("full: %v, with %d connections open", g.full, len(g.slots))
	}
}

// TestGateFull: what waits for room for longer than StillMax is closed, and the next one gets its turn.
func TestGateFull(t *testing.T) {
	g, clocks := gateUnderTest(t, 1)
	keep(t, g.Addr().String())
	open, err := g.Accept()
	if err != nil {
		t.Fatal(err)
	}
	g.full, g.fullFrom = true, g.watch.Reading(time.Now()) // as Accept finds it
	waits := keep(t, g.Addr().String())
	for range 20 {
		clocks.stand(engine.StillTick)
		g.watch.Tick()
	}
	_ = open.Close()
	accepted := accepting(t, g)
	if !waits.isCut() {
		t.Error("a connection that waited for too long is open")
	}
	_ = letIn(t, g, accepted).Close()
}
