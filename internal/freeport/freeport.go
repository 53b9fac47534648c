// Package freeport gives tests addresses for servers that they start later, in processes of their own.
//
// Invariant: until the test ends, no other test on this machine is given the address, and the system gives its port to no connection.
//
// A port that a listener had and gave back is anybody's: the next listener that asks for any port may get it, and so may an outgoing
// connection, before the server comes to bind it. So the ports here are below those that systems give by themselves, and each is guarded
// by a socket for UDP on the same number, which takes nothing from the TCP port and ends with the process at the latest.
//
// It imports nothing of its own, and only tests import it.
package freeport

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

const (
	first    = 20_000 // above the well-known ones of common servers
	ports    = 12_000 // up to 32,000: Linux gives ports by itself from 32,768 on, others from 49,152
	triesMax = 1_000
)

// Address is an address of this machine on which nobody listens, and which is the test's until it ends.
func Address(tb testing.TB) string {
	tb.Helper()
	for range triesMax {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(first+rand.IntN(ports)))
		guard, err := net.ListenPacket("udp", address)
		if err != nil {
			continue // another test's
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = guard.Close() // in use by something that is no test: nothing was sent or received
			continue
		}
		_ = l.Close() // it was only asked whether the port is free
		tb.Cleanup(func() { _ = guard.Close() })
		return address
	}
	tb.Fatalf("none of %d ports from %d to %d is free", triesMax, first, first+ports-1)
	return ""
}
