package transport

import (
	"bytes"
	"sync"
	"testing"
)

// TestBodies: memory of the sizes that are kept serves for others, and no other memory is kept.
func TestBodies(t *testing.T) {
	var p bodies
	for _, n := range []int{0, 1, bodyKeepBytesMin - 1, bodyKeepBytesMin, bodyKeepBytesMin + 1, 100_000, bodyKeepBytesMax - 1, bodyKeepBytesMax, bodyKeepBytesMax + 1} {
		for _, before := range []int{0, bodyKeepBytesMin - 1, bodyKeepBytesMin, 70_000, bodyKeepBytesMax, bodyKeepBytesMax + 1} {
			p.put(make([]byte, before))
			b := p.get(n)
			if len(b) != n {
				t.Fatalf("%d bytes after one of %d: %d", n, before, len(b))
			}
		}
	}
	for range 100 {
		if b := p.get(bodyKeepBytesMin); cap(b) > bodyKeepBytesMax {
			t.Fatalf("room for %d bytes was kept", cap(b))
		}
	}
	p.put(nil)
}

// TestBodiesAreNotShared: no body is lent twice at a time.
func TestBodiesAreNotShared(t *testing.T) {
	var p bodies
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 200 {
				b := p.get(bodyKeepBytesMin + n)
				for k := range b {
					b[k] = byte(i)
				}
				if bytes.Count(b, []byte{byte(i)}) != len(b) {
					t.Error("somebody else wrote into it")
				}
				p.put(b)
			}
		})
	}
	all.Wait()
}
