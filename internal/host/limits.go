package host

import (
	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// The limits of a host.
const (
	// SnapshotsKept is how many snapshots of a shard are kept.
	SnapshotsKept = replica.SnapshotsKept
	// ShardsMax bounds the shards of one node.
	ShardsMax = 1024
	// ReadsWaitingMax bounds the reads that wait for one shard.
	ReadsWaitingMax = replica.ReadsWaitingMax
	// InboxMessagesMax bounds the messages of other nodes that wait for one shard. Over it the newest is dropped, which Raft
	// makes up for.
	InboxMessagesMax = 2048
	// InboxBytesMax bounds the bytes of entries in them; a single larger message is taken when nothing else waits.
	InboxBytesMax = 32 << 20
	// MendAnswersMax bounds the answers about damaged entries that wait for one shard, which asks for one at a time.
	MendAnswersMax = 4
	// PrintsMax bounds what other members say of their states that waits for one shard: some for each member.
	PrintsMax = 32
	// ParcelsMax bounds the chunks and acknowledgements of snapshots that wait for one shard.
	ParcelsMax = 256
	// ParcelBytesMax bounds their bytes.
	ParcelBytesMax = 32 << 20
	// batchesKept is how many entries that were read from the log are kept for the next who wants some of their items,
	// batchKeepBytes the largest that is (a full batch, but no giant command), and batchShareMin from how many items on a
	// reader asks for a whole entry.
	batchesKept    = 4
	batchKeepBytes = shard.EntryTargetBytes + 64<<10
	batchShareMin  = 4
	// OperationsMax bounds the operations on one shard's members and lead that are under way.
	OperationsMax = 64
)

// checkLimits asserts how the limits relate.
func checkLimits() {
	invariant.Check(InboxBytesMax >= shard.InflightBytesDefault, "what a leader may have on its way to a follower does not fit its inbox")
	invariant.Check(InboxMessagesMax >= shard.InflightMessagesDefault, "what a leader may have on its way to a follower does not fit its inbox")
	invariant.Check(ParcelBytesMax >= 2*transfer.ChunkBytesMax, "the largest chunk fills the row")
	invariant.Check(ParcelBytesMax >= transfer.WindowBytesDefault, "a sender's window does not fit the row")
}
