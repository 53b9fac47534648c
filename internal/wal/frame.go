package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A frame, in tail files and live segments alike. Little endian, 8-byte aligned:
//
//	┌──────┬────────────┬───────┬────────────┬─────────┬───────┐
//	│ kind │ entry type │ shard │ header crc │ file id │ index │
//	│ u8   │ u8         │ u16   │ u32        │ u64     │ u64   │
//	├──────┴─┬──────────┴─┬─────┴─────┬──────┴─────┬───┴───────┤
//	│ term   │ data bytes │ data crc  │ syncOffset │ data, zero│
//	│ u64    │ u32        │ u32       │ u64        │ padded    │
//	└────────┴────────────┴───────────┴────────────┴───────────┘
//
// The header CRC (CRC32C) covers the other 44 bytes of the header and the frame's own offset in the file:
// a frame written to the wrong place does not parse, and neither does one of a recycled file's former life, since the
// file id differs. The data has a CRC of its own, so that a damaged payload still has a name.
//
// syncOffset says: when this frame was written, all bytes of this file below syncOffset were durable. A bad frame below
// the syncOffset of a later valid frame is therefore damage; any other bad frame is the end of what was written.
const frameHeaderBytes = 48

// frameKind is the first byte of a frame. Zero is not a kind, so that zeroed space is not a frame.
type frameKind uint8

const (
	kindEntry frameKind = 0xB1 // one Raft entry
	kindState frameKind = 0xB2 // a shard's hard state and bounds: see shardState
	kindMark  frameKind = 0xB3 // clean close: everything before it is durable; no data
	kindSeal  frameKind = 0xB4 // like kindMark, and the file with the next id exists; no data
)

func (k frameKind) String() string {
	switch k {
	case kindEntry:
		return "entry"
	case kindState:
		return "state"
	case kindMark:
		return "mark"
	case kindSeal:
		return "seal"
	}
	return "unknown"
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errFrameShort  = errors.New("the frame is cut off")
	errFrameKind   = errors.New("no frame starts here")
	errFrameFile   = errors.New("the frame belongs to another file")
	errFrameHeader = errors.New("the header checksum does not match")
	errFrameData   = errors.New("the data checksum does not match")
	errFrameBytes  = errors.New("the frame's length is over the limit")

	errFrameUnreadable = errors.New("the disk cannot read it")
	errDataUnreadable  = fmt.Errorf("%w: the disk cannot read all of it", errFrameData)
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// frameHeader is a decoded header.
type frameHeader struct {
	kind       frameKind
	entryType  uint8
	shard      ShardID
	fileID     uint64
	index      uint64
	term       uint64
	dataBytes  uint32
	dataCRC    uint32
	syncOffset int64
}

// frameBytes is the size of a frame with so many bytes of data.
func frameBytes(dataBytes int) int64 { return frameHeaderBytes + (int64(dataBytes)+7)&^7 }

func (h *frameHeader) bytes() int64 { return frameBytes(int(h.dataBytes)) }

// headerChecksum covers the header without its CRC field. The first four bytes and the offset are mixed into the
// initial value, which CRC32C carries through: no copy of the header is needed.
func headerChecksum(b []byte, offset int64) uint32 {
	seed := binary.LittleEndian.Uint32(b) ^ uint32(offset/8)*0x9E3779B1
	return crc32.Update(seed, castagnoli, b[8:frameHeaderBytes])
}

// appendFrame appends a frame that is complete but for what only its place decides: see stampFrame.
func appendFrame(dst []byte, h *frameHeader, data []byte) []byte {
	var b [frameHeaderBytes]byte
	b[0] = byte(h.kind)
	b[1] = h.entryType
	binary.LittleEndian.PutUint16(b[2:], uint16(h.shard))
	binary.LittleEndian.PutUint64(b[16:], h.index)
	binary.LittleEndian.PutUint64(b[24:], h.term)
	binary.LittleEndian.PutUint32(b[32:], uint32(len(data)))
	binary.LittleEndian.PutUint32(b[36:], h.dataCRC)
	dst = append(dst, b[:]...)
	dst = append(dst, data...)
	var zero [8]byte
	return append(dst, zero[:(8-len(data)&7)&7]...)
}

// stampFrame writes file id, syncOffset and header CRC into the header at the start of b, which is to be written at
// offset. It touches only bytes 4 to 15 and 40 to 47: readers of the data may go on.
func stampFrame(b []byte, fileID uint64, offset, syncOffset int64) {
	binary.LittleEndian.PutUint64(b[8:], fileID)
	binary.LittleEndian.PutUint64(b[40:], uint64(syncOffset))
	binary.LittleEndian.PutUint32(b[4:], headerChecksum(b, offset))
}

// parseHeader reads the fields without any check but that b is long enough.
func parseHeader(b []byte) frameHeader {
	return frameHeader{
		kind:       frameKind(b[0]),
		entryType:  b[1],
		shard:      ShardID(binary.LittleEndian.Uint16(b[2:])),
		fileID:     binary.LittleEndian.Uint64(b[8:]),
		index:      binary.LittleEndian.Uint64(b[16:]),
		term:       binary.LittleEndian.Uint64(b[24:]),
		dataBytes:  binary.LittleEndian.Uint32(b[32:]),
		dataCRC:    binary.LittleEndian.Uint32(b[36:]),
		syncOffset: int64(binary.LittleEndian.Uint64(b[40:])),
	}
}

// decodeHeader checks and reads the header at the start of b, found at offset of file fileID.
func decodeHeader(b []byte, fileID uint64, offset int64) (frameHeader, error) {
	if len(b) < frameHeaderBytes {
		return frameHeader{}, errFrameShort
	}
	h := parseHeader(b)
	switch {
	case h.kind < kindEntry || h.kind > kindSeal:
		return frameHeader{}, errFrameKind
	case h.fileID != fileID:
		return frameHeader{}, errFrameFile
	case binary.LittleEndian.Uint32(b[4:]) != headerChecksum(b, offset):
		return frameHeader{}, errFrameHeader
	case h.dataBytes > EntryBytesMax:
		return frameHeader{}, errFrameBytes
	}
	return h, nil
}

// shardState is what a state frame says: the shard's hard state and the bounds of its contiguous tail at that point of
// the stream. Entries above last are void from here on; last beyond the entries seen means they were skipped by a
// snapshot or are in files recycled since.
type shardState struct {
	hard     HardState
	first    uint64 // first index of the contiguous tail
	prevTerm uint64 // term of entry first-1; meaningful when prevKnown
	last     uint64
	known    bool // prevTerm is known
	lost     bool // what the shard promised may be lost: see lost.go
}

const (
	shardStateBytes = 56

	stateKnown = 1
	stateLost  = 2
)

func (s *shardState) encode(b *[shardStateBytes]byte) {
	binary.LittleEndian.PutUint64(b[0:], s.hard.Term)
	binary.LittleEndian.PutUint64(b[8:], s.hard.Vote)
	binary.LittleEndian.PutUint64(b[16:], s.hard.Commit)
	binary.LittleEndian.PutUint64(b[24:], s.first)
	binary.LittleEndian.PutUint64(b[32:], s.prevTerm)
	binary.LittleEndian.PutUint64(b[40:], s.last)
	b[48] = 0
	if s.known {
		b[48] = stateKnown
	}
	if s.lost {
		b[48] |= stateLost
	}
}

// decodeState reads the data of a state frame.
func decodeState(b []byte) (shardState, error) {
	if len(b) != shardStateBytes {
		return shardState{}, errors.New("a state frame has the wrong size")
	}
	s := shardState{
		hard: HardState{
			Term:   binary.LittleEndian.Uint64(b[0:]),
			Vote:   binary.LittleEndian.Uint64(b[8:]),
			Commit: binary.LittleEndian.Uint64(b[16:]),
		},
		first:    binary.LittleEndian.Uint64(b[24:]),
		prevTerm: binary.LittleEndian.Uint64(b[32:]),
		last:     binary.LittleEndian.Uint64(b[40:]),
		known:    b[48]&stateKnown != 0,
		lost:     b[48]&stateLost != 0,
	}
	if s.first == 0 || s.last == ^uint64(0) || s.first > s.last+1 {
		return shardState{}, errors.New("a state frame has impossible bounds")
	}
	return s, nil
}

// appendState appends a state frame for one shard.
func appendState(dst []byte, shard ShardID, s *shardState) []byte {
	var b [shardStateBytes]byte
	s.encode(&b)
	h := frameHeader{kind: kindState, shard: shard, dataCRC: checksum(b[:])}
	return appendFrame(dst, &h, b[:])
}
