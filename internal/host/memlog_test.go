package host

import (
	"io"
	"slices"
	"sync"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/wal"
)

// memLog is a log in memory whose flush can be held up or made to fail.
type memLog struct {
	mu       sync.Mutex
	shards   map[wal.ShardID]*memShard
	appended wal.Position
	flushes  int
	onFlush  func() error // called by Flush without the lock
	retained map[wal.ShardID]wal.Retention
	needs    []wal.ShardID
	full     bool
}

type memShard struct {
	state   wal.ShardState
	term    uint64 // of First-1
	entries []wal.Entry
}

func newMemLog() *memLog {
	return &memLog{shards: map[wal.ShardID]*memShard{}, retained: map[wal.ShardID]wal.Retention{}}
}

func (l *memLog) shard(id wal.ShardID) *memShard {
	s := l.shards[id]
	if s == nil {
		s = &memShard{state: wal.ShardState{First: 1}}
		l.shards[id] = s
	}
	return s
}

func (l *memLog) State(id wal.ShardID) wal.ShardState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shard(id).state
}

func (l *memLog) Shards() []wal.ShardID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []wal.ShardID
	for id, s := range l.shards {
		if s.state.Last > 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (l *memLog) ReadRange(id wal.ShardID, lo, hi uint64, _ int) ([]wal.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shard(id)
	if lo < s.state.First {
		return nil, wal.ErrCompacted
	}
	if hi > s.state.Last+1 {
		return nil, wal.ErrUnavailable
	}
	return slices.Clone(s.entries[lo-s.state.First : hi-s.state.First]), nil
}

func (l *memLog) Read(id wal.ShardID, index uint64) (wal.Entry, error) {
	e, err := l.ReadRange(id, index, index+1, 1)
	if err != nil {
		return wal.Entry{}, err
	}
	return e[0], nil
}

func (l *memLog) ReadPart(id wal.ShardID, index uint64, buf []byte, off int64) (int, error) {
	e, err := l.Read(id, index)
	if err != nil {
		return 0, err
	}
	if off >= int64(len(e.Data)) {
		return 0, io.EOF
	}
	n := copy(buf, e.Data[off:])
	if n < len(buf) {
		return n, io.EOF
	}
	return n, nil
}

func (l *memLog) Term(id wal.ShardID, index uint64) (uint64, error) {
	l.mu.Lock()
	s := l.shard(id)
	first, term := s.state.First, s.term
	l.mu.Unlock()
	if index+1 == first {
		return term, nil
	}
	e, err := l.Read(id, index)
	return e.Term, err
}

func (l *memLog) Append(id wal.ShardID, hs *wal.HardState, entries []wal.Entry) (wal.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shard(id)
	if hs != nil {
		s.state.HardState = *hs
	}
	for _, e := range entries {
		e.Data = slices.Clone(e.Data)
		s.entries = append(s.entries[:e.Index-s.state.First], e)
		s.state.Last = e.Index
	}
	l.appended++
	return l.appended, nil
}

func (l *memLog) Flush() (wal.Position, error) {
	l.mu.Lock()
	position := l.appended
	l.flushes++
	onFlush := l.onFlush
	l.mu.Unlock()
	if onFlush != nil {
		if err := onFlush(); err != nil {
			return 0, err
		}
	}
	return position, nil
}

func (l *memLog) InstallSnapshot(id wal.ShardID, index, term uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shard(id)
	s.state.First, s.state.Last, s.term, s.entries = index+1, index, term, nil
	return nil
}

func (l *memLog) Retain(id wal.ShardID, r wal.Retention) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retained[id] = r
}

func (l *memLog) NeedsSnapshot() []wal.ShardID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.needs)
}

// What a node alone never asks for.
func (l *memLog) Held(wal.ShardID) uint64                                         { return 0 }
func (l *memLog) Retained(wal.ShardID) (uint64, *roaring64.Bitmap)                { return 0, nil }
func (l *memLog) LiveBytes(wal.ShardID, *roaring64.Bitmap) (uint64, uint64)       { return 0, 0 }
func (l *memLog) NextReceived(wal.ShardID) uint64                                 { return 1 }
func (l *memLog) Missing(wal.ShardID, *roaring64.Bitmap, uint64) (uint64, uint64) { return 0, 0 }
func (l *memLog) Received(wal.Installation) (bool, error)                         { return false, nil }

func (l *memLog) Install(wal.Installation) (wal.Position, error) { return 0, wal.ErrClosed }

func (l *memLog) Forget(wal.ShardID) (wal.Position, error) { return 0, wal.ErrClosed }

func (l *memLog) Maintain() (bool, error)    { return false, nil }
func (l *memLog) Leisure() bool              { return false }
func (l *memLog) ReleaseReserve() bool       { return false }
func (l *memLog) RetryUnreadable()           {}
func (l *memLog) Scrub(int64) (int64, error) { return 0, nil }

func (l *memLog) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

func (l *memLog) Wanted(wal.ShardID, uint64, int) []wal.Name     { return nil }
func (l *memLog) Mend(wal.ShardID, *wal.Entry) error             { return nil }
func (l *memLog) GiveUp(wal.ShardID, uint64)                     {}
func (l *memLog) NoteDamage(wal.ShardID, uint64) <-chan struct{} { return nil }
func (l *memLog) SetMendable(wal.ShardID, bool)                  {}
func (l *memLog) Lost(wal.ShardID) error                         { return nil }

func (l *memLog) Gap(wal.ShardID, uint64) uint64 { return 0 }

func (l *memLog) Incomplete(wal.ShardID) error { return nil }

func (l *memLog) Holes(wal.ShardID, uint64) (first, last uint64) { return 0, 0 }

func (l *memLog) Stats() wal.Stats { return wal.Stats{} }
func (l *memLog) Close() error     { return nil }

func (l *memLog) flushCount() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushes
}

func (l *memLog) Distrust(id wal.ShardID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.retained, id)
}
