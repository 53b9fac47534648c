package transfer

import (
	"encoding/binary"
	"fmt"

	"github.com/beaver-raft/beaver/internal/wal"
)

// What replicas say to each other about states that differ are chunks too (chunk.go has the header), each complete in itself:
// transfer is the replica that speaks, term and round are 0.
//
//	kind 7, print    what the speaker's state was after entry index: fingerprint u64 · flags u32 (1: it is known, else the
//	                 fingerprint is 0; 2: an answer is wanted, a print of the same entry) · 0 u32
//	kind 8, renew    the speaker's state is wrong: the leader is to bring it a snapshot above index, with all that it refers to
const (
	printBytes = 16

	flagPrintKnown = 1
	flagPrintAsks  = 2
)

// Print is what a replica says of its state after an entry.
type Print struct {
	Speaker     PeerID
	Index       uint64
	Fingerprint uint64 // 0 when it is not known
	Known       bool
	Asks        bool // for the other one's
}

// Append encodes it for a shard.
func (p *Print) Append(dst []byte, shard wal.ShardID) []byte {
	start, le := len(dst), binary.LittleEndian
	dst = begin(dst, &header{kind: KindPrint, shard: shard, transfer: uint64(p.Speaker), index: p.Index})
	flags := uint32(0)
	if p.Known {
		flags |= flagPrintKnown
	}
	if p.Asks {
		flags |= flagPrintAsks
	}
	dst = le.AppendUint64(dst, p.Fingerprint)
	dst = le.AppendUint32(dst, flags)
	dst = le.AppendUint32(dst, 0)
	finish(dst[start:])
	return dst
}

func (c *chunk) decodePrint(b []byte) bool {
	le := binary.LittleEndian
	if len(b) != printBytes || c.term != 0 || c.round != 0 || le.Uint32(b[8:]) > flagPrintKnown|flagPrintAsks || le.Uint32(b[12:]) != 0 {
		return false
	}
	flags := le.Uint32(b[8:])
	c.print = Print{
		Speaker: PeerID(c.transfer), Index: c.index, Fingerprint: le.Uint64(b),
		Known: flags&flagPrintKnown != 0, Asks: flags&flagPrintAsks != 0,
	}
	return c.print.Known || c.print.Fingerprint == 0
}

// DecodePrint reads a print. Errors: ErrMalformed and *VersionError.
func DecodePrint(shard wal.ShardID, b []byte) (Print, error) {
	c, err := decode(b)
	if err == nil && (c.kind != KindPrint || c.shard != shard) {
		err = fmt.Errorf("%w: a chunk of kind %s of shard %d where a print is due", ErrMalformed, c.kind, c.shard)
	}
	return c.print, err
}

// Renew is a replica's request to be brought a snapshot of another one, though Raft does not know that it needs any.
type Renew struct {
	Speaker PeerID
	Above   uint64 // the snapshot must be newer than this
}

// Append encodes it for a shard.
func (r *Renew) Append(dst []byte, shard wal.ShardID) []byte {
	start := len(dst)
	dst = begin(dst, &header{kind: KindRenew, shard: shard, transfer: uint64(r.Speaker), index: r.Above})
	finish(dst[start:])
	return dst
}

func (c *chunk) decodeRenew(b []byte) bool { return len(b) == 0 && c.term == 0 && c.round == 0 }

// DecodeRenew reads such a request. Errors: ErrMalformed and *VersionError.
func DecodeRenew(shard wal.ShardID, b []byte) (Renew, error) {
	c, err := decode(b)
	if err == nil && (c.kind != KindRenew || c.shard != shard) {
		err = fmt.Errorf("%w: a chunk of kind %s of shard %d where a request for a snapshot is due", ErrMalformed, c.kind, c.shard)
	}
	return Renew{PeerID(c.transfer), c.index}, err
}
