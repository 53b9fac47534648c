package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A live segment holds entries of one shard that were still needed when their tail files were retired. It is immutable,
// and has its final name only when it is whole and synced:
//
//	┌──────────┬─────────┬───────┬─────┬───────────┬──────────┬──────┬────────┐
//	│"BEAVERSG"│ version │ shard │ rcv │ first seq │ last seq │ 0    │ crc32c │  header, 64 bytes
//	│ 8 bytes  │ u32     │ u16   │ u16 │ u64       │ u64      │ 28 B │ u32    │
//	├──────────┴─────────┴───────┴─────┴───────────┴──────────┴──────┴────────┤
//	│ entry frames, ascending in index; their file id is fileID               │
//	├─────────────────────────────────────────────────────────────────────────┤
//	│ index u64, term u64, offset u64, size<<8|type u32, data crc u32  × count│  index block
//	├──────────┬─────────┬───────┬─────┬───────────┬──────────┬───────┬───────┤
//	│"BEAVERSF"│ version │ shard │ rcv │ first seq │ last seq │ count │       │  footer, 64 bytes
//	│ 8 bytes  │ u32     │ u16   │ u16 │ u64       │ u64      │ u64   │       │
//	│          │         │       │     │ index block at i64, its crc32c u32, 0│
//	│          │         │       │     │ u64, crc32c u32                      │
//	└──────────┴─────────┴───────┴─────┴──────────────────────────────────────┘
//
// A sequence number is the id of the tail file that entries came from; the name says which of them the segment covers:
// live/<shard>/<first seq>-<last seq>.seg. Ranges of one shard's segments do not overlap, but for the files of a merge
// that a crash interrupted: then the wider one is whole, and those it covers are removed.
//
// rcv is 1 in a received segment (received.go), whose sequence numbers count installations instead, and whose name begins
// with an r. Such segments have an order of their own. The syncOffset of their frames is as in tail files; else it is 0.
//
// rcv is 2 in a segment in place, which has no frames of its own, and another layout: inplace.go.
const (
	segmentMagic      = "BEAVERSG"
	footerMagic       = "BEAVERSF"
	segmentSuffix     = ".seg"
	receivedPrefix    = "r"
	segmentIndexBytes = 32 // one entry of the index block

	originReceived = 1 // rcv in the header
	originInPlace  = 2
)

// segEntry locates one entry of a segment: 16 bytes each, since there may be ten million.
type segEntry struct {
	delta   uint32 // index - segment.first
	offset8 uint32 // offset of the frame / 8
	size    sizeAndType
	crc     uint32
}

func (e segEntry) offset() int64 { return int64(e.offset8) * 8 }

// nameOnlyCRC stands for the checksum of an entry that a peer could not read. It is not that of no data.
const nameOnlyCRC = ^uint32(0)

// nameOnly reports whether the entry came without its data: it counts as damaged.
func (e segEntry) nameOnly() bool { return e.size.bytes() == 0 && e.crc == nameOnlyCRC }

// segmentID names a segment among those of its shard.
type segmentID struct {
	received          bool
	firstSeq, lastSeq uint64
}

// segment is an open live segment. All is immutable but the handle and what is noted.
type segment struct {
	segmentID
	shard   ShardID
	name    string
	first   uint64 // index of entries[0]
	entries []segEntry
	bytes   int64     // of frames
	kept    *keptFile // where the frames are; nil: in the segment's own file

	incomplete bool // the file had entries whose names are lost

	// What follows is Maintain's, changed under Log.mu. Before it is counted, a segment counts as live as a whole.
	counted   bool // live and liveBytes reflect the accounted live set
	live      int  // entries in the live set
	liveBytes int64
	damaged   bool   // an entry did not read back; not compacted until that is mended or dead
	hurt      uint64 // that entry, when a merge found it
	rebuilt   bool   // the file's index is damaged, and to be written anew: see rebuild.go
	lost      int64  // bytes that died by the accounting under way
	rest      int    // calls of Maintain that find nothing to do until it counts as settled: see settle

	mu     sync.RWMutex // held shared while file is read; exclusively to open or close it
	file   vfs.File
	recent atomic.Bool // read since the handle pool last looked

	readTo  atomic.Int64 // where the last read ended
	askedTo atomic.Int64 // up to where the disk was asked to read ahead
}

// readAhead notes that the frames in [from, to) were read, and lets the disk begin with what comes after them when reads go
// through the file in order, as fetches of a long queue do. The readers of several fetches overtake each other, so what is near
// the last read counts as in order. It is bounded, since the disk serves a burst of reads before the flush behind it; and what
// lies well behind is let go: whoever leased those jobs has them, and filling a page of the cache that was not in use before costs
// several times what reading it does.
// REQUIRES: g.mu shared.
func (g *segment) readAhead(from, to int64) {
	last := g.readTo.Swap(to)
	if last == 0 || from < last-readAheadBytes || from > last+readAheadBytes {
		return
	}
	asked := g.askedTo.Load()
	if asked < to || asked > to+2*readAheadBytes {
		asked = to // it is behind, or from an earlier reader
	}
	if asked > to+readAheadBytes/2 {
		return
	}
	g.askedTo.Store(asked + readAheadBytes)
	g.file.Prefetch(asked, readAheadBytes)
	if behind := asked - readBehindBytes; behind >= 0 {
		g.file.Uncache(behind, readAheadBytes)
	}
}

// segmentHeader is what header and footer say.
type segmentHeader struct {
	segmentID
	shard    ShardID
	inPlace  bool
	count    uint64 // footer only, as all below
	indexAt  int64
	indexCRC uint32
}

func (h *segmentHeader) encode(magic string) []byte {
	b := make([]byte, fileHeaderBytes)
	copy(b, magic)
	binary.LittleEndian.PutUint32(b[8:], plainVersion)
	binary.LittleEndian.PutUint16(b[12:], uint16(h.shard))
	switch {
	case h.received:
		binary.LittleEndian.PutUint16(b[14:], originReceived)
	case h.inPlace:
		binary.LittleEndian.PutUint32(b[8:], inPlaceVersion) // An older program would look for the frames here.
		binary.LittleEndian.PutUint16(b[14:], originInPlace)
	}
	binary.LittleEndian.PutUint64(b[16:], h.firstSeq)
	binary.LittleEndian.PutUint64(b[24:], h.lastSeq)
	binary.LittleEndian.PutUint64(b[32:], h.count)
	binary.LittleEndian.PutUint64(b[40:], uint64(h.indexAt))
	binary.LittleEndian.PutUint32(b[48:], h.indexCRC)
	binary.LittleEndian.PutUint32(b[60:], checksum(b[:60]))
	return b
}

func decodeSegmentHeader(b []byte, magic, name string) (segmentHeader, error) {
	if err := checkPreamble(b, magic, name); err != nil {
		return segmentHeader{}, err
	}
	return segmentHeader{
		inPlace: binary.LittleEndian.Uint16(b[14:]) == originInPlace,
		segmentID: segmentID{
			received: binary.LittleEndian.Uint16(b[14:]) == originReceived,
			firstSeq: binary.LittleEndian.Uint64(b[16:]),
			lastSeq:  binary.LittleEndian.Uint64(b[24:]),
		},
		shard:    ShardID(binary.LittleEndian.Uint16(b[12:])),
		count:    binary.LittleEndian.Uint64(b[32:]),
		indexAt:  int64(binary.LittleEndian.Uint64(b[40:])),
		indexCRC: binary.LittleEndian.Uint32(b[48:]),
	}, nil
}

// fileID is the file id in the segment's frames.
func (g *segment) fileID() uint64 {
	if g.kept != nil {
		return g.kept.id
	}
	return g.segmentID.fileID()
}

// fileID is the file id in the frames of a segment that has some of its own.
func (id segmentID) fileID() uint64 {
	n := id.firstSeq<<32 ^ id.lastSeq
	if id.received {
		n ^= 1 << 63
	}
	return n
}

func (l *Log) liveRoot() string { return path.Join(l.opts.Dir, "live") }

func (l *Log) liveDir(shard ShardID) string {
	return path.Join(l.liveRoot(), fmt.Sprintf("%05d", shard))
}

// base is the file name of a segment.
func (id segmentID) base() string {
	prefix := ""
	if id.received {
		prefix = receivedPrefix
	}
	return fmt.Sprintf("%s%010d-%010d%s", prefix, id.firstSeq, id.lastSeq, segmentSuffix)
}

// parseSegmentName reads a file name.
func parseSegmentName(name string) (id segmentID, ok bool) {
	base, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return id, false
	}
	base, id.received = strings.CutPrefix(base, receivedPrefix)
	from, to, ok := strings.Cut(base, "-")
	if !ok {
		return id, false
	}
	var err1, err2 error
	id.firstSeq, err1 = strconv.ParseUint(from, 10, 64)
	id.lastSeq, err2 = strconv.ParseUint(to, 10, 64)
	return id, err1 == nil && err2 == nil && id.firstSeq > 0 && id.firstSeq <= id.lastSeq && name == id.base()
}

// find returns the place of index in entries.
func (g *segment) find(index uint64) (int, bool) {
	if index < g.first || index-g.first > 1<<32-1 {
		return 0, false
	}
	delta := uint32(index - g.first)
	i := sort.Search(len(g.entries), func(i int) bool { return g.entries[i].delta >= delta })
	return i, i < len(g.entries) && g.entries[i].delta == delta
}

// list gives an entry behind the last one its row, by the frame at an offset.
func (g *segment) list(index uint64, size sizeAndType, crc uint32, offset int64) {
	if len(g.entries) == 0 {
		g.first = index
	}
	g.entries = append(g.entries, segEntry{delta: uint32(index - g.first), offset8: uint32(offset / 8), size: size, crc: crc})
	if g.bytes += size.frame(); g.kept == nil {
		g.bytes = offset + size.frame() - fileHeaderBytes // also what is lost between two frames
	}
}

func (g *segment) index(i int) uint64 { return g.first + uint64(g.entries[i].delta) }

// last is the highest index in the segment.
func (g *segment) last() uint64 { return g.index(len(g.entries) - 1) }

var errIndexBlock = errors.New("the index block is damaged")

// openSegment reads header, footer and index block, never a payload, and keeps the file closed. Rebuilt is not nil when a copy of a damaged
// index was used.
func openSegment(fsys vfs.FS, name string, shard ShardID, id segmentID) (*segment, *Rebuilt, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, nil, fmt.Errorf("open segment: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	size, err := f.Size()
	if err != nil {
		return nil, nil, fmt.Errorf("open segment %s: %w", name, err)
	}
	var g *segment
	var rebuilt *Rebuilt
	if isInPlace(f, size, name) {
		g, rebuilt, err = loadInPlace(f, size, name, shard, id)
	} else {
		g, err = loadSegment(f, size, name, shard, id)
	}
	var version *VersionError
	switch {
	case err == nil:
		return g, rebuilt, nil
	case errors.As(err, &version), !isDamage(err):
		return nil, nil, fmt.Errorf("open segment %s: %w", name, err)
	}
	return nil, nil, &CorruptError{File: name, Offset: damageOffset(err, size), Shard: shard, Reason: err.Error()}
}

// isDamage tells errors of content from errors of reading it.
func isDamage(err error) bool {
	return errors.Is(err, errFileHeader) || errors.Is(err, errFileName) || errors.Is(err, errIndexBlock) ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// damageOffset names the part of a segment that is damaged.
func damageOffset(err error, size int64) int64 {
	if errors.Is(err, errIndexBlock) {
		return max(size-fileHeaderBytes, 0)
	}
	return 0
}

// loadSegment decodes a segment of the given size.
func loadSegment(r io.ReaderAt, size int64, name string, shard ShardID, id segmentID) (*segment, error) {
	if size < 2*fileHeaderBytes {
		return nil, fmt.Errorf("%w: it is too short", errFileHeader)
	}
	b := make([]byte, 2*fileHeaderBytes)
	if err := readFull(r, b[:fileHeaderBytes], 0); err != nil {
		return nil, err
	}
	if err := readFull(r, b[fileHeaderBytes:], size-fileHeaderBytes); err != nil {
		return nil, err
	}
	h, err := decodeSegmentHeader(b[:fileHeaderBytes], segmentMagic, name)
	if err != nil {
		return nil, err
	}
	foot, err := decodeSegmentHeader(b[fileHeaderBytes:], footerMagic, name)
	if err != nil {
		return nil, fmt.Errorf("footer: %w", err)
	}
	for _, x := range []segmentHeader{h, foot} {
		if x.shard != shard || x.segmentID != id || x.inPlace {
			return nil, errFileName
		}
	}
	if foot.indexAt < fileHeaderBytes || foot.indexAt%8 != 0 || foot.count == 0 || foot.count > segmentEntriesMax ||
		foot.indexAt+int64(foot.count)*segmentIndexBytes+fileHeaderBytes != size {
		return nil, fmt.Errorf("%w: the footer's numbers do not fit the file", errIndexBlock)
	}
	g := &segment{segmentID: id, shard: shard, name: name}
	return g, g.loadIndex(r, &foot)
}

// loadIndex reads the index block in pieces.
func (g *segment) loadIndex(r io.ReaderAt, foot *segmentHeader) error {
	g.entries = make([]segEntry, 0, foot.count)
	piece := make([]byte, min(int64(foot.count)*segmentIndexBytes, scanBytes))
	crc := uint32(0)
	end := int64(fileHeaderBytes) // of the frame before
	left := int64(foot.count) * segmentIndexBytes
	for at := foot.indexAt; left > 0; {
		b := piece[:min(left, int64(len(piece)))]
		if err := readFull(r, b, at); err != nil {
			return err
		}
		crc = updateChecksum(crc, b)
		at += int64(len(b))
		left -= int64(len(b))
		for ; len(b) > 0; b = b[segmentIndexBytes:] {
			index := binary.LittleEndian.Uint64(b)
			offset := int64(binary.LittleEndian.Uint64(b[16:]))
			e := segEntry{
				size: sizeAndType(binary.LittleEndian.Uint32(b[24:])),
				crc:  binary.LittleEndian.Uint32(b[28:]),
			}
			if len(g.entries) == 0 {
				g.first = index
			} else if index <= g.index(len(g.entries)-1) || index-g.first > 1<<32-1 {
				return fmt.Errorf("%w: its indexes do not ascend", errIndexBlock)
			}
			if offset%8 != 0 || offset < end || offset > end && g.kept == nil || offset/8 >= 1<<32 || e.size.bytes() > EntryBytesMax {
				return fmt.Errorf("%w: its frames do not follow each other", errIndexBlock)
			}
			end = offset + e.size.frame()
			e.delta, e.offset8 = uint32(index-g.first), uint32(offset/8)
			g.entries = append(g.entries, e)
			g.bytes += e.size.frame()
		}
	}
	if crc != foot.indexCRC || g.kept == nil && end != foot.indexAt {
		return fmt.Errorf("%w: its checksum does not match", errIndexBlock)
	}
	g.live, g.liveBytes = len(g.entries), g.bytes
	return nil
}
