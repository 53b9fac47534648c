package transport

import (
	"net"
	"syscall"
	"testing"
	"time"
)

func TestUnansweredIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nobody uses it any more
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nobody uses it any more
	if err := boundUnanswered(c, 1234*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var millis int
	var get error
	if err := raw.Control(func(fd uintptr) { millis, get = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout) }); err != nil {
		t.Fatal(err)
	}
	if get != nil || millis != 1234 {
		t.Fatalf("%d ms, %v", millis, get)
	}
}
