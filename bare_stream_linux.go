package beaver

import (
	"net"
	"syscall"
)

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall does not name.
const tcpUserTimeout = 0x12

// boundUnanswered makes the connection fail when what was sent is not acknowledged by the other machine for long. Keep-alive
// probes only watch an idle connection.
func boundUnanswered(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil // not a connection of the kernel's
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int((silenceMax + probeMax).Milliseconds()))
	})
	if err != nil {
		return err
	}
	return set
}
