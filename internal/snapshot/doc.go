// Package snapshot stores partial snapshots: the hot state of one shard, without the payloads, which stay in the log.
//
// Invariant: what Load returns was written whole, synced and checksummed; a damaged or half-written file is never
// loaded and never hides the good one before it. The content is opaque here: the state machine encodes and decodes it,
// and state equals replay up to the snapshot's index.
//
// A shard has a directory of its own with one file a snapshot, named by its index in twenty decimal digits. Write makes a
// new one under a temporary name, syncs it, renames it and syncs the directory: a crash at any point leaves the old
// ones, with or without the new. Load checks every byte of a file before it hands out the first. Prune removes old
// files, but only good ones with enough good ones newer than them: damaged files stay for inspection.
//
// A good file may still be of a wrong state, which only the replicas of the shard can tell. Condemn says so in a file beside them,
// Condemned reads it, and Acquit removes both, once there is a snapshot of a right state.
//
// The caller writes one snapshot of a shard at a time, and prunes after that. An error of Write that is not the encoder's
// own or a full disk (syscall.ENOSPC, syscall.EDQUOT) may be a failed sync, after which the process must end.
// The package starts no goroutine and reads no clock.
//
// # Layout
//
// All numbers are little-endian. A CRC is CRC-32C: of the prefix, of the header, of a chunk's payload, of a chunk's header.
//
//	┌──────────────────┬──────────────┬─────────┐
//	│ magic "BVRSNAP\n"│ version u32  │ crc u32 │   prefix: the same in every version, so an older
//	├──────────────────┴──┬───────────┴─────────┤   binary can tell newer from damaged
//	│ shard u16 · zero u16│ machine version u32 │
//	├─────────────────────┼─────────────────────┤
//	│ index u64           │ term u64            │
//	├─────────────────────┼─────────────────────┤
//	│ fingerprint u64     │ conf state bytes u32│
//	├─────────────────────┴─────────┬───────────┤
//	│ conf state …                  │ crc u32   │
//	└───────────────────────────────┴───────────┘
//	then chunks of at most 512 KiB, and an end chunk as the last bytes of the file:
//	┌──────────┬────────────┬────────────┬───────────┬─────────────────┬─────────────────┬──────────┐
//	│ kind u32 │ number u32 │ length u32 │ index u64 │ payload crc u32 │ header crc u32  │ payload… │
//	└──────────┴────────────┴────────────┴───────────┴─────────────────┴─────────────────┴──────────┘
//	kind 1 is data; kind 2 is the end, its payload the content's length as u64.
//
// A chunk names its place and its snapshot, so that a chunk which a disk delivers from elsewhere does not pass.
package snapshot
