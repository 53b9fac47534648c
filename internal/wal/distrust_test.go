package wal

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// When a state that said what is live was wrong, nothing more is dropped by what it said; and what another snapshot brings stays,
// also what the wrong one had called dead, and is dropped when the right one does.
func TestDistrust(t *testing.T) {
	t.Parallel()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	l, _ := reopenSim(t, sim, Options{FileBytes: fileBytesMin})
	appendFlush := func(from, to uint64) {
		for index := from; index <= to; index++ {
			if _, err := l.Append(1, nil, []Entry{{Index: index, Term: 2, Data: receivedData(index)}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	maintain := func() {
		for more := true; more; {
			var err error
			if more, err = l.Maintain(); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendFlush(1, 2000)
	l.Retain(1, Retention{Snapshot: 500, KeepFrom: 501, Live: roaring64.BitmapOf(7)})
	l.Retain(1, Retention{Snapshot: 1500, KeepFrom: 1501, Live: roaring64.BitmapOf(7)}) // 8 is live in truth
	appendFlush(2001, 2010)
	maintain()
	if _, err := l.Read(1, 8); err == nil {
		t.Fatal("entry 8 is still there: the test does not test what it should")
	}
	l.Distrust(1)
	maintain()
	if _, live := l.Retained(1); live != nil {
		t.Error("what is live is still believed")
	}
	opts := intakeOptions(sim)
	opts.Next, opts.Replace = l.NextReceived(1), true
	names := receive(t, opts, 7, 8, 9)
	mustInstall(t, l, Installation{Shard: 1, Index: 1800, Term: 2, Dir: intakeDir, Segments: names})
	maintain()
	wantReceived(t, l, 7, 8, 9)
	l.Retain(1, Retention{Snapshot: 1800, KeepFrom: 1801, Live: roaring64.BitmapOf(7, 8)})
	maintain()
	wantReceived(t, l, 7, 8, 1801, 2010)
}
