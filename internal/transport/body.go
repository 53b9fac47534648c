package transport

import (
	"math/bits"
	"sync"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// bodies lends the memory of requests' bodies again and again. A batch of forwarded jobs is about 100 KiB that live for a millisecond:
// to have each cleared and collected takes longer than to read it. The zero value is ready, and any goroutine may use it.
type bodies struct {
	pool sync.Pool // of *[]byte, with room for bodyKeepBytesMin to bodyKeepBytesMax
}

// get returns memory for n bytes, whose contents are what was there before.
func (p *bodies) get(n int) []byte {
	if n < bodyKeepBytesMin || n > bodyKeepBytesMax {
		return make([]byte, n)
	}
	if b, _ := p.pool.Get().(*[]byte); b != nil && cap(*b) >= n {
		return (*b)[:n]
	}
	return make([]byte, n, 1<<bits.Len(uint(n-1))) // a power of two, so that sizes which differ a little share it
}

// put takes memory back that nobody refers to any more.
func (p *bodies) put(b []byte) {
	if c := cap(b); c < bodyKeepBytesMin || c > bodyKeepBytesMax {
		return
	}
	if invariant.Expensive { // Whoever still reads it shall notice.
		for i := range b {
			b[i] = 0xdb
		}
	}
	p.pool.Put(&b)
}
