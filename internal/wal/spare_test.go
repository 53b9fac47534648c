package wal

import "testing"

// A short run zeroes little: spares grow to full size, and the reserve is made a piece at a time while nothing else is to
// be done.
func TestSparesGrowAndReserveIsPaced(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 32 << 20})
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
