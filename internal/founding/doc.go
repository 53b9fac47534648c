// Package founding is how a data directory comes to belong to a cluster: alone, as one of several founders, or by joining. It keeps the
// record of that, and says which starts fit it.
//
// Invariant: a directory belongs to one cluster, as one node, for ever; and a directory that was lost is never taken for its successor.
//
// Each directory draws a nonce at its birth, which is durable before anybody is told. Founders tell each other their nonces; who knows
// all of them stores the record of the founding, and only then founds. The cluster's id is a hash of that record, so nodes that
// founded with different nonces are of different clusters. A directory founds once, and a quorum is more than half of the founders, so
// of two records that share founders at most one can ever have a quorum, whatever was lost or repeated while they were made.
// A founder that lost its disk has another nonce than the record says, and every founder that kept its disk tells it so.
//
// Machine is a step machine: it is told what others said, and says what to store and what to tell them. Whoever turns it brings the
// messages, which package transport calls introductions, and stores the record with Write before it calls Stored.
//
// The record is the file MEMBERSHIP of the data directory. Little endian:
//
//	┌────────────┬─────────┬────────────┬──────┬────────┐
//	│ "BEAVERMB" │ version │ length     │ JSON │ crc32c │
//	│ 8 bytes    │ u32     │ u32        │      │ u32    │
//	└────────────┴─────────┴────────────┴──────┴────────┘
//
// A directory that was put back to an older copy, or that two processes use, is no better than one that was lost. Each run of a node has a
// number, which is in the file RUNS, and a nonce, and tells them to the others: see Run.
package founding
