//go:build unix

package server

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// waitingMax is more than any kernel has connections wait for one listener.
const waitingMax = 1 << 17

// closeWaiting closes the connections that wait to be accepted. The kernel hands them out in the order in which they came, so after
// waitingMax all are gone that wait now.
func closeWaiting(l *net.TCPListener) {
	raw, err := l.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = raw.Control(func(fd uintptr) { // fails when it is closed
		for range waitingMax {
			c, _, err := syscall.Accept(int(fd))
			switch {
			case err == nil:
				_ = syscall.Close(c) // nothing was done with it
			case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ECONNABORTED):
			default:
				return // EAGAIN: nothing waits. With anything else, Accept fails too.
			}
		}
	})
}

// oneWaits reports whether a connection waits to be accepted.
func oneWaits(l *net.TCPListener) bool {
	raw, err := l.SyscallConn()
	if err != nil {
		return false // closed
	}
	waits := true                      // if nobody can tell
	_ = raw.Control(func(fd uintptr) { // fails when it is closed
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		waits = err != nil || n > 0
	})
	return waits
}
