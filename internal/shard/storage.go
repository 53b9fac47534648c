package shard

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/wal"
)

// storage is the library's view of the shard's log: the contiguous tail, and the newest entries out of memory.
// Entries below first live only as sparse payloads in the log; the library never looks there.
//
// The library panics on any error but the few it knows, so an error of the log is also kept in err: the Shard turns
// that panic back into the error.
type storage struct {
	id    ID
	log   Log
	cache entryCache

	first     uint64 // first index of the tail
	firstTerm uint64 // term of the entry before first
	last      uint64 // last index handed out for writing
	hard      wal.HardState
	conf      *raftpb.ConfState // at the restored snapshot
	snapshot  *raftpb.Snapshot  // the newest durable one, without its content
	err       error
}

var _ raft.Storage = (*storage)(nil)

// openStorage checks that log and snapshot belong together.
func openStorage(cfg Config, snap Restored, conf *raftpb.ConfState) (*storage, error) {
	state := cfg.Log.State(cfg.ID)
	s := &storage{id: cfg.ID, log: cfg.Log, hard: state.HardState, conf: conf}
	s.cache.bytesMax = cfg.CacheBytes
	s.first, s.firstTerm, s.last = state.First, snap.Term, state.Last
	s.snapshot = snapshotMetadata(snap, conf)
	if snap.Index == 0 {
		return s, s.checkBlank(cfg.ID, state)
	}
	switch {
	case snap.Index < GenesisIndex || snap.Term < GenesisTerm:
		return nil, &StateError{cfg.ID, fmt.Sprintf("the snapshot names index %d, term %d", snap.Index, snap.Term)}
	case state.Last < snap.Index:
		return nil, &StateError{cfg.ID, fmt.Sprintf("the log ends at index %d, the snapshot is of index %d", state.Last, snap.Index)}
	case state.First > snap.Index+1:
		return nil, &StateError{cfg.ID, fmt.Sprintf("the log begins at index %d, the snapshot is of index %d", state.First, snap.Index)}
	case state.HardState.Commit > state.Last:
		return nil, &StateError{cfg.ID, fmt.Sprintf("the log ends at index %d, index %d was committed", state.Last, state.HardState.Commit)}
	}
	if term, err := cfg.Log.Term(cfg.ID, snap.Index); err == nil && term != snap.Term {
		return nil, &StateError{cfg.ID, fmt.Sprintf("entry %d of the log has term %d, the snapshot of it has %d", snap.Index, term, snap.Term)}
	}
	if s.first <= snap.Index {
		term, err := cfg.Log.Term(cfg.ID, s.first-1)
		if err == nil {
			s.firstTerm = term
		} else {
			// Without the term before it, an entry is of no use to the library.
			s.first = snap.Index + 1
		}
	}
	// A commit index is written lazily. What a snapshot holds was committed, whether or not that was recorded in time.
	s.hard.Commit = max(s.hard.Commit, snap.Index)
	if snap.Term > s.hard.Term {
		// A snapshot of another node may be of a term that the replica had not heard of. It has voted for nobody in it, since a vote makes
		// its term durable before anybody is told. The snapshot is durable, so every start finds the same until the hard state says more.
		s.hard.Term, s.hard.Vote = snap.Term, 0
	}
	s.commitChanges()
	return s, nil
}

// commitChanges takes every change of members in the log for committed but the last one. A leader proposes a change only when it has applied
// the one before, and what brings a change brings a commit index that covers the one before; but the log writes entries first and the commit index
// behind them, and a crash may leave the entries alone. Between two sets of voters that lie two changes apart there may be two majorities
// that have no member in common: who stood for election among the former could commit what the latter's majority does not know.
func (s *storage) commitChanges() {
	change := uint64(0) // the last one that was met
	for at := s.hard.Commit + 1; at <= s.last; {
		entries, err := s.log.ReadRange(s.id, at, s.last+1, int(ApplyBytesDefault))
		if err != nil || len(entries) == 0 {
			at++ // A hole: the replica stays out of its group until it is filled.
			continue
		}
		for i := range entries {
			if raftpb.EntryType(entries[i].Type) != raftpb.EntryNormal {
				s.hard.Commit, change = max(s.hard.Commit, change), entries[i].Index
			}
		}
		at += uint64(len(entries))
	}
}

// checkBlank checks that the log of a replica without a snapshot holds nothing either, but for a vote.
func (s *storage) checkBlank(id ID, state wal.ShardState) error {
	if state.Last > 0 || state.HardState.Commit > 0 {
		return &StateError{id, fmt.Sprintf("the log ends at index %d, and there is no snapshot", state.Last)}
	}
	s.first = 1
	return nil
}

func snapshotMetadata(snap Restored, conf *raftpb.ConfState) *raftpb.Snapshot {
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{ConfState: conf, Index: new(snap.Index), Term: new(snap.Term)}}
}

// InitialState implements raft.Storage.
func (s *storage) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return &raftpb.HardState{Term: new(s.hard.Term), Vote: new(s.hard.Vote), Commit: new(s.hard.Commit)}, s.conf, nil
}

// FirstIndex implements raft.Storage.
func (s *storage) FirstIndex() (uint64, error) { return s.first, nil }

// LastIndex implements raft.Storage.
func (s *storage) LastIndex() (uint64, error) { return s.last, nil }

// Term implements raft.Storage.
func (s *storage) Term(index uint64) (uint64, error) {
	switch {
	case index+1 == s.first:
		return s.firstTerm, nil
	case index < s.first:
		return 0, raft.ErrCompacted
	case index > s.last:
		return 0, raft.ErrUnavailable
	}
	if e, ok := s.cache.get(index); ok {
		return e.GetTerm(), nil
	}
	term, err := s.log.Term(s.id, index)
	return term, s.failed(index, err)
}

// Entries implements raft.Storage.
func (s *storage) Entries(lo, hi, bytesMax uint64) ([]*raftpb.Entry, error) {
	if lo < s.first {
		return nil, raft.ErrCompacted
	}
	if hi > s.last+1 {
		return nil, raft.ErrUnavailable
	}
	if cached := s.cache.slice(lo, hi, bytesMax); cached != nil {
		return cached, nil
	}
	read, err := s.log.ReadRange(s.id, lo, hi, int(min(bytesMax, ApplyBytesDefault)))
	if err != nil {
		return nil, s.failed(lo, err)
	}
	return fromLog(read), nil
}

// Snapshot implements raft.Storage: the library makes a message of it for a member whose entries are gone, which Ready
// turns into a SnapshotWish.
func (s *storage) Snapshot() (*raftpb.Snapshot, error) {
	if s.snapshot.GetMetadata().GetIndex() == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return s.snapshot, nil
}

// failed keeps an error of the log and names the entry.
func (s *storage) failed(index uint64, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, wal.ErrCompacted) {
		return raft.ErrCompacted
	}
	s.err = fmt.Errorf("shard %d: read log entry %d: %w", s.id, index, err)
	return s.err
}

// appended records entries that were handed out for writing.
func (s *storage) appended(entries []*raftpb.Entry) {
	first := entries[0].GetIndex()
	if first < s.first || first > s.last+1 {
		invariant.Check(false, "shard %d: entry %d appended to [%d, %d]", s.id, first, s.first, s.last)
	}
	s.last = entries[len(entries)-1].GetIndex()
	s.cache.append(entries)
}

// compact forgets the entries below first for the library's purposes.
func (s *storage) compact(first uint64) {
	if first <= s.first {
		return
	}
	term, err := s.Term(first - 1)
	if err != nil {
		return // Keep what there is: the log may have compacted further by itself.
	}
	s.first, s.firstTerm = first, term
}

// fromLog converts entries of the log. The pointers of all entries share three allocations.
func fromLog(read []wal.Entry) []*raftpb.Entry {
	type fields struct {
		term, index uint64
		kind        raftpb.EntryType
	}
	values := make([]fields, len(read))
	structs := make([]raftpb.Entry, len(read))
	entries := make([]*raftpb.Entry, len(read))
	for i := range read {
		v := &values[i]
		v.term, v.index, v.kind = read[i].Term, read[i].Index, raftpb.EntryType(read[i].Type)
		e := &structs[i]
		e.Term, e.Index, e.Type, e.Data = &v.term, &v.index, &v.kind, read[i].Data
		entries[i] = e
	}
	return entries
}

// toLog appends the log's form of entries to dst; the data is shared.
func toLog(dst []wal.Entry, entries []*raftpb.Entry) []wal.Entry {
	for _, e := range entries {
		dst = append(dst, wal.Entry{Index: e.GetIndex(), Term: e.GetTerm(), Type: uint8(e.GetType()), Data: e.GetData()})
	}
	return dst
}
