package sim

import (
	"crypto/rand"
	"encoding/binary"
	"io"
	mathrand "math/rand/v2"
	"sync"
	"time"
)

// chance is one stream of the seed. Each purpose has its own, so that a change to how one is used leaves the others'
// draws as they were: a fault more does not give another load.
type chance struct{ *mathrand.Rand }

// The purposes.
const (
	forPlan uint64 = iota + 1
	forNetwork
	forDisk
	forFaults
	forLoad
	forWorkers
	forNodes
	forElections
	forBugs
	forOperators
	forRot
	forDivergence
	forRumours
	forMembers
	forStops
	forUncommitted
	forKept
	forKeys
)

func newChance(seed, purpose uint64) chance {
	return chance{mathrand.New(mathrand.NewPCG(seed, mix64(0x62656176657273, purpose)))}
}

// percent is true so often in a hundred.
func (c chance) percent(p int) bool { return c.IntN(100) < p }

// permille is true so often in a thousand.
func (c chance) permille(p int) bool { return p > 0 && c.IntN(1000) < p }

// between draws a duration of [lo, hi].
func (c chance) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(c.Int64N(int64(hi-lo)+1))
}

// about draws a duration whose mean is given: exponential, but at most ten times the mean.
func (c chance) about(mean time.Duration) time.Duration {
	return min(time.Duration(c.ExpFloat64()*float64(mean)), 10*mean)
}

// pick draws one element.
func pick[T any](c chance, from []T) T { return from[c.IntN(len(from))] }

// weighted draws an index, each as often as its weight says. One at least is not 0.
func (c chance) weighted(weights []int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	at := c.IntN(sum)
	for i, w := range weights {
		if at -= w; at < 0 {
			return i
		}
	}
	return 0
}

// Read implements io.Reader for crypto/rand.Reader.
func (c chance) Read(p []byte) (int, error) {
	var word [8]byte
	for i := range p {
		if i%8 == 0 {
			binary.LittleEndian.PutUint64(word[:], c.Uint64())
		}
		p[i] = word[i%8]
	}
	return len(p), nil
}

// oneAtATime guards what a run replaces in the process.
var oneAtATime sync.Mutex

// seedElections makes the Raft library's election timeouts follow the seed until the function it returns is called.
func seedElections(seed uint64) (restore func()) {
	oneAtATime.Lock()
	var before io.Reader
	before, rand.Reader = rand.Reader, newChance(seed, forElections)
	return func() {
		rand.Reader = before
		oneAtATime.Unlock()
	}
}
