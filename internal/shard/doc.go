// Package shard is one Raft group, turned by hand: events in, effects out.
//
// Invariant: no vote and no acknowledgement leaves before what it promises is durable; each index is applied once, in
// order. It wraps go.etcd.io/raft/v3's RawNode with asynchronous storage writes and knows nothing of jobs: what an entry
// means is its StateMachine's business. One Raft entry is one Batch of commands.
//
// A Shard has no goroutine, no clock and no I/O of its own but reads of its log and snapshots; it must be used by one
// goroutine at a time. The owner ticks it, steps messages into it, proposes batches, and carries out the effects that
// Ready returns, in the order documented there.
package shard
