// Package host runs all shards of a node: it owns the goroutines, the ticks and the shared fsync.
//
// Invariant: the log has one writer; no reply is given before its entry is durable on a quorum and applied; the host
// stops clean or not at all. A failed write or fsync of the log ends the process (through Options.Fatal): nothing is
// retried on a file that failed.
//
// Goroutines, each named here and waited for by Close:
//
//	shard loop   one per shard: turns the shard, gathers commands into batches, applies, answers; sleeps until it is
//	             woken, a tick is due (a shard that is alone needs none) or the driver's next timer is
//	log writer   one: group commit, self-clocked: while one fdatasync is in flight the next batch gathers
//	maintainer   one: live segments, recycling, compaction; asks for the snapshots that let sealed files go; looks at the
//	             disk every few seconds
//	snapshotter  one: encodes and stores partial snapshots while the machines go on
//
// The way of a lone command is: Wake, Gather, append, flush, Apply, Settled, all on the shard loop: when nobody else is
// flushing and the append is small, the loop flushes by itself, which saves two switches between goroutines. Larger
// appends, and those behind others, go to the log writer, so that the next batch gathers meanwhile.
//
// A data directory holds:
//
//	LOCK                       locked while a process has the directory
//	IDENTITY                   format version, cluster and node; the first file, never changed
//	log/                       package wal
//	snapshots/SHARD/           package snapshot, one directory per shard
//
// Open restores each shard from its newest good snapshot, applies what the log knows as committed, and starts the loops.
// A shard whose group is this node alone then stands for election at once, so that what was durable but not recorded
// as committed follows. A new shard begins with its genesis; see package shard.
package host
