package shard

import "github.com/beaver-raft/beaver/internal/invariant"

// The limits of a shard and of its batches.
const (
	// EntryTargetBytes is the size up to which commands are gathered into one entry.
	EntryTargetBytes = 256 << 10
	// CommandBytesMax is the most bytes the items of one command may have. A command is never split.
	CommandBytesMax = 4 << 20
	// BatchItemsMax is the most items of one entry, and so of one command.
	BatchItemsMax = 4096
	// BatchBytesMax is the most bytes of a sealed batch: header, table and bodies.
	BatchBytesMax = batchHeaderBytes + BatchItemsMax*batchRowBytes + CommandBytesMax

	// CacheBytesDefault bounds the recent entries that a shard keeps in memory.
	CacheBytesDefault = 32 << 20
	// UncommittedBytesDefault bounds the proposals that are not committed yet; over it proposals are dropped, but for
	// one that comes when nothing else is uncommitted.
	UncommittedBytesDefault = 16 << 20
	// InflightMessagesDefault bounds the append messages on their way to one follower.
	InflightMessagesDefault = 64
	// InflightBytesDefault bounds the bytes of append messages on their way to one follower.
	InflightBytesDefault = 16 << 20
	// MessageBytesDefault bounds one append message; a single larger entry travels alone.
	MessageBytesDefault = 1 << 20
	// ApplyBytesDefault bounds the committed entries handed out at once for applying.
	ApplyBytesDefault = 4 << 20
	// ElectionTicksDefault is how many ticks without a leader make a follower campaign.
	ElectionTicksDefault = 10
	// HeartbeatTicksDefault is how many ticks lie between two heartbeats of a leader.
	HeartbeatTicksDefault = 1
	// VotersMax bounds the voters of a group.
	VotersMax = 9
	// MembersMax bounds the voters and learners of a group together.
	MembersMax = 16
	// PromoteLagMax is how many entries a learner may lack and yet become a voter.
	PromoteLagMax = 1024
)

// checkLimits asserts how the limits relate. Each is a constant, so a compiler's worth of cost at Open.
func checkLimits() {
	invariant.Check(EntryTargetBytes <= CommandBytesMax, "a target entry is larger than the largest command")
	invariant.Check(BatchItemsMax <= 1<<16-1, "the item count does not fit its field")
	invariant.Check(BatchBytesMax < 8<<20, "the largest batch does not fit a log entry")
	invariant.Check(BatchBytesMax < UncommittedBytesDefault, "the largest batch leaves no room for another")
	invariant.Check(VotersMax <= MembersMax, "more voters than members")
	invariant.Check(InflightBytesDefault >= MessageBytesDefault, "one message overfills a follower's window")
}
