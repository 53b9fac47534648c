// Package wal is a node's log: every shard's Raft entries and hard state, and the payloads of all live jobs.
//
// Invariant: what Flush returned for is read back after any crash, in order, and nothing else is invented. A
// damaged record is reported as damage and never served as data; a torn tail is cut and reported.
//
// The log has two regions per shard. The *tail* is contiguous: preallocated, recycled files that all shards share,
// written by one group commit. The *live segments* are sparse and per shard: when a tail file is no longer needed for
// replay, only its entries that still hold live jobs are copied to a segment; the rest is never written again. A tail file that is
// nearly all live stays in place, with segments that are indexes of it (inplace.go). Segments whose live bytes fall under a
// threshold, and fall no further, are copied forward and removed.
//
// # What the caller does
//
//   - It locks the directory, and calls Open once. An error means that the node must not serve.
//   - It appends from any goroutine, flushes from exactly one, and acknowledges what it appended only when Flush has
//     returned a position at or beyond what Append returned. An error of Flush is final.
//   - It calls Retain after Open and after each durable snapshot, and snapshots the shards that NeedsSnapshot names.
//   - It calls Maintain from exactly one goroutine until it says that there is no more, and again after each flush
//     that sealed a file, each Retain, and every few seconds.
//   - It refuses new jobs while Full reports true, and calls ReleaseReserve when a snapshot finds no room.
//   - It calls Scrub now and then, and gives to Mend what peers have of the entries that Wanted names.
//   - It calls RetryUnreadable every minute or so, from the goroutine of Maintain.
//   - It calls Forget when a shard's replica is gone from this node for good, and again after each Open.
//   - It sets Options.KeepHoles only if it asks Lost and Holes for each shard, never runs the replica of a shard that is lost, and keeps
//     those with holes out of their groups: lost.go, hole.go.
//   - It sets Options.Existing when it knows that there was a log.
//
// The package starts no goroutine, reads no clock and writes no log line: it returns facts.
//
// # Files
//
//	DIR/tail/0000000007.wal                    tail files, ids without gaps: tailfile.go has the layout
//	DIR/tail/spare-0000000003                  preallocated, content void; removed by Open
//	DIR/tail/0000000006.kept                   a retired tail file that stays in place: inplace.go
//	DIR/live/00002/0000000001-0000000004.seg   live entries of shard 2 from tail files 1 to 4: segment.go has the layout
//	DIR/live/00002/r0000000001-0000000002.seg  live entries that a peer sent, in that order: received.go
//	DIR/reserve                                room to give back when the disk is full
//	*.tmp                                      half made; removed by Open
//
// Frames (frame.go) are the same in both. All integers are little endian, all checksums CRC32C.
//
// # Torn or damaged
//
// Each frame says up to where its file was synced when it was written. Recovery that meets a bad frame in the last file
// looks on for a good one that proves the bad bytes were durable: then it is damage, an error that names file and offset.
// Without proof it is where a crash tore the last write. The proof comes with the next write, so damage inside the very
// last flush before a crash cannot be told from a torn write; Close leaves a mark that proves all, a new file proves the
// one before, and everything but that last flush is proven at any time. In files that have a successor any bad frame is
// damage. A write is assumed not to harm synced bytes beside it in the same sector (powersafe overwrite).
//
// An entry of the tail of which only the data is damaged is a hole, with which a log may be opened: hole.go. So it may with other damage
// of frames, and with sectors that cannot be read: lost.go works out what that means for each shard.
//
// A live entry that is found damaged when its tail file retires is copied to the segment as it is: it keeps its name, is
// refused, and holds nothing up. Peers that have the entry can mend it: mend.go. A file that is missing is noticed by Open, or when the first live set since Open names
// entries that are nowhere.
//
// # Recovered is not durable
//
// Bytes read back after a crash may be only in the page cache, with the sync that failed forgotten. So Open writes what
// is not proven durable again: to a new tail file, synced before it gets its name, whose header cuts the old file off
// before those bytes. The same holds for names: Open syncs the directories before it relies on what is in them.
//
// # Crash points
//
//   - Next tail file (flush.go, beginFile): named only when its first frames are synced.
//   - Retiring a tail file (retire.go): segments are durable before the file goes; until then it is replayed, and
//     segments that reach its id are leftovers.
//   - Keeping a tail file (inplace.go): as retiring; the file's new name is the decision. It goes when the removal of the last segment
//     that refers to it is durable.
//   - Merging segments (compact.go): the wider file covers the others, which are leftovers once it has its name.
//   - Installing a snapshot with received segments (received.go): whoever calls Install has decided it durably, and calls it
//     again after a crash. A received segment that has its name before the tail's jump is durable holds committed entries
//     that nobody asks for yet.
//   - A file with a final name that does not validate is damage. Nothing is ever removed because something is missing.
package wal
