package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func updateChecksum(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// segmentWriter writes one segment under a temporary name, in writes of about copyWriteBytes or one frame, of whole blocks
// until the end: they go past the page cache, since copied entries are those that nobody is waiting for.
type segmentWriter struct {
	fs     vfs.FS
	temp   string
	file   vfs.File
	g      *segment
	terms  []uint64
	buf    []byte
	at     int64 // where buf begins in the file
	synced int64 // bytes known durable, as far as frames say so
}

// newSegmentWriter begins a segment of its own, or in place of a kept file.
func (l *Log) newSegmentWriter(shard ShardID, id segmentID, kept *keptFile) (*segmentWriter, error) {
	dir := l.liveDir(shard)
	if err := l.fs.MkdirAll(dir); err != nil {
		if _, statErr := l.fs.Stat(dir); statErr == nil {
			err = fmt.Errorf("%w: %w", errFinal, err) // it was made, but not durably
		}
		return nil, fmt.Errorf("make directory of segments: %w", err)
	}
	return createSegment(l.fs, dir, tempSuffix, shard, id, kept)
}

// createSegment begins a segment in a directory, under its name with a suffix.
func createSegment(fsys vfs.FS, dir, suffix string, shard ShardID, id segmentID, kept *keptFile) (*segmentWriter, error) {
	g := &segment{segmentID: id, shard: shard, name: path.Join(dir, id.base()), kept: kept}
	w := &segmentWriter{fs: fsys, temp: g.name + suffix, g: g}
	var err error
	if w.file, err = createReplacing(fsys, w.temp, fsys.CreateUncached); err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	h := w.g.header()
	w.buf = append(w.buf, h.encode(segmentMagic)...)
	return w, nil
}

// header is what header and footer have in common.
func (g *segment) header() segmentHeader {
	return segmentHeader{segmentID: g.segmentID, shard: g.shard, inPlace: g.kept != nil}
}

// add appends one entry, whose checksum the caller has verified.
func (w *segmentWriter) add(e *Entry, crc uint32) error {
	offset := w.next()
	w.list(e.Index, e.Term, packSize(len(e.Data), e.Type), crc, offset)
	h := frameHeader{kind: kindEntry, entryType: e.Type, shard: w.g.shard, index: e.Index, term: e.Term, dataCRC: crc}
	at := len(w.buf)
	w.buf = appendFrame(w.buf, &h, e.Data)
	stampFrame(w.buf[at:], w.g.fileID(), offset, w.synced)
	return w.flushFull()
}

// copyFrom appends one entry from where it is, by a window on that file or past it. Damage is a *CorruptError, and nothing was appended.
func (w *segmentWriter) copyFrom(from *window, p *place, index uint64) error {
	if p.size.frame() >= copyDirectBytes {
		if added, err := w.addFrom(p, index); added || err != nil {
			return err
		}
	}
	e, err := from.entry(p, w.g.shard, index)
	if err != nil {
		return err
	}
	return w.add(&e, p.dataCRC)
}

// addFrom appends one entry by reading its frame straight to where it is written from. False without a trace when there is
// anything wrong with it: then read it by the window, which tells what.
func (w *segmentWriter) addFrom(p *place, index uint64) (added bool, err error) {
	at, need := len(w.buf), frameHeaderBytes+p.size.bytes()
	w.buf = slices.Grow(w.buf, int(p.size.frame()))
	b := w.buf[at : at+need]
	file, _ := p.file()
	if readFull(file, b, p.offset) != nil {
		return false, nil
	}
	h, bad := p.check(b, w.g.shard, index)
	if bad != nil || checksum(b[frameHeaderBytes:]) != p.dataCRC {
		return false, nil
	}
	offset := w.at + int64(at)
	w.list(index, h.term, p.size, p.dataCRC, offset)
	w.buf = w.buf[:at+int(p.size.frame())]
	clear(w.buf[at+need:])
	stampFrame(w.buf[at:], w.g.fileID(), offset, w.synced)
	return true, w.flushFull()
}

// addDamaged appends the frame of an entry that does not read back, so that it keeps its name and the space it takes, and
// is refused in its new place too. When only the data is damaged the header stays good: the caller may have checksums of
// parts, and those that are whole can still be read. A damaged header is copied as it is, and cannot be good here either.
func (w *segmentWriter) addDamaged(p *place, index uint64, frame []byte) error {
	offset := w.next()
	w.list(index, p.term, p.size, p.dataCRC, offset)
	at := len(w.buf)
	if h, err := p.check(frame, w.g.shard, index); err == nil {
		w.buf = appendFrame(w.buf, &h, frame[frameHeaderBytes:])
		stampFrame(w.buf[at:], w.g.fileID(), offset, 0)
	} else {
		w.buf = append(w.buf, frame...)
		w.buf = append(w.buf, make([]byte, p.size.frame()-int64(len(frame)))...)
	}
	w.g.damaged = true
	return w.flushFull()
}

// next is the offset of the frame that is appended next.
func (w *segmentWriter) next() int64 { return w.at + int64(len(w.buf)) }

// list puts an entry into the index, whose frame is at an offset.
func (w *segmentWriter) list(index, term uint64, size sizeAndType, crc uint32, offset int64) {
	if n := len(w.g.entries); n > 0 && (index <= w.g.index(n-1) || index-w.g.first >= 1<<32) {
		invariant.Check(false, "segment entries from %d: %d is out of order or too far", w.g.first, index)
	}
	w.g.list(index, size, crc, offset)
	w.terms = append(w.terms, term)
}

// flushFull writes the whole blocks of a full buffer, and keeps the rest for the next write.
func (w *segmentWriter) flushFull() error {
	if len(w.buf) < copyWriteBytes {
		return nil
	}
	end := w.at + int64(len(w.buf))
	return w.write(int(end - end%vfs.UncachedBytes - w.at))
}

func (w *segmentWriter) flush() error { return w.write(len(w.buf)) }

// write writes the first n bytes of the buffer.
func (w *segmentWriter) write(n int) error {
	if _, err := w.file.WriteAt(w.buf[:n], w.at); err != nil {
		return fmt.Errorf("write segment %s: %w", w.temp, err)
	}
	w.at += int64(n)
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
	return nil
}

// seal writes index block and footer, syncs and closes the file. It still has its temporary name.
func (w *segmentWriter) seal() error {
	var err error
	if w.g.kept != nil {
		err = w.writeCopies()
	} else {
		err = w.writeIndex(0, 0)
	}
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return err
	}
	if err = w.file.Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w: %w", w.temp, errFinal, err)
	}
	err = w.file.Close()
	w.file = nil
	w.g.live, w.g.liveBytes = len(w.g.entries), w.g.bytes
	return err
}

// writeIndex writes the index block and footer of what begins at an offset. With an end, zeros lie between them, so that the footer ends there.
func (w *segmentWriter) writeIndex(start, end int64) error {
	foot := w.g.header()
	foot.count, foot.indexAt = uint64(len(w.g.entries)), w.next()-start
	for i, e := range w.g.entries {
		var b [segmentIndexBytes]byte
		binary.LittleEndian.PutUint64(b[0:], w.g.index(i))
		binary.LittleEndian.PutUint64(b[8:], w.terms[i])
		binary.LittleEndian.PutUint64(b[16:], uint64(e.offset()))
		binary.LittleEndian.PutUint32(b[24:], uint32(e.size))
		binary.LittleEndian.PutUint32(b[28:], e.crc)
		foot.indexCRC = updateChecksum(foot.indexCRC, b[:])
		w.buf = append(w.buf, b[:]...)
		if err := w.flushFull(); err != nil {
			return err
		}
	}
	if end > 0 {
		w.buf = append(w.buf, make([]byte, end-fileHeaderBytes-w.next())...)
	}
	w.buf = append(w.buf, foot.encode(footerMagic)...)
	return nil
}

// abandon removes what was written; Open removes it if that fails.
func (w *segmentWriter) abandon() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
	if err := w.fs.Remove(w.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
}

// errRead marks failures to read the source of a copy, which say nothing about what was written.
var errRead = errors.New("read for copying")

// window reads frames of one file in pieces of copyReadBytes.
type window struct {
	buf  []byte
	at   int64
	file io.ReaderAt
}

func (w *window) reset(file io.ReaderAt) { w.file, w.at, w.buf = file, 0, w.buf[:0] }

// errUnreadable marks a CorruptError that may pass: the disk refused to read, it did not read something else.
var errUnreadable = errors.New("the disk refused to read")

// entry returns the entry at a place, its checksum verified; Data is valid until the next call. Damage, also a sector that
// cannot be read, is a *CorruptError.
func (w *window) entry(p *place, shard ShardID, index uint64) (Entry, error) {
	need := frameHeaderBytes + int64(p.size.bytes())
	if p.offset < w.at || p.offset+need > w.at+int64(len(w.buf)) {
		err := w.fill(p.offset, max(need, copyReadBytes), need)
		if errors.Is(err, syscall.EIO) {
			err = w.fill(p.offset, need, need) // the bad sector may be someone else's
		}
		if errors.Is(err, syscall.EIO) {
			_, name := p.file()
			return Entry{}, fmt.Errorf("%w: %w", errUnreadable,
				&CorruptError{File: name, Offset: p.offset, Shard: shard, Index: index, Reason: "the disk cannot read it: " + err.Error()})
		}
		if err != nil {
			return Entry{}, fmt.Errorf("%w: %w", errRead, p.readError(shard, index, err))
		}
	}
	b := w.buf[p.offset-w.at:][:need]
	h, err := p.check(b, shard, index)
	if err == nil && checksum(b[frameHeaderBytes:]) != p.dataCRC {
		err = errFrameData
	}
	if err != nil {
		_, name := p.file()
		return Entry{}, &CorruptError{File: name, Offset: p.offset, Shard: shard, Index: index, Reason: err.Error()}
	}
	return Entry{Index: index, Term: h.term, Type: h.entryType, Data: b[frameHeaderBytes:]}, nil
}

// fill reads size bytes at an offset, of which need must be there.
func (w *window) fill(offset, size, need int64) error {
	if int64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	n, err := w.file.ReadAt(w.buf[:size], offset)
	w.buf, w.at = w.buf[:n], offset
	switch {
	case int64(n) >= need:
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return err
}

// salvage returns what can be read of a frame, in pieces; what cannot is zero.
func (w *window) salvage(p *place) []byte {
	b := make([]byte, frameHeaderBytes+p.size.bytes())
	for at := 0; at < len(b); {
		end := min(len(b), at+salvageBytes-int((p.offset+int64(at))%salvageBytes))
		if n, err := w.file.ReadAt(b[at:end], p.offset+int64(at)); err != nil {
			clear(b[at+n : end])
		}
		at = end
	}
	return b
}
