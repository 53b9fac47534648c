package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Mending: what is damaged here is whole on a peer. A damaged entry is noted by its name; whoever talks to the peers (package
// transfer) asks Wanted for names and gives Mend what they sent. An entry is the same on all replicas where it is committed, and
// wherever it has this index and this term, so it takes the damaged one's place: it is read from memory at once, and
// written by Maintain. Nothing is promised by it that was not promised before.
//
// Crash points: an entry of the tail is written over its own damaged frame, byte for byte what was there. Torn, it is
// as damaged as before, and keeps its name. The frames beside it are not touched: a write is assumed not to harm them
// (powersafe overwrite). A segment is written anew and takes the old one's name, as when a lone one is compacted. What is only
// in memory when the process ends is found damaged again.

// ErrNotNamed: the entry is not the one whose name was damaged here.
var ErrNotNamed = errors.New("another entry than the damaged one")

// Name is what is known of a damaged entry.
type Name struct {
	Index uint64
	Term  uint64 // 0: not known

	// Known says that the rest is; otherwise the entry is whatever the group committed at Index.
	Known bool
	Type  uint8
	Bytes int
	CRC   uint32
}

// Names reports whether an entry with that checksum is the one that is named.
func (n *Name) Names(e *Entry, crc uint32) bool {
	return e.Index == n.Index && e.Term != 0 && (n.Term == 0 || e.Term == n.Term) &&
		(!n.Known || e.Type == n.Type && len(e.Data) == n.Bytes && crc == n.CRC)
}

// want is a damaged entry.
type want struct {
	name  Name
	entry *Entry // mended, and not written yet
	crc   uint32 // of entry
	lost  bool   // no peer has it
	done  chan struct{}
}

// settle lets go who waits for it.
func (w *want) settle() {
	select {
	case <-w.done:
	default:
		close(w.done)
	}
}

// SetMendable says whether a shard has peers that may be asked for what is damaged.
func (l *Log) SetMendable(shard ShardID, mendable bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shardFor(shard).mendable = mendable
}

// IsDamage reports whether an error of a read says that an entry is damaged, or on a sector that the disk cannot read. A log that has
// failed says nothing of its entries, though its error may tell of the sector that could not be written.
func IsDamage(err error) bool {
	if errors.Is(err, ErrClosed) || errors.Is(err, errFinal) {
		return false
	}
	_, damaged := errors.AsType[*CorruptError](err)
	return damaged || errors.Is(err, syscall.EIO)
}

// NoteDamage notes that an entry was found damaged, so that peers are asked for it. The channel is closed when another read may
// succeed, or the peers do not have it either; it is nil when nobody can be asked.
func (l *Log) NoteDamage(shard ShardID, index uint64) <-chan struct{} {
	name, ok := l.name(shard, index)
	if !ok {
		return nil
	}
	return l.note(shard, &name)
}

// note notes a name, unless the log has moved on since it was found out: what is at the index now may be another entry, in whose
// place the named one must never be read.
func (l *Log) note(shard ShardID, name *Name) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, index := l.shards[shard], name.Index
	if e, ok := s.find(index); ok && (!name.Known || name.Term != e.term || name.Bytes != e.size.bytes() || name.CRC != e.crc) ||
		index > s.last || s.dead(index) {
		return nil // if that is damaged too, it is found when it is read
	}
	w := s.wanted[index]
	switch {
	case w == nil && len(s.wanted) >= wantedMax:
		w = &want{done: make(chan struct{})} // it is noted when it is found again
	case w == nil:
		w = &want{name: *name, done: make(chan struct{})}
		if s.wanted == nil {
			s.wanted = make(map[uint64]*want)
		}
		s.wanted[index] = w
	}
	if !s.mendable || w.lost {
		return nil
	}
	return w.done
}

// name finds what is known of an entry that is needed.
func (l *Log) name(shard ShardID, index uint64) (Name, bool) {
	l.mu.RLock()
	s := l.shards[shard]
	if s == nil || l.closed || index > s.last || s.dead(index) {
		l.mu.RUnlock()
		return Name{}, false
	}
	name := Name{Index: index}
	if e, ok := s.find(index); ok {
		l.mu.RUnlock()
		name.know(e.term, e.size, e.crc)
		return name, true
	}
	g, row, ok := s.segmentOf(index)
	if !ok || g.entries[row].nameOnly() {
		l.mu.RUnlock()
		return name, ok || s.live != nil && index <= s.snapshot
	}
	e := g.entries[row]
	err := l.handles.hold(l.fs, g)
	l.mu.RUnlock()
	term := uint64(0)
	if err == nil {
		term = g.term(row)
		g.mu.RUnlock()
	}
	name.know(term, e.size, e.crc)
	return name, true
}

func (n *Name) know(term uint64, size sizeAndType, crc uint32) {
	n.Term, n.Known, n.Type, n.Bytes, n.CRC = term, true, size.entryType(), size.bytes(), crc
}

// term reads the term of a row: from its frame, if the header of that is whole, or from the index block, if that is in the same file and
// whole; else it is 0.
// A term that is wrong would have every peer's entry refused. REQUIRES: the file is held.
func (g *segment) term(row int) uint64 {
	e := g.entries[row]
	var head [frameHeaderBytes]byte
	if readFull(g.file, head[:], e.offset()) == nil {
		if h, err := decodeHeader(head[:], g.fileID(), e.offset()); err == nil && h.index == g.index(row) {
			return h.term
		}
	}
	var b [segmentIndexBytes]byte
	if g.kept != nil || !g.indexWhole() || readFull(g.file, b[:], fileHeaderBytes+g.bytes+int64(row)*segmentIndexBytes) != nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b[8:])
}

// indexWhole reads whether the index block is still what it was when the file was opened. REQUIRES: the file is held.
func (g *segment) indexWhole() bool {
	at := fileHeaderBytes + g.bytes
	end := at + int64(len(g.entries))*segmentIndexBytes
	var b [fileHeaderBytes]byte
	if readFull(g.file, b[:], end) != nil {
		return false
	}
	foot, err := decodeSegmentHeader(b[:], footerMagic, g.name)
	if err != nil || foot.segmentID != g.segmentID {
		return false
	}
	crc, piece := uint32(0), make([]byte, min(end-at, scanBytes))
	for ; at < end; at += int64(len(piece)) {
		piece = piece[:min(end-at, int64(len(piece)))]
		if readFull(g.file, piece, at) != nil {
			return false
		}
		crc = updateChecksum(crc, piece)
	}
	return crc == foot.indexCRC
}

// dead reports whether nothing refers to an entry below the tail any more. REQUIRES: Log.mu.
func (s *shardLog) dead(index uint64) bool {
	return index < s.first && s.live != nil && index <= s.snapshot && !s.live.Contains(index)
}

// Wanted returns the names of up to count damaged entries that were noted and not mended, from an index on, in order.
func (l *Log) Wanted(shard ShardID, from uint64, count int) []Name {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.shards[shard]
	if s == nil || len(s.wanted) == 0 {
		return nil
	}
	var names []Name
	for index, w := range s.wanted {
		if index >= from && w.entry == nil {
			names = append(names, w.name)
		}
	}
	slices.SortFunc(names, func(a, b Name) int {
		if a.Index < b.Index {
			return -1
		}
		return 1
	})
	return names[:min(count, len(names))]
}

// Mend takes an entry from a peer in the place of one that is damaged, and copies it. One without a whole name must be known
// committed by the peer. What is not damaged or mended already is left alone. Maintain writes it. Errors, after which nothing
// has changed: ErrNotNamed, ErrBacklogged (let Maintain go on, then try again), ErrClosed.
func (l *Log) Mend(shard ShardID, e *Entry) error {
	crc := checksum(e.Data)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	s := l.shards[shard]
	if s == nil || s.wanted[e.Index] == nil || s.wanted[e.Index].entry != nil {
		return nil
	}
	w := s.wanted[e.Index]
	switch {
	case len(e.Data) > EntryBytesMax || !w.name.Names(e, crc):
		return fmt.Errorf("mend entry %d of shard %d: %w", e.Index, shard, ErrNotNamed)
	case l.mendedBytes+int64(len(e.Data)) > mendBytesMax:
		return ErrBacklogged
	}
	w.entry, w.crc = &Entry{Index: e.Index, Term: e.Term, Type: e.Type, Data: slices.Clone(e.Data)}, crc
	l.mendedBytes += int64(len(e.Data))
	w.settle()
	return nil
}

// GiveUp says that no peer has a damaged entry: nobody waits for it any more. It stays wanted, and Mend still takes it.
func (l *Log) GiveUp(shard ShardID, index uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.shards[shard]; s != nil && s.wanted[index] != nil {
		s.wanted[index].lost = true
		s.wanted[index].settle()
	}
}

// unwant forgets a damaged entry: it was written, replaced or is dead. REQUIRES: l.mu.
func (l *Log) unwant(s *shardLog, index uint64) {
	w := s.wanted[index]
	if w == nil {
		return
	}
	if w.entry != nil {
		l.mendedBytes -= int64(len(w.entry.Data))
	}
	w.settle()
	delete(s.wanted, index)
}

// unwantAbove forgets the damaged entries above an index, which are void. REQUIRES: l.mu.
func (l *Log) unwantAbove(s *shardLog, last uint64) {
	for index := range s.wanted {
		if index > last {
			l.unwant(s, index)
		}
	}
}

// unwantDead forgets the damaged entries that nothing refers to any more. REQUIRES: l.mu.
func (l *Log) unwantDead(s *shardLog) {
	for index := range s.wanted {
		if s.dead(index) {
			l.unwant(s, index)
		}
	}
}

// mended returns the entry that takes a damaged one's place, and its checksum; nil when there is none.
func (l *Log) mended(shard ShardID, index uint64) (*Entry, uint32) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if w := l.shards[shard].wanted[index]; w != nil {
		return w.entry, w.crc
	}
	return nil, 0
}

// mendedIn lists a shard's mended entries that are not written, in order: those of the tail, and those below it.
func (l *Log) mendedIn(s *shardLog) (tail, below []uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for index, w := range s.wanted {
		if w.entry == nil {
			continue
		}
		if _, ok := s.find(index); ok {
			tail = append(tail, index)
		} else if s.accounted != nil && s.accounted.Contains(index) && !l.tooEarly(s, index) {
			below = append(below, index)
		}
	}
	slices.Sort(tail)
	slices.Sort(below)
	return tail, below
}

// tooEarly reports whether an entry that no file holds, but one of the tail's gaps, must wait for entries below it that are still in the
// tail: segments are in the order of their entries. REQUIRES: l.mu.
func (l *Log) tooEarly(s *shardLog, index uint64) bool {
	if _, _, held := s.segmentOf(index); held {
		return false
	}
	return slices.ContainsFunc(s.runs, func(r tailRun) bool { return len(r.entries) > 0 && r.first < index })
}

// mendTail writes one mended entry of the tail over its damaged frame. It reports whether there was one.
func (l *Log) mendTail() (bool, error) {
	for _, id := range l.Shards() {
		l.mu.RLock()
		s := l.shards[id]
		l.mu.RUnlock()
		tail, _ := l.mendedIn(s)
		if len(tail) == 0 {
			continue
		}
		e, crc := l.mended(id, tail[0])
		l.mu.RLock()
		t, ok := s.find(tail[0])
		if !ok || e == nil || t.pos >= l.durable {
			l.mu.RUnlock()
			continue // replaced meanwhile
		}
		f := l.fileAt(t.pos)
		l.mu.RUnlock()
		if err := f.rewrite(id, e, crc, f.offset(t.pos)); err != nil {
			return false, err
		}
		l.mu.Lock()
		if now, ok := s.find(e.Index); ok && now.pos == t.pos {
			l.unwant(s, e.Index)
			l.stats.EntriesMended++
		}
		l.mu.Unlock()
		return true, nil
	}
	return false, nil
}

// rewrite writes an entry's frame where it was, but for a header that is good. All that lies before it in the file is durable,
// which a new header says.
// Readers are kept out, since they must not see a part of it; the flusher is not, since it writes elsewhere.
func (f *tailFile) rewrite(shard ShardID, e *Entry, crc uint32, offset int64) error {
	h := frameHeader{kind: kindEntry, entryType: e.Type, shard: shard, index: e.Index, term: e.Term, dataCRC: crc}
	b := appendFrame(nil, &h, e.Data)
	stampFrame(b, f.id, offset, offset)
	f.mu.Lock()
	defer f.mu.Unlock()
	var old [frameHeaderBytes]byte
	if readFull(f.file, old[:], offset) == nil {
		if o, err := decodeHeader(old[:], f.id, offset); err == nil && o.kind == kindEntry && o.shard == shard &&
			o.index == e.Index && o.term == e.Term && o.dataCRC == crc {
			// A good header is the entry's name: a torn write must not take it.
			b, offset = b[frameHeaderBytes:], offset+frameHeaderBytes
		}
	}
	if len(b) == 0 {
		return nil
	}
	if _, err := f.file.WriteAt(b, offset); err != nil {
		return fmt.Errorf("mend %s at %d: %w: %w", f.name, offset, errFinal, err)
	}
	if err := f.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w: %w", f.name, errFinal, err)
	}
	return nil
}
