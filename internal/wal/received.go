package wal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// Received segments hold live entries that a peer sent because this log lacks them (package transfer). They come into the
// log whole, together with a snapshot, and are merged and removed like others. Their sequence numbers have nothing to do
// with tail files, and their order is among themselves only: an entry may be in the tail or in an ordinary segment too, as
// the same committed entry.

// Held is the index up to which this log certainly has all that is live: every entry up to it was here and durable, is
// committed, and was dropped only when it was dead in a snapshot taken or installed here. It ends before the first hole; other
// damage aside: see Missing.
func (l *Log) Held(shard ShardID) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.shards[shard]
	if s == nil {
		return 0
	}
	held := min(s.durableLast, max(s.durableCommit, s.snapshot, s.durableFirst-1))
	if first, _ := s.holes(s.first); first > 0 {
		held = min(held, first-1)
	}
	return held
}

// Retained returns the newest snapshot that Retain told of, and its live set, which must not be changed; nil when there is
// none.
func (l *Log) Retained(shard ShardID) (snapshot uint64, live *roaring64.Bitmap) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.shards[shard]; s != nil && s.live != nil {
		return s.snapshot, s.live
	}
	return 0, nil
}

// cursor walks the places of a shard's entries in ascending order of what it is asked for. Payloads are not looked at.
type cursor struct {
	runs  [][2]uint64 // [first, next) of each
	lists [2]rowCursor
}

// rowCursor walks the rows of segments that ascend.
type rowCursor struct {
	segments []*segment
	row      int // of the first segment
}

// find returns the row of an index that is not below those asked for before.
func (c *rowCursor) find(index uint64) (segEntry, bool) {
	for len(c.segments) > 0 && c.segments[0].last() < index {
		c.segments, c.row = c.segments[1:], 0
	}
	if len(c.segments) == 0 {
		return segEntry{}, false
	}
	g := c.segments[0]
	for g.index(c.row) < index {
		c.row++
	}
	return g.entries[c.row], g.index(c.row) == index
}

func (l *Log) cursor(shard ShardID) cursor {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var c cursor
	if s := l.shards[shard]; s != nil {
		for i, segments := range s.segmentLists() {
			c.lists[i].segments = segments
		}
		for i := range s.runs {
			c.runs = append(c.runs, [2]uint64{s.runs[i].first, s.runs[i].next()})
		}
	}
	return c
}

// tail reports whether the entry is in a tail file or in memory.
func (c *cursor) tail(index uint64) bool {
	for len(c.runs) > 0 && c.runs[0][1] <= index {
		c.runs = c.runs[1:]
	}
	return len(c.runs) > 0 && c.runs[0][0] <= index
}

// segment returns the row of the entry in a segment.
func (c *cursor) segment(index uint64) (segEntry, bool) {
	for i := range c.lists {
		if e, ok := c.lists[i].find(index); ok {
			return e, true
		}
	}
	return segEntry{}, false
}

// Missing counts the entries of a set, up to an index, that are nowhere in this log, and names the first. It looks at
// names, not at payloads, and takes a third of a second for ten million.
func (l *Log) Missing(shard ShardID, set *roaring64.Bitmap, upTo uint64) (count, first uint64) {
	c := l.cursor(shard)
	for it := set.Iterator(); it.HasNext() && it.PeekNext() <= upTo; {
		index := it.Next()
		if c.tail(index) {
			continue
		}
		if _, ok := c.segment(index); ok {
			continue
		}
		if count == 0 {
			first = index
		}
		count++
	}
	return count, first
}

// LiveBytes counts the entries of a set that are in this log, and the bytes of their data.
func (l *Log) LiveBytes(shard ShardID, set *roaring64.Bitmap) (entries, bytes uint64) {
	c := l.cursor(shard)
	for it := set.Iterator(); it.HasNext(); {
		index := it.Next()
		size, ok := sizeAndType(0), false
		if c.tail(index) {
			size, ok = l.tailSize(shard, index)
		}
		if !ok { // also when it was retired meanwhile
			var e segEntry
			e, ok = c.segment(index)
			size = e.size
		}
		if ok {
			entries++
			bytes += uint64(size.bytes())
		}
	}
	return entries, bytes
}

func (l *Log) tailSize(shard ShardID, index uint64) (sizeAndType, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	e, ok := l.shards[shard].find(index)
	return e.size, ok
}

// NextReceived is the sequence number after those of all received segments of a shard.
func (l *Log) NextReceived(shard ShardID) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.shards[shard]; s != nil && len(s.received) > 0 {
		return s.received[len(s.received)-1].lastSeq + 1
	}
	return 1
}

// Installation is a snapshot from a peer that was decided to be installed, and the live entries that came with it.
type Installation struct {
	Shard       ShardID
	Index, Term uint64 // of the snapshot
	Held        uint64 // Held when the entries were asked for: they lie above it
	// Dir is where the segments that an Intake wrote are, on the same file system, and Segments their names there. Those
	// that are in the log already are left alone.
	Dir      string
	Segments []string
}

// Install takes the segments into the log, and makes the snapshot the base of the shard's tail, as InstallSnapshot does; the
// snapshot's file must be durable in its place. All is durable when Flush has returned the position. It may be called again
// after a crash with the same installation. It waits for a step of Maintain, and Flush may go on beside it.
//
// Errors are final. A *CorruptError says that a segment is missing or damaged.
func (l *Log) Install(in Installation) (Position, error) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.RLock()
	err := l.usable()
	l.mu.RUnlock()
	if err != nil {
		return 0, err
	}
	if m := l.keeper.merge; m != nil && m.shard == in.Shard {
		l.keeper.abandon()
	}
	if err = l.install(in); err != nil {
		return 0, l.fail(fmt.Errorf("install snapshot %d of shard %d: %w", in.Index, in.Shard, err))
	}
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.pending.end(), nil
}

func (l *Log) install(in Installation) error {
	taken, err := l.take(in)
	if err != nil {
		return err
	}
	covered, err := l.receive(in, taken)
	if err != nil {
		return err
	}
	for _, g := range covered {
		l.handles.drop(g)
		if err := l.fs.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a segment that was received again: %w", err)
		}
	}
	return nil
}

// take moves received segments into the directory of live segments, and opens them. The first may cover older ones, with
// which the others do not get on: it goes alone. REQUIRES: l.keeping.
func (l *Log) take(in Installation) ([]*segment, error) {
	if len(in.Segments) == 0 {
		return nil, nil
	}
	dir := l.liveDir(in.Shard)
	if err := l.fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("make directory of segments: %w", err)
	}
	var taken []*segment
	for i, base := range in.Segments {
		id, ok := parseSegmentName(base)
		if !ok || !id.received {
			return nil, fmt.Errorf("%s is no name of a received segment", base)
		}
		name := path.Join(dir, base)
		err := l.fs.Rename(path.Join(in.Dir, base), name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("take received segment: %w", err)
		}
		g, err := l.openReceived(name, in.Shard, id)
		if err != nil {
			return nil, err
		}
		taken = append(taken, g)
		if i == 0 || i == len(in.Segments)-1 {
			if err := errors.Join(l.syncDir(dir), l.syncDir(in.Dir)); err != nil {
				return nil, err
			}
		}
	}
	return taken, nil
}

// openReceived opens a received segment. A *CorruptError says that it is missing, or that nothing of it is left.
func (l *Log) openReceived(name string, shard ShardID, id segmentID) (*segment, error) {
	g, rebuilt, err := openOrRebuild(l.fs, name, shard, id, l.opts.KeepHoles)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: name, Shard: shard, Reason: "a segment that was received is missing"}
	}
	if err == nil && rebuilt != nil && (len(g.entries) == 0 || !rebuilt.Whole && !l.opts.KeepHoles) {
		err = rebuilt.damage()
	}
	return g, err
}

// Received looks at the segments of an installation that a crash interrupted, and changes nothing: moved is true when one is not where it
// was received, so that this log has it, or had. A *CorruptError says which one is missing or damaged, so that Install would fail.
func (l *Log) Received(in Installation) (moved bool, err error) {
	var damage error
	for _, base := range in.Segments {
		id, ok := parseSegmentName(base)
		if !ok || !id.received {
			return false, fmt.Errorf("%s is no name of a received segment", base)
		}
		name := path.Join(in.Dir, base)
		switch _, err := l.fs.Stat(name); {
		case errors.Is(err, fs.ErrNotExist):
			moved, name = true, path.Join(l.liveDir(in.Shard), base)
		case err != nil:
			return false, fmt.Errorf("look for a received segment: %w", err)
		}
		_, err := l.openReceived(name, in.Shard, id)
		if _, damaged := errors.AsType[*CorruptError](err); err != nil && !damaged {
			return false, err
		}
		if damage == nil {
			damage = err
		}
	}
	return moved, damage
}

// receive puts received segments and the snapshot's place into the index. It returns the segments that were replaced.
// REQUIRES: l.keeping.
func (l *Log) receive(in Installation, taken []*segment) (covered []*segment, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shardFor(in.Shard)
	err = l.installSnapshot(in.Shard, in.Index, in.Term, in.Held)
	if err != nil && !errors.Is(err, ErrCompacted) { // compacted: a crash came after it was installed
		return nil, err
	}
	var kept []*segment
	for _, g := range s.received {
		same := func(n *segment) bool { return n.segmentID == g.segmentID }
		covers := func(n *segment) bool { return n.firstSeq <= g.firstSeq && g.lastSeq <= n.lastSeq }
		switch {
		case slices.ContainsFunc(taken, same): // Open found it.
			taken = slices.DeleteFunc(taken, same)
			kept = append(kept, g)
		case slices.ContainsFunc(taken, covers):
			covered = append(covered, g)
		default:
			kept = append(kept, g)
		}
	}
	kept = append(kept, taken...)
	slices.SortFunc(kept, func(a, b *segment) int { return cmp.Compare(a.firstSeq, b.firstSeq) })
	for i := 1; i < len(kept); i++ {
		if a, b := kept[i-1], kept[i]; b.firstSeq <= a.lastSeq || b.first <= a.last() {
			return nil, &CorruptError{File: b.name, Shard: in.Shard, Index: b.first, Reason: "the segment overlaps " + a.name}
		}
	}
	s.received = kept
	return covered, nil
}

// InstallSnapshot makes a durable snapshot of a shard, received from a peer, the base of its tail: First becomes index+1.
// When the tail holds the very entry that the snapshot ends with, the two agree, and nothing else changes: the entries
// above index may be acknowledged already, and those up to index stay readable until Retain says that they are dead.
// Otherwise the entries above index are void and the next one is index+1; of those up to index only those stay readable
// that are known committed, by the hard state or by Retain, which is therefore to be called first after Open.
//
// Durable with the next Flush. ErrCompacted when the tail already begins behind index+1; ErrConflict, and nothing is
// changed, when an entry known committed is at the index and has another term.
func (l *Log) InstallSnapshot(shard ShardID, index, term uint64) error {
	if index == 0 || index == ^uint64(0) {
		return fmt.Errorf("install a snapshot of shard %d at index %d: no such index", shard, index)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.installSnapshot(shard, index, term, 0)
}

// installSnapshot is InstallSnapshot with entries up to held known committed. REQUIRES: l.mu.
func (l *Log) installSnapshot(shard ShardID, index, term, held uint64) error {
	if err := errors.Join(l.usable(), l.closedTo(shard)); err != nil {
		return err
	}
	s := l.shardFor(shard)
	if index+1 < s.first {
		return fmt.Errorf("install a snapshot of shard %d at index %d, before %d: %w", shard, index, s.first, ErrCompacted)
	}
	s.complete = true // what the snapshot refers to may come later
	have, known := s.termOf(index)
	committed := index <= min(s.last, max(s.hard.Commit, s.snapshot, held)) || s.gapAt(index) != nil
	switch {
	case known && have == term, !known && committed: // What is committed agrees with every snapshot; of a gap see lost.go.
		s.become(shardState{hard: s.hard, first: index + 1, prevTerm: term, known: true, last: s.last})
		l.appendShardState(shard, s)
		return nil
	case known && committed:
		return fmt.Errorf("install a snapshot of shard %d at index %d, term %d: the committed entry there has term %d: %w",
			shard, index, term, have, ErrConflict)
	}
	st := s.shardState
	st.last = min(s.last, max(s.hard.Commit, s.snapshot, held, s.first-1))
	s.become(st)
	l.unwantAbove(s, s.last)
	l.appendShardState(shard, s)
	s.become(shardState{hard: s.hard, first: index + 1, prevTerm: term, known: true, last: index})
	l.appendShardState(shard, s)
	return nil
}
