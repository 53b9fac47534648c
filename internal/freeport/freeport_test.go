package freeport

import (
	"net"
	"testing"
)

// TestAddress: a test's addresses differ, can be listened on again and again, and are free for others when the test is over.
func TestAddress(t *testing.T) {
	var last string
	t.Run("while the test runs", func(t *testing.T) {
		seen := make(map[string]bool)
		for range 300 {
			last = Address(t)
			if seen[last] {
				t.Fatalf("%s came twice", last)
			}
			seen[last] = true
		}
		for range 2 {
			l, err := net.Listen("tcp", last)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if guard, err := net.ListenPacket("udp", last); err == nil {
			_ = guard.Close() // the test has failed
			t.Fatal("the address is not guarded")
		}
	})
	guard, err := net.ListenPacket("udp", last)
	if err != nil {
		t.Fatalf("the guard outlives the test: %v", err)
	}
	_ = guard.Close() // it has told what it had to
}
