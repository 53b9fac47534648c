package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"syscall"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A tail file nearly all of which is live when it retires is *kept*: to copy it would be to write everything twice, and a long
// queue would be slower than a short one. It is renamed, and each shard with live entries in it gets a segment *in place*: an index
// like that of other segments, whose rows say where the frames are in the kept file.
//
//	DIR/tail/0000000007.kept                   was 0000000007.wal
//	DIR/live/00002/0000000007-0000000007.seg   header, index block and footer alone, twice
//
// The file is two copies of
//
//	┌────────┬──────────────┬───────┬────────┐
//	│ header │ index block  │ zeros │ footer │  a multiple of 4 KiB
//	└────────┴──────────────┴───────┴────────┘
//
// with header, rows and footer as segments have them (segment.go), but that the version is 3 and offsets are those of the kept file. Frames
// repeat what the index of another segment says. Those of a kept file would not do: there are others among them, of entries that were dead or
// replaced when the file retired. So the index itself is there twice. If one copy is damaged, or the disk refuses to read it, Open takes the
// other, and Maintain writes a segment with frames of its own. If both are, the segment is as good as missing.
//
// A segment in place is a segment like any other: it is merged when little of what the kept file holds is live, is written
// anew when something of it is mended, and goes when it is dead. With the last one that refers to it the kept
// file goes too, to be a spare: while a long queue is served, its files go round, and nothing is written but what is new.
//
// Crash points: as when a tail file is copied, segments are durable before the file gets its new name; until then it is replayed, and
// they are leftovers. When that is given up in the middle, they are removed before it begins anew. A kept file goes when the removal of
// the last segment that refers to it is durable. A crash in between leaves one that none refers to. So does the loss of the last segment,
// so Open leaves it until the live sets have shown that nothing is missing: orphan.go.

// keptFile is a retired tail file that segments refer to.
type keptFile struct {
	id   uint64
	name string
	size int64

	// What follows is changed by who holds Log.keeping.
	parts  []*segment // that refer to it
	absent bool       // Open did not find it
	pinned bool       // a segment that Open has left aside may refer to it too, or what is in it cannot be read: the next Open looks again

	named  int64     // below it, the headers of its frames were read
	shards []ShardID // whose entries those are
}

// keptBeside names the file that a segment in place refers to.
func keptBeside(segment string, id segmentID) *keptFile {
	root := path.Dir(path.Dir(path.Dir(segment))) // DIR/live/00002/x.seg
	return &keptFile{id: id.firstSeq, name: path.Join(root, "tail", keptBase(id.firstSeq))}
}

func keptBase(id uint64) string { return fmt.Sprintf("%010d%s", id, keptSuffix) }

// dataName is the name of the file that the frames are in.
func (g *segment) dataName() string {
	if g.kept != nil {
		return g.kept.name
	}
	return g.name
}

// sparse reports whether so little of the file is live that what is can be copied. REQUIRES: Log.keeping.
func (k *keptFile) sparse(below int) bool {
	if slices.ContainsFunc(k.parts, func(g *segment) bool { return g.rest > 0 }) {
		return false // To copy the others would give no room back.
	}
	return k.liveBytes()*100 < k.size*int64(below)
}

// liveBytes is what lives in the file. REQUIRES: Log.keeping.
func (k *keptFile) liveBytes() (live int64) {
	for _, g := range k.parts {
		live += g.liveBytes
	}
	return live
}

// isInPlace reports whether one end of a file says that it is a segment in place.
func isInPlace(r io.ReaderAt, size int64, name string) bool {
	for _, end := range []struct {
		magic  string
		offset int64
	}{{segmentMagic, 0}, {footerMagic, size - fileHeaderBytes}} {
		var b [fileHeaderBytes]byte
		if end.offset < 0 || readFull(r, b[:], end.offset) != nil {
			continue // whoever reads on says why
		}
		if h, err := decodeSegmentHeader(b[:], end.magic, name); err == nil && h.inPlace {
			return true
		}
	}
	return false
}

// loadInPlace decodes a segment in place by one of its copies. Rebuilt is not nil when the first one is damaged.
func loadInPlace(r io.ReaderAt, size int64, name string, shard ShardID, id segmentID) (*segment, *Rebuilt, error) {
	if id.received || id.firstSeq != id.lastSeq || size%(2*vfs.UncachedBytes) != 0 {
		return nil, nil, fmt.Errorf("%w: a segment in place does not have this name, or this size", errFileName)
	}
	half := size / 2
	g, err := loadCopy(io.NewSectionReader(r, 0, half), half, name, shard, id)
	if err == nil || !isDamage(err) && !errors.Is(err, syscall.EIO) {
		return g, nil, err
	}
	g, err2 := loadCopy(io.NewSectionReader(r, half, half), half, name, shard, id)
	if err2 != nil {
		return nil, nil, err
	}
	g.rebuilt = true
	return g, &Rebuilt{File: name, Shard: shard, Reason: err.Error(), Entries: len(g.entries), Whole: true, Copied: true}, nil
}

// loadCopy decodes one copy of a segment in place.
func loadCopy(r io.ReaderAt, size int64, name string, shard ShardID, id segmentID) (*segment, error) {
	var b [2 * fileHeaderBytes]byte
	err := readFull(r, b[:fileHeaderBytes], 0)
	if err == nil {
		err = readFull(r, b[fileHeaderBytes:], size-fileHeaderBytes)
	}
	if err != nil {
		return nil, err
	}
	h, err := decodeSegmentHeader(b[:fileHeaderBytes], segmentMagic, name)
	if err != nil {
		return nil, err
	}
	foot, err := decodeSegmentHeader(b[fileHeaderBytes:], footerMagic, name)
	switch {
	case err != nil:
		return nil, fmt.Errorf("footer: %w", err)
	case !h.inPlace || !foot.inPlace || h.shard != shard || foot.shard != shard || h.segmentID != id || foot.segmentID != id:
		return nil, errFileName
	case foot.indexAt != fileHeaderBytes || foot.count == 0 || foot.count > segmentEntriesMax || copyBytes(int(foot.count)) != size:
		return nil, fmt.Errorf("%w: the footer's numbers do not fit the file", errIndexBlock)
	}
	g := &segment{segmentID: id, shard: shard, name: name, kept: keptBeside(name, id)}
	return g, g.loadIndex(r, &foot)
}

// copyBytes is the size of one copy.
func copyBytes(count int) int64 {
	return (2*fileHeaderBytes + int64(count)*segmentIndexBytes + vfs.UncachedBytes - 1) &^ (vfs.UncachedBytes - 1)
}

// writeCopies writes what follows the header of the first copy.
func (w *segmentWriter) writeCopies() error {
	size := copyBytes(len(w.g.entries))
	if err := w.writeIndex(0, size); err != nil {
		return err
	}
	h := w.g.header()
	w.buf = append(w.buf, h.encode(segmentMagic)...)
	return w.writeIndex(size, 2*size)
}

// refer lists an entry of a kept file.
func (w *segmentWriter) refer(index uint64, e *tailEntry, offset int64) {
	w.list(index, e.term, e.size, e.crc, offset)
}

// decideStay decides whether a file that retires is kept. One with damage is copied: its segments say which entries are.
func (l *Log) decideStay(job *retireJob) {
	f := job.file
	l.mu.RLock()
	defer l.mu.RUnlock()
	live := int64(0)
	for _, list := range job.lists {
		wanted := l.shards[list.shard].wanted
		for i := range list.items {
			live += list.items[i].entry.size.frame()
			if len(wanted) > 0 && wanted[list.items[i].index] != nil {
				return
			}
		}
	}
	if f.unreadable == 0 && live > 0 && live*100 >= f.size*int64(l.opts.KeepAbove) {
		job.kept = &keptFile{id: f.id, name: l.keptName(f.id), size: f.size}
	}
}

// removeUnfinished removes a shard's segment of an attempt to retire a file that was given up, if there is one. The next attempt may copy the
// file, or find nothing of the shard live: then one in place would be left, and refer to a file that never was.
func (l *Log) removeUnfinished(f *tailFile, shard ShardID) error {
	id := segmentID{firstSeq: f.id, lastSeq: f.id}
	err := l.fs.Remove(path.Join(l.liveDir(shard), id.base()))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil:
		err = l.syncDir(l.liveDir(shard))
	}
	if err != nil {
		return fmt.Errorf("remove an unfinished segment: %w", err)
	}
	return nil
}

func (l *Log) keptName(id uint64) string { return path.Join(l.tailDir(), keptBase(id)) }

// release is told that segments are gone for good, and gives back the kept files to which no other refers.
// REQUIRES: l.keeping, and that nobody reads them any more.
func (l *Log) release(gone []*segment) error {
	var free []*keptFile
	for _, g := range gone {
		k := g.kept
		if k == nil {
			continue
		}
		k.parts = slices.DeleteFunc(k.parts, func(part *segment) bool { return part == g })
		if len(k.parts) == 0 && !k.pinned && !k.absent {
			free = append(free, k)
		}
	}
	for _, k := range free {
		if err := l.giveBack(k); err != nil {
			l.keeper.orphans = true // If that passes, nextOrphan finds it, and those behind it.
			return err
		}
	}
	return nil
}

// giveBack makes a kept file a spare, or removes it.
func (l *Log) giveBack(k *keptFile) error {
	l.mu.RLock()
	recycle := k.size == l.opts.FileBytes && len(l.spares) < l.opts.SpareFilesMax
	l.mu.RUnlock()
	spare := spareFile{size: k.size}
	if recycle {
		var err error
		spare.file, err = l.fs.OpenReadWrite(k.name)
		recycle = err == nil // It can be removed all the same.
	}
	var err error
	if recycle {
		l.keeper.spare++
		spare.name = l.spareName(l.keeper.spare)
		err = l.rename(k.name, spare.name)
	} else if err = l.fs.Remove(k.name); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		err = l.syncDir(l.tailDir())
	}
	if err != nil {
		if spare.file != nil {
			_ = spare.file.Close() // the first error says more
		}
		return fmt.Errorf("give back a kept log file: %w", err)
	}
	delete(l.kept, k.id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.KeptFiles--
	l.stats.KeptBytes -= k.size
	if recycle {
		l.spares = append(l.spares, spare)
	}
	return nil
}
