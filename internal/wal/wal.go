package wal

import (
	"errors"
	"fmt"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// ShardID names a shard on this node. 0 is the catalog.
type ShardID uint16

// Entry is one Raft entry of one shard. Data is opaque to the log.
type Entry struct {
	Index, Term uint64
	Type        uint8 // the Raft entry type
	Data        []byte
}

// HardState is what Raft must remember of a shard besides its entries.
type HardState struct {
	Term, Vote, Commit uint64
}

// Position orders appends: everything up to a position is durable once Flush has returned it.
type Position uint64

var (
	// ErrCompacted: the entry is below the shard's first index and none of its jobs is live.
	ErrCompacted = errors.New("log entry compacted")
	// ErrUnavailable: the entry is past the shard's last index.
	ErrUnavailable = errors.New("log entry not available")
	// ErrClosed: the log was closed or has failed.
	ErrClosed = errors.New("log closed")
	// ErrRetry: Maintain could not open or read what it needed, for want of something that comes back, such as file
	// handles. Nothing was changed.
	ErrRetry = errors.New("try again later")
	// ErrTooLarge: the entry is over EntryBytesMax.
	ErrTooLarge = errors.New("log entry too large")
	// ErrConflict: a snapshot to install contradicts an entry that is committed.
	ErrConflict = errors.New("snapshot contradicts a committed entry")
	// ErrBacklogged: too much is buffered and not flushed yet; nothing was appended.
	ErrBacklogged = errors.New("log write buffer full")
)

// CorruptError says that bytes which were once durable read back wrong: damage, not a torn tail.
type CorruptError struct {
	File   string
	Offset int64
	Shard  ShardID // 0 and Index 0 when the frame's own header is damaged
	Index  uint64
	Reason string

	// Mending is closed when another read may succeed, or peers do not have the entry either. It is nil when nobody is asked.
	Mending <-chan struct{}
}

func (e *CorruptError) Error() string {
	whose := ""
	switch {
	case e.Index != 0:
		whose = fmt.Sprintf(" (shard %d, index %d)", e.Shard, e.Index)
	case e.Shard != 0:
		whose = fmt.Sprintf(" (shard %d)", e.Shard)
	}
	return fmt.Sprintf("%s is damaged at offset %d%s: %s", e.File, e.Offset, whose, e.Reason)
}

// Options configure a Log. The zero value of a number means its default.
type Options struct {
	FS  vfs.FS
	Dir string // created when missing

	// Existing refuses to make a new log: the caller knows that there was one.
	Existing bool

	// KeepHoles opens a log although frames of the tail are damaged: see hole.go and lost.go. The caller asks Lost and Holes before
	// it relies on a shard.
	KeepHoles bool

	// Peers says that the shards have replicas on other nodes. With KeepHoles, a log then opens although files of its tail are missing
	// (lost.go), or the segments of a shard contradict each other, which is lost then. Without it a log with holes, or that has lost
	// something, is refused, and nothing is changed, so that files can be put back.
	Peers bool

	FileBytes     int64 // size of one preallocated tail file; default 64 MiB
	BufferBytes   int64 // most bytes appended and not yet flushed; default 64 MiB
	ReserveBytes  int64 // free disk below which Full reports true; default 256 MiB, less on a small disk
	CompactBelow  int   // compact segments whose live bytes are under this percentage; default 50
	KeepAbove     int   // keep tail files in place whose live bytes are at least this percentage; default 75
	SpareFilesMax int   // recycled files kept; default 2
}

// Recovery tells what Open found, for the host to log and to count.
type Recovery struct {
	TailFiles, Segments   int
	EntriesReplayed       int   // entries in the contiguous tail
	BytesRead             int64 // bytes of tail files scanned
	TornBytes             int64 // bytes of a torn tail cut
	TornFile              string
	TornOffset            int64
	RewrittenBytes        int64 // unsealed tail written again, since recovered is not durable
	RemovedTemporaryFiles int
	Holes                 int           // entries of the tail that are damaged: see Options.KeepHoles
	Damage                *CorruptError // the first that was passed over, also when nothing is missing
	LostShards            int           // that may have lost what they promised
	Rebuilt               []Rebuilt     // segments whose index was damaged
}

// ShardState is one shard's part of the log.
type ShardState struct {
	HardState HardState
	First     uint64 // first index of the contiguous tail (last+1 when empty)
	Last      uint64 // last index; 0 when the shard is new
}

// Stats counts what the log has done since Open; cheap to take.
type Stats struct {
	Flushes, FlushedBytes, FlushedEntries uint64
	TailFiles, SpareFiles                 int
	Segments                              int
	SegmentBytes, SegmentLiveBytes        int64
	KeptFiles                             int // retired tail files that segments refer to
	KeptBytes                             int64
	SealedEntriesDropped                  uint64 // entries dead before their file was sealed: never written twice
	SealedEntriesCopied                   uint64
	SealedEntriesKept                     uint64 // that stayed in place
	Compactions                           uint64
	CompactedBytes                        uint64
	EntriesDamaged                        uint64 // found damaged, and not mended yet
	EntriesMended                         uint64 // damaged entries that peers have made whole
	DiskFree, DiskTotal                   uint64
}

// Retention tells the log what a shard still needs. See Log.Retain.
type Retention struct {
	// Snapshot is the index of the newest durable snapshot.
	Snapshot uint64
	// KeepFrom: the contiguous tail must keep every entry with index >= KeepFrom (the older retained snapshot's index
	// plus one, or less for slow followers). KeepFrom <= Snapshot+1.
	KeepFrom uint64
	// Live is the set of indexes <= Snapshot that still hold live jobs (or anything else a live job points at).
	// The log owns it from then on. An index once absent never comes back: dead is forever.
	Live *roaring64.Bitmap
	// Fallback: a newer snapshot than this one was told of before Open. Some of Live may have died and be gone since, so
	// Maintain does not check that it is all there.
	Fallback bool
}
