package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// Intake writes entries from a peer to segments in a directory of their own, for Log.Install. A segment under way is named
// *.part. After a crash, OpenIntake goes on with what is certain: whole segments, and of a part that which a later frame in
// it says was synced before; the rest is cut off, since bytes that are read back after a crash may be in memory only.
//
// An Intake must be used by one goroutine at a time. Errors other than ErrDiskFull may be failed syncs, and are final.
type Intake struct {
	IntakeOptions
	next segmentID // of the next segment

	done []*segment
	w    *segmentWriter
	last uint64 // highest index there is
}

const partSuffix = ".part"

// IntakeOptions configure an Intake. The zero value of a number of bytes means its default.
type IntakeOptions struct {
	FS    vfs.FS
	Dir   string // created when missing
	Shard ShardID

	// Next numbers the first segment: Log.NextReceived when there were none, and the same ever after.
	Next uint64
	// Replace says that the segments will cover all that the log has received before: it all comes again.
	Replace bool

	SegmentBytes int64 // about the size of a segment; default 64 MiB
	SyncBytes    int64 // sync so often; default 4 MiB
}

// OpenIntake finds the segments in a directory; other files in it are not touched. What is damaged or does not fit is
// removed, with all behind it: nothing here was promised to anyone.
func OpenIntake(opts IntakeOptions) (*Intake, error) {
	if opts.SegmentBytes == 0 {
		opts.SegmentBytes = segmentTargetBytes
	}
	if opts.SyncBytes == 0 {
		opts.SyncBytes = intakeSyncBytes
	}
	in := &Intake{IntakeOptions: opts, next: segmentID{received: true, firstSeq: opts.Next, lastSeq: opts.Next}}
	if opts.Replace {
		in.next.firstSeq = 1
	}
	if err := in.FS.MkdirAll(in.Dir); err != nil {
		return nil, fmt.Errorf("make directory of received entries: %w", err)
	}
	if err := in.syncDir(); err != nil {
		return nil, err
	}
	names, err := in.FS.List(in.Dir) // sorted, and so are the sequence numbers
	if err != nil {
		return nil, fmt.Errorf("list received entries: %w", err)
	}
	broken := false
	for _, name := range names {
		id, ok := parseSegmentName(strings.TrimSuffix(name, partSuffix))
		if !ok || !id.received {
			continue
		}
		if !broken && id == in.next {
			found, err := in.adopt(path.Join(in.Dir, name), id)
			excused := (isFull(err) || errors.Is(err, syscall.EIO)) && !errors.Is(err, errFinal)
			if err != nil && !excused {
				return nil, err
			}
			if found {
				continue
			}
		}
		broken = true
		if err := in.FS.Remove(path.Join(in.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("remove received entries: %w", err)
		}
	}
	return in, nil
}

// adopt takes a segment or a part that an earlier process left, if it is good and fits.
func (in *Intake) adopt(name string, id segmentID) (bool, error) {
	if strings.HasSuffix(name, partSuffix) {
		return in.completePart(name, id)
	}
	g, _, err := openSegment(in.FS, name, in.Shard, id)
	if _, damaged := errors.AsType[*CorruptError](err); damaged || err == nil && g.first <= in.last {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	in.took(g)
	return true, nil
}

func (in *Intake) took(g *segment) {
	in.done = append(in.done, g)
	in.last = g.last()
	in.next = segmentID{received: true, firstSeq: g.lastSeq + 1, lastSeq: g.lastSeq + 1}
}

// completePart makes a segment of what is certain of a part; false when that is nothing.
func (in *Intake) completePart(name string, id segmentID) (ok bool, err error) {
	f, err := in.FS.OpenReadWrite(name)
	if err != nil {
		return false, fmt.Errorf("open received entries: %w", err)
	}
	defer func() {
		if !ok {
			_ = f.Close() // of no use
		}
	}()
	size, err := f.Size()
	if err != nil {
		return false, fmt.Errorf("open received entries: %w", err)
	}
	w := &segmentWriter{fs: in.FS, temp: name, file: f, g: &segment{
		segmentID: id, shard: in.Shard, name: strings.TrimSuffix(name, partSuffix),
	}}
	if err := w.salvage(size); err != nil || len(w.g.entries) == 0 || w.g.first <= in.last {
		return false, err
	}
	if err := f.Truncate(w.at); err != nil {
		return false, fmt.Errorf("cut received entries: %w", err)
	}
	in.w = w
	if err := in.sealPart(); err != nil {
		return false, in.giveUp(err)
	}
	return true, nil
}

// salvage lists what of a part was synced before a crash, and sets the writer behind it.
func (w *segmentWriter) salvage(size int64) error {
	b := make([]byte, fileHeaderBytes)
	if size < fileHeaderBytes {
		return nil
	}
	if err := readFull(w.file, b, 0); err != nil {
		return fmt.Errorf("read received entries %s: %w", w.temp, err)
	}
	if h, err := decodeSegmentHeader(b, segmentMagic, w.temp); err != nil || h.segmentID != w.g.segmentID || h.shard != w.g.shard {
		return nil //nolint:nilerr // Not written whole.
	}
	scan := tailScan{file: w.file, id: w.g.fileID(), offset: fileHeaderBytes, end: size}
	var found []frameHeader
	proven := int64(fileHeaderBytes)
	for scan.offset < size {
		h, _, err := scan.next()
		if errors.Is(err, errScan) {
			return fmt.Errorf("%s: %w", w.temp, err)
		}
		if errors.Is(err, errFrameData) && h.dataBytes == 0 { // an entry that was damaged at its sender
			scan.offset += h.bytes()
			err = nil
		}
		if err != nil || h.kind != kindEntry || h.shard != w.g.shard ||
			len(found) > 0 && h.index <= found[len(found)-1].index {
			break
		}
		found = append(found, h)
		proven = max(proven, h.syncOffset)
	}
	w.at = fileHeaderBytes
	for _, h := range found {
		if w.at+h.bytes() > proven {
			break
		}
		w.list(h.index, h.term, packSize(int(h.dataBytes), h.entryType), h.dataCRC, w.at)
		w.at += h.bytes()
	}
	return nil
}

// Last is the highest index of an entry here, 0 when there is none. Before a Seal it may be in memory only.
func (in *Intake) Last() uint64 { return in.last }

// Add appends an entry above Last, and copies it. damaged says that the peer could not read it: it will be listed, and refused.
// ErrDiskFull means that it and what was not yet in a whole segment is gone: see Last.
func (in *Intake) Add(e *Entry, damaged bool) error {
	invariant.Check(e.Index > in.last && len(e.Data) <= EntryBytesMax, "received entry %d of %d bytes behind %d", e.Index, len(e.Data), in.last)
	if w := in.w; w != nil && len(w.g.entries) > 0 &&
		(w.g.bytes >= in.SegmentBytes || len(w.g.entries) >= segmentEntriesMax || e.Index-w.g.first >= 1<<32) {
		if err := in.sealPart(); err != nil {
			return in.giveUp(err)
		}
	}
	if in.w == nil {
		w, err := createSegment(in.FS, in.Dir, partSuffix, in.Shard, in.next, nil)
		if err == nil {
			in.w, err = w, in.syncDir()
		}
		if err != nil {
			return in.giveUp(err)
		}
	}
	crc := nameOnlyCRC
	if damaged {
		e = &Entry{Index: e.Index, Term: e.Term, Type: e.Type}
	} else {
		crc = checksum(e.Data)
	}
	err := in.w.add(e, crc)
	if err == nil && in.w.at+int64(len(in.w.buf))-in.w.synced >= in.SyncBytes {
		err = in.w.sync()
	}
	if err != nil {
		return in.giveUp(err)
	}
	in.last = e.Index
	return nil
}

// sync makes what was added durable; frames from here on say so.
func (w *segmentWriter) sync() error {
	if err := w.flush(); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return fmt.Errorf("sync segment %s: %w: %w", w.temp, errFinal, err)
	}
	w.synced = w.at
	return nil
}

// giveUp removes the part when the disk is full, so that others have the room.
func (in *Intake) giveUp(err error) error {
	if !isFull(err) || errors.Is(err, errFinal) {
		return fmt.Errorf("receive entries: %w", err)
	}
	if in.w != nil {
		in.w.abandon()
		in.w = nil
	}
	in.last = 0
	if n := len(in.done); n > 0 {
		in.last = in.done[n-1].last()
	}
	return fullError("receive entries", err)
}

func (in *Intake) syncDir() error {
	if err := in.FS.SyncDir(in.Dir); err != nil {
		return fmt.Errorf("sync %s: %w: %w", in.Dir, errFinal, err)
	}
	return nil
}

// sealPart completes the segment under way.
func (in *Intake) sealPart() error {
	w := in.w
	if err := w.seal(); err != nil {
		return err
	}
	if err := in.FS.Rename(w.temp, w.g.name); err != nil {
		return fmt.Errorf("name segment: %w: %w", errFinal, err)
	}
	in.w = nil
	if err := in.syncDir(); err != nil {
		return err
	}
	in.took(w.g)
	return nil
}

// Seal completes the last segment. It returns the names of all, each whole and synced.
func (in *Intake) Seal() ([]string, error) {
	if in.w != nil {
		if err := in.sealPart(); err != nil {
			return nil, in.giveUp(err)
		}
	}
	names := make([]string, len(in.done))
	for i, g := range in.done {
		names[i] = path.Base(g.name)
	}
	return names, nil
}

// Missing counts the entries of a set above an index that are not here, and names the first.
func (in *Intake) Missing(set *roaring64.Bitmap, above uint64) (count, first uint64) {
	c := rowCursor{segments: in.done}
	it := set.Iterator()
	it.AdvanceIfNeeded(above + 1)
	for it.HasNext() {
		index := it.Next()
		if _, ok := c.find(index); ok {
			continue
		}
		if count == 0 {
			first = index
		}
		count++
	}
	return count, first
}

// Remove removes everything that was received here.
func (in *Intake) Remove() error {
	if in.w != nil {
		in.w.abandon()
		in.w = nil
	}
	for _, g := range in.done {
		if err := in.FS.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove received entries: %w", err)
		}
	}
	in.done, in.last = nil, 0
	return nil
}
