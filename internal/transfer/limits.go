package transfer

import (
	"time"

	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// ChunkBytesDefault is a good size for Sender.Next.
	ChunkBytesDefault = 256 << 10
	// ChunkBytesMin is the least size for Sender.Next.
	ChunkBytesMin = 1 << 10
	// ChunkBytesMax is the most bytes of a chunk: one with a single entry of the largest size.
	ChunkBytesMax = headerBytes + entriesHeadBytes + entryHeadBytes + wal.EntryBytesMax
	// WindowBytesDefault is how much a sender has under way before it waits for an acknowledgement.
	WindowBytesDefault = 4 << 20
	// MendBytesDefault is a good size for answers to requests for damaged entries.
	MendBytesDefault = 1 << 20
	// MendTimeout is how long an answer to such a request is waited for, before the next peer is asked.
	MendTimeout = time.Second
	// MendPause lies between two rounds of asking for what no peer had.
	MendPause = 10 * time.Second
	// MendGiveUp is how long those who want a damaged entry wait while peers do not answer.
	MendGiveUp = time.Minute
	// mendNamesMax bounds the names of one request.
	mendNamesMax = 64

	// TextBytesMax bounds the reason in an acknowledgement.
	TextBytesMax = 200

	// ResendAfter is how long Senders wait for an acknowledgement until they begin again behind what is acknowledged.
	ResendAfter = 500 * time.Millisecond
	// ResendsMax is how often they do until they give up: the leader's group then wishes again.
	ResendsMax = 20
	// RefusalPause is how long Senders wait before they report a refusal of a member that refused the snapshot before as well. A member of an
	// older version refuses each one, after it was sent whole; and each report has another snapshot taken, and brings another wish.
	RefusalPause = 10 * time.Second
	// RefusedPause is how long a chunk waits that the network had no room for.
	RefusedPause = 20 * time.Millisecond

	// hotBytesMax bounds the snapshot file of an offer.
	hotBytesMax = 64 << 30
)
