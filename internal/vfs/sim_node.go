package vfs

import (
	"bytes"
	"maps"
	"math/rand/v2"
	"slices"
)

const (
	sectorBytes    = 512
	pageBytes      = 4096
	sectorsPerPage = pageBytes / sectorBytes
)

// epoch marks the pages that a Sim may write in place. A clone shares all pages, and both sides then start a new epoch.
type epoch struct{ _ byte }

type page struct {
	owner *epoch
	data  [pageBytes]byte
}

// node is a file or a directory.
type node struct {
	id  uint64
	dir bool

	entries, durableEntries map[string]*node // of a directory: as seen, and as certain to be on disk

	pages             []*page // as seen; nil is a hole
	size, durableSize int64
	dirty             map[int64]*dirtyPage // by page number: written since the last sync
	// stale holds the disk's page where a failed sync left the cache with newer bytes, marked clean. Nothing but
	// writing the page again brings them to the disk.
	stale map[int64]*page

	handles  int
	unlinked bool
}

// dirtyPage remembers what the disk holds of a page, and which bytes of it were written since.
type dirtyPage struct {
	disk *page // nil is a hole
	mask byteMask
}

// byteMask has a bit for each byte of a page.
type byteMask [pageBytes / 64]uint64

func (m *byteMask) set(lo, hi int) {
	for i := lo; i < hi; i++ {
		if i%64 == 0 && i+64 <= hi {
			m[i/64] = ^uint64(0)
			i += 63
			continue
		}
		m[i/64] |= 1 << (i % 64)
	}
}

// setDifferent sets the bits of the bytes that differ.
func (m *byteMask) setDifferent(a, b *[pageBytes]byte) {
	for i := range a {
		if a[i] != b[i] {
			m.set(i, i+1)
		}
	}
}

func (m *byteMask) has(i int) bool { return m[i/64]&(1<<(i%64)) != 0 }

func (m *byteMask) anyInSector(sector int) bool {
	const words = sectorBytes / 64
	for _, w := range m[sector*words : (sector+1)*words] {
		if w != 0 {
			return true
		}
	}
	return false
}

func (s *Sim) newNode(dir bool) *node {
	s.nodes++
	n := &node{id: s.nodes, dir: dir}
	if dir {
		n.entries, n.durableEntries = make(map[string]*node), make(map[string]*node)
	} else {
		n.dirty, n.stale = make(map[int64]*dirtyPage), make(map[int64]*page)
	}
	return n
}

// dataOf returns a page's content; a hole reads as zeros.
func (s *Sim) dataOf(p *page) *[pageBytes]byte {
	if p == nil {
		return &s.zero.data
	}
	return &p.data
}

func (n *node) page(number int64) *page {
	if number >= int64(len(n.pages)) {
		return nil
	}
	return n.pages[number]
}

// read copies what is seen at offset and returns how many bytes there were.
func (s *Sim) read(n *node, p []byte, offset int64) int {
	if offset >= n.size {
		return 0
	}
	p = p[:min(int64(len(p)), n.size-offset)]
	for done := 0; done < len(p); {
		at := offset + int64(done)
		done += copy(p[done:], s.dataOf(n.page(at / pageBytes))[at%pageBytes:])
	}
	return len(p)
}

// write puts p at offset and returns how many bytes found room. REQUIRES: s.mu.
func (s *Sim) write(n *node, p []byte, offset int64) int {
	done := 0
	for done < len(p) {
		at := offset + int64(done)
		number, lo := at/pageBytes, int(at%pageBytes)
		hi := min(pageBytes, lo+len(p)-done)
		if n.page(number) == nil && !s.allocate(1) {
			break
		}
		s.writePage(n, number, lo, p[done:done+hi-lo])
		done += hi - lo
	}
	if done > 0 {
		n.size = max(n.size, offset+int64(done))
	}
	return done
}

// writePage changes bytes of one page from lo on.
func (s *Sim) writePage(n *node, number int64, lo int, p []byte) {
	for int64(len(n.pages)) <= number {
		n.pages = append(n.pages, nil)
	}
	d, fresh := s.touch(n, number)
	d.mask.set(lo, lo+len(p))
	current := n.pages[number]
	if len(p) == pageBytes && bytes.Equal(p, s.zero.data[:]) {
		n.pages[number] = s.zero
		return
	}
	if fresh || current == nil || current.owner != s.epoch {
		next := &page{owner: s.epoch}
		if len(p) < pageBytes {
			next.data = *s.dataOf(current)
		}
		n.pages[number] = next
	}
	copy(n.pages[number].data[lo:], p)
}

// touch makes a page dirty and keeps what the disk holds of it; fresh when the page was clean. The kept page is shared
// with the cache, so a fresh page must be copied before it is written.
func (s *Sim) touch(n *node, number int64) (d *dirtyPage, fresh bool) {
	if d := n.dirty[number]; d != nil {
		return d, false
	}
	d = &dirtyPage{disk: n.page(number)}
	if disk, stale := n.stale[number]; stale {
		// A page goes to the disk whole, so the lost bytes get another chance; and those that the disk has are as safe as beside
		// any other write.
		d.disk = disk
		d.mask.setDifferent(s.dataOf(disk), s.dataOf(n.page(number)))
		delete(n.stale, number)
	}
	n.dirty[number] = d
	return d, true
}

// truncate sets the size. REQUIRES: s.mu.
func (s *Sim) truncate(n *node, size int64) {
	for number := int64(len(n.pages)) - 1; number*pageBytes >= size; number-- {
		d, _ := s.touch(n, number)
		d.mask.set(0, pageBytes)
		if n.pages[number] != nil {
			s.used--
		}
		n.pages = n.pages[:number]
	}
	if lo := int(size % pageBytes); size < n.size && lo > 0 && n.page(size/pageBytes) != nil {
		s.writePage(n, size/pageBytes, lo, make([]byte, pageBytes-lo))
	}
	n.size = size
}

// synced makes what is seen certain, except where an earlier sync failed.
func (n *node) synced() {
	clear(n.dirty)
	n.durableSize = n.size
}

// syncFailed lets some sectors reach the disk and marks all pages clean, as Linux does: what is seen stays,
// what the disk holds is older, and the next sync succeeds without mending that.
func (s *Sim) syncFailed(n *node) {
	for _, number := range slices.Sorted(maps.Keys(n.dirty)) {
		d := n.dirty[number]
		disk := s.mix(s.rng, n.page(number), d, func(int) fate {
			if s.rng.IntN(2) == 0 {
				return fateLost
			}
			return fateKept
		})
		if number < int64(len(n.pages)) {
			n.stale[number] = disk
		}
	}
	clear(n.dirty)
}

// fate is what a crash does to one sector.
type fate uint8

const (
	fateLost fate = iota
	fateKept
	fateTorn
)

// mix returns the page the disk holds when each written sector meets the fate that decide tells.
func (s *Sim) mix(rng *rand.Rand, seen *page, d *dirtyPage, decide func(sector int) fate) *page {
	out := &page{owner: s.epoch, data: *s.dataOf(d.disk)}
	fresh := s.dataOf(seen)
	same := true
	for sector := range sectorsPerPage {
		if !d.mask.anyInSector(sector) {
			continue
		}
		lo, hi := sector*sectorBytes, (sector+1)*sectorBytes
		switch decide(sector) {
		case fateLost:
			continue
		case fateKept:
			copy(out.data[lo:hi], fresh[lo:hi])
		case fateTorn:
			tear(rng, out.data[lo:hi], fresh[lo:hi], func(i int) bool { return d.mask.has(lo + i) })
		}
		same = false
	}
	if same {
		return d.disk
	}
	return out
}

// tear changes those bytes of disk that were written: up to a point the new ones, or from a point on, or garbage.
func tear(rng *rand.Rand, disk, fresh []byte, written func(int) bool) {
	point, how := rng.IntN(len(disk)+1), rng.IntN(3)
	for i := range disk {
		switch {
		case !written(i):
		case how == 0 && i < point, how == 1 && i >= point:
			disk[i] = fresh[i]
		case how == 2:
			disk[i] = byte(rng.Uint32())
		}
	}
}

// allocate takes room for pages. REQUIRES: s.mu.
func (s *Sim) allocate(pages int64) bool {
	if s.opts.CapacityBytes > 0 && (s.used+pages)*pageBytes > s.opts.CapacityBytes {
		return false
	}
	s.used += pages
	return true
}

// unlinked frees a node's room once neither a name nor a handle is left. REQUIRES: s.mu.
func (s *Sim) unlinked(n *node) {
	n.unlinked = true
	s.release(n)
}

func (s *Sim) release(n *node) {
	if n.unlinked && n.handles == 0 {
		s.used -= n.allocated()
	}
}

func (n *node) allocated() (pages int64) {
	for _, p := range n.pages {
		if p != nil {
			pages++
		}
	}
	return pages
}
