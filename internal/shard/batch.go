package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// A batch is the data of one Raft entry. Little endian:
//
//	┌────────┬──────┬───────┬────────┬─────────┬──────────┬──────────┬───────┐
//	│version │ 0    │ items │ crc32c │ stamp   │ proposer │ sequence │ 0     │  header, 40 bytes
//	│ u8     │ u8   │ u16   │ u32    │ i64 ms  │ u64      │ u64      │ u64   │
//	├────────┴──────┴──┬────┴────────┴─────────┴──────────┴──────────┴───────┤
//	│ end u32, crc u32 │ × items: end offset in the bodies, CRC32C of the body│  table
//	├──────────────────┴──────────────────────────────────────────────────────┤
//	│ bodies                                                                  │
//	└─────────────────────────────────────────────────────────────────────────┘
//
// The header's CRC covers header (with the field zero) and table, so that one item can be read and checked without the
// rest of the entry.
//
// A batch of the second version has items of which machines that read the first one know nothing. They would refuse them and go on,
// and their state would part from the others'; so they stop at such a batch instead. All others are of the first version.
const (
	// BatchVersionFirst is the version of a batch whose items need no other, and BatchVersion the newest one that is read.
	BatchVersionFirst uint8 = 1
	BatchVersion      uint8 = 2

	batchHeaderBytes = 40
	batchRowBytes    = 8
	// batchHeadroom lies before the bodies in a BatchBuilder's buffer, so that Seal can put header and table there.
	batchHeadroom = batchHeaderBytes + BatchItemsMax*batchRowBytes
	// builderKeepBytes is the largest buffer a builder keeps; a rare giant command must not pin its memory.
	builderKeepBytes = batchHeadroom + 4*EntryTargetBytes
	// readItemGuess is the first read of ReadItem: a page, which holds header and table of up to 507 items.
	readItemGuess = 4096
)

// ErrNoItem: the batch has no item of this ordinal.
var ErrNoItem = errors.New("the entry has no item of this ordinal")

// BatchError says that the data of an entry is no batch. Committed data that gives it is damage.
type BatchError struct {
	Reason string
}

func (e *BatchError) Error() string { return "undecodable batch: " + e.Reason }

// NewerBatchError says that a batch is whole and that a newer version of the program wrote it. It is no damage: whoever takes it
// for some gives up jobs that are there.
type NewerBatchError struct {
	Version uint8
}

func (e *NewerBatchError) Error() string {
	return fmt.Sprintf("the batch has version %d, and this program reads versions up to %d: run the newer one that wrote it", e.Version, BatchVersion)
}

// DamagedItemError says that an item, or the header and table that locate it, does not match its checksum.
type DamagedItemError struct {
	Ordinal int  // the item asked for
	Header  bool // the damage is in the header or the table, not in the item
	Reason  string
}

func (e *DamagedItemError) Error() string {
	where := "item"
	if e.Header {
		where = "the batch header in front of item"
	}
	return fmt.Sprintf("%s %d is damaged: %s", where, e.Ordinal, e.Reason)
}

// Header says who proposed a batch and when.
type Header struct {
	Stamp    int64  // the leader's clock, milliseconds since the Unix epoch
	Proposer uint64 // node id
	Sequence uint64 // unique per process of the proposer: pairs a batch with those who wait for it
}

// BatchBuilder gathers commands for the next entry. It copies what it is given, so an Items may be reset as soon as
// Add has returned. The zero value is an empty builder. It belongs to one goroutine.
type BatchBuilder struct {
	buf  []byte   // batchHeadroom bytes for header and table, then the bodies
	rows []uint32 // end and CRC of each item, alternating

	version uint8 // that the items need; 0: any
}

// Reset empties the builder and keeps its memory. What SealInPlace returned is no longer valid.
func (b *BatchBuilder) Reset() {
	if cap(b.buf) > builderKeepBytes {
		b.buf = nil
	}
	b.buf, b.rows, b.version = b.buf[:0], b.rows[:0], 0
}

// Items is the number of items gathered.
func (b *BatchBuilder) Items() int { return len(b.rows) / 2 }

// Size is the number of bytes of the items gathered.
func (b *BatchBuilder) Size() int { return max(0, len(b.buf)-batchHeadroom) }

// Fits tells whether the command can join the entry: an empty builder takes any one command within CommandBytesMax
// and BatchItemsMax, and after that commands as long as the entry stays within EntryTargetBytes and BatchItemsMax.
func (b *BatchBuilder) Fits(it *Items) bool {
	if b.Items() == 0 {
		return it.Len() <= BatchItemsMax && it.Size() <= CommandBytesMax
	}
	return b.Items()+it.Len() <= BatchItemsMax && b.Size()+it.Size() <= EntryTargetBytes
}

// Add appends a command and returns the ordinal of its first item in the entry. REQUIRES: Fits(it).
func (b *BatchBuilder) Add(it *Items) (firstItem int) {
	if !b.Fits(it) {
		invariant.Check(false, "a command of %d items and %d bytes does not fit the batch", it.Len(), it.Size())
	}
	if len(b.buf) == 0 {
		if cap(b.buf) == 0 {
			b.buf = make([]byte, batchHeadroom, batchHeadroom+max(16<<10, it.Size()))
		}
		b.buf = b.buf[:batchHeadroom]
	}
	firstItem = b.Items()
	base := uint32(b.Size())
	b.buf = append(b.buf, it.Body...)
	b.version = max(b.version, it.Version)
	for i, end := range it.Ends {
		b.rows = append(b.rows, base+end, it.CRCs[i])
	}
	return firstItem
}

// SealInPlace finishes the batch inside the builder's own memory: the bytes are valid until the next Reset.
// Shard.Propose copies what it is given, so this is the way without a needless copy. REQUIRES: the batch has an item.
func (b *BatchBuilder) SealInPlace(h Header) []byte {
	count := b.Items()
	invariant.Check(count > 0, "an empty batch is sealed")
	data := b.buf[batchHeadroom-batchHeaderBytes-count*batchRowBytes:]
	putHeader(data, max(b.version, BatchVersionFirst), h, count)
	for i, v := range b.rows {
		binary.LittleEndian.PutUint32(data[batchHeaderBytes+i*4:], v)
	}
	head := data[:batchHeaderBytes+count*batchRowBytes]
	binary.LittleEndian.PutUint32(data[4:], crc32.Checksum(head, castagnoli))
	return data
}

// Seal finishes the batch in newly allocated memory of exactly its size. REQUIRES: the batch has an item.
func (b *BatchBuilder) Seal(h Header) []byte {
	data := b.SealInPlace(h)
	sealed := make([]byte, len(data))
	copy(sealed, data)
	return sealed
}

// putHeader writes the header with its CRC field zero.
func putHeader(data []byte, version uint8, h Header, count int) {
	le := binary.LittleEndian
	data[0], data[1] = version, 0
	le.PutUint16(data[2:], uint16(count))
	le.PutUint32(data[4:], 0)
	le.PutUint64(data[8:], uint64(h.Stamp))
	le.PutUint64(data[16:], h.Proposer)
	le.PutUint64(data[24:], h.Sequence)
	le.PutUint64(data[32:], 0)
}

// headBytes checks the fixed header and returns how many bytes header and table have together.
func headBytes(data []byte) (int, error) {
	if len(data) < batchHeaderBytes {
		return 0, &BatchError{Reason: fmt.Sprintf("%d bytes are less than a header", len(data))}
	}
	if data[0] == 0 {
		return 0, &BatchError{Reason: "version 0"}
	}
	count := int(binary.LittleEndian.Uint16(data[2:]))
	if count == 0 || count > BatchItemsMax {
		return 0, &BatchError{Reason: fmt.Sprintf("%d items, 1 to %d are possible", count, BatchItemsMax)}
	}
	return batchHeaderBytes + count*batchRowBytes, nil
}

// decodeHead checks header and table (head is exactly both) and returns the header. Both have the same layout and checksum in
// every version, so that a newer batch is told from a damaged one. Errors are *BatchError and *NewerBatchError.
func decodeHead(head []byte) (Header, error) {
	le := binary.LittleEndian
	var zero [4]byte
	crc := crc32.Checksum(head[:4], castagnoli)
	crc = crc32.Update(crc, castagnoli, zero[:])
	crc = crc32.Update(crc, castagnoli, head[8:])
	if crc != le.Uint32(head[4:]) {
		return Header{}, &BatchError{Reason: "header checksum"}
	}
	if head[0] > BatchVersion {
		return Header{}, &NewerBatchError{Version: head[0]}
	}
	if head[1] != 0 || le.Uint64(head[32:]) != 0 {
		return Header{}, &BatchError{Reason: "reserved header bytes are in use: written by a newer version"}
	}
	last := uint32(0)
	for row := head[batchHeaderBytes:]; len(row) > 0; row = row[batchRowBytes:] {
		end := le.Uint32(row)
		if end < last || end > CommandBytesMax {
			return Header{}, &BatchError{Reason: "item ends are out of order or out of range"}
		}
		last = end
	}
	return Header{
		Stamp:    int64(le.Uint64(head[8:])),
		Proposer: le.Uint64(head[16:]),
		Sequence: le.Uint64(head[24:]),
	}, nil
}

// DecodeBatch checks a batch's header, table and bounds, and appends its items to items. They alias data. The items'
// own checksums are not checked: the log's frame checksum has covered them. Errors are *BatchError and *NewerBatchError.
func DecodeBatch(data []byte, items [][]byte) (Header, [][]byte, error) {
	headSize, err := headBytes(data)
	if err != nil {
		return Header{}, items, err
	}
	if len(data) < headSize {
		return Header{}, items, &BatchError{Reason: "cut inside the table"}
	}
	head, bodies := data[:headSize], data[headSize:]
	h, err := decodeHead(head)
	if err != nil {
		return Header{}, items, err
	}
	if last := binary.LittleEndian.Uint32(head[headSize-batchRowBytes:]); int(last) != len(bodies) {
		return Header{}, items, &BatchError{Reason: fmt.Sprintf("%d bytes of items, the table says %d", len(bodies), last)}
	}
	start := uint32(0)
	for row := head[batchHeaderBytes:]; len(row) > 0; row = row[batchRowBytes:] {
		end := binary.LittleEndian.Uint32(row)
		items = append(items, bodies[start:end:end])
		start = end
	}
	return h, items, nil
}

// Batch is a whole batch in memory whose header and table were checked once, for reading several of its items.
type Batch struct {
	Header Header
	data   []byte
	head   int // bytes of header and table
}

// OpenBatch checks header and table of a whole batch. Errors are *BatchError and *NewerBatchError.
func OpenBatch(data []byte) (Batch, error) {
	head, err := headBytes(data)
	if err != nil {
		return Batch{}, err
	}
	if len(data) < head {
		return Batch{}, &BatchError{Reason: "cut inside the table"}
	}
	h, err := decodeHead(data[:head])
	return Batch{Header: h, data: data, head: head}, err
}

// Bytes is the size of the batch.
func (b *Batch) Bytes() int { return len(b.data) }

// Item returns an item, which aliases the batch, and checks its checksum. Damage is a *DamagedItemError, an ordinal the
// batch does not have ErrNoItem.
func (b *Batch) Item(ordinal int) ([]byte, error) {
	if ordinal < 0 || batchHeaderBytes+ordinal*batchRowBytes >= b.head {
		return nil, ErrNoItem
	}
	start, end, crc := itemRow(b.data, ordinal)
	if b.head+end > len(b.data) {
		return nil, &DamagedItemError{Ordinal: ordinal, Reason: "cut short"}
	}
	item := b.data[b.head+start : b.head+end : b.head+end]
	if crc32.Checksum(item, castagnoli) != crc {
		return nil, &DamagedItemError{Ordinal: ordinal, Reason: "checksum"}
	}
	return item, nil
}

// ItemAt decodes one item of a whole batch and checks its checksum. The item aliases data.
func ItemAt(data []byte, ordinal int) (Header, []byte, error) {
	return readItem(bytesAt(data), data, ordinal)
}

// ReadItem reads one item of a stored batch without the rest of the entry, and checks header, table and item against
// their checksums. Damage is a *DamagedItemError, an ordinal the batch does not have ErrNoItem, a batch of a newer version a
// *NewerBatchError; errors of r pass through.
func ReadItem(r io.ReaderAt, ordinal int) (Header, []byte, error) {
	head, err := readUpTo(r, make([]byte, readItemGuess), 0)
	if err != nil {
		return Header{}, nil, err
	}
	return readItem(r, head, ordinal)
}

// readItem finds the item with the help of data, the first bytes of r.
func readItem(r io.ReaderAt, data []byte, ordinal int) (Header, []byte, error) {
	damaged := func(header bool, err error) (Header, []byte, error) {
		reason := err.Error()
		if be := (*BatchError)(nil); errors.As(err, &be) {
			reason = be.Reason
		}
		return Header{}, nil, &DamagedItemError{Ordinal: ordinal, Header: header, Reason: reason}
	}
	headSize, err := headBytes(data)
	if err != nil {
		return damaged(true, err)
	}
	if len(data) < headSize {
		if data, err = readUpTo(r, make([]byte, headSize), 0); err != nil {
			return Header{}, nil, err
		}
		if len(data) < headSize {
			return damaged(true, &BatchError{Reason: "cut inside the table"})
		}
	}
	h, err := decodeHead(data[:headSize])
	if _, newer := errors.AsType[*NewerBatchError](err); newer {
		return Header{}, nil, err
	}
	if err != nil {
		return damaged(true, err)
	}
	if ordinal < 0 || batchHeaderBytes+ordinal*batchRowBytes >= headSize {
		return Header{}, nil, ErrNoItem
	}
	start, end, crc := itemRow(data, ordinal)
	item, err := readBody(r, data, headSize+start, headSize+end)
	if err != nil {
		return Header{}, nil, err
	}
	if len(item) != end-start {
		return damaged(false, &BatchError{Reason: "cut short"})
	}
	if crc32.Checksum(item, castagnoli) != crc {
		return damaged(false, &BatchError{Reason: "checksum"})
	}
	return h, item, nil
}

// itemRow returns where an item starts and ends in the bodies, and its CRC.
func itemRow(head []byte, ordinal int) (start, end int, crc uint32) {
	row := head[batchHeaderBytes+ordinal*batchRowBytes:]
	if ordinal > 0 {
		start = int(binary.LittleEndian.Uint32(head[batchHeaderBytes+(ordinal-1)*batchRowBytes:]))
	}
	return start, int(binary.LittleEndian.Uint32(row)), binary.LittleEndian.Uint32(row[4:])
}

// readBody returns the bytes [start, end) of the batch: from data when they are there, else from r.
func readBody(r io.ReaderAt, data []byte, start, end int) ([]byte, error) {
	if end <= len(data) {
		return data[start:end:end], nil
	}
	return readUpTo(r, make([]byte, end-start), int64(start))
}

// readUpTo fills buf from r and returns what there was: less than len(buf) at the end of the data only.
func readUpTo(r io.ReaderAt, buf []byte, off int64) ([]byte, error) {
	n, err := r.ReadAt(buf, off)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return buf[:n], nil
}

// bytesAt is an io.ReaderAt over bytes.
type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
