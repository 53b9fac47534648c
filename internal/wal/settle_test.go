package wal

import (
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// A segment that a queue is being served from is not merged between two pieces of a busy log, however often Maintain finds nothing to
// do there; it is once the log is quiet.
func TestBusyLogSettlesNothing(t *testing.T) {
	l, _ := openSim(t, Options{FileBytes: 4 << 20})
	const size = 64 << 10
	appendFlushed(t, l, 1, 1, 1, 200, size) // more than a file
	l.Retain(1, Retention{Snapshot: 200, KeepFrom: 201, Live: roaring64.BitmapOf(every(1, 200, 1)...)})
	appendFlushed(t, l, 1, 1, 201, 201, size)
	maintained(t, l)
	l.Retain(1, Retention{Snapshot: 201, KeepFrom: 202, Live: roaring64.BitmapOf(every(168, 201, 1)...)}) // less than half of a segment is left
	maintained(t, l)
	before := l.Stats().Compactions // of what was dead

	next := uint64(202)
	for range 2 * settleCalls {
		count := uint64(settleBytesMax/size + 1)
		appendFlushed(t, l, 1, 1, next, next+count-1, size)
		next += count
		maintained(t, l)
	}
	if n := l.Stats().Compactions - before; n != 0 {
		t.Fatalf("%d merges beside a busy log", n)
	}
	for range settleCalls + 1 {
		maintained(t, l)
	}
	if n := l.Stats().Compactions - before; n != 1 {
		t.Errorf("%d merges once it was quiet, want 1", n)
	}
}
