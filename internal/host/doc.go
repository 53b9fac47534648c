// Package host runs all shards of a node: it owns the goroutines, the ticks and the shared fsync.
//
// Invariant: the log has one writer; no reply is given before its entry is durable on a quorum and applied; the host
// stops clean or not at all. A failed write or fsync of the log ends the process (through Options.Fatal): nothing is
// retried on a file that failed.
//
// Goroutines, each named here and waited for by Close:
//
//	shard loop   one per shard: turns the shard, gathers commands into batches, applies, answers
//	log writer   one: group commit, self-clocked: while one fdatasync is in flight the next batch gathers
//	maintainer   one: live segments, recycling, compaction
//	snapshotter  one: encodes and stores partial snapshots while the machines go on
//	ticker       one: Raft's ticks and the machines' timers
package host
