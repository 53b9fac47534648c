package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"
)

// place is where an entry was found. Exactly one of memory, tail and segment is set, and what is set is held until
// release.
type place struct {
	log     *Log
	memory  []byte // data, valid while Log.mu is held shared
	tail    *tailFile
	segment *segment

	offset  int64 // of the frame in the file
	fileID  uint64
	size    sizeAndType
	term    uint64 // known for entries of the tail
	dataCRC uint32
}

func (p *place) release() {
	switch {
	case p.tail != nil:
		p.tail.mu.RUnlock()
	case p.segment != nil:
		p.segment.mu.RUnlock()
	default:
		p.log.mu.RUnlock()
	}
}

func (p *place) file() (io.ReaderAt, string) {
	if p.tail != nil {
		return p.tail.file, p.tail.name
	}
	return p.segment.file, p.segment.dataName()
}

// locate finds an entry and holds its place.
func (l *Log) locate(shard ShardID, index uint64) (place, error) {
	l.mu.RLock()
	if l.closed {
		l.mu.RUnlock()
		return place{}, ErrClosed
	}
	s := l.shards[shard]
	if s == nil || index > s.last {
		l.mu.RUnlock()
		return place{}, ErrUnavailable
	}
	if s.dead(index) {
		l.mu.RUnlock()
		return place{}, ErrCompacted
	}
	if w := s.wanted[index]; w != nil && w.entry != nil {
		e := w.entry
		return place{log: l, memory: e.Data, size: packSize(len(e.Data), e.Type), term: e.Term, dataCRC: w.crc}, nil
	}
	if e, ok := s.find(index); ok {
		return l.placeInTail(e), nil
	}
	if g := s.gapAt(index); g != nil {
		l.mu.RUnlock()
		return place{}, g.inGap(shard, index)
	}
	g, n, ok := s.segmentOf(index)
	if !ok {
		known := s.live != nil && index <= s.snapshot
		l.mu.RUnlock()
		if known {
			return place{}, &CorruptError{
				File: l.liveDir(shard), Shard: shard, Index: index,
				Reason: "no file holds this entry, though its jobs are live",
			}
		}
		return place{}, ErrCompacted
	}
	e := g.entries[n]
	p := place{log: l, segment: g, offset: e.offset(), fileID: g.fileID(), size: e.size, dataCRC: e.crc}
	// The segment's lock is taken before the log's is let go, so that the segment is not removed in between.
	err := l.handles.hold(l.fs, g)
	l.mu.RUnlock()
	if errors.Is(err, fs.ErrNotExist) {
		err = &CorruptError{File: g.dataName(), Shard: shard, Index: index, Reason: "the file is missing"}
	}
	return p, err
}

// placeInTail holds the place of an entry of the tail. REQUIRES: l.mu shared; it is kept only for an entry in memory.
func (l *Log) placeInTail(e tailEntry) place {
	p := place{log: l, size: e.size, term: e.term, dataCRC: e.crc}
	for _, b := range [...]*buffer{&l.pending, &l.flushing} {
		if b.holds(e.pos) {
			at := int(e.pos-b.base) + frameHeaderBytes
			p.memory = b.data[at : at+e.size.bytes()]
			return p
		}
	}
	f := l.fileAt(e.pos)
	f.mu.RLock()
	l.mu.RUnlock()
	p.tail, p.offset, p.fileID = f, f.offset(e.pos), f.id
	return p
}

// fileAt returns the tail file that holds a stream position. REQUIRES: l.mu.
func (l *Log) fileAt(pos Position) *tailFile {
	i := sort.Search(len(l.files), func(i int) bool { return l.files[i].firstPos > pos })
	return l.files[i-1]
}

// Read returns one entry with its checksum verified, also one not yet flushed; Data is the caller's. Errors:
// ErrCompacted, ErrUnavailable, ErrClosed, *CorruptError when the bytes are damaged, or an I/O error.
func (l *Log) Read(shard ShardID, index uint64) (Entry, error) {
	p, err := l.locate(shard, index)
	if err != nil {
		return Entry{}, err
	}
	defer p.release()
	if p.tail == nil && p.segment == nil {
		data := append(make([]byte, 0, p.size.bytes()), p.memory...)
		return Entry{Index: index, Term: p.term, Type: p.size.entryType(), Data: data}, nil
	}
	return readFrame(&p, shard, index, nil)
}

// readFrame reads and checks a whole frame into buf, which grows as needed and which Data then points into.
func readFrame(p *place, shard ShardID, index uint64, buf []byte) (Entry, error) {
	file, name := p.file()
	need := frameHeaderBytes + p.size.bytes()
	if cap(buf) < need {
		buf = make([]byte, need)
	}
	buf = buf[:need]
	if err := readFull(file, buf, p.offset); err != nil {
		return Entry{}, p.readError(shard, index, err)
	}
	if p.segment != nil {
		p.segment.readAhead(p.offset, p.offset+int64(need))
	}
	h, err := p.check(buf, shard, index)
	if err == nil && checksum(buf[frameHeaderBytes:]) != p.dataCRC {
		err = errFrameData
	}
	if err != nil {
		return Entry{}, &CorruptError{File: name, Offset: p.offset, Shard: shard, Index: index, Reason: err.Error()}
	}
	return Entry{Index: index, Term: h.term, Type: h.entryType, Data: buf[frameHeaderBytes:]}, nil
}

// check compares a frame's header with what the index says should be there.
func (p *place) check(b []byte, shard ShardID, index uint64) (frameHeader, error) {
	h, err := decodeHeader(b, p.fileID, p.offset)
	if err != nil {
		return h, err
	}
	if h.kind != kindEntry || h.shard != shard || h.index != index ||
		int(h.dataBytes) != p.size.bytes() || h.dataCRC != p.dataCRC || h.entryType != p.size.entryType() {
		return h, errors.New("another entry is in its place")
	}
	return h, nil
}

func (p *place) readError(shard ShardID, index uint64, err error) error {
	_, name := p.file()
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &CorruptError{File: name, Offset: p.offset, Shard: shard, Index: index, Reason: "the file is too short"}
	}
	return fmt.Errorf("read %s at %d: %w", name, p.offset, err)
}

// readFull fills b or says io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ReadRange returns entries [lo, hi) of the contiguous tail, in order: as many as have together at most maxBytes of data,
// but at least one. Errors as for Read; ErrCompacted when lo is below First, ErrUnavailable when hi is past Last+1.
func (l *Log) ReadRange(shard ShardID, lo, hi uint64, maxBytes int) ([]Entry, error) {
	l.mu.RLock()
	s := l.shards[shard]
	var count, bytes int
	var err error
	switch {
	case hi <= lo:
	case s == nil || hi > s.last+1:
		err = ErrUnavailable
	case lo < s.first:
		err = ErrCompacted
	default:
		for i := lo; i < hi; i++ {
			e, ok := s.find(i)
			if g := s.gapAt(i); g != nil && count == 0 {
				err = g.inGap(shard, i)
			}
			if !ok || (count > 0 && bytes+e.size.bytes() > maxBytes) {
				break
			}
			count++
			bytes += e.size.bytes()
		}
	}
	l.mu.RUnlock()
	if err != nil || count == 0 {
		return nil, err
	}
	entries := make([]Entry, 0, count)
	for i := range uint64(count) {
		e, err := l.Read(shard, lo+i)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// ReadPart reads len(buf) bytes of an entry's data from off, with the frame's header checked but not the data's checksum:
// the caller has checksums of its own for the parts. At the end of the data it returns what there is and io.EOF.
func (l *Log) ReadPart(shard ShardID, index uint64, buf []byte, off int64) (int, error) {
	p, err := l.locate(shard, index)
	if err != nil {
		return 0, err
	}
	defer p.release()
	left := int64(p.size.bytes()) - off
	if off < 0 || left < 0 {
		return 0, io.EOF
	}
	eof := error(nil)
	if int64(len(buf)) > left {
		buf, eof = buf[:left], io.EOF
	}
	if p.tail == nil && p.segment == nil {
		return copy(buf, p.memory[off:]), eof
	}
	file, name := p.file()
	header := l.headers.Get().(*[frameHeaderBytes]byte)
	defer l.headers.Put(header)
	if err = readFull(file, header[:], p.offset); err != nil {
		return 0, p.readError(shard, index, err)
	}
	if _, err = p.check(header[:], shard, index); err != nil {
		return 0, &CorruptError{File: name, Offset: p.offset, Shard: shard, Index: index, Reason: err.Error()}
	}
	at := p.offset + frameHeaderBytes + off
	if err = readFull(file, buf, at); err != nil {
		return 0, p.readError(shard, index, err)
	}
	if p.segment != nil {
		p.segment.readAhead(at, at+int64(len(buf)))
	}
	return len(buf), eof
}

// Term returns the term of an entry of the contiguous tail, or of the one just before it if that is known. Errors:
// ErrCompacted below that, ErrUnavailable above Last.
func (l *Log) Term(shard ShardID, index uint64) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.shards[shard]
	switch {
	case s == nil && index == 0:
		return 0, nil
	case s == nil || index > s.last && index+1 != s.first:
		return 0, ErrUnavailable
	case index+1 < s.first:
		return 0, ErrCompacted
	}
	if term, ok := s.termOf(index); ok {
		return term, nil
	}
	return 0, ErrCompacted
}
