package wal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
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

	// around makes what the disk refuses to read zeros, which refused lists: of buf alone.
	around  bool
	refused []stretch
}

// stretch is a part of a file.
type stretch struct{ from, to int64 }

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
	s.refused = s.refused[:0]
	if s.around && errors.Is(err, syscall.EIO) {
		n, err = s.fillAround(size)
	}
	s.buf, s.at = s.buf[:n], s.offset
	s.read += int64(n)
	if n < size && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", errScan, err)
	}
	return s.buf, nil
}

// fillAround reads piece by piece, so that a bad sector hides no more than itself.
func (s *tailScan) fillAround(size int) (n int, err error) {
	for n < size {
		at := s.offset + int64(n)
		end := min(size, n+sectorBytes-int(at%sectorBytes))
		got, err := s.file.ReadAt(s.buf[n:end], at)
		switch {
		case errors.Is(err, syscall.EIO):
			clear(s.buf[n:end])
			s.refused = append(s.refused, stretch{at, s.offset + int64(end)})
		case n+got < end:
			return n + got, err
		}
		n = end
	}
	return n, nil
}

// unreadable reports whether the disk refused to read some of the bytes at offset.
func (s *tailScan) unreadable(size int64) bool {
	return slices.ContainsFunc(s.refused, func(r stretch) bool { return r.from < s.offset+size && s.offset < r.to })
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
	if s.unreadable(frameHeaderBytes) {
		return h, nil, errFrameUnreadable
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
	if s.unreadable(size) {
		return h, nil, errDataUnreadable
	}
	if checksum(data) != h.dataCRC {
		return h, nil, errFrameData
	}
	s.offset += size
	return h, data, nil
}

// skip moves past a frame whose header is good.
func (s *tailScan) skip(h *frameHeader) { s.offset += h.bytes() }
