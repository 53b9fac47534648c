package transport

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"time"
)

// After the handshake both sides send frames:
//
//	┌─────────┬───────┬────────────┬─────────────────┐
//	│ kind u8 │ 0 u24 │ length u32 │ *length* bytes  │
//	└─────────┴───────┴────────────┴─────────────────┘
//
// What follows the header:
//
//	ping, pong   stamp u64; the pong repeats that of the ping
//	batch        messages u32, bytes of the descriptions u32, descriptions, data of the entries
//	transfer     shard u16, kind u8, 0 u8, data
//	request      id u64, time left ms u32 (0: any), kind u8, 0 u24, body
//	cancel       id u64
//	answer       id u64, status u8, 0 u56, body
const (
	frameHeadBytes    = 8
	pingBytes         = 8
	batchHeadBytes    = 8
	transferHeadBytes = 4
	requestHeadBytes  = 16
	cancelBytes       = 8
	answerHeadBytes   = 16
)

type frameKind uint8

const (
	framePing frameKind = iota + 1
	framePong
	frameBatch
	frameTransfer
	frameRequest
	frameCancel
	frameAnswer
)

// purpose is what a connection is for. Each has connections of its own, so that a chunk of a snapshot holds up no heartbeat.
type purpose uint8

const (
	forMessages purpose = iota + 1
	forTransfers
	forCalls
	purposeEnd
)

func (p purpose) String() string {
	switch p {
	case forMessages:
		return "messages"
	case forTransfers:
		return "transfers"
	case forCalls:
		return "calls"
	default:
		return "unknown purpose"
	}
}

// bounds says how long a frame of a kind may be, least and most, on a connection for a purpose. Only what the dialler sends or, with
// back, only what comes back to it, is known there.
func bounds(p purpose, back bool, kind frameKind) (low, high int, ok bool) {
	switch {
	case kind == framePing && !back, kind == framePong && back:
		return pingBytes, pingBytes, true
	case kind == frameBatch && !back && p == forMessages:
		return batchHeadBytes, batchHeadBytes + batchBytesMax, true
	case kind == frameTransfer && !back && p == forTransfers:
		return transferHeadBytes, transferHeadBytes + TransferBytesMax, true
	case kind == frameRequest && !back && p == forCalls:
		return requestHeadBytes, requestHeadBytes + CallBytesMax, true
	case kind == frameCancel && !back && p == forCalls:
		return cancelBytes, cancelBytes, true
	case kind == frameAnswer && back && p == forCalls:
		return answerHeadBytes, answerHeadBytes + CallBytesMax, true
	default:
		return 0, 0, false
	}
}

func appendFrameHead(b []byte, kind frameKind, length int) []byte {
	b = append(b, byte(kind), 0, 0, 0)
	return binary.LittleEndian.AppendUint32(b, uint32(length))
}

// frameReader reads the frames of one connection. It does not allocate for a length that bounds does not allow.
type frameReader struct {
	r       *bufio.Reader
	purpose purpose
	back    bool
	head    [16]byte
	scratch []byte
	batch   batchDecoder
}

func newFrameReader(r io.Reader, p purpose, back bool) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, bufferBytes), purpose: p, back: back}
}

// next reads the header of a frame, and returns how many bytes follow it. Those must be read before the next call.
func (f *frameReader) next() (frameKind, int, error) {
	head := f.head[:frameHeadBytes]
	if _, err := io.ReadFull(f.r, head); err != nil {
		return 0, 0, err
	}
	kind, length := frameKind(head[0]), binary.LittleEndian.Uint32(head[4:])
	low, high, ok := bounds(f.purpose, f.back, kind)
	switch {
	case !ok || head[1]|head[2]|head[3] != 0:
		return 0, 0, malformed("a frame of kind %d on a connection for %v", head[0], f.purpose)
	case uint64(length) < uint64(low) || uint64(length) > uint64(high):
		return 0, 0, malformed("a frame of kind %d with %d bytes, %d to %d are possible", kind, length, low, high)
	}
	return kind, int(length), nil
}

// fixed reads n bytes of a frame; they are good until the next call. REQUIRES: n is at most 16.
func (f *frameReader) fixed(n int) ([]byte, error) {
	_, err := io.ReadFull(f.r, f.head[:n])
	return f.head[:n], err
}

// body reads n bytes that the caller may keep.
func (f *frameReader) body(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(f.r, b)
	return b, err
}

// skip reads n bytes that nobody wants.
func (f *frameReader) skip(n int) error {
	_, err := f.r.Discard(n)
	return err
}

// messages reads the rest of a batch of so many bytes.
func (f *frameReader) messages(length int) ([]envelope, error) {
	head, err := f.fixed(batchHeadBytes)
	if err != nil {
		return nil, err
	}
	count, meta := binary.LittleEndian.Uint32(head), binary.LittleEndian.Uint32(head[4:])
	length -= batchHeadBytes
	if count > frameMessagesMax || uint64(meta) > uint64(length) {
		return nil, malformed("a batch of %d messages, described in %d bytes, in a frame of %d", count, meta, length)
	}
	if cap(f.scratch) < int(meta) {
		f.scratch = make([]byte, meta)
	}
	scratch := f.scratch[:meta]
	if cap(f.scratch) > bufferKeepBytes {
		f.scratch = nil
	}
	if _, err := io.ReadFull(f.r, scratch); err != nil {
		return nil, err
	}
	envelopes, err := f.batch.decodeBatch(scratch, int(count))
	if err != nil {
		return nil, err
	}
	if f.batch.data != length-int(meta) {
		return nil, malformed("%d bytes of data where the messages have %d", length-int(meta), f.batch.data)
	}
	return envelopes, f.batch.fill(f.r)
}

// frameWriter gathers frames and writes them at once. Small parts are copied into one buffer; large ones are referred to, and must
// not change until flush returns.
type frameWriter struct {
	l       link
	buffer  []byte
	start   int // where in buffer the part begins that is not in vectors yet
	vectors net.Buffers
	base    net.Buffers // the memory of vectors
	bytes   int
	frames  int
}

func newFrameWriter(l link) *frameWriter { return &frameWriter{l: l} }

// begin appends the header of a frame that has so many bytes behind it.
func (f *frameWriter) begin(kind frameKind, length int) {
	f.buffer = appendFrameHead(f.buffer, kind, length)
	f.frames++
}

// data appends bytes of a frame, without a copy where that is cheaper.
func (f *frameWriter) data(b []byte) {
	if len(b) <= copyBytesMax {
		f.buffer = append(f.buffer, b...)
		return
	}
	f.cut()
	f.vectors = append(f.vectors, b)
	f.bytes += len(b)
}

// cut ends the part of buffer that goes in front of what is referred to. Should the buffer grow later, the part stays where it was.
func (f *frameWriter) cut() {
	if f.start < len(f.buffer) {
		f.vectors = append(f.vectors, f.buffer[f.start:len(f.buffer):len(f.buffer)])
		f.bytes += len(f.buffer) - f.start
		f.start = len(f.buffer)
	}
}

func (f *frameWriter) ping(kind frameKind, stamp uint64) {
	f.begin(kind, pingBytes)
	f.buffer = binary.LittleEndian.AppendUint64(f.buffer, stamp)
}

func (f *frameWriter) empty() bool { return f.frames == 0 }

// flush writes all that was gathered, and returns how much that was.
func (f *frameWriter) flush() (bytes, frames int, err error) {
	f.cut()
	f.base = f.vectors
	bytes, frames = f.bytes, f.frames
	err = f.l.write(&f.vectors)
	clear(f.base)
	f.vectors, f.bytes, f.frames, f.start = f.base[:0], 0, 0, 0
	if f.buffer = f.buffer[:0]; cap(f.buffer) > bufferKeepBytes {
		f.buffer = nil
	}
	return bytes, frames, err
}

// stamps are nanoseconds since a moment of this process.
func stampSince(epoch time.Time) uint64 { return uint64(time.Since(epoch)) }
