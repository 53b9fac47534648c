package queue

import (
	"math/bits"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

const (
	// liveWindow is how many indexes a liveSet gathers at once: those of one container of the bitmap.
	liveWindow = 1 << 16
	// liveRangesMax is up to how many ranges of a window are added as ranges. Each costs as much as there are already.
	liveRangesMax = 64
)

// liveSet gathers the entry indexes that an image refers to. They come in short ranges, mostly ascending. A bitmap takes time
// proportional to the ranges it has for each one that is added, which is quadratic when entries with live jobs take turns
// with others; so a window of them is gathered in plain words first.
type liveSet struct {
	set    *roaring64.Bitmap
	window uint64 // index / liveWindow
	words  [liveWindow / 64]uint64
	lo, hi uint64 // the words in use: [lo, hi)
	values []uint64
}

// add adds the indexes first to last, both included, at most indexMax.
func (s *liveSet) add(first, last uint64) {
	for first <= last {
		if window := first / liveWindow; window != s.window {
			s.flush()
			s.window = window
		}
		end := min(last, s.window*liveWindow+liveWindow-1)
		s.mark(first%liveWindow, end%liveWindow)
		first = end + 1
	}
}

// mark sets the bits first to last of the window.
func (s *liveSet) mark(first, last uint64) {
	lo, hi := first/64, last/64+1
	if s.lo == s.hi {
		s.lo, s.hi = lo, hi
	}
	s.lo, s.hi = min(s.lo, lo), max(s.hi, hi)
	for w := lo; w < hi; w++ {
		mask := ^uint64(0)
		if w == first/64 {
			mask <<= first % 64
		}
		if w == last/64 {
			mask &= ^uint64(0) >> (63 - last%64)
		}
		s.words[w] |= mask
	}
}

// flush moves the window into the bitmap.
func (s *liveSet) flush() {
	ranges, carry := 0, uint64(0)
	for _, w := range s.words[s.lo:s.hi] {
		ranges += bits.OnesCount64(w &^ (w<<1 | carry)) // where one begins
		carry = w >> 63
	}
	s.values = s.values[:0]
	from, open := uint64(0), false
	end := func(to uint64) {
		open = false
		if ranges <= liveRangesMax {
			s.set.AddRange(from, to)
			return
		}
		for i := from; i < to; i++ {
			s.values = append(s.values, i)
		}
	}
	for i := s.lo; i < s.hi; i++ {
		base := s.window*liveWindow + i*64
		for at := uint64(0); at < 64; {
			rest := s.words[i] >> at
			if open {
				rest = ^rest
			}
			step := uint64(bits.TrailingZeros64(rest)) // 64 when nothing changes any more
			if at += step; at >= 64 {
				break
			}
			if open {
				end(base + at)
			} else {
				from, open = base+at, true
			}
		}
		s.words[i] = 0
	}
	if open {
		end(s.window*liveWindow + s.hi*64)
	}
	s.set.AddMany(s.values)
	s.lo, s.hi = 0, 0
}
