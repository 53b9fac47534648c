package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// tailEnd is where a file that nothing has sealed ends.
type tailEnd struct {
	end    int64 // behind the last good frame of the stream
	proven int64 // below it all was durable before the crash; at most end
	clean  bool  // closed on purpose, and nothing was written since
	sealed bool  // the next file existed
	torn   int64 // bytes from end on that hold anything of this file
	read   int64

	// lost: the disk cannot read what is at end. It may be a torn write, or something that was promised.
	lost *CorruptError
}

// endScan looks for the end of the last tail file.
type endScan struct {
	tailScan
	name  string
	begun int64
	size  int64
	ahead int64 // the highest syncOffset of a frame behind the first bad one; -1: not looked for
}

// findEnd finds the end of the last tail file, and tells a torn tail from damage: a bad frame with proof behind it that
// it was durable once. Damage is an error, not an end; with holes it is passed over, and so is what the disk cannot read.
func findEnd(f io.ReaderAt, name string, id uint64, begun, size int64, holes bool) (tailEnd, error) {
	scan := endScan{
		tailScan: tailScan{file: f, id: id, offset: fileHeaderBytes, end: size, around: holes},
		name:     name, begun: begun, size: size, ahead: -1,
	}
	e := tailEnd{proven: begun}
	var bad error
	var h frameHeader
	marked := false
	for scan.offset < size && bad == nil && !marked {
		e.end = scan.offset
		h, _, bad = scan.next()
		if bad != nil && holes && !errors.Is(bad, errScan) {
			passed, err := scan.passDurable(&h, bad)
			if err != nil {
				return e, err
			}
			if passed {
				h, bad, e.end = frameHeader{}, nil, scan.offset
				e.proven = max(e.proven, e.end) // what cannot be read is not written again
			}
		}
		if bad == nil {
			e.proven = max(e.proven, h.syncOffset)
			switch h.kind {
			case kindMark, kindSeal:
				marked = true
			case kindEntry, kindState:
				e.end = scan.offset
			}
		}
	}
	e.read = scan.read
	e.proven = max(e.proven, scan.ahead)
	if errors.Is(bad, errScan) {
		return e, fmt.Errorf("%s: %w", name, bad)
	}
	damaged := &CorruptError{File: name, Offset: e.end, Shard: h.shard, Index: h.index}
	if e.end < begun {
		damaged.Reason = describeBad(bad)
		return e, damaged
	}
	if marked && h.kind == kindSeal {
		// Nothing is ever written behind it. What is there is of before an Open that could not read it, and cut the file off.
		e.sealed, e.proven = true, min(e.proven, e.end)
		return e, nil
	}
	last, proof, any, err := lookAhead(f, id, e.end, size, holes)
	if err != nil {
		return e, fmt.Errorf("%s: %w", name, err)
	}
	if proof > e.end {
		damaged.Reason = describeBad(bad) + ", but later frames prove that it was durable"
		return e, damaged
	}
	if errors.Is(bad, errFrameUnreadable) || errors.Is(bad, errDataUnreadable) {
		damaged.Reason = bad.Error()
		e.lost = damaged
	}
	e.clean = marked && h.kind == kindMark && last == e.end
	if any && !e.clean {
		e.torn = max(last-e.end, 0) + frameHeaderBytes
	}
	if bad != nil && !any && !errors.Is(bad, errFrameKind) && !errors.Is(bad, errFrameFile) {
		e.torn = frameHeaderBytes
	}
	return e, nil
}

// passDurable moves past a bad frame that was durable once, and reports whether it was.
func (s *endScan) passDurable(h *frameHeader, bad error) (bool, error) {
	if s.ahead < 0 { // what proves a later one proves this one
		_, proof, _, err := lookAhead(s.file, s.id, s.offset, s.size, true)
		if err != nil {
			return false, fmt.Errorf("%s: %w", s.name, err)
		}
		s.ahead = proof
	}
	if s.offset >= max(s.begun, s.ahead) {
		return false, nil
	}
	next, err := s.pass(h, bad, s.size)
	if err == nil && !next {
		s.offset = s.begun // nothing behind it is a frame, and all that is proven is what the file began with
	}
	return true, err
}

// pass moves past a bad frame: to where its header says that it ends, if that is good, or else to the next good header. It
// reports whether there was either of them below an offset; otherwise it has moved there.
func (s *tailScan) pass(h *frameHeader, bad error, below int64) (bool, error) {
	if h.kind != 0 && !errors.Is(bad, errFrameShort) {
		s.skip(h)
		return true, nil
	}
	next := below
	err := eachHeader(s.file, s.id, s.offset+8, below, s.around, func(offset int64, _ *frameHeader) bool {
		next = offset
		return false
	})
	s.offset = next
	return next < below, err
}

// usedUnknown is tailHeader.prevUsed of a file whose header is damaged.
const usedUnknown = -1

// unknownHeader stands for a header that is damaged. A file begins with a frame at least that was synced, but for the very first.
func unknownHeader(id uint64) tailHeader {
	return tailHeader{id: id, prevID: id - 1, prevUsed: usedUnknown, begun: fileHeaderBytes + frameHeaderBytes, lost: true}
}

// findSealed finds the end of a file that has a successor, whose header does not tell it. Frames behind it, if this takes them for some of
// the file, are undone by the states with which the successor begins.
func findSealed(f io.ReaderAt, name string, id uint64, begun, size int64) (int64, error) {
	sealed := int64(0)
	err := eachHeader(f, id, fileHeaderBytes, size, true, func(offset int64, h *frameHeader) bool {
		if h.kind == kindSeal {
			sealed = offset
		}
		return true
	})
	if err != nil || sealed > 0 {
		return sealed, err
	}
	e, err := findEnd(f, name, id, begun, size, true) // a crash came before the seal
	return e.end, err
}

func describeBad(bad error) string {
	if bad == nil {
		return "frames are missing"
	}
	return bad.Error()
}

// lookAhead searches from an offset on for headers of this file's frames, whatever lies between. It returns the offset
// of the last one and the highest syncOffset.
func lookAhead(f io.ReaderAt, id uint64, from, size int64, around bool) (last, proof int64, any bool, err error) {
	err = eachHeader(f, id, from, size, around, func(offset int64, h *frameHeader) bool {
		last, proof, any = offset, max(proof, h.syncOffset), true
		return true
	})
	return last, proof, any, err
}

// eachHeader calls fn for each good header of this file's frames from an offset on, whatever lies between, until it returns false.
func eachHeader(f io.ReaderAt, id uint64, from, size int64, around bool, fn func(offset int64, h *frameHeader) bool) error {
	scan := tailScan{file: f, id: id, offset: from, end: size, around: around}
	for scan.offset+frameHeaderBytes <= size {
		b, err := scan.fill(frameHeaderBytes)
		if err != nil {
			return err
		}
		at := 0
		for ; at+frameHeaderBytes <= len(b); at += 8 {
			if binary.LittleEndian.Uint64(b[at+8:]) != id {
				continue
			}
			offset := scan.offset + int64(at)
			if h, err := decodeHeader(b[at:], id, offset); err == nil && !fn(offset, &h) {
				return nil
			}
		}
		if at == 0 {
			break // the file is shorter than it was
		}
		scan.offset += int64(at)
	}
	return nil
}
