package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// tailScan reads a tail file's frames in order, with every checksum verified.
type tailScan struct {
	file   io.ReaderAt
	id     uint64
	offset int64 // of the next frame
	end    int64
	buf    []byte
	at     int64 // file offset of buf[0]
	read   int64 // bytes read so far
}

// fill makes need bytes at offset available and returns them; fewer only at the end of the file.
func (s *tailScan) fill(need int) ([]byte, error) {
	if s.offset >= s.at && s.offset+int64(need) <= s.at+int64(len(s.buf)) {
		return s.buf[s.offset-s.at:], nil
	}
	size := int(min(int64(max(need, scanBytes)), s.end-s.offset))
	if cap(s.buf) < size {
		s.buf = make([]byte, size)
	}
	n, err := s.file.ReadAt(s.buf[:size], s.offset)
	s.buf, s.at = s.buf[:n], s.offset
	s.read += int64(n)
	if n < size && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", errScan, err)
	}
	return s.buf, nil
}

// errScan marks an I/O error, in contrast to what is wrong with a frame.
var errScan = errors.New("read log file")

// next returns the frame at offset and moves past it; the data is valid until the next call. Errors wrap errScan, or say
// what is wrong with the frame, whose header is returned too if it is good; offset is then still at the frame.
func (s *tailScan) next() (h frameHeader, data []byte, err error) {
	b, err := s.fill(frameHeaderBytes)
	if err != nil {
		return h, nil, err
	}
	if h, err = decodeHeader(b, s.id, s.offset); err != nil {
		return frameHeader{}, nil, err
	}
	size := h.bytes()
	if s.offset+size > s.end {
		return h, nil, errFrameShort
	}
	if b, err = s.fill(int(size)); err != nil {
		return h, nil, err
	}
	if int64(len(b)) < size {
		return h, nil, errFrameShort
	}
	data = b[frameHeaderBytes:][:h.dataBytes]
	if checksum(data) != h.dataCRC {
		return h, nil, errFrameData
	}
	s.offset += size
	return h, data, nil
}

// skip moves past a frame whose header is good.
func (s *tailScan) skip(h *frameHeader) { s.offset += h.bytes() }

// tailEnd is where a file that nothing has sealed ends.
type tailEnd struct {
	end    int64 // behind the last good frame of the stream
	proven int64 // below it all was durable before the crash; at most end
	clean  bool  // closed on purpose, and nothing was written since
	sealed bool  // the next file existed
	torn   int64 // bytes from end on that hold anything of this file
	read   int64
}

// findEnd finds the end of the last tail file, and tells a torn tail from damage: a bad frame with proof behind it that
// it was durable once. Damage is an error, not an end.
// With holes, an entry of which only the data is damaged is passed over.
func findEnd(f io.ReaderAt, name string, id uint64, begun, size int64, holes bool) (tailEnd, error) {
	scan := tailScan{file: f, id: id, offset: fileHeaderBytes, end: size}
	e := tailEnd{proven: begun}
	var bad error
	var h frameHeader
	marked, ahead := false, int64(-1)
	for scan.offset < size && bad == nil && !marked {
		e.end = scan.offset
		h, _, bad = scan.next()
		if holes && isHole(&h, bad) {
			if ahead < 0 { // what proves a later one proves this one
				var err error
				if _, ahead, _, err = lookAhead(f, id, e.end, size); err != nil {
					return e, fmt.Errorf("%s: %w", name, err)
				}
			}
			if e.end < max(begun, ahead) {
				scan.skip(&h)
				bad = nil
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
	if errors.Is(bad, errScan) {
		return e, fmt.Errorf("%s: %w", name, bad)
	}
	damaged := &CorruptError{File: name, Offset: e.end, Shard: h.shard, Index: h.index}
	if e.end < begun {
		damaged.Reason = describeBad(bad)
		return e, damaged
	}
	last, proof, any, err := lookAhead(f, id, e.end, size)
	if err != nil {
		return e, fmt.Errorf("%s: %w", name, err)
	}
	if proof > e.end {
		damaged.Reason = describeBad(bad) + ", but later frames prove that it was durable"
		return e, damaged
	}
	e.sealed = marked && h.kind == kindSeal
	e.clean = marked && h.kind == kindMark && last == e.end
	if any && !e.clean {
		e.torn = max(last-e.end, 0) + frameHeaderBytes
	}
	if bad != nil && !any && !errors.Is(bad, errFrameKind) && !errors.Is(bad, errFrameFile) {
		e.torn = frameHeaderBytes
	}
	return e, nil
}

func describeBad(bad error) string {
	if bad == nil {
		return "frames are missing"
	}
	return bad.Error()
}

// lookAhead searches from an offset on for headers of this file's frames, whatever lies between. It returns the offset
// of the last one and the highest syncOffset.
func lookAhead(f io.ReaderAt, id uint64, from, size int64) (last, proof int64, any bool, err error) {
	scan := tailScan{file: f, id: id, offset: from, end: size}
	for scan.offset+frameHeaderBytes <= size {
		b, err := scan.fill(frameHeaderBytes)
		if err != nil {
			return 0, 0, false, err
		}
		at := 0
		for ; at+frameHeaderBytes <= len(b); at += 8 {
			if binary.LittleEndian.Uint64(b[at+8:]) != id {
				continue
			}
			offset := scan.offset + int64(at)
			if h, err := decodeHeader(b[at:], id, offset); err == nil {
				last, proof, any = offset, max(proof, h.syncOffset), true
			}
		}
		if at == 0 {
			break // the file is shorter than it was
		}
		scan.offset += int64(at)
	}
	return last, proof, any, nil
}
