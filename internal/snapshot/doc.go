// Package snapshot stores partial snapshots: the hot state of one shard, without the payloads, which stay in the log.
//
// Invariant: what Load returns was written whole, synced and checksummed; a damaged or half-written file is never
// loaded and never hides the good one before it. The content is opaque here: the state machine encodes and decodes it,
// and state equals replay up to the snapshot's index.
//
// The caller writes one snapshot of a shard at a time. The package starts no goroutine and reads no clock.
package snapshot
