package transfer

import "github.com/beaver-raft/beaver/internal/wal"

const (
	// ChunkBytesDefault is a good size for Sender.Next.
	ChunkBytesDefault = 256 << 10
	// ChunkBytesMin is the least size for Sender.Next.
	ChunkBytesMin = 1 << 10
	// ChunkBytesMax is the most bytes of a chunk: one with a single entry of the largest size.
	ChunkBytesMax = headerBytes + entriesHeadBytes + entryHeadBytes + wal.EntryBytesMax
	// WindowBytesDefault is how much a sender has under way before it waits for an acknowledgement.
	WindowBytesDefault = 4 << 20
	// TextBytesMax bounds the reason in an acknowledgement.
	TextBytesMax = 200

	// hotBytesMax bounds the snapshot file of an offer.
	hotBytesMax = 64 << 30
)
