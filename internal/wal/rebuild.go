package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A segment's header, index block and footer only repeat what its name and its frames say. When one of them is damaged, Open makes the
// index out of the frames, from the first to the last, and Maintain writes the file anew once it knows what is live (mendseg.go): until
// that is durable under the file's name, every Open does the same again.
//
//   - A frame of which only the data is damaged has its name, and gets its row: it is a damaged entry like any other.
//   - Where the header of a frame is damaged too, not even the name is known. Reading goes on at the next good header, and the entry is
//     nowhere, as if its file were missing: the first live set since Open tells of it, and peers are asked for it.
//
// So it must be known whether any frame is lost. None is when the frames follow each other up to the index block, and that begins where
// the footer says, or where one of its rows is that of the frame in the same place, or where it must for the file to have its size. A
// row alone names no entry: it has no checksum of its own.

// Rebuilt tells of a segment whose index was made out of its frames.
type Rebuilt struct {
	File    string
	Shard   ShardID
	Reason  string // what was damaged
	Offset  int64  // where the frames that were found end
	Entries int    // that were found
	Damaged int    // of these, that do not read back
	Lost    int64  // bytes of frames that nothing is known of, if the file still tells
	Whole   bool   // every entry has its row
	Copied  bool   // the index was there twice
}

// damage is what Rebuilt means to the log.
func (b *Rebuilt) damage() *CorruptError {
	reason := fmt.Sprintf("%s; its %d entries were found by reading all of it", b.Reason, b.Entries)
	if b.Copied {
		reason = fmt.Sprintf("%s; its copy names the %d entries", b.Reason, b.Entries)
	}
	if !b.Whole {
		reason = fmt.Sprintf("%s, and so is what it held: %d entries were found by reading all of it, and others are lost with their names", b.Reason, b.Entries)
	}
	return &CorruptError{File: b.File, Offset: b.Offset, Shard: b.Shard, Reason: reason}
}

// openOrRebuild is openSegment, and rebuilds a segment that is damaged outside its frames. With around it reads around what the disk
// refuses to read.
func openOrRebuild(fsys vfs.FS, name string, shard ShardID, id segmentID, around bool) (*segment, *Rebuilt, error) {
	g, copied, err := openSegment(fsys, name, shard, id)
	_, damaged := errors.AsType[*CorruptError](err)
	if err == nil || !damaged && !(around && errors.Is(err, syscall.EIO)) {
		return g, copied, err
	}
	f, openErr := fsys.Open(name)
	if openErr != nil {
		return nil, nil, fmt.Errorf("open segment: %w", openErr)
	}
	defer func() { _ = f.Close() }() // only read
	size, sizeErr := f.Size()
	if sizeErr != nil {
		return nil, nil, fmt.Errorf("open segment %s: %w", name, sizeErr)
	}
	b := rebuilder{
		g:      &segment{segmentID: id, shard: shard, name: name, rebuilt: true},
		file:   f,
		size:   size,
		around: around,
	}
	return b.run(err)
}

// rebuilder is one segment whose index is made anew.
type rebuilder struct {
	g      *segment
	file   vfs.File
	size   int64
	around bool

	found Rebuilt
	foot  *segmentHeader // nil when it is damaged
}

func (b *rebuilder) run(damage error) (*segment, *Rebuilt, error) {
	if err := b.ends(damage); err != nil {
		return nil, nil, err
	}
	b.found = Rebuilt{File: b.g.name, Shard: b.g.shard, Reason: damage.Error()}
	if d, ok := errors.AsType[*CorruptError](damage); ok {
		b.found.Reason = d.Reason
	}
	if err := b.frames(); err != nil {
		return nil, nil, err
	}
	whole, err := b.endsThere()
	if err != nil {
		return nil, nil, err
	}
	b.found.Whole = whole && b.found.Lost == 0
	if !b.found.Whole {
		b.found.Lost = max(b.found.Lost, b.indexAt()-b.found.Offset)
	}
	b.found.Entries = len(b.g.entries)
	b.g.incomplete = !b.found.Whole
	b.g.live, b.g.liveBytes = len(b.g.entries), b.g.bytes
	return b.g, &b.found, nil
}

// ends looks at header and footer: one that is whole must belong to the file's name, or the file is not what it is called.
func (b *rebuilder) ends(damage error) error {
	var ends [2]segmentHeader
	for i, end := range []struct {
		magic  string
		offset int64
	}{{segmentMagic, 0}, {footerMagic, b.size - fileHeaderBytes}} {
		buf := make([]byte, fileHeaderBytes)
		if end.offset < 0 || readFull(b.file, buf, end.offset) != nil {
			continue // It is what is damaged, or the scan says why it cannot be read.
		}
		h, err := decodeSegmentHeader(buf, end.magic, b.g.name)
		version := new(VersionError)
		switch {
		case errors.As(err, &version):
			return fmt.Errorf("open segment %s: %w", b.g.name, err)
		case err != nil:
			continue
		case h.shard != b.g.shard || h.segmentID != b.g.segmentID:
			return damage
		}
		if ends[i] = h; i == 1 && h.indexAt >= fileHeaderBytes && h.indexAt <= b.size-fileHeaderBytes {
			b.foot = &ends[i]
		}
	}
	return nil
}

// indexAt is where the frames should end, as far as the file still says so.
func (b *rebuilder) indexAt() int64 {
	if b.foot != nil {
		return b.foot.indexAt
	}
	return max(b.found.Offset, b.size-fileHeaderBytes-int64(len(b.g.entries))*segmentIndexBytes)
}

// frames gives each frame its row.
func (b *rebuilder) frames() error {
	end := b.size
	if b.foot != nil {
		end = b.foot.indexAt
	}
	scan := tailScan{file: b.file, id: b.g.fileID(), offset: fileHeaderBytes, end: end, around: b.around}
	b.found.Offset = fileHeaderBytes
	for scan.offset < end {
		at := scan.offset
		h, _, bad := scan.next()
		if errors.Is(bad, errScan) {
			return fmt.Errorf("read segment %s: %w", b.g.name, bad)
		}
		if h.kind == 0 { // its header is damaged, or this is the index block
			next, err := scan.pass(&h, bad, end)
			if err != nil {
				return fmt.Errorf("read segment %s: %w", b.g.name, err)
			}
			if !next {
				break
			}
			b.found.Lost += scan.offset - at
			continue
		}
		if bad != nil {
			scan.offset = at + h.bytes()
		}
		if !b.g.follows(&h) {
			b.found.Lost += scan.offset - at
			continue
		}
		if bad != nil {
			b.found.Damaged++
			b.g.damaged = true
		}
		b.g.list(h.index, packSize(int(h.dataBytes), h.entryType), h.dataCRC, at)
		b.found.Offset = scan.offset
	}
	return nil
}

// follows reports whether a frame may come next in the segment.
func (g *segment) follows(h *frameHeader) bool {
	n := len(g.entries)
	return h.kind == kindEntry && h.shard == g.shard && n < segmentEntriesMax &&
		(n == 0 || h.index > g.index(n-1) && h.index-g.first < 1<<32)
}

// endsThere reports whether the last good frame is certainly the last one.
func (b *rebuilder) endsThere() (bool, error) {
	n := int64(len(b.g.entries))
	if b.foot != nil {
		return b.found.Offset == b.foot.indexAt && b.foot.count == uint64(n), nil
	}
	if n > 0 && b.found.Offset+n*segmentIndexBytes+fileHeaderBytes == b.size {
		return true, nil
	}
	scan := tailScan{file: b.file, offset: b.found.Offset, end: b.size, around: b.around}
	for i := 0; i < int(n) && scan.offset+segmentIndexBytes <= b.size; i++ {
		row, err := scan.fill(segmentIndexBytes)
		if err != nil {
			return false, fmt.Errorf("read segment %s: %w", b.g.name, err)
		}
		if len(row) < segmentIndexBytes {
			break
		}
		if b.g.hasRow(i, row) {
			return true, nil
		}
		scan.offset += segmentIndexBytes
	}
	return false, nil
}

// hasRow reports whether a row of the index block is that of an entry.
func (g *segment) hasRow(i int, row []byte) bool {
	e := g.entries[i]
	return binary.LittleEndian.Uint64(row) == g.index(i) && int64(binary.LittleEndian.Uint64(row[16:])) == e.offset() &&
		sizeAndType(binary.LittleEndian.Uint32(row[24:])) == e.size && binary.LittleEndian.Uint32(row[28:]) == e.crc
}

// Incomplete says why entries that are needed may be nowhere although the log does not know their names, as a *CorruptError; nil when
// all that was lost has a name. Those that are live are found missing when Maintain follows the first live set. A replica that
// is alone must not go on.
func (l *Log) Incomplete(shard ShardID) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if s := l.shards[shard]; s != nil && s.incomplete != nil {
		return s.incomplete
	}
	return nil
}
