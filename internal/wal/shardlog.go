package wal

import (
	"sort"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// tailEntry locates one entry of the contiguous tail. A million small entries may be here: 24 bytes each.
type tailEntry struct {
	pos  Position // of its frame's header in the stream of appends
	term uint64
	size sizeAndType
	crc  uint32 // of the data
}

// sizeAndType packs the data's length (24 bits) and the entry type (8 bits).
type sizeAndType uint32

func packSize(dataBytes int, entryType uint8) sizeAndType {
	if dataBytes > EntryBytesMax { // the arguments of a check that holds would allocate
		invariant.Check(false, "entry of %d bytes passed the limit", dataBytes)
	}
	return sizeAndType(dataBytes)<<8 | sizeAndType(entryType)
}

func (s sizeAndType) bytes() int       { return int(s >> 8) }
func (s sizeAndType) entryType() uint8 { return uint8(s) }
func (s sizeAndType) frame() int64     { return frameBytes(s.bytes()) }

// tailRun is a run of consecutive indexes.
type tailRun struct {
	first   uint64
	entries []tailEntry
}

func (r *tailRun) next() uint64 { return r.first + uint64(len(r.entries)) }

// shardLog is the index of one shard's part of the log. All fields are guarded by Log.mu; those marked M are changed
// only by Maintain's goroutine, which may therefore read them without the lock.
type shardLog struct {
	shardState

	// runs holds what is in tail files and buffers. The last run ends at last; the others were cut off by an installed
	// snapshot and wait for their files to retire. Entries below first may still be here.
	runs []tailRun

	segments []*segment // M: those of retired tail files, ascending in sequence and index; the slice is never changed
	received []*segment // M: those received from peers, likewise

	snapshot     uint64            // newest durable snapshot that Retain told of
	fallback     bool              // that one may refer to entries that are gone
	complete     bool              // M, and InstallSnapshot: all live entries were looked for once since Open
	missing      bool              // M: and some were nowhere
	live         *roaring64.Bitmap // its live set; nil when not yet told
	accounted    *roaring64.Bitmap // M: the live set that the segments' live bytes reflect
	accountedAt  uint64            // M: the snapshot of that live set
	durableFirst uint64            // first as durable in the tail: only what is below it may be retired
	durableLast  uint64            // last as durable in the tail: what sealed files hold above it was replaced for good

	durableCommit uint64 // commit index as durable in the tail

	wanted map[uint64]*want // entries found damaged: see mend.go
	gaps   []gap            // of the tail, ascending: see lost.go
	damage *CorruptError    // why the shard is lost
	torn   bool             // for what its segments are; else it may have lost what it promised

	incomplete *CorruptError // what may have taken entries and their names
	barren     []*segment    // M: segments of which nothing can be read

	// While Open reads on.
	doubt    *doubt
	hardLost *CorruptError // the hard state may have been lost

	mendable bool // peers may be asked for them
}

func newShardLog() *shardLog {
	return &shardLog{shardState: blankState, runs: []tailRun{{first: 1}}, durableFirst: 1}
}

func (s *shardLog) tail() *tailRun { return &s.runs[len(s.runs)-1] }

// find returns the tail's entry at index.
func (s *shardLog) find(index uint64) (tailEntry, bool) {
	for i := len(s.runs) - 1; i >= 0; i-- {
		if r := &s.runs[i]; index >= r.first {
			if index < r.next() {
				return r.entries[index-r.first], true
			}
			return tailEntry{}, false
		}
	}
	return tailEntry{}, false
}

// term of an entry, if known.
func (s *shardLog) termOf(index uint64) (uint64, bool) {
	if index+1 == s.first {
		return s.prevTerm, s.known
	}
	e, ok := s.find(index)
	return e.term, ok
}

// truncate voids everything above last.
func (s *shardLog) truncate(last uint64) {
	for len(s.runs) > 1 && s.tail().first > last+1 {
		s.runs = s.runs[:len(s.runs)-1]
	}
	r := s.tail()
	switch n := last + 1 - r.first; {
	case last+1 < r.first, n > 0 && len(r.entries) == 0:
		*r = tailRun{first: last + 1}
	case n < uint64(len(r.entries)):
		r.entries = r.entries[:n]
	case n > uint64(len(r.entries)): // the end is in a gap
		s.runs = append(s.runs, tailRun{first: last + 1})
	}
	s.last = last
	s.cutGaps()
}

// push adds the entry after last.
func (s *shardLog) push(e tailEntry) {
	r := s.tail()
	if r.next() != s.last+1 {
		invariant.Check(false, "tail ends at %d, its run before %d", s.last, r.next())
	}
	r.entries = append(r.entries, e)
	s.last++
}

// jump makes last the last index although the entries up to it are not here.
func (s *shardLog) jump(last uint64) {
	invariant.Check(last > s.last, "jump back from %d to %d", s.last, last)
	if r := s.tail(); len(r.entries) == 0 {
		r.first = last + 1
	} else {
		s.runs = append(s.runs, tailRun{first: last + 1})
	}
	s.last = last
}

// become applies a state frame.
func (s *shardLog) become(st shardState) {
	switch {
	case st.last < s.last:
		s.truncate(st.last)
	case st.last > s.last:
		s.jump(st.last)
	}
	s.shardState = st
	s.cutGaps()
}

// between returns the runs' entries whose frames are in [from, to), without copying.
func (r *tailRun) between(from, to Position) (first uint64, entries []tailEntry) {
	lo := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].pos >= from })
	hi := sort.Search(len(r.entries), func(i int) bool { return r.entries[i].pos >= to })
	return r.first + uint64(lo), r.entries[lo:hi]
}

// forget drops the entries whose frames are before the position.
func (s *shardLog) forget(before Position) {
	kept := s.runs[:0]
	for i := range s.runs {
		r := s.runs[i]
		_, gone := r.between(0, before)
		r.first += uint64(len(gone))
		r.entries = r.entries[len(gone):]
		if cap(r.entries) > 64 && len(gone) > 3*len(r.entries) {
			r.entries = append([]tailEntry(nil), r.entries...) // let the old array go
		}
		if len(r.entries) > 0 || i == len(s.runs)-1 {
			kept = append(kept, r)
		}
	}
	s.runs = kept
}

// segmentLists returns the shard's segments by their origin.
func (s *shardLog) segmentLists() [2][]*segment { return [2][]*segment{s.received, s.segments} }

// segmentOf returns the segment that holds index, and its place there. One that was received goes first, since it was asked
// for because this log lacked it; but not when the peer had only its name.
func (s *shardLog) segmentOf(index uint64) (*segment, int, bool) {
	g, n, ok := findSegment(s.received, index)
	if ok && !g.entries[n].nameOnly() {
		return g, n, true
	}
	if own, m, found := findSegment(s.segments, index); found {
		return own, m, true
	}
	return g, n, ok
}

// findSegment looks for index in segments that ascend.
func findSegment(segments []*segment, index uint64) (*segment, int, bool) {
	i := sort.Search(len(segments), func(i int) bool { return segments[i].first > index })
	if i == 0 {
		return nil, 0, false
	}
	g := segments[i-1]
	n, ok := g.find(index)
	return g, n, ok
}
