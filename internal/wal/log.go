package wal

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// ErrDiskFull: a file could not be made for want of room. Nothing was changed.
var ErrDiskFull = errors.New("disk full: free some space, or finish jobs so that the log can shrink")

// Log is a node's log. Append, Retain and all reads may be called from any goroutine; Flush from one at a time, and
// Maintain from one at a time. The two may run at once.
type Log struct {
	opts Options
	fs   vfs.FS

	mu     sync.RWMutex
	failed error // set once: why nothing is written any more
	closed bool
	opened bool // Open is over
	shards map[ShardID]*shardLog

	// The stream of appends is cut in three: what is in files, what Flush is writing, what waits for the next Flush.
	flushing, pending buffer
	free              []byte   // the buffer that is neither
	durable           Position // end of what is in files
	files             []*tailFile
	unknown           *CorruptError // shards of which nothing is here may have been lost: see lost.go
	spares            []spareFile
	reserveHeld       bool // the reserve file is there
	reserveGiven      bool // it was removed for want of room
	stats             Stats

	writer      writer               // the flusher's own
	keeping     sync.Mutex           // held by Maintain for a step, and by Install: taken before mu
	keeper      keeper               // of who holds keeping
	kept        map[uint64]*keptFile // likewise: see inplace.go
	handles     handlePool           // of segments
	scrub       scrubCursor
	mendedBytes int64     // of entries that were mended and are not written
	headers     sync.Pool // of frame header buffers, for ReadPart

	diskFree, diskTotal atomic.Uint64
}

// buffer is a piece of the stream in memory.
type buffer struct {
	base  Position // stream position of data[0]
	data  []byte
	count int // entries in it
}

func (b *buffer) end() Position { return b.base + Position(len(b.data)) }

// holds reports whether the byte at the position is in the buffer.
func (b *buffer) holds(p Position) bool { return p >= b.base && p < b.end() }

// withDefaults fills in defaults and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	def := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	def(&o.FileBytes, defaultFileBytes)
	def(&o.BufferBytes, defaultBufferBytes)
	def(&o.ReserveBytes, defaultReserveBytes)
	if o.CompactBelow == 0 {
		o.CompactBelow = defaultCompactBelow
	}
	if o.KeepAbove == 0 {
		o.KeepAbove = defaultKeepAbove
	}
	if o.SpareFilesMax == 0 {
		o.SpareFilesMax = defaultSpareFiles
	}
	switch {
	case o.FS == nil || o.Dir == "":
		return o, errors.New("open log: FS and Dir must be set")
	case o.FileBytes < fileBytesMin || o.FileBytes > fileBytesMax:
		return o, fmt.Errorf("open log: FileBytes is %d, must be %d to %d", o.FileBytes, fileBytesMin, fileBytesMax)
	case o.BufferBytes < bufferBytesMin:
		return o, fmt.Errorf("open log: BufferBytes is %d, must be at least %d", o.BufferBytes, bufferBytesMin)
	case o.ReserveBytes < 0 || o.SpareFilesMax < 1:
		return o, errors.New("open log: ReserveBytes must not be negative, SpareFilesMax at least 1")
	case o.CompactBelow < 1 || o.CompactBelow > 90:
		return o, fmt.Errorf("open log: CompactBelow is %d percent, must be 1 to 90", o.CompactBelow)
	}
	if o.KeepAbove < 1 || o.KeepAbove > 100 {
		return o, fmt.Errorf("open log: KeepAbove is %d percent, must be 1 to 100", o.KeepAbove)
	}
	o.FileBytes = (o.FileBytes + 4095) &^ 4095
	return o, nil
}

// usable returns why nothing may be appended. REQUIRES: l.mu.
func (l *Log) usable() error {
	switch {
	case l.failed != nil:
		return fmt.Errorf("%w: %w", ErrClosed, l.failed)
	case l.closed:
		return ErrClosed
	}
	return nil
}

// fail closes the log to writes for good and returns the first failure.
func (l *Log) fail(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed == nil {
		l.failed = err
	}
	return l.failed
}

// shardFor returns a shard's index, made when new. REQUIRES: l.mu.
func (l *Log) shardFor(shard ShardID) *shardLog {
	s := l.shards[shard]
	if s == nil {
		s = newShardLog()
		l.shards[shard] = s
	}
	return s
}

// Shards returns the shards that have any state, sorted.
func (l *Log) Shards() []ShardID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.sortedShards()
}

// sortedShards returns the shards' ids. REQUIRES: l.mu.
func (l *Log) sortedShards() []ShardID {
	ids := make([]ShardID, 0, len(l.shards))
	for id := range l.shards {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// State returns a shard's part of the log as appended, flushed or not; First is 1 and all else zero when the shard is new.
func (l *Log) State(shard ShardID) ShardState {
	l.mu.RLock()
	defer l.mu.RUnlock()
	s := l.shards[shard]
	if s == nil {
		return ShardState{First: 1}
	}
	return ShardState{HardState: s.hard, First: s.first, Last: s.last}
}

// Append buffers entries and then a hard state (nil: unchanged) of one shard. It returns the position that Flush must
// reach for them to be durable, and copies Data before it returns.
//
// Indexes must be consecutive and begin at most one past the shard's last; what was there at and above the first of them
// is replaced. Nothing below the shard's first index can be replaced: ErrCompacted. Errors: ErrTooLarge, ErrBacklogged
// (Flush, then try again), ErrClosed. After an error nothing was appended.
func (l *Log) Append(shard ShardID, hs *HardState, entries []Entry) (Position, error) {
	var onStack [32]uint32
	crcs := onStack[:0]
	var size int64
	for i := range entries {
		e := &entries[i]
		if len(e.Data) > EntryBytesMax {
			return 0, fmt.Errorf("%w: entry %d of shard %d has %d bytes, the limit is %d",
				ErrTooLarge, e.Index, shard, len(e.Data), EntryBytesMax)
		}
		if e.Index != entries[0].Index+uint64(i) {
			return 0, fmt.Errorf("append to shard %d: index %d follows %d", shard, e.Index, entries[i-1].Index)
		}
		crcs = append(crcs, checksum(e.Data)) // outside the lock
		size += frameBytes(len(e.Data))
	}
	if hs != nil {
		size += frameBytes(shardStateBytes)
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := errors.Join(l.usable(), l.closedTo(shard)); err != nil {
		return 0, err
	}
	if buffered := int64(len(l.pending.data) + len(l.flushing.data)); buffered > 0 && buffered+size > l.opts.BufferBytes {
		return 0, ErrBacklogged
	}
	if err := l.admits(shard, entries); err != nil {
		return 0, err
	}
	l.append(shard, hs, entries, crcs)
	return l.pending.end(), nil
}

// admits checks the place of entries in a shard's tail. REQUIRES: l.mu.
func (l *Log) admits(shard ShardID, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first, last := uint64(1), uint64(0)
	if s := l.shards[shard]; s != nil {
		first, last = s.first, s.last
	}
	switch index := entries[0].Index; {
	case index < first:
		return fmt.Errorf("append to shard %d at %d, below its first index %d: %w", shard, index, first, ErrCompacted)
	case index > last+1:
		return fmt.Errorf("append to shard %d at %d would leave a gap behind %d", shard, index, last)
	}
	return nil
}

// append puts checked entries and a hard state into the pending buffer. REQUIRES: l.mu.
func (l *Log) append(shard ShardID, hs *HardState, entries []Entry, crcs []uint32) {
	s := l.shardFor(shard)
	if len(entries) > 0 && entries[0].Index <= s.last {
		s.truncate(entries[0].Index - 1)
		l.unwantAbove(s, s.last)
	}
	for i := range entries {
		e := &entries[i]
		h := frameHeader{
			kind: kindEntry, entryType: e.Type, shard: shard,
			index: e.Index, term: e.Term, dataCRC: crcs[i],
		}
		s.push(tailEntry{pos: l.pending.end(), term: e.Term, size: packSize(len(e.Data), e.Type), crc: crcs[i]})
		l.pending.data = appendFrame(l.pending.data, &h, e.Data)
	}
	l.pending.count += len(entries)
	if hs != nil {
		s.hard = *hs
		l.appendShardState(shard, s)
	}
}

// appendShardState appends a shard's state as it is now. REQUIRES: l.mu.
func (l *Log) appendShardState(shard ShardID, s *shardLog) {
	l.pending.data = appendState(l.pending.data, shard, &s.shardState)
}

// Retain tells what a shard still needs; call it after each durable snapshot, and once after Open with the snapshot that
// was loaded: a log that does not know the live set drops nothing. First moves to KeepFrom at once; files can be
// recycled when a later Flush has made that durable too. A Retention older than one already given changes nothing.
func (l *Log) Retain(shard ShardID, r Retention) {
	invariant.Check(r.KeepFrom <= r.Snapshot+1, "retain from %d, but the snapshot is at %d", r.KeepFrom, r.Snapshot)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closedTo(shard) != nil {
		return
	}
	s := l.shardFor(shard)
	if r.Live != nil && (s.live == nil || r.Snapshot >= s.snapshot) {
		s.live, s.snapshot, s.fallback = r.Live, r.Snapshot, r.Fallback
	}
	keepFrom := min(r.KeepFrom, s.last+1)
	if keepFrom <= s.first {
		return
	}
	term, known := s.termOf(keepFrom - 1)
	s.first, s.prevTerm, s.known = keepFrom, term, known
	s.cutGaps()
	if l.usable() == nil {
		l.appendShardState(shard, s)
	}
}

// Close releases the files and refuses everything from then on; entries not flushed are lost, as after a crash. When
// nothing has failed it marks the end of what is durable, so that the next Open knows it was closed on purpose.
// Flush and Maintain must have returned. Closing twice does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	var errs []error
	if l.failed == nil && len(l.files) > 0 {
		errs = append(errs, l.writeMark(l.files[len(l.files)-1], kindMark))
	}
	l.keeper.abandon()
	for _, f := range l.files {
		f.mu.Lock()
		errs = append(errs, f.file.Close())
		f.mu.Unlock()
	}
	for _, s := range l.spares {
		errs = append(errs, s.file.Close())
	}
	errs = append(errs, l.handles.close())
	return errors.Join(errs...)
}

func isFull(err error) bool {
	return err != nil && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT))
}

// fullError wraps an error with what was tried, marked as ErrDiskFull when that is what it is.
func fullError(op string, err error) error {
	if isFull(err) {
		return fmt.Errorf("%s: %w: %w", op, ErrDiskFull, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
