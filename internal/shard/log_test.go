package shard

import (
	"slices"

	"github.com/beaver-raft/beaver/internal/wal"
)

// crashLog is the log of one shard in memory: what was appended is visible at once, and survives a crash only when it
// was synced.
type crashLog struct {
	now, durable logState
	readErr      error // what reading an entry gives, when set
}

type logState struct {
	state   wal.ShardState
	term    uint64 // of the entry before First
	entries []wal.Entry
}

// newCrashLog is a log that begins behind the genesis.
func newCrashLog() *crashLog {
	l := &crashLog{now: logState{state: wal.ShardState{First: GenesisIndex + 1, Last: GenesisIndex}, term: GenesisTerm}}
	l.sync()
	return l
}

func (l *crashLog) State(ID) wal.ShardState { return l.now.state }

func (l *crashLog) ReadRange(_ ID, lo, hi uint64, _ int) ([]wal.Entry, error) {
	if l.readErr != nil {
		return nil, l.readErr
	}
	if lo < l.now.state.First {
		return nil, wal.ErrCompacted
	}
	if hi > l.now.state.Last+1 {
		return nil, wal.ErrUnavailable
	}
	return slices.Clone(l.now.entries[lo-l.now.state.First : hi-l.now.state.First]), nil
}

func (l *crashLog) Term(id ID, index uint64) (uint64, error) {
	if index+1 == l.now.state.First {
		return l.now.term, nil
	}
	e, err := l.ReadRange(id, index, index+1, 1)
	if err != nil {
		return 0, err
	}
	return e[0].Term, nil
}

func (l *crashLog) append(hs *wal.HardState, entries []wal.Entry) {
	if hs != nil {
		l.now.state.HardState = *hs
	}
	for _, e := range entries {
		e.Data = slices.Clone(e.Data)
		l.now.entries = append(slices.Clip(l.now.entries[:e.Index-l.now.state.First]), e)
		l.now.state.Last = e.Index
	}
}

func (l *crashLog) sync() { l.durable = l.now }

func (l *crashLog) crash() {
	l.now = l.durable
	l.now.entries = slices.Clip(l.now.entries)
}
