package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func updateChecksum(crc uint32, b []byte) uint32 { return crc32.Update(crc, castagnoli, b) }

// segmentWriter writes one segment under a temporary name, in writes of copyWriteBytes or one frame.
type segmentWriter struct {
	fs    vfs.FS
	temp  string
	file  vfs.File
	g     *segment
	terms []uint64
	buf   []byte
	at    int64 // where buf begins in the file
}

func (l *Log) newSegmentWriter(shard ShardID, firstSeq, lastSeq uint64) (*segmentWriter, error) {
	dir := l.liveDir(shard)
	if err := l.fs.MkdirAll(dir); err != nil {
		if _, statErr := l.fs.Stat(dir); statErr == nil {
			err = fmt.Errorf("%w: %w", errFinal, err) // it was made, but not durably
		}
		return nil, fmt.Errorf("make directory of segments: %w", err)
	}
	g := &segment{
		shard: shard, firstSeq: firstSeq, lastSeq: lastSeq,
		name: path.Join(dir, segmentBase(firstSeq, lastSeq)),
	}
	w := &segmentWriter{fs: l.fs, temp: g.name + tempSuffix, g: g}
	var err error
	if w.file, err = createReplacing(l.fs, w.temp); err != nil {
		return nil, fmt.Errorf("create segment: %w", err)
	}
	h := segmentHeader{shard: shard, firstSeq: firstSeq, lastSeq: lastSeq}
	w.buf = append(w.buf, h.encode(segmentMagic)...)
	return w, nil
}

// add appends one entry, whose checksum the caller has verified.
func (w *segmentWriter) add(e *Entry, crc uint32) error {
	offset := w.at + int64(len(w.buf))
	if n := len(w.g.entries); n == 0 {
		w.g.first = e.Index
	} else if e.Index <= w.g.index(n-1) || e.Index-w.g.first >= 1<<32 {
		invariant.Check(false, "segment entries from %d: %d is out of order or too far", w.g.first, e.Index)
	}
	h := frameHeader{kind: kindEntry, entryType: e.Type, shard: w.g.shard, index: e.Index, term: e.Term, dataCRC: crc}
	at := len(w.buf)
	w.buf = appendFrame(w.buf, &h, e.Data)
	stampFrame(w.buf[at:], w.g.fileID(), offset, 0)
	w.g.entries = append(w.g.entries, segEntry{
		delta: uint32(e.Index - w.g.first), offset8: uint32(offset / 8),
		size: packSize(len(e.Data), e.Type), crc: crc,
	})
	w.terms = append(w.terms, e.Term)
	w.g.bytes += frameBytes(len(e.Data))
	if len(w.buf) >= copyWriteBytes {
		return w.flush()
	}
	return nil
}

func (w *segmentWriter) flush() error {
	if _, err := w.file.WriteAt(w.buf, w.at); err != nil {
		return fmt.Errorf("write segment %s: %w", w.temp, err)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
	return nil
}

// seal writes index block and footer, syncs and closes the file. It still has its temporary name.
func (w *segmentWriter) seal() error {
	foot := segmentHeader{
		shard: w.g.shard, firstSeq: w.g.firstSeq, lastSeq: w.g.lastSeq,
		count: uint64(len(w.g.entries)), indexAt: w.at + int64(len(w.buf)),
	}
	for i, e := range w.g.entries {
		var b [segmentIndexBytes]byte
		binary.LittleEndian.PutUint64(b[0:], w.g.index(i))
		binary.LittleEndian.PutUint64(b[8:], w.terms[i])
		binary.LittleEndian.PutUint64(b[16:], uint64(e.offset()))
		binary.LittleEndian.PutUint32(b[24:], uint32(e.size))
		binary.LittleEndian.PutUint32(b[28:], e.crc)
		foot.indexCRC = updateChecksum(foot.indexCRC, b[:])
		w.buf = append(w.buf, b[:]...)
		if len(w.buf) >= copyWriteBytes {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	w.buf = append(w.buf, foot.encode(footerMagic)...)
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w: %w", w.temp, errFinal, err)
	}
	err := w.file.Close()
	w.file = nil
	w.g.live, w.g.liveBytes = len(w.g.entries), w.g.bytes
	return err
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

// entry returns the entry at a place, its checksum verified; Data is valid until the next call.
func (w *window) entry(p *place, shard ShardID, index uint64) (Entry, error) {
	need := frameHeaderBytes + int64(p.size.bytes())
	if p.offset < w.at || p.offset+need > w.at+int64(len(w.buf)) {
		size := int(max(need, copyReadBytes))
		if cap(w.buf) < size {
			w.buf = make([]byte, size)
		}
		n, err := w.file.ReadAt(w.buf[:size], p.offset)
		w.buf, w.at = w.buf[:n], p.offset
		if int64(n) < need {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
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
