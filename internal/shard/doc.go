// Package shard is one Raft group, turned by hand: events in, effects out.
//
// Invariant: no vote and no acknowledgement leaves before what it promises is durable; each index is applied once, in
// order. It wraps go.etcd.io/raft/v3's RawNode with asynchronous storage writes and knows nothing of jobs: what an entry
// means is its StateMachine's business. One Raft entry is one Batch of commands.
//
// A Shard has no goroutine, no clock and no I/O of its own but reads of its log and snapshots; it must be used by one
// goroutine at a time. The owner ticks it, steps messages into it, proposes batches, and carries out what Ready returns,
// in the order that Effects documents.
//
// Every size is limited (limits.go), proposals are never forwarded, reads ask a quorum under a unique id, elections are
// preceded by a pre-vote, and a leader without a quorum steps down. Only entries that are durable here are applied, also
// when this replica is the whole group. How a new group begins is said at GenesisIndex.
package shard
