package wal

import "testing"

// A short run zeroes little: spares grow to full size, in small pieces while the log has room, and under load the reserve is
// made a piece at a time while nothing else is to be done.
func TestSparesGrowAndReserveIsPaced(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 32 << 20})
	pieces := 0
	for len(l.spares) == 0 {
		if more, err := l.Maintain(); err != nil || !more {
			t.Fatalf("after %d pieces there is no spare and nothing more to do: %v", pieces, err)
		}
		if l.Leisure() {
			pieces++
		}
	}
	if want := 16 << 20 / leisureStepBytes; pieces < want || pieces > want+2 {
		t.Errorf("the spare was made in %d pieces that could wait; want %d", pieces, want)
	}
	appendFlushed(t, l, 1, 1, 1, 1, 1<<20) // more than a quarter of the file: there is no leisure any more
	checkSpares(t, l, 4<<20, 16<<20)
	if _, err := sim.Stat(l.reserveName()); err == nil {
		t.Error("the reserve was made at once")
	}
	calls := 0
	for ; calls < 20; calls++ {
		if _, err := sim.Stat(l.reserveName()); err == nil {
			break
		}
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
	}
	if want := int(l.reserveFileBytes() / maintainStepBytes); calls < want/2 || calls > want {
		t.Errorf("the reserve took %d calls, of %d pieces", calls, want)
	}
	for _, want := range [][2]int64{{16 << 20, 32 << 20}, {32 << 20, 32 << 20}} {
		for l.current().size < want[0] {
			last := l.State(1).Last
			appendFlushed(t, l, 1, 1, last+1, last+1, 1<<20)
		}
		checkSpares(t, l, want[0], want[1])
	}
}

// checkSpares maintains the log and checks the sizes of the current file and of the only spare.
func checkSpares(t *testing.T, l *Log, current, spare int64) {
	t.Helper()
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	if got := l.current().size; got != current || len(l.spares) != 1 || l.spares[0].size != spare {
		t.Errorf("the file has %d bytes, spares are %+v; want %d and %d", got, l.spares, current, spare)
	}
}
