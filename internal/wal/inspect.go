package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// RecordKind says what a Record of Inspect describes.
type RecordKind string

// Kinds of records.
const (
	RecordTailFile RecordKind = "tail-file" // header of a tail file
	RecordSegment  RecordKind = "segment"   // header and footer of a live segment
	RecordOther    RecordKind = "other"     // a spare, temporary or unknown file
	RecordEntry    RecordKind = "entry"
	RecordState    RecordKind = "state"
	RecordMark     RecordKind = "mark"
	RecordSeal     RecordKind = "seal"
	RecordEnd      RecordKind = "end"    // where the last tail file's frames end
	RecordDamage   RecordKind = "damage" // Reason says what is wrong
)

// Record is one thing that Inspect found.
type Record struct {
	Kind   RecordKind
	File   string
	Offset int64
	Bytes  int64 // size of the file, or of an entry's data
	Shard  ShardID
	Index  uint64
	Term   uint64
	Type   uint8 // of an entry

	State       HardState // of a state record
	First, Last uint64    // bounds of a shard's tail; of a segment its first and last index
	Count       int       // entries of a segment

	Reason string
}

// Inspect walks a log's files without changing anything and calls fn for each file and frame, in order; payloads are
// verified but not handed out. Damage is reported as a record and the walk goes on with the next file. It stops at the
// first error of fn and returns it; other errors are those of listing and reading. The log should not be in use: what
// is being written looks like a torn tail.
func Inspect(fsys vfs.FS, dir string, fn func(Record) error) error {
	in := inspector{fs: fsys, dir: dir, fn: fn}
	if err := in.tail(); err != nil {
		return fmt.Errorf("inspect log: %w", err)
	}
	if err := in.live(); err != nil {
		return fmt.Errorf("inspect log: %w", err)
	}
	return nil
}

type inspector struct {
	fs  vfs.FS
	dir string
	fn  func(Record) error
}

// list is List, with a missing directory as an empty one.
func (in *inspector) list(dir string) ([]string, error) {
	names, err := in.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

func (in *inspector) other(name string) error {
	info, err := in.fs.Stat(name)
	if err != nil {
		return err
	}
	return in.fn(Record{Kind: RecordOther, File: name, Bytes: info.Size})
}

func (in *inspector) tail() error {
	dir := path.Join(in.dir, "tail")
	names, err := in.list(dir)
	if err != nil {
		return err
	}
	var ids []uint64
	for _, name := range names {
		if id, ok := parseTailName(name); ok {
			ids = append(ids, id)
		} else if err = in.other(path.Join(dir, name)); err != nil {
			return err
		}
	}
	slices.Sort(ids)
	for i, id := range ids {
		name := path.Join(dir, fmt.Sprintf("%010d%s", id, tailSuffix))
		if i > 0 && id != ids[i-1]+1 {
			err = in.fn(Record{Kind: RecordDamage, File: name, Reason: fmt.Sprintf("files %d to %d are missing", ids[i-1]+1, id-1)})
			if err != nil {
				return err
			}
		}
		next := ""
		if i+1 < len(ids) && ids[i+1] == id+1 {
			next = path.Join(dir, fmt.Sprintf("%010d%s", ids[i+1], tailSuffix))
		}
		if err = in.tailFile(name, id, next); err != nil {
			return err
		}
	}
	return nil
}

// header reads a tail file's header.
func (in *inspector) header(name string) (h tailHeader, size int64, f vfs.File, err error) {
	if f, err = in.fs.Open(name); err != nil {
		return h, 0, nil, err
	}
	if size, err = f.Size(); err == nil {
		b := make([]byte, fileHeaderBytes)
		if err = readFull(f, b, 0); err == nil {
			h, err = decodeTailHeader(b, name)
		}
	}
	return h, size, f, err
}

func (in *inspector) tailFile(name string, id uint64, next string) error {
	h, size, f, err := in.header(name)
	if f == nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	if err == nil && h.id != id {
		err = errFileName
	}
	if err != nil {
		return in.fn(Record{Kind: RecordDamage, File: name, Bytes: size, Reason: err.Error()})
	}
	if err = in.fn(Record{Kind: RecordTailFile, File: name, Bytes: size, Index: id}); err != nil {
		return err
	}
	end, sealed := size, false
	if next != "" {
		if nh, _, nf, err := in.header(next); nf != nil {
			_ = nf.Close() // only read
			if err == nil {
				end, sealed = min(nh.prevUsed, size), true
			}
		}
	}
	scan := tailScan{file: f, id: id, offset: fileHeaderBytes, end: end}
	for scan.offset < end {
		at := scan.offset
		fh, data, err := scan.next()
		if errors.Is(err, errScan) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err != nil {
			return in.badFrame(f, name, &h, at, size, sealed, err)
		}
		if err = in.fn(frameRecord(name, at, &fh, data)); err != nil {
			return err
		}
	}
	return nil
}

// badFrame reports the end of a file's good frames: damage, or where the log ends.
func (in *inspector) badFrame(f vfs.File, name string, h *tailHeader, at, size int64, sealed bool, bad error) error {
	if sealed {
		return in.fn(Record{Kind: RecordDamage, File: name, Offset: at, Reason: bad.Error()})
	}
	end, err := findEnd(f, name, h.id, h.begun, size, false)
	if damage, ok := errors.AsType[*CorruptError](err); ok {
		return in.fn(Record{
			Kind: RecordDamage, File: name, Offset: damage.Offset,
			Shard: damage.Shard, Index: damage.Index, Reason: damage.Reason,
		})
	}
	if err != nil {
		return err
	}
	r := Record{Kind: RecordEnd, File: name, Offset: end.end, Reason: "not closed on purpose"}
	switch {
	case end.clean:
		r.Reason = "closed on purpose"
	case end.torn > 0:
		r.Reason = "torn tail: a write was under way"
	}
	return in.fn(r)
}

func frameRecord(name string, at int64, h *frameHeader, data []byte) Record {
	r := Record{File: name, Offset: at, Shard: h.shard}
	switch h.kind {
	case kindEntry:
		r.Kind, r.Index, r.Term, r.Type, r.Bytes = RecordEntry, h.index, h.term, h.entryType, int64(len(data))
	case kindState:
		r.Kind = RecordState
		st, err := decodeState(data)
		if err != nil {
			r.Kind, r.Reason = RecordDamage, err.Error()
		}
		r.State, r.First, r.Last = st.hard, st.first, st.last
	case kindMark:
		r.Kind = RecordMark
	case kindSeal:
		r.Kind = RecordSeal
	}
	return r
}

func (in *inspector) live() error {
	root := path.Join(in.dir, "live")
	dirs, err := in.list(root)
	if err != nil {
		return err
	}
	for _, base := range dirs {
		shard, err := strconv.ParseUint(base, 10, 16)
		if err != nil {
			continue
		}
		dir := path.Join(root, base)
		names, err := in.list(dir)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err = in.segment(dir, name, ShardID(shard)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *inspector) exists(name string) bool {
	_, err := in.fs.Stat(name)
	return err == nil
}

func (in *inspector) segment(dir, base string, shard ShardID) error {
	name := path.Join(dir, base)
	id, ok := parseSegmentName(base)
	if !ok || strings.HasSuffix(base, tempSuffix) {
		return in.other(name)
	}
	g, rebuilt, err := openOrRebuild(in.fs, name, shard, id, true)
	if err != nil {
		return in.fn(Record{Kind: RecordDamage, File: name, Shard: shard, Reason: err.Error()})
	}
	if g.kept != nil && !in.exists(g.kept.name) && in.exists(strings.TrimSuffix(g.kept.name, keptSuffix)+tailSuffix) {
		return in.other(name) // Its tail file had not retired when the process ended.
	}
	if rebuilt != nil {
		damage := rebuilt.damage()
		err = in.fn(Record{Kind: RecordDamage, File: name, Offset: damage.Offset, Shard: shard, Reason: damage.Reason})
		if err != nil || len(g.entries) == 0 {
			return err
		}
	}
	err = in.fn(Record{
		Kind: RecordSegment, File: name, Shard: shard, Bytes: g.bytes,
		First: g.first, Last: g.last(), Count: len(g.entries),
	})
	if err != nil {
		return err
	}
	name = g.dataName()
	g.file, err = in.fs.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return in.fn(Record{Kind: RecordDamage, File: name, Shard: shard, Reason: "the file is missing, though " + g.name + " refers to it"})
	}
	if err != nil {
		return err
	}
	defer func() { _ = g.file.Close() }() // only read
	var w window
	w.reset(g.file)
	for i, x := range g.entries {
		p := place{segment: g, offset: x.offset(), fileID: g.fileID(), size: x.size, dataCRC: x.crc}
		r := Record{Kind: RecordEntry, File: name, Offset: p.offset, Shard: shard, Index: g.index(i), Type: x.size.entryType(), Bytes: int64(x.size.bytes())}
		e, err := w.entry(&p, shard, r.Index)
		if err != nil {
			r.Kind, r.Reason = RecordDamage, err.Error()
		}
		r.Term = e.Term
		if err = in.fn(r); err != nil {
			return err
		}
	}
	return nil
}
