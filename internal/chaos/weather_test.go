package chaos

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// outside is the place of all who are no node: clients, workers and operators. Nodes have the places from 1 on.
const outside = 0

// direction is the way from one place to another.
type direction struct{ from, to int }

// between is both ways between one place and some others.
func between(place int, others ...int) (ways []direction) {
	for _, o := range others {
		ways = append(ways, direction{place, o}, direction{o, place})
	}
	return ways
}

// spell is bad weather on some ways of the network, as long as it lasts.
type spell struct {
	ways          []direction
	cut           bool // nothing gets through
	lossPermille  int
	delay, jitter time.Duration // what is delayed may be overtaken
	hits          atomic.Int64  // what it met: without any, nothing happened
}

// weather is what becomes of what is sent from place to place. Spells may overlap.
type weather struct {
	mu     sync.Mutex // of who changes spells
	spells atomic.Pointer[[]*spell]
}

func newWeather() *weather {
	w := &weather{}
	w.spells.Store(new([]*spell))
	return w
}

func (w *weather) begin(s *spell) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := append(slices.Clone(*w.spells.Load()), s)
	w.spells.Store(&all)
}

// end ends a spell, and reports whether it met anything.
func (w *weather) end(s *spell) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(*w.spells.Load()), func(o *spell) bool { return o == s })
	w.spells.Store(&all)
	return s.hits.Load() > 0
}

// cut reports whether nothing gets through from place to place now, and counts it as met.
func (w *weather) cut(d direction) bool {
	for _, s := range *w.spells.Load() {
		if s.cut && slices.Contains(s.ways, d) {
			s.hits.Add(1)
			return true
		}
	}
	return false
}

// fate says what becomes of one packet: it is lost, or comes after a delay.
func (w *weather) fate(rng *rand.Rand, d direction) (lost bool, delay time.Duration) {
	if w.cut(d) {
		return true, 0
	}
	for _, s := range *w.spells.Load() {
		if !slices.Contains(s.ways, d) {
			continue
		}
		if s.lossPermille > 0 && rng.IntN(1000) < s.lossPermille {
			s.hits.Add(1)
			return true, 0
		}
		if s.delay > 0 {
			s.hits.Add(1)
			delay += s.delay + upTo(rng, s.jitter+1)
		}
	}
	return false, delay
}

// upTo draws a duration below a bound.
func upTo(rng *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(rng.Int64N(max(int64(most), 1)))
}

// addresses are those of one node: where it listens, and where others reach it.
type addresses struct {
	listen, public           string // for clients
	peerListen, publicToPeer string // for other nodes
}

// network connects places, under some weather.
type network interface {
	// String says what it is made of.
	String() string
	// settle makes a place ready for a node.
	settle(place int) (addresses, error)
	// named tells which node is at a place.
	named(id uint64, place int)
	// leave frees a place whose node is gone for good.
	leave(place int)
	// run runs start, which starts a process, so that the process is at a place.
	run(place int, start func() error) error
	// secured reports whether nodes need a secret: else they speak in the clear.
	secured() bool
	close()
}
