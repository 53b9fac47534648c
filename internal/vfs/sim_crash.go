package vfs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Outcome is what a crash leaves of the writes and names that were not synced.
type Outcome struct {
	kind outcomeKind
	seed uint64
}

type outcomeKind uint8

const (
	outcomeAllLost outcomeKind = iota
	outcomeAllKept
	outcomeMixed
	outcomeKill
)

// AllLost is a power cut that leaves synced data and synced names only.
func AllLost() Outcome { return Outcome{kind: outcomeAllLost} }

// AllKept is a power cut just after everything happened to reach the disk.
func AllKept() Outcome { return Outcome{kind: outcomeAllKept} }

// Mixed is a power cut that keeps, loses or tears each un-synced sector, and keeps or loses each change of names, by
// the seed. A change of a name is kept only with all earlier changes of that name; a rename is kept or lost whole.
func Mixed(seed uint64) Outcome { return Outcome{kind: outcomeMixed, seed: seed} }

// Killed is the end of the process alone (kill -9): the operating system still holds all that was written, as well as
// its duty to sync it, and what a failed sync lost.
func Killed() Outcome { return Outcome{kind: outcomeKill} }

func (o Outcome) String() string {
	switch o.kind {
	case outcomeAllLost:
		return "all-lost"
	case outcomeAllKept:
		return "all-kept"
	case outcomeKill:
		return "killed"
	case outcomeMixed:
	}
	return fmt.Sprintf("mixed-%d", o.seed)
}

// Crash is CrashClone with Mixed(seed).
func (s *Sim) Crash(seed uint64) *Sim { return s.CrashClone(Mixed(seed)) }

// CrashClone returns the disk as it may be found after a crash at this instant. The Sim itself goes on undisturbed, so a
// test can crash it at every call. The clone has no open handles, locks, hooks or faults, and numbers its calls from 1.
func (s *Sim) CrashClone(o Outcome) *Sim {
	s.mu.Lock()
	defer s.mu.Unlock()
	opts := s.opts
	opts.Hook, opts.ReadHook, opts.Latency = nil, nil, nil
	c := newSim(o.seed, opts)
	cl := cloner{
		from: s, to: c, outcome: o,
		names: s.namesAfter(o),
		nodes: make(map[*node]*node),
		rng:   newRand(o.seed + 1),
	}
	c.root = cl.node(s.root)
	if o.kind == outcomeKill {
		cl.keepPendingNames()
	}
	s.epoch = new(epoch) // the clone shares all pages
	c.epoch = new(epoch)
	return c
}

// cloner copies a disk through a crash.
type cloner struct {
	from, to *Sim
	outcome  Outcome
	names    func(*node) map[string]*node
	nodes    map[*node]*node
	rng      *rand.Rand
}

// node copies a node once, and all below it in the order of names: the order draws from the seed.
func (c *cloner) node(n *node) *node {
	if copied := c.nodes[n]; copied != nil {
		return copied
	}
	out := c.to.newNode(n.dir)
	c.nodes[n] = out
	switch {
	case n.dir:
		names := c.names(n)
		for _, name := range slices.Sorted(maps.Keys(names)) {
			child := c.node(names[name])
			out.entries[name], out.durableEntries[name] = child, child
		}
		if c.outcome.kind == outcomeKill {
			clear(out.durableEntries)
			for _, name := range slices.Sorted(maps.Keys(n.durableEntries)) {
				out.durableEntries[name] = c.node(n.durableEntries[name])
			}
		}
	case c.outcome.kind == outcomeKill:
		c.keepCache(n, out)
	default:
		c.surviving(n, out)
		out.durableSize = out.size
	}
	if out.unlinked = n.unlinked && c.outcome.kind == outcomeKill; !out.unlinked {
		c.to.used += out.allocated()
	}
	return out
}

// surviving fills out with the pages that a power cut leaves of a file.
func (c *cloner) surviving(n, out *node) {
	decide, size := c.fates(n)
	out.size = size
	out.pages = make([]*page, (size+pageBytes-1)/pageBytes)
	copy(out.pages, n.pages)
	set := func(number int64, p *page) {
		if number < int64(len(out.pages)) {
			out.pages[number] = p
		}
	}
	for _, number := range slices.Sorted(maps.Keys(n.stale)) {
		set(number, n.stale[number])
	}
	for _, number := range slices.Sorted(maps.Keys(n.dirty)) {
		d := n.dirty[number]
		if number >= int64(len(n.pages)) && size > n.size {
			set(number, d.disk) // the cut-off part of a file that the crash made long again
			continue
		}
		set(number, c.from.mix(c.rng, n.page(number), d, func(sector int) fate { return decide(number, sector) }))
	}
	if lo := size % pageBytes; lo > 0 { // bytes past the end must read as zeros if the file grows again
		if last := out.pages[size/pageBytes]; last != nil && !bytes.Equal(last.data[lo:], c.from.zero.data[lo:]) {
			cut := &page{owner: c.to.epoch, data: last.data}
			clear(cut.data[lo:])
			out.pages[size/pageBytes] = cut
		}
	}
}

// fates draws one way of losing for the whole file, and its size: disks that write in order, in any order, all, nothing.
func (c *cloner) fates(n *node) (decide func(number int64, sector int) fate, size int64) {
	switch c.outcome.kind {
	case outcomeAllLost, outcomeKill:
		return func(int64, int) fate { return fateLost }, n.durableSize
	case outcomeAllKept:
		return func(int64, int) fate { return fateKept }, n.size
	case outcomeMixed:
	}
	low, high := min(n.size, n.durableSize), max(n.size, n.durableSize)
	size = [...]int64{n.durableSize, n.size, low + c.rng.Int64N(high-low+1)}[c.rng.IntN(3)]
	tearPercent := [...]int{0, 5, 50}[c.rng.IntN(3)]
	if c.from.opts.AtomicSectors {
		tearPercent = 0
	}
	torn := func(otherwise fate) fate {
		if c.rng.IntN(100) < tearPercent {
			return fateTorn
		}
		return otherwise
	}
	switch c.rng.IntN(4) {
	case 0: // nothing, or next to nothing, was on its way
		return func(int64, int) fate { return torn(fateLost) }, size
	case 1:
		return func(int64, int) fate { return torn(fateKept) }, size
	case 2: // in the order of offsets, up to a point and torn there
		point := c.cutPoint(n)
		return func(number int64, sector int) fate {
			switch at := number*sectorsPerPage + int64(sector); {
			case at < point:
				return fateKept
			case at == point:
				return torn(fateLost)
			default:
				return fateLost
			}
		}, size
	default:
		keepPercent := 1 + c.rng.IntN(99)
		return func(int64, int) fate {
			if c.rng.IntN(100) < keepPercent {
				return torn(fateKept)
			}
			return torn(fateLost)
		}, size
	}
}

// cutPoint draws a sector among the dirty ones.
func (c *cloner) cutPoint(n *node) int64 {
	if len(n.dirty) == 0 {
		return 0
	}
	numbers := slices.Sorted(maps.Keys(n.dirty))
	return numbers[c.rng.IntN(len(numbers))]*sectorsPerPage + int64(c.rng.IntN(sectorsPerPage))
}

// keepCache copies a file with all that the operating system knows of it.
func (c *cloner) keepCache(n, out *node) {
	out.pages = slices.Clone(n.pages)
	out.size, out.durableSize = n.size, n.durableSize
	out.stale = maps.Clone(n.stale)
	for number, d := range n.dirty {
		copied := *d
		out.dirty[number] = &copied
	}
}

// keepPendingNames carries the changes of names that still are to be synced over to a killed process's disk.
func (c *cloner) keepPendingNames() {
	at := func(s slot) slot {
		if s.dir == nil {
			return s
		}
		return slot{c.node(s.dir), s.name}
	}
	for _, op := range c.from.pending {
		copied := nameOp{node: c.node(op.node), from: at(op.from), to: at(op.to)}
		for _, d := range op.waits {
			copied.waits = append(copied.waits, c.node(d))
		}
		c.to.pending = append(c.to.pending, copied)
	}
}
