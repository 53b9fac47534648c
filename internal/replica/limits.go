package replica

import "time"

// The defaults and limits of a replica.
const (
	// TickIntervalDefault is Raft's clock: an election takes ten to twenty ticks, a heartbeat one.
	TickIntervalDefault = 100 * time.Millisecond
	// successionShare is which part of a tick the first of the voters waits before it stands for election in the place of a leader whose
	// process has ended: about as long as the others need to hear of that too.
	successionShare = 4
	// stallElections is for how many election timeouts a leader waits for its disk before it hands the lead over.
	stallElections = 2
	// SnapshotBytesDefault is how much log a shard writes before it is snapshotted.
	SnapshotBytesDefault = 32 << 20
	// SnapshotsKept is how many snapshots of a shard are kept: the newest, and the one before in case it is damaged.
	SnapshotsKept = 2
	// BatchesInFlightMax is how many batches of a shard may be proposed and not applied: one on its way to the disk
	// and one that gathers behind it.
	BatchesInFlightMax = 2
	// FullBatchesInFlightMax is the same while the batches are at least half full.
	FullBatchesInFlightMax = 8
	// ReadsWaitingMax bounds the reads that wait for one shard.
	ReadsWaitingMax = 4096

	// FlushHereBytes is the largest append that the owner is asked to make durable by itself when nobody else flushes:
	// that saves two switches between goroutines, a sixth of the time of 64 callers. A larger one is left to others, so
	// that the next batch gathers meanwhile.
	FlushHereBytes = 128 << 10
	// WakeupMin is the shortest sleep before a timer of the driver that it said is due and did nothing about.
	WakeupMin = time.Millisecond
	// SnapshotRetry is how long a snapshot that found no room waits.
	SnapshotRetry = 10 * time.Second
	// staleShare is what part of a snapshot's size may be applied behind it before it is too old to be brought to a member: some bytes
	// end a job of a KiB, which would be sent in vain.
	staleShare = 64
	// WantedPause lies between two snapshots of a shard that the log wants, so that a log that asks again and again does
	// not keep an idle shard busy.
	WantedPause = 100 * time.Millisecond
	// NudgePause lies between two requests of a follower that its leader move the index of an idle shard.
	NudgePause = time.Second

	// PrintsKept is how many of its own fingerprints a replica remembers, of the entries that were verified last.
	PrintsKept = 64
	// AskPause lies between two rounds of asking other members about their states, or for a snapshot in the place of a wrong one.
	AskPause = time.Second
	// AskTries is how often a replica that is not in doubt itself tells those who differ from it what its state was.
	AskTries = 10
)
