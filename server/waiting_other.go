//go:build !unix

package server

import (
	"errors"
	"net"
	"os"
	"time"
)

// waitingTime is enough to take up what the system has wait for one listener: some hundreds.
const waitingTime = 100 * time.Millisecond

// closeWaiting closes the connections that wait to be accepted, and those that come meanwhile: here is no call that accepts only what waits.
// It reports whether none was left.
func closeWaiting(l *net.TCPListener) (all bool) {
	for until := time.Now().Add(waitingTime); time.Now().Before(until); {
		if l.SetDeadline(until) != nil {
			return true // closed
		}
		c, err := l.Accept()
		switch {
		case err == nil:
			_ = c.Close() // nothing was done with it
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false // Accept fails too
		}
	}
	_ = l.SetDeadline(time.Time{}) // fails when it is closed
	return true
}

// oneWaits would report whether a connection waits to be accepted: nobody can tell, so one may.
func oneWaits(*net.TCPListener) bool { return true }
