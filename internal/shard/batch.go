package shard

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

// Header says who proposed a batch and when.
type Header struct {
	Stamp    int64  // the leader's clock, milliseconds since the Unix epoch
	Proposer uint64 // node id
	Sequence uint64 // unique per process of the proposer: pairs a batch with those who wait for it
}
