package snapshot

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// chunkWriter cuts what is written to it into chunks, and writes each with one call.
type chunkWriter struct {
	w       io.WriterAt
	index   uint64
	buf     []byte // the file's header before the first chunk, then a chunk's header and payload so far
	chunk   int    // where in buf the chunk starts
	offset  int64  // of buf in the file
	content int64
	number  uint32
	err     error
}

func newChunkWriter(w io.WriterAt, index uint64, header []byte) *chunkWriter {
	c := &chunkWriter{w: w, index: index, buf: make([]byte, 0, len(header)+2*chunkHeaderBytes+chunkBytesMax+endBytes)}
	c.buf = append(c.buf, header...)
	c.begin()
	return c
}

// begin leaves room for the next chunk's header.
func (c *chunkWriter) begin() {
	c.chunk = len(c.buf)
	c.buf = append(c.buf, make([]byte, chunkHeaderBytes)...)
}

func (c *chunkWriter) payloadBytes() int { return len(c.buf) - c.chunk - chunkHeaderBytes }

// Write implements io.Writer. An error is final.
func (c *chunkWriter) Write(p []byte) (int, error) {
	done := 0
	for c.err == nil && done < len(p) {
		n := min(len(p)-done, chunkBytesMax-c.payloadBytes())
		c.buf = append(c.buf, p[done:done+n]...)
		done += n
		if c.payloadBytes() == chunkBytesMax {
			c.flush(kindData)
		}
	}
	return done, c.err
}

// finish writes the last data chunk with the end chunk behind it.
func (c *chunkWriter) finish() error {
	if c.err == nil && c.payloadBytes() > 0 {
		c.seal(kindData)
		c.begin()
	}
	if c.err == nil {
		c.buf = binary.LittleEndian.AppendUint64(c.buf, uint64(c.content))
		c.flush(kindEnd)
	}
	return c.err
}

// seal fills in the header of the chunk at the end of buf.
func (c *chunkWriter) seal(kind uint32) {
	if c.number == chunksMax {
		c.err = fmt.Errorf("%w: more than %d chunks", ErrTooLarge, uint32(chunksMax))
		return
	}
	payload := c.buf[c.chunk+chunkHeaderBytes:]
	invariant.Check(len(payload) <= chunkBytesMax, "chunk of %d bytes", len(payload))
	if kind == kindData {
		c.content += int64(len(payload))
	}
	putChunkHeader(c.buf[c.chunk:], chunkHeader{kind, c.number, uint32(len(payload)), c.index, crc(payload)})
	c.number++
}

func (c *chunkWriter) flush(kind uint32) {
	c.seal(kind)
	if c.err != nil {
		return
	}
	var n int
	n, c.err = c.w.WriteAt(c.buf, c.offset)
	c.offset += int64(n)
	c.buf = c.buf[:0]
	c.begin()
}

type chunkHeader struct {
	kind, number, length uint32
	index                uint64
	payloadCRC           uint32
}

func putChunkHeader(dst []byte, h chunkHeader) {
	le := binary.LittleEndian
	le.PutUint32(dst, h.kind)
	le.PutUint32(dst[4:], h.number)
	le.PutUint32(dst[8:], h.length)
	le.PutUint64(dst[12:], h.index)
	le.PutUint32(dst[20:], h.payloadCRC)
	le.PutUint32(dst[24:], crc(dst[:24]))
}

// parseChunkHeader returns the header at a place where number is due, or the reason why there is none.
func parseChunkHeader(src []byte, number uint32, index uint64) (h chunkHeader, reason string) {
	le := binary.LittleEndian
	if crc(src[:24]) != le.Uint32(src[24:]) {
		return h, "wrong checksum of a chunk's header"
	}
	h = chunkHeader{le.Uint32(src), le.Uint32(src[4:]), le.Uint32(src[8:]), le.Uint64(src[12:]), le.Uint32(src[20:])}
	switch {
	case h.index != index:
		return h, fmt.Sprintf("a chunk of snapshot %d", h.index)
	case h.number != number:
		return h, fmt.Sprintf("chunk %d where chunk %d is due", h.number, number)
	case h.kind != kindData && h.kind != kindEnd:
		return h, fmt.Sprintf("unknown chunk kind %d", h.kind)
	case h.kind == kindEnd && h.length != endBytes:
		return h, fmt.Sprintf("end of %d bytes", h.length)
	case h.length == 0 || h.length > chunkBytesMax:
		return h, fmt.Sprintf("chunk of %d bytes", h.length)
	}
	return h, ""
}

// chunkReader hands out content whose chunk has been checked, and io.EOF only behind a right end chunk.
type chunkReader struct {
	r      io.ReaderAt
	path   string
	size   int64
	offset int64 // of the next chunk
	index  uint64

	number  uint32
	content int64
	buf     []byte // made at the first Read
	rest    []byte // of the current chunk
	err     error
}

func newChunkReader(r io.ReaderAt, path string, size, start int64, index uint64) *chunkReader {
	return &chunkReader{r: r, path: path, size: size, offset: start, index: index}
}

// Read implements io.Reader.
func (c *chunkReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 && c.err == nil {
		c.err = c.next()
	}
	if len(c.rest) == 0 {
		return 0, c.err
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: a chunk at a time, without a buffer between.
func (c *chunkReader) WriteTo(w io.Writer) (total int64, err error) {
	for {
		if len(c.rest) > 0 {
			n, err := w.Write(c.rest)
			total += int64(n)
			c.rest = c.rest[n:]
			if err != nil {
				return total, err
			}
		}
		if c.err == nil {
			c.err = c.next()
		}
		switch {
		case c.err == io.EOF: //nolint:errorlint // our own, never wrapped
			return total, nil
		case c.err != nil:
			return total, c.err
		}
	}
}

func (c *chunkReader) damaged(reason string) error { return &Damage{c.path, c.offset, reason} }

// next reads and checks one chunk; io.EOF at the end chunk.
func (c *chunkReader) next() error {
	var header [chunkHeaderBytes]byte
	if err := readFull(c.r, header[:], c.offset, c.size); err != nil {
		return readError(c.path, c.offset, err)
	}
	h, reason := parseChunkHeader(header[:], c.number, c.index)
	if reason != "" {
		return c.damaged(reason)
	}
	if c.buf == nil {
		c.buf = make([]byte, min(chunkBytesMax, c.size))
	}
	if int64(h.length) > c.size {
		return c.damaged("the file is cut short")
	}
	payload := c.buf[:h.length]
	if err := readFull(c.r, payload, c.offset+chunkHeaderBytes, c.size); err != nil {
		return readError(c.path, c.offset, err)
	}
	if crc(payload) != h.payloadCRC {
		return c.damaged("wrong checksum of a chunk")
	}
	end := c.offset + chunkHeaderBytes + int64(h.length)
	if h.kind == kindEnd {
		switch told := binary.LittleEndian.Uint64(payload); {
		case told != uint64(c.content):
			return c.damaged(fmt.Sprintf("%d bytes of content, and the end tells %d", c.content, told))
		case end != c.size:
			return c.damaged(fmt.Sprintf("%d bytes behind the end", c.size-end))
		}
		return io.EOF
	}
	c.offset, c.rest = end, payload
	c.content += int64(h.length)
	c.number++
	return nil
}
