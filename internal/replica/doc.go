// Package replica is one replica of one shard as a step machine: the shard's Raft group, the driver that knows what its
// commands mean, the batches in flight, the reads that wait, and the bookkeeping of its snapshots.
//
// Invariant: no command is answered before its entry is durable on a quorum and applied; a batch that was proposed is
// applied, or its driver hears exactly once that it was dropped, and whether that is certain; a read sees every operation
// acknowledged before it came.
//
// A Replica has no goroutine, no clock, no lock and no channel. Its owner calls it from one goroutine at a time (Payload
// and Batch may be called from any), tells it what happened, calls Turn, and carries out what Turn returns:
//
//  1. Tell what happened: Step for messages, Durable for the log, Read, WantSnapshot, SnapshotStored, BeginClose.
//  2. Turn(now), again and again as long as Effects.More says so; carry out the effects of each before the next.
//  3. Wait until something happens, or until Pause says.
//
// Package host is such an owner with goroutines, the simulator one without. Entries go to the log by Log.Append inside
// Turn: that only buffers. Reading, restoring and storing snapshots go through vfs. Nothing else is done outside memory.
package replica
