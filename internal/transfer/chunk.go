package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/beaver-raft/beaver/internal/wal"
)

// Everything on the wire is one header and a body. Little endian:
//
//	┌────────────┬──────────┬──────────┬───────────┬─────────────┬──────────┐
//	│ "BVTX"     │ version  │ kind     │ shard     │ length      │ crc32c   │
//	│ 4 bytes    │ u8 = 1   │ u8       │ u16       │ u32         │ u32      │
//	├────────────┴─┬────────┴─────┬────┴───────────┴──┬──────────┴──┬───────┤
//	│ transfer u64 │ term u64     │ snapshot index u64│ round u32   │ 0 u32 │
//	└──────────────┴──────────────┴───────────────────┴─────────────┴───────┘
//
//	kind 1, offer    snapshot term u64 · fingerprint u64 · hot bytes u64 · machine version u32 · 0 u32
//	kind 2, entries  after u64 · through u64 · count u32 · 0 u32, then count entries:
//	                 index u64 · term u64 · type u8 · flags u8 (1: damaged) · 0 u16 · length u32 · crc32c of the data u32 · data
//	kind 3, hot      offset u64 · bytes of the snapshot file
//	kind 4, ack      status u8 · flags u8 (1: out of order) · text bytes u16 · 0 u32 · held u64 · through u64 · hot u64 · text
//
// length is that of the whole chunk, and the CRC covers all of it but itself. Term is the one that the sender leads in,
// transfer its number among the senders of that term, round counts how often it has begun again: an acknowledgement returns
// these, so that a late one is known as such. An entries chunk holds every entry of the interval (after, through] that the
// snapshot refers to. A damaged entry has no data.
const (
	magic         = "BVTX"
	formatVersion = 1

	headerBytes      = 48
	offerBytes       = 32
	entriesHeadBytes = 24
	entryHeadBytes   = 28
	hotHeadBytes     = 8
	ackBytes         = 32

	flagDamaged    = 1
	flagOutOfOrder = 1
)

// Kind says what a chunk holds.
type Kind uint8

// Kinds of chunks. An acknowledgement has the same header.
const (
	KindOffer   Kind = 1
	KindEntries Kind = 2
	KindHot     Kind = 3
	KindAck     Kind = 4
	KindWant    Kind = 5 // see mendchunk.go
	KindHave    Kind = 6
	KindPrint   Kind = 7 // see doubtchunk.go
	KindRenew   Kind = 8
)

func (k Kind) String() string {
	switch k {
	case KindOffer:
		return "offer"
	case KindEntries:
		return "entries"
	case KindHot:
		return "hot"
	case KindAck:
		return "ack"
	case KindWant:
		return "want"
	case KindHave:
		return "have"
	case KindPrint:
		return "print"
	case KindRenew:
		return "renew"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// KindOf is the kind of a chunk, for handing it on; the rest is not looked at, and what has no header is of no kind. Offers,
// entries and hot states are a Receiver's, acknowledgements a Sender's, requests go to Serve, and answers to a Mender;
// prints and requests to renew are between replicas.
func KindOf(b []byte) Kind {
	if len(b) < headerBytes || string(b[:4]) != magic {
		return 0
	}
	return Kind(b[5])
}

// ErrMalformed marks all errors about a chunk that was not sent like this: it was damaged on its way. It changes nothing.
var ErrMalformed = errors.New("malformed chunk")

// VersionError says that a chunk has a format this binary does not know.
type VersionError struct{ Version, Known uint8 }

func (e *VersionError) Error() string {
	return fmt.Sprintf("chunk of transfer format %d, this binary knows up to %d: upgrade this node to the version of the leader", e.Version, e.Known)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is what every chunk begins with.
type header struct {
	kind     Kind
	shard    wal.ShardID
	transfer uint64
	term     uint64
	index    uint64
	round    uint32
}

// offer is what a snapshot is.
type offer struct {
	snapshotTerm   uint64
	fingerprint    uint64
	hotBytes       uint64
	machineVersion uint32
}

// entry is one entry of a chunk.
type entry struct {
	wal.Entry
	flags byte // flagDamaged, flagAbsent: without data
	crc   uint32
}

// chunk is a decoded chunk; data aliases what it was decoded from.
type chunk struct {
	header
	offer offer

	after, through uint64
	entries        []entry

	offset uint64
	hot    []byte

	ack Ack

	names []wal.Name

	print Print
}

// begin appends a header whose length and CRC finish fills in.
func begin(dst []byte, h *header) []byte {
	le := binary.LittleEndian
	dst = append(dst, magic...)
	dst = append(dst, formatVersion, byte(h.kind))
	dst = le.AppendUint16(dst, uint16(h.shard))
	dst = le.AppendUint64(dst, 0) // length and crc
	dst = le.AppendUint64(dst, h.transfer)
	dst = le.AppendUint64(dst, h.term)
	dst = le.AppendUint64(dst, h.index)
	return le.AppendUint64(dst, uint64(h.round))
}

// finish completes the chunk that is all of b.
func finish(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[8:], uint32(len(b)))
	binary.LittleEndian.PutUint32(b[12:], chunkCRC(b))
	return b
}

func chunkCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:12], castagnoli), castagnoli, b[16:])
}

func appendOffer(dst []byte, h *header, o *offer) []byte {
	le := binary.LittleEndian
	dst = begin(dst, h)
	dst = le.AppendUint64(dst, o.snapshotTerm)
	dst = le.AppendUint64(dst, o.fingerprint)
	dst = le.AppendUint64(dst, o.hotBytes)
	dst = le.AppendUint32(dst, o.machineVersion)
	return finish(le.AppendUint32(dst, 0))
}

// appendEntriesHead begins a chunk of entries; see setEntries.
func appendEntriesHead(dst []byte, h *header, after uint64) []byte {
	dst = binary.LittleEndian.AppendUint64(begin(dst, h), after)
	return append(dst, make([]byte, entriesHeadBytes-8)...)
}

// setEntries says up to where the chunk that is all of b goes, and how many entries it has.
func setEntries(b []byte, through uint64, count int) {
	binary.LittleEndian.PutUint64(b[headerBytes+8:], through)
	binary.LittleEndian.PutUint32(b[headerBytes+16:], uint32(count))
}

func appendEntry(dst []byte, e *entry) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, e.Index)
	dst = le.AppendUint64(dst, e.Term)
	dst = append(dst, e.Type, e.flags, 0, 0)
	dst = le.AppendUint32(dst, uint32(len(e.Data)))
	dst = le.AppendUint32(dst, e.crc)
	return append(dst, e.Data...)
}

// entryWireBytes is what an entry takes in a chunk.
func entryWireBytes(dataBytes int) int { return entryHeadBytes + dataBytes }

func appendHotHead(dst []byte, h *header, offset uint64) []byte {
	return binary.LittleEndian.AppendUint64(begin(dst, h), offset)
}

// decode reads a chunk and checks every byte of it. All it returns aliases b.
func decode(b []byte) (c chunk, err error) {
	le := binary.LittleEndian
	switch {
	case len(b) < headerBytes:
		return c, fmt.Errorf("%w: %d bytes are less than a header", ErrMalformed, len(b))
	case len(b) > ChunkBytesMax:
		return c, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(b), ChunkBytesMax)
	case string(b[:4]) != magic:
		return c, fmt.Errorf("%w: it does not begin like a chunk", ErrMalformed)
	case uint64(le.Uint32(b[8:])) != uint64(len(b)):
		return c, fmt.Errorf("%w: %d bytes, and it says %d", ErrMalformed, len(b), le.Uint32(b[8:]))
	case le.Uint32(b[12:]) != chunkCRC(b):
		return c, fmt.Errorf("%w: wrong checksum", ErrMalformed)
	case b[4] > formatVersion:
		return c, &VersionError{b[4], formatVersion}
	case b[4] != formatVersion || le.Uint32(b[44:]) != 0:
		return c, fmt.Errorf("%w: impossible header", ErrMalformed)
	}
	c.header = header{
		kind:     Kind(b[5]),
		shard:    wal.ShardID(le.Uint16(b[6:])),
		transfer: le.Uint64(b[16:]),
		term:     le.Uint64(b[24:]),
		index:    le.Uint64(b[32:]),
		round:    le.Uint32(b[40:]),
	}
	body := b[headerBytes:]
	ok := c.index > 0 && c.index < ^uint64(0) && c.transfer > 0
	switch {
	case !ok:
	case c.kind == KindOffer:
		ok = c.decodeOffer(body)
	case c.kind == KindEntries:
		ok = c.decodeEntries(body)
	case c.kind == KindHot:
		ok = len(body) > hotHeadBytes
		if ok {
			c.offset, c.hot = le.Uint64(body), body[hotHeadBytes:]
			ok = c.offset < hotBytesMax
		}
	case c.kind == KindAck:
		ok = c.decodeAck(body)
	case c.kind == KindWant:
		ok = c.decodeWant(body)
	case c.kind == KindHave:
		ok = c.decodeHave(body)
	case c.kind == KindPrint:
		ok = c.decodePrint(body)
	case c.kind == KindRenew:
		ok = c.decodeRenew(body)
	default:
		ok = false
	}
	if !ok {
		return chunk{}, fmt.Errorf("%w: impossible content (%s)", ErrMalformed, c.kind)
	}
	return c, nil
}

func (c *chunk) decodeOffer(b []byte) bool {
	if len(b) != offerBytes {
		return false
	}
	le := binary.LittleEndian
	c.offer = offer{
		snapshotTerm: le.Uint64(b), fingerprint: le.Uint64(b[8:]), hotBytes: le.Uint64(b[16:]), machineVersion: le.Uint32(b[24:]),
	}
	return c.offer.hotBytes > 0 && c.offer.hotBytes <= hotBytesMax && le.Uint32(b[28:]) == 0
}

func (c *chunk) decodeEntries(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < entriesHeadBytes {
		return false
	}
	c.after, c.through = le.Uint64(b), le.Uint64(b[8:])
	count := int64(le.Uint32(b[16:]))
	if c.after >= c.through || c.through > c.index || le.Uint32(b[20:]) != 0 {
		return false
	}
	b = b[entriesHeadBytes:]
	if count*entryHeadBytes > int64(len(b)) {
		return false
	}
	c.entries = make([]entry, 0, count)
	last := c.after
	for range count {
		var e entry
		var ok bool
		if e, b, ok = decodeEntry(b, flagDamaged); !ok || e.Index <= last || e.Index > c.through {
			return false
		}
		last = e.Index
		c.entries = append(c.entries, e)
	}
	return len(b) == 0
}

// decodeEntry reads the entry that b begins with, whose flags are at most flagsMax, and returns the rest.
func decodeEntry(b []byte, flagsMax byte) (e entry, rest []byte, ok bool) {
	le := binary.LittleEndian
	if len(b) < entryHeadBytes || b[17] > flagsMax || b[18] != 0 || b[19] != 0 {
		return e, nil, false
	}
	e.Index, e.Term, e.Type, e.flags = le.Uint64(b), le.Uint64(b[8:]), b[16], b[17]
	size := uint64(le.Uint32(b[20:]))
	e.crc = le.Uint32(b[24:])
	b = b[entryHeadBytes:]
	if size > uint64(len(b)) || size > wal.EntryBytesMax {
		return e, nil, false
	}
	e.Data = b[:size:size]
	whole := crc32.Checksum(e.Data, castagnoli) == e.crc
	if e.flags != 0 {
		whole = size == 0 && e.crc == 0
	}
	return e, b[size:], whole
}

// Describe is a line about a chunk for a trace.
func Describe(b []byte) string {
	c, err := decode(b)
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s shard %d transfer %x term %d snapshot %d round %d", c.kind, c.shard, c.transfer, c.term, c.index, c.round)
	switch c.kind {
	case KindEntries:
		return fmt.Sprintf("%s: (%d, %d] with %d entries", s, c.after, c.through, len(c.entries))
	case KindHot:
		return fmt.Sprintf("%s: %d bytes at %d", s, len(c.hot), c.offset)
	case KindAck:
		return s + ": " + c.ack.String()
	case KindWant:
		return fmt.Sprintf("%s: %d names from %d", s, len(c.names), c.names[0].Index)
	case KindHave:
		return fmt.Sprintf("%s: %d entries", s, len(c.entries))
	case KindPrint:
		return fmt.Sprintf("print of %d by %d, known %v, asks %v", c.index, c.print.Speaker, c.print.Known, c.print.Asks)
	case KindRenew:
		return fmt.Sprintf("request of %d for a snapshot above %d", c.transfer, c.index)
	default:
		return fmt.Sprintf("%s: %d hot bytes", s, c.offer.hotBytes)
	}
}

// ShardOf returns the shard that a chunk or an acknowledgement is about, for handing it on; the rest is not looked at.
func ShardOf(b []byte) (wal.ShardID, error) {
	if len(b) < headerBytes || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: no header", ErrMalformed)
	}
	return wal.ShardID(binary.LittleEndian.Uint16(b[6:])), nil
}
