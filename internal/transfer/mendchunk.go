package transfer

import (
	"encoding/binary"

	"github.com/beaver-raft/beaver/internal/wal"
)

// Requests for damaged entries and their answers are chunks too (chunk.go has the header), each complete in itself: transfer is
// the number of the request, index the highest that is asked for, term and round are 0.
//
//	kind 5, want     count u32 · 0 u32, then count names, ascending: index u64 · term u64, 0 unknown · length u32 · crc32c u32 ·
//	                 type u8 · flags u8 (1: length, crc and type are known) · 0 u16 · 0 u32
//	kind 6, have     count u32 · 0 u32, then count entries as in kind 2, ascending; flags 1: damaged here too, 2: not here
const (
	mendHeadBytes = 8
	nameBytes     = 32

	flagKnown  = 1
	flagAbsent = 2
)

func appendWant(dst []byte, shard wal.ShardID, number uint64, names []wal.Name) []byte {
	le := binary.LittleEndian
	h := header{kind: KindWant, shard: shard, transfer: number, index: names[len(names)-1].Index}
	dst = begin(dst, &h)
	dst = le.AppendUint32(dst, uint32(len(names)))
	dst = le.AppendUint32(dst, 0)
	for i := range names {
		n := &names[i]
		dst = le.AppendUint64(dst, n.Index)
		dst = le.AppendUint64(dst, n.Term)
		dst = le.AppendUint32(dst, uint32(n.Bytes))
		dst = le.AppendUint32(dst, n.CRC)
		flags := byte(0)
		if n.Known {
			flags = flagKnown
		}
		dst = append(dst, n.Type, flags, 0, 0)
		dst = le.AppendUint32(dst, 0)
	}
	return finish(dst)
}

// appendHaveHead begins an answer; see setHave.
func appendHaveHead(dst []byte, h *header) []byte {
	return append(begin(dst, h), make([]byte, mendHeadBytes)...)
}

// setHave says how many entries the answer that is all of b has.
func setHave(b []byte, count int) {
	binary.LittleEndian.PutUint32(b[headerBytes:], uint32(count))
}

// decodeWant reads the names of a request.
func (c *chunk) decodeWant(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < mendHeadBytes || c.term != 0 || c.round != 0 || le.Uint32(b[4:]) != 0 {
		return false
	}
	count := int64(le.Uint32(b))
	b = b[mendHeadBytes:]
	if count == 0 || count > mendNamesMax || int64(len(b)) != count*nameBytes {
		return false
	}
	last := uint64(0)
	for ; len(b) > 0; b = b[nameBytes:] {
		n := wal.Name{
			Index: le.Uint64(b), Term: le.Uint64(b[8:]), Known: b[25] == flagKnown, Type: b[24],
			Bytes: int(le.Uint32(b[16:])), CRC: le.Uint32(b[20:]),
		}
		if n.Index <= last || n.Index > c.index || n.Bytes > wal.EntryBytesMax || b[25] > flagKnown ||
			le.Uint16(b[26:]) != 0 || le.Uint32(b[28:]) != 0 {
			return false
		}
		if !n.Known && (n.Bytes != 0 || n.CRC != 0 || n.Type != 0) {
			return false
		}
		last = n.Index
		c.names = append(c.names, n)
	}
	return last == c.index
}

// decodeHave reads the entries of an answer.
func (c *chunk) decodeHave(b []byte) bool {
	le := binary.LittleEndian
	if len(b) < mendHeadBytes || c.term != 0 || c.round != 0 || le.Uint32(b[4:]) != 0 {
		return false
	}
	count := int64(le.Uint32(b))
	b = b[mendHeadBytes:]
	if count > mendNamesMax || count*entryHeadBytes > int64(len(b)) {
		return false
	}
	last := uint64(0)
	for range count {
		e, rest, ok := decodeEntry(b, flagAbsent)
		if !ok || e.Index <= last || e.Index > c.index {
			return false
		}
		last, b = e.Index, rest
		c.entries = append(c.entries, e)
	}
	return len(b) == 0
}
