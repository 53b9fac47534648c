package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A tail file begins with a header of 64 bytes, then frames to the end of what is used, then whatever was there before
// (zeros, or frames of the file's former life, which do not parse under the new id):
//
//	┌──────────┬─────────┬─────┬─────┬─────────┬───────────┬───────┬──────┬────────┐
//	│"BEAVERWL"│ version │ 0   │ id  │ prev id │ prev used │ begun │ 0    │ crc32c │
//	│ 8 bytes  │ u32     │ u32 │ u64 │ u64     │ i64       │ i64   │ 12 B │ u32    │
//	├──────────┴─────────┴─────┴─────┴─────────┴───────────┴───────┴──────┴────────┤
//	│ one state frame per shard: the state before this file's other frames         │
//	├──────────────────────────────────────────────────────────────────────────────┤
//	│ entry and state frames, in the order of appending                            │
//	├──────────────────────────────────────────────────────────────────────────────┤
//	│ mark (clean close) or seal (the next file exists)                            │
//	└──────────────────────────────────────────────────────────────────────────────┘
//
// A file gets its final name only after its header and first frames are synced; they end at "begun", so that a bad frame
// below it is damage and nothing else. "prev used" is where the previous file ends: what lies behind it there is void.
const (
	tailMagic       = "BEAVERWL"
	fileHeaderBytes = 64

	// FormatVersion is the newest version of the log's files that this code writes and reads.
	FormatVersion = inPlaceVersion

	plainVersion   = 1 // of segments with frames of their own, and of tail files that say of no shard that it was lost
	lostVersion    = 2 // of tail files that say so
	inPlaceVersion = 3 // of segments in place

	tailSuffix  = ".wal"
	keptSuffix  = ".kept"
	sparePrefix = "spare-"
	tempSuffix  = ".tmp"

	damagedSuffix = ".damaged" // of a segment of which nothing can be read
)

// VersionError says that a newer program wrote the file.
type VersionError struct {
	File    string
	Version uint32
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s has format version %d, but this program knows only versions up to %d: start a newer one",
		e.File, e.Version, FormatVersion)
}

// tailHeader is the header of a tail file.
type tailHeader struct {
	id, prevID uint64
	prevUsed   int64
	begun      int64
	lost       bool // shards that are not in this file may have been lost
	marked     bool // one that is in it was; when it is written
}

func (h *tailHeader) encode() []byte {
	b := make([]byte, fileHeaderBytes)
	copy(b, tailMagic)
	binary.LittleEndian.PutUint32(b[8:], plainVersion)
	if h.lost || h.marked {
		binary.LittleEndian.PutUint32(b[8:], lostVersion) // An older program would take what was lost for what there is.
	}
	if h.lost {
		b[48] = 1
	}
	binary.LittleEndian.PutUint64(b[16:], h.id)
	binary.LittleEndian.PutUint64(b[24:], h.prevID)
	binary.LittleEndian.PutUint64(b[32:], uint64(h.prevUsed))
	binary.LittleEndian.PutUint64(b[40:], uint64(h.begun))
	binary.LittleEndian.PutUint32(b[60:], checksum(b[:60]))
	return b
}

var (
	errFileHeader = errors.New("the file header is damaged")
	errFileName   = errors.New("the file's header does not belong to its name")
)

// checkPreamble checks what headers and footers of all files have in common: magic, version, checksum.
func checkPreamble(b []byte, magic, name string) error {
	if len(b) < fileHeaderBytes || string(b[:8]) != magic ||
		binary.LittleEndian.Uint32(b[60:]) != checksum(b[:60]) {
		return errFileHeader
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v > FormatVersion {
		return &VersionError{File: name, Version: v}
	} else if v == 0 {
		return errFileHeader
	}
	return nil
}

func decodeTailHeader(b []byte, name string) (tailHeader, error) {
	if err := checkPreamble(b, tailMagic, name); err != nil {
		return tailHeader{}, err
	}
	h := tailHeader{
		id:       binary.LittleEndian.Uint64(b[16:]),
		prevID:   binary.LittleEndian.Uint64(b[24:]),
		prevUsed: int64(binary.LittleEndian.Uint64(b[32:])),
		begun:    int64(binary.LittleEndian.Uint64(b[40:])),
		lost:     b[48] != 0,
	}
	if h.id == 0 || h.prevID != h.id-1 || h.prevUsed < 0 || h.prevUsed%8 != 0 || h.begun < fileHeaderBytes {
		return tailHeader{}, errFileHeader
	}
	return h, nil
}

// tailFile is one file of the contiguous tail. Its fields are set by the flusher before the file is published under
// Log.mu, and do not change once it is sealed, but for what is noted.
type tailFile struct {
	id   uint64
	name string
	size int64 // allocated

	// mu is held shared while the file is read, so that a retired file is not written again under a reader.
	mu   sync.RWMutex
	file vfs.File

	dataStart int64    // where the stream's part of the file begins, at position firstPos
	firstPos  Position // stream position of dataStart
	used      int64    // guarded by Log.mu; end of what is written and synced

	// unreadable counts how often Maintain failed to read the file, and resting says that it waits for RetryUnreadable.
	unreadable int
	resting    bool

	begun bool // of who holds Log.keeping: there may be segments of an attempt to retire it

	// highest is the highest index of each shard's entries in the file, valid or superseded.
	// The flusher's while the file is current.
	highest map[ShardID]uint64
}

// endPos is the stream position behind the file's last frame. REQUIRES: sealed, or Log.mu.
func (f *tailFile) endPos() Position { return f.firstPos + Position(f.used-f.dataStart) }

// offset is where a stream position of this file is.
func (f *tailFile) offset(p Position) int64 { return f.dataStart + int64(p-f.firstPos) }

// spareFile is a preallocated file that waits for use; its content is void.
type spareFile struct {
	name string
	size int64
	file vfs.File
}

func (l *Log) tailDir() string { return path.Join(l.opts.Dir, "tail") }

func (l *Log) tailName(id uint64) string {
	return path.Join(l.tailDir(), fmt.Sprintf("%010d%s", id, tailSuffix))
}

func (l *Log) spareName(id uint64) string {
	return path.Join(l.tailDir(), fmt.Sprintf("%s%010d", sparePrefix, id))
}

// parseTailName reads the id from a tail file's name.
func parseTailName(name string) (uint64, bool) { return parseFileID(name, tailSuffix) }

// parseFileID reads the id from the name of a tail file, or of one that was kept.
func parseFileID(name, suffix string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) < 10 {
		return 0, false
	}
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, err == nil && id > 0 && name == fmt.Sprintf("%010d%s", id, suffix)
}

// createReplacing creates a file of our own temporary naming, in place of a leftover.
func createReplacing(fsys vfs.FS, name string, create func(name string) (vfs.File, error)) (vfs.File, error) {
	f, err := create(name)
	if errors.Is(err, fs.ErrExist) {
		if err = fsys.Remove(name); err != nil {
			return nil, err
		}
		f, err = create(name)
	}
	return f, err
}

// createZeroed makes a zeroed file of the given size under a temporary name, at once. The caller renames it.
func (l *Log) createZeroed(name string, size int64) (vfs.File, error) {
	f, err := createReplacing(l.fs, name, l.fs.Create)
	if err != nil {
		return nil, fmt.Errorf("create log file: %w", err)
	}
	if err = f.Preallocate(size); err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()         // the first error says more
		_ = l.fs.Remove(name) // a leftover is removed by the next Open
		return nil, fmt.Errorf("preallocate log file %s: %w", name, err)
	}
	return f, nil
}

// takeSpare removes and returns a spare of at least so many bytes, or makes a new file. Only the flusher calls it, when a
// file is full; Maintain has prepared a spare by then unless the disk is full or the log outruns it.
func (l *Log) takeSpare(need int64) (spareFile, error) {
	l.mu.Lock()
	for i, s := range l.spares {
		if s.size >= need {
			l.spares = append(l.spares[:i], l.spares[i+1:]...)
			l.mu.Unlock()
			return s, nil
		}
	}
	l.mu.Unlock()
	f, size, err := l.createNext(need)
	if isFull(err) && l.dropReserve() {
		f, size, err = l.createNext(need)
	}
	if err != nil {
		return spareFile{}, fullError("begin a new log file", err)
	}
	return spareFile{name: l.nextName(), size: size, file: f}, nil
}

func (l *Log) nextName() string { return path.Join(l.tailDir(), "next"+tempSuffix) }

// createNext makes a file of at least so many bytes to go on in at once: of full size when that leaves room for what
// shrinks the log, snapshots and segments; else a short one. Better a short file than a stop.
func (l *Log) createNext(need int64) (f vfs.File, size int64, err error) {
	first := int64(firstFileBytesMax)
	if f := l.current(); l.opened && f != nil {
		first = max(first, f.size) // the log outruns Maintain, and waits for the zeros: no growth now
	}
	for _, size := range [...]int64{first, shortFileBytes, shorterFileBytes, 0} {
		size = (max(min(size, l.opts.FileBytes), need) + 4095) &^ 4095
		if size > need+4095 && !l.roomFor(size) {
			continue
		}
		if f, err = l.createZeroed(l.nextName(), size); !isFull(err) {
			return f, size, err
		}
	}
	return nil, 0, err
}

// spareBytes is the size of the next spare.
func (l *Log) spareBytes() int64 {
	size := int64(firstFileBytesMax)
	if f := l.current(); f != nil {
		size = max(size, fileGrowth*f.size)
	}
	return min(size, l.opts.FileBytes)
}

// roomFor reports whether the disk is not full, as Full has it, with a file of so many bytes more.
func (l *Log) roomFor(size int64) bool {
	return l.diskTotal.Load() == 0 || l.diskFree.Load() >= l.fullBelow()+uint64(size)
}
