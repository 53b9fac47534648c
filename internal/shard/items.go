package shard

import (
	"hash/crc32"
	"math"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// castagnoli is the CRC32C table; hash/crc32 uses the processor's instruction for it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Items collects the items of one command, with their CRCs, on the caller's goroutine, before the shard sees it: the
// shard's goroutine then only copies. The zero value is ready; Reset makes it ready again and keeps its memory.
//
// An item is appended to the buffer that Buf returns, and Commit takes the longer buffer back:
//
//	buf := queue.AppendAck(it.Buf(), ...)
//	it.Commit(buf)
type Items struct {
	Body []byte   // the items, one behind the other
	Ends []uint32 // where each item ends in Body
	CRCs []uint32 // CRC32C of each item

	Version uint8 // of the batch that the items need; 0: any
}

// Reset empties the collection and keeps its memory.
func (it *Items) Reset() {
	it.Body, it.Ends, it.CRCs, it.Version = it.Body[:0], it.Ends[:0], it.CRCs[:0], 0
}

// Len is the number of items.
func (it *Items) Len() int { return len(it.Ends) }

// Size is the number of bytes of all items, without the batch's own header and table.
func (it *Items) Size() int { return len(it.Body) }

// Buf returns the buffer to append the next item to.
func (it *Items) Buf() []byte { return it.Body }

// Commit ends an item: buf is what Buf returned with the item appended.
func (it *Items) Commit(buf []byte) {
	start := len(it.Body)
	if len(buf) < start || uint64(len(buf)) > math.MaxUint32 {
		invariant.Check(false, "an item ends at %d and begins at %d", len(buf), start)
	}
	it.Body = buf
	it.Ends = append(it.Ends, uint32(len(buf)))
	it.CRCs = append(it.CRCs, crc32.Checksum(buf[start:], castagnoli))
}

// Add appends the item that encode writes. Buf and Commit do the same without a closure.
func (it *Items) Add(encode func(dst []byte) []byte) { it.Commit(encode(it.Buf())) }

// Item returns item i; it aliases Body.
func (it *Items) Item(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = it.Ends[i-1]
	}
	return it.Body[start:it.Ends[i]:it.Ends[i]]
}
