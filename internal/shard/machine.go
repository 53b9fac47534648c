package shard

import (
	"io"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// StateMachine is what a shard replicates. The shard calls it from one goroutine.
type StateMachine interface {
	// Apply applies one committed batch. It must be deterministic in (state, index, header, items) and must not fail:
	// what it cannot do it refuses in its results. items alias the entry and are valid for as long as anyone holds them;
	// they must not be changed; the slice that lists them is used again. Indexes grow; those of Raft's own empty or configuration entries are skipped.
	Apply(index uint64, h Header, items [][]byte)
	// Snapshot freezes the state in O(1). The image is read from another goroutine while Apply goes on.
	Snapshot() Image
	// Restore replaces the state by one that an Image wrote.
	Restore(r io.Reader) error
	// Fingerprint is a running hash of the state.
	Fingerprint() uint64
}

// Image is a frozen state. Its methods may be called from any one goroutine.
type Image interface {
	WriteTo(w io.Writer) (int64, error)
	// Live is the set of entry indexes that the state still refers to.
	Live() *roaring64.Bitmap
	Fingerprint() uint64
}
