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
// waitingMax all are gone that wait now. It reports whether they are: there may be no file handle to take one by.
func closeWaiting(l *net.TCPListener) (all bool) {
	raw, err := l.SyscallConn()
	if err != nil {
		return true // closed
	}
	_ = raw.Control(func(fd uintptr) { // fails when it is closed
		for range waitingMax {
			c, _, err := syscall.Accept(int(fd))
			switch {
			case err == nil:
				_ = syscall.Close(c) // nothing was done with it
			case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.ECONNABORTED):
			default:
				all = errors.Is(err, syscall.EAGAIN) // nothing waits. With anything else, Accept fails too.
				return
			}
		}
		all = true
	})
	return all
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
