package wal

import (
	"errors"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// appendFlushed appends entries one by one, each durable before the next.
func appendFlushed(t *testing.T, l *Log, shard ShardID, term, from, to uint64, size int) {
	t.Helper()
	for i := from; i <= to; i++ {
		if _, err := l.Append(shard, nil, []Entry{{Index: i, Term: term, Data: make([]byte, size)}}); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, l)
	}
}

func mustFlush(t *testing.T, l *Log) {
	t.Helper()
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
}

// maintainAll calls Maintain until there is no more to do, or it reports damage.
func maintainAll(t *testing.T, l *Log) (damage *CorruptError) {
	t.Helper()
	for range 1000 {
		more, err := l.Maintain()
		if errors.As(err, &damage) {
			return damage
		}
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return nil
		}
	}
	t.Fatal("Maintain does not come to an end")
	return nil
}

// A snapshot that arrives late, when its entry is in the log already, must not void what was acknowledged behind it, and
// one that contradicts a committed entry is refused.
func TestLateSnapshotKeepsAcknowledgedEntries(t *testing.T) {
	for _, tc := range []struct {
		name        string
		index, term uint64
		want        error
		first, last uint64
	}{
		{"below the commit index", 5, 1, nil, 6, 10},
		{"at the commit index", 8, 1, nil, 9, 10},
		{"above the commit index", 9, 1, nil, 10, 10},
		{"at the last index", 10, 1, nil, 11, 10},
		{"behind the last index", 11, 1, nil, 12, 11},
		{"other term, not committed", 9, 2, nil, 10, 9},
		{"other term, committed", 8, 2, ErrConflict, 1, 10},
	} {
		l, _ := openSim(t, Options{})
		appendFlushed(t, l, 1, 1, 1, 10, 8) // acknowledged to the leader
		if _, err := l.Append(1, &HardState{Term: 1, Commit: 8}, nil); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, l)
		if err := l.InstallSnapshot(1, tc.index, tc.term); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if s := l.State(1); s.First != tc.first || s.Last != tc.last || s.HardState.Commit != 8 {
			t.Errorf("%s: %+v", tc.name, s)
		}
		mustFlush(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A flush that needs several files seals the first long before it returns. Until then the bounds of the shards are those of
// the flush before, and nothing of the file may be given up by them.
func TestFlushUnderWayIsNotRetired(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4096})
	if err := l.InstallSnapshot(1, 10, 1); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	l.Retain(1, Retention{Snapshot: 10, KeepFrom: 11, Live: roaring64.New()})
	mustFlush(t, l)
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	var entries []Entry
	for i := range uint64(20) {
		entries = append(entries, Entry{Index: 11 + i, Term: 1, Data: make([]byte, 1000)})
	}
	if _, err := l.Append(1, nil, entries); err != nil {
		t.Fatal(err)
	}
	within := false
	sim.SetHook(func(vfs.Op) error {
		if !within {
			within = true
			if damage := maintainAll(t, l); damage != nil {
				t.Error(damage)
			}
			within = false
		}
		return nil
	})
	mustFlush(t, l)
	sim.SetHook(nil)
	for _, want := range entries {
		if e, err := l.Read(1, want.Index); err != nil || len(e.Data) != 1000 {
			t.Errorf("entry %d: %v", want.Index, err)
		}
	}
}

// A follower's entries that a new leader replaced do not pin the files of all shards: its log ends before them now.
func TestReplacedEntriesDoNotPinFiles(t *testing.T) {
	l, _ := openSim(t, Options{FileBytes: 4096})
	appendFlushed(t, l, 1, 1, 1, 20, 8)
	appendFlushed(t, l, 1, 2, 11, 12, 8) // a new leader: 12 is the last now, and the shard is idle from here on
	appendFlushed(t, l, 2, 1, 1, 500, 64)
	l.Retain(1, Retention{Snapshot: 12, KeepFrom: 13, Live: roaring64.BitmapOf(3, 11)})
	l.Retain(2, Retention{Snapshot: 500, KeepFrom: 501, Live: roaring64.New()})
	mustFlush(t, l)
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	if files, _ := l.Sealed(); files > 0 {
		t.Errorf("%d sealed files are kept; NeedsSnapshot names %v", files, l.NeedsSnapshot())
	}
	for _, want := range []Entry{{Index: 3, Term: 1}, {Index: 11, Term: 2}} {
		if e, err := l.Read(1, want.Index); err != nil || e.Term != want.Term {
			t.Errorf("entry %d: term %d, %v", want.Index, e.Term, err)
		}
	}
}
