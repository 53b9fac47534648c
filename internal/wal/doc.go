// Package wal is a node's log: every shard's Raft entries and hard state, and the payloads of all live jobs.
//
// Invariant: what Flush returned for is read back after any crash, in order, and nothing else is invented. A
// damaged record is reported as damage and never served as data; a torn tail is cut and reported.
//
// The log has two regions per shard. The *tail* is contiguous: preallocated, recycled files that all shards share,
// written by one group commit. The *live segments* are sparse and per shard: when a tail file is no longer needed for
// replay, only its entries that still hold live jobs are copied to a segment; the rest is never written again. Segments
// whose live bytes fall under a threshold are copied forward and removed.
//
// The caller appends from any goroutine, flushes from exactly one, and calls Maintain from exactly one.
// The package starts no goroutine, reads no clock and writes no log line: it returns facts.
package wal
