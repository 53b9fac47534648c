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
//	carrier      one per shard when there is a network: sends snapshots to members that lack what the log forgot, and
//	             takes in those that are sent here, which the shard loop then installs; waited for by its shard loop
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
//	replicas/SHARD             which replica of the shard this is, and what it has been: record.go
//	snapshots/SHARD/           package snapshot, one directory per shard
//	incoming/SHARD/            package transfer, a snapshot that is being taken in
//
// Open restores each shard from its newest good snapshot, applies what the log knows as committed, and starts the loops.
// A shard whose group is this node alone then stands for election at once, so that what was durable but not recorded
// as committed follows, and Open waits for that. The others follow when their groups do. A new shard begins with its genesis,
// see package shard, or waits for the group that it is to join.
//
// # Replicas
//
// A replica's id is single-use for all time: what it acknowledged and voted is bound to it. The record of a shard, written before
// its replica speaks, is how a node knows what it has been. A founder makes the genesis only when its record says that it never
// did, and only when whoever opens the host says who founds with it; a new member begins only when it is said that its id was
// given out just now: a directory that is empty may be one that was lost. A replica that was retired leaves its record, and only
// one that was born later may follow it. One that may have lost what it promised is not run, nor is one without a
// state to go on from: lost.go.
//
// What comes from other nodes goes into bounded inboxes, and over the bounds is dropped: Raft and the transfers make up for losses.
// Nothing of it is believed that does not come from the node that it names.
//
// A snapshot of another node takes the replica's place: the loop stops the replica, installs the snapshot, and opens the replica
// anew, with the same driver, which is told that the lead is lost before its state is replaced.
package host
