package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

const intakeDir = "incoming"

func intakeOptions(fsys vfs.FS) IntakeOptions {
	return IntakeOptions{FS: fsys, Dir: intakeDir, Shard: 1, Next: 1, SegmentBytes: 4 << 10, SyncBytes: 1 << 10}
}

func receivedData(index uint64) []byte {
	return bytes.Repeat([]byte{byte(index), byte(index >> 8)}, int(10+index%90))
}

// receive puts entries of the given indexes into an intake, and seals it.
func receive(t *testing.T, opts IntakeOptions, indexes ...uint64) []string {
	t.Helper()
	in, err := OpenIntake(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range indexes {
		if err := in.Add(&Entry{Index: index, Term: 2, Data: receivedData(index)}, false); err != nil {
			t.Fatal(err)
		}
	}
	names, err := in.Seal()
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func every(from, to, step uint64) (indexes []uint64) {
	for i := from; i <= to; i += step {
		indexes = append(indexes, i)
	}
	return indexes
}

// reopenSim opens the log of openSim again.
func reopenSim(t *testing.T, sim *vfs.Sim, opts Options) (*Log, Recovery) {
	t.Helper()
	opts.FS, opts.Dir = sim, "log"
	l, r, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, r
}

func mustInstall(t *testing.T, l *Log, in Installation) {
	t.Helper()
	position, err := l.Install(in)
	if err != nil {
		t.Fatal(err)
	}
	if end, err := l.Flush(); err != nil || end < position {
		t.Fatal(end, position, err)
	}
}

func wantReceived(t *testing.T, l *Log, indexes ...uint64) {
	t.Helper()
	for _, index := range indexes {
		if e, err := l.Read(1, index); err != nil || !bytes.Equal(e.Data, receivedData(index)) || e.Term != 2 {
			t.Errorf("entry %d: %d bytes, %v", index, len(e.Data), err)
		}
	}
}

// Held counts what is committed, durable and here, whatever of these comes last.
func TestHeld(t *testing.T) {
	l, _ := openSim(t, Options{})
	want := func(what string, want uint64) {
		t.Helper()
		if got := l.Held(1); got != want {
			t.Errorf("%s: %d is held, want %d", what, got, want)
		}
	}
	want("nothing", 0)
	appendFlushed(t, l, 1, 1, 1, 10, 8)
	want("nothing is committed", 0)
	if _, err := l.Append(1, &HardState{Term: 1, Commit: 7}, nil); err != nil {
		t.Fatal(err)
	}
	want("the commit index is not durable", 0)
	mustFlush(t, l)
	want("committed", 7)
	l.Retain(1, Retention{Snapshot: 9, KeepFrom: 5, Live: roaring64.New()})
	want("a snapshot", 9)
	if _, err := l.Append(1, &HardState{Term: 1, Commit: 11}, []Entry{{Index: 11, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	want("what is in memory only", 9)
	mustFlush(t, l)
	want("and now durable", 11)
	if err := l.InstallSnapshot(1, 20, 3); err != nil {
		t.Fatal(err)
	}
	want("an installation in memory only", 11)
	mustFlush(t, l)
	want("installed", 20)
	if got := l.Held(2); got != 0 {
		t.Errorf("of a strange shard %d is held", got)
	}
}

// Missing and LiveBytes look everywhere: in memory, in tail files, in segments of both kinds.
func TestMissing(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4096})
	appendFlushed(t, l, 1, 1, 1, 60, 100)
	l.Retain(1, Retention{Snapshot: 60, KeepFrom: 61, Live: roaring64.BitmapOf(every(1, 60, 3)...)})
	mustFlush(t, l)
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	received := every(100, 200, 10)
	mustInstall(t, l, Installation{Shard: 1, Index: 200, Term: 2, Held: 60, Dir: intakeDir, Segments: receive(t, intakeOptions(sim), received...)})
	appendFlushed(t, l, 1, 2, 201, 210, 100)
	if _, err := l.Append(1, nil, []Entry{{Index: 211, Term: 2, Data: make([]byte, 100)}}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		set          []uint64
		upTo         uint64
		count, first uint64
	}{
		{nil, 1000, 0, 0},
		{every(1, 21, 3), 1000, 0, 0}, // segments
		{every(100, 200, 10), 1000, 0, 0},
		{every(201, 211, 1), 1000, 0, 0},
		{[]uint64{1, 4, 100, 110, 205, 211}, 1000, 0, 0},
		{[]uint64{1, 2, 100, 105, 205, 212}, 1000, 3, 2},
		{[]uint64{1, 2, 100, 105, 205, 212}, 105, 2, 2},
		{[]uint64{1, 2, 100, 105, 205, 212}, 1, 0, 0},
		{[]uint64{99, 201}, 1000, 1, 99},
		{[]uint64{1 << 40}, 1 << 41, 1, 1 << 40},
	} {
		count, first := l.Missing(1, roaring64.BitmapOf(tc.set...), tc.upTo)
		if count != tc.count || first != tc.first {
			t.Errorf("of %v up to %d, %d are missing, first %d; want %d, %d", tc.set, tc.upTo, count, first, tc.count, tc.first)
		}
	}
	entries, size := l.LiveBytes(1, roaring64.BitmapOf(1, 2, 100, 105, 205, 212))
	if want := uint64(100 + len(receivedData(100)) + 100); entries != 3 || size != want {
		t.Errorf("%d entries of %d bytes, want 3 of %d", entries, size, want)
	}
	if count, first := l.Missing(2, roaring64.BitmapOf(3), 10); count != 1 || first != 3 {
		t.Errorf("of a strange shard %d are missing, first %d", count, first)
	}
}

// Received segments live as others do: they are kept until a live set speaks of them, are merged and removed then, and
// survive restarts at any time.
func TestReceivedSegmentsAreKept(t *testing.T) {
	opts := Options{FileBytes: 4096, CompactBelow: 80}
	l, sim := openSim(t, opts)
	appendFlushed(t, l, 1, 1, 1, 100, 100)
	own := every(1, 100, 9)
	l.Retain(1, Retention{Snapshot: 100, KeepFrom: 101, Live: roaring64.BitmapOf(own...)})
	mustFlush(t, l)
	received := every(150, 400, 2)
	names := receive(t, intakeOptions(sim), received...)
	if len(names) < 4 {
		t.Fatalf("only %d segments are received", len(names))
	}
	mustInstall(t, l, Installation{Shard: 1, Index: 400, Term: 2, Held: 100, Dir: intakeDir, Segments: names})
	restart := func() {
		t.Helper()
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l, _ = reopenSim(t, sim, opts)
	}
	if damage := maintainAll(t, l); damage != nil { // with a live set that is older than what was received
		t.Fatal(damage)
	}
	wantReceived(t, l, received...)
	restart()
	wantReceived(t, l, received...)
	live := slices.Concat(own, received)
	for snapshot := uint64(400); len(live) > 0; snapshot++ {
		l.Retain(1, Retention{Snapshot: snapshot, KeepFrom: snapshot + 1, Live: roaring64.BitmapOf(live...)})
		mustFlush(t, l)
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
		for _, index := range live {
			if index >= 150 {
				wantReceived(t, l, index)
			} else if _, err := l.Read(1, index); err != nil {
				t.Errorf("entry %d: %v", index, err)
			}
		}
		if st := l.Stats(); len(live) < 20 && st.SegmentBytes > 3*st.SegmentLiveBytes+8<<10 {
			t.Errorf("%d bytes of segments for %d live ones", st.SegmentBytes, st.SegmentLiveBytes)
		}
		if snapshot%5 == 0 {
			restart()
		}
		rng := rand.New(rand.NewPCG(snapshot, 1))
		live = slices.DeleteFunc(live, func(uint64) bool { return rng.IntN(4) == 0 })
		appendFlushed(t, l, 1, 2, snapshot+1, snapshot+1, 100)
	}
}

// What is received in place of everything covers what was received before, and nothing else.
func TestReceivedAgain(t *testing.T) {
	opts := Options{FileBytes: 4096}
	l, sim := openSim(t, opts)
	mustInstall(t, l, Installation{Shard: 1, Index: 100, Term: 2, Dir: intakeDir, Segments: receive(t, intakeOptions(sim), every(1, 100, 1)...)})
	again := intakeOptions(sim)
	again.Next, again.Replace = l.NextReceived(1), true
	names := receive(t, again, every(1, 200, 3)...)
	if !strings.HasPrefix(names[0], "r0000000001-") || len(names) < 2 {
		t.Fatalf("received %v", names)
	}
	for range 2 { // the second time as after a crash
		mustInstall(t, l, Installation{Shard: 1, Index: 200, Term: 2, Dir: intakeDir, Segments: names})
		wantReceived(t, l, every(1, 200, 3)...)
		if count, _ := l.Missing(1, roaring64.BitmapOf(every(1, 100, 1)...), 100); count != 66 {
			t.Errorf("%d entries are gone, want 66", count)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l, _ = reopenSim(t, sim, opts)
	}
	left, err := sim.List(l.liveDir(1))
	if err != nil || !slices.Equal(left, names) {
		t.Errorf("%v are left, want %v: %v", left, names, err)
	}
}

// An installation that lacks a segment, or whose segment is damaged, is damage; nothing of the log changes by it.
func TestInstallRefuses(t *testing.T) {
	for what, harm := range map[string]func(sim *vfs.Sim, name string) error{
		"missing": func(sim *vfs.Sim, name string) error { return sim.Remove(name) },
		"damaged": func(sim *vfs.Sim, name string) error {
			return errors.Join(sim.FlipBit(name, 20, 1), sim.FlipBit(name, fileHeaderBytes+4, 1)) // and the name of its first entry
		},
	} {
		l, sim := openSim(t, Options{})
		names := receive(t, intakeOptions(sim), every(1, 300, 1)...)
		if err := harm(sim, intakeDir+"/"+names[1]); err != nil {
			t.Fatal(err)
		}
		_, err := l.Install(Installation{Shard: 1, Index: 300, Term: 2, Dir: intakeDir, Segments: names})
		if _, damaged := errors.AsType[*CorruptError](err); !damaged || !strings.Contains(err.Error(), names[1]) {
			t.Errorf("%s: %v", what, err)
		}
		if s := l.State(1); s.Last != 0 {
			t.Errorf("%s: the log ends at %d", what, s.Last)
		}
		if _, err := l.Flush(); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: the log goes on: %v", what, err)
		}
	}
}

// An entry that came by its name only is refused, unless the log has a copy of its own.
func TestReceivedByNameOnly(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4096})
	appendFlushed(t, l, 1, 2, 1, 50, 100)
	l.Retain(1, Retention{Snapshot: 50, KeepFrom: 51, Live: roaring64.BitmapOf(3)})
	mustFlush(t, l)
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	in, err := OpenIntake(intakeOptions(sim))
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range []uint64{3, 70} {
		if err := in.Add(&Entry{Index: index}, true); err != nil {
			t.Fatal(err)
		}
	}
	names, err := in.Seal()
	if err != nil {
		t.Fatal(err)
	}
	mustInstall(t, l, Installation{Shard: 1, Index: 80, Term: 2, Dir: intakeDir, Segments: names})
	if e, err := l.Read(1, 3); err != nil || len(e.Data) != 100 {
		t.Errorf("the log's own entry: %d bytes, %v", len(e.Data), err)
	}
	_, err = l.Read(1, 70)
	if _, damaged := errors.AsType[*CorruptError](err); !damaged {
		t.Errorf("a name without data: %v", err)
	}
}

// TestIntakeResumes cuts a part at every length, and flips a bit in every place: what is found again is a beginning of what
// was added, that was synced; it goes on behind that.
func TestIntakeResumes(t *testing.T) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	opts := intakeOptions(sim)
	opts.SegmentBytes = 1 << 20
	in, err := OpenIntake(opts)
	if err != nil {
		t.Fatal(err)
	}
	added := every(5, 200, 3)
	for _, index := range added {
		if err := in.Add(&Entry{Index: index, Term: 2, Data: receivedData(index)}, index == 50); err != nil {
			t.Fatal(err)
		}
	}
	if err := in.w.flush(); err != nil {
		t.Fatal(err)
	}
	part, synced := in.w.temp, in.w.synced
	size := in.w.at
	check := func(what string, disk *vfs.Sim, atLeast bool) {
		t.Helper()
		opts.FS = disk
		again, err := OpenIntake(opts)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		last := again.Last()
		for _, index := range every(last+1, 230, 1) {
			if err := again.Add(&Entry{Index: index, Term: 2, Data: receivedData(index)}, false); err != nil {
				t.Fatal(err)
			}
		}
		names, err := again.Seal()
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for _, name := range names {
			id, _ := parseSegmentName(name)
			g, _, err := openSegment(disk, intakeDir+"/"+name, 1, id)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for i := range g.entries {
				got = append(got, g.index(i))
			}
		}
		want := append(slices.DeleteFunc(slices.Clone(added), func(i uint64) bool { return i > last }), every(last+1, 230, 1)...)
		if !slices.Equal(got, want) {
			t.Fatalf("%s: after %d there are %v", what, last, got)
		}
		if atLeast && last < 100 {
			t.Errorf("%s: only entries up to %d are found again", what, last)
		}
	}
	check("whole", sim.CrashClone(vfs.Killed()), true)
	check("all lost that was not synced", sim.CrashClone(vfs.AllLost()), true)
	for cut := int64(0); cut < size; cut += 7 {
		disk := sim.CrashClone(vfs.Killed())
		f, err := disk.OpenReadWrite(part)
		if err == nil {
			err = errors.Join(f.Truncate(cut), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("cut at ", cut), disk, false)
	}
	for at := int64(0); at < size; at += 13 {
		disk := sim.CrashClone(vfs.Killed())
		if err := disk.FlipBit(part, at, uint(at)%8); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("flipped at ", at), disk, false)
	}
	if synced == 0 || synced == size {
		t.Errorf("%d of %d bytes were synced", synced, size)
	}
}

// After a sync that failed, what is read back may be in memory only, and further syncs prove nothing of it. So nothing of
// it is built on.
func TestIntakeFailedSync(t *testing.T) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	syncs := 0
	sim.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpSync {
			if syncs++; syncs == 3 {
				return syscall.EIO
			}
		}
		return nil
	})
	opts := intakeOptions(sim)
	opts.SegmentBytes, opts.SyncBytes = 1<<20, 20<<10 // whole pages, that nothing writes again
	in, err := OpenIntake(opts)
	for index := uint64(1); err == nil; index++ {
		err = in.Add(&Entry{Index: index, Data: receivedData(index)}, false)
	}
	if !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	killed := sim.CrashClone(vfs.Killed())
	opts.FS = killed
	again, err := OpenIntake(opts)
	if err != nil {
		t.Fatal(err)
	}
	last := again.Last()
	names, err := again.Seal()
	if err != nil || last < 10 {
		t.Fatalf("%v; up to %d is found again", err, last)
	}
	lost := killed.CrashClone(vfs.AllLost())
	l, _ := reopenSim(t, lost, Options{})
	mustInstall(t, l, Installation{Shard: 1, Index: 1000, Term: 2, Dir: intakeDir, Segments: names})
	for _, index := range every(1, last, 1) {
		if e, err := l.Read(1, index); err != nil || !bytes.Equal(e.Data, receivedData(index)) {
			t.Errorf("entry %d: %v", index, err)
		}
	}
}

// A start completes an installation before it knows of any snapshot, and the commit index on disk may be old. What the log is
// said to hold stays all the same.
func TestInstallKeepsWhatIsHeld(t *testing.T) {
	opts := Options{FileBytes: 4096}
	l, sim := openSim(t, opts)
	appendFlushed(t, l, 1, 1, 1, 10, 8)
	if _, err := l.Append(1, &HardState{Term: 1, Commit: 3}, nil); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	l.Retain(1, Retention{Snapshot: 9, KeepFrom: 1, Live: roaring64.BitmapOf(2, 8)})
	held := l.Held(1)
	if held != 9 {
		t.Fatalf("%d is held", held)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = reopenSim(t, sim, opts)
	mustInstall(t, l, Installation{Shard: 1, Index: 20, Term: 2, Held: held, Dir: intakeDir})
	if count, first := l.Missing(1, roaring64.BitmapOf(every(1, 9, 1)...), 9); count > 0 {
		t.Errorf("%d entries are gone, first %d", count, first)
	}
	if _, err := l.Read(1, 10); err == nil {
		t.Error("entry 10, of which nothing is known, is still there")
	}
}

// A full disk costs the segment under way, and gives its room back; what is whole stays.
func TestIntakeFullDisk(t *testing.T) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	in, err := OpenIntake(intakeOptions(sim))
	if err != nil {
		t.Fatal(err)
	}
	for _, index := range every(1, 100, 1) {
		if err := in.Add(&Entry{Index: index, Data: receivedData(index)}, false); err != nil {
			t.Fatal(err)
		}
	}
	sealed := in.done[len(in.done)-1].last()
	sim.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	})
	index := uint64(101)
	for ; err == nil; index++ {
		err = in.Add(&Entry{Index: index, Data: receivedData(index)}, false)
	}
	if !errors.Is(err, ErrDiskFull) || in.Last() != sealed {
		t.Errorf("%v; the last entry is %d, want %d", err, in.Last(), sealed)
	}
	sim.SetHook(nil)
	for _, index := range every(sealed+1, 150, 1) {
		if err := in.Add(&Entry{Index: index, Data: receivedData(index)}, false); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := in.Seal(); err != nil {
		t.Fatal(err)
	}
	if count, first := in.Missing(roaring64.BitmapOf(every(1, 150, 1)...), 0); count != 0 {
		t.Errorf("%d are missing, first %d", count, first)
	}
	if count, first := in.Missing(roaring64.BitmapOf(7, 150, 151, 152), 7); count != 2 || first != 151 {
		t.Errorf("%d are missing, first %d", count, first)
	}
	if err := in.Remove(); err != nil {
		t.Fatal(err)
	}
	names, err := sim.List(intakeDir)
	if err != nil || len(names) > 0 {
		t.Errorf("%v are left, %v", names, err)
	}
}

// FuzzIntake opens whatever is in a part, with frames whose checksums may be right: it never fails, and never invents.
func FuzzIntake(f *testing.F) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	in, err := OpenIntake(intakeOptions(sim))
	if err != nil {
		f.Fatal(err)
	}
	for _, index := range every(1, 20, 2) {
		if err := in.Add(&Entry{Index: index, Data: receivedData(index)}, false); err != nil {
			f.Fatal(err)
		}
	}
	if err := in.w.flush(); err != nil {
		f.Fatal(err)
	}
	name := in.w.temp
	good := make([]byte, in.w.at)
	if _, err := in.w.file.ReadAt(good, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		if err := disk.MkdirAll(intakeDir); err != nil {
			t.Fatal(err)
		}
		file, err := disk.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		opts := intakeOptions(disk)
		again, err := OpenIntake(opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range again.done {
			if g.last() != again.Last() {
				t.Errorf("the last is %d, and said to be %d", g.last(), again.Last())
			}
		}
		if err := again.Add(&Entry{Index: again.Last() + 1}, false); err != nil {
			t.Fatal(err)
		}
	})
}

// A damaged entry that was received again is served from there, and does not keep the segment that it is damaged in from being merged.
func TestDamagedAndReceived(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4096})
	appendFlushed(t, l, 1, 2, 1, 24, 400)
	l.Retain(1, Retention{Snapshot: 24, KeepFrom: 25, Live: roaring64.BitmapOf(every(1, 24, 1)...)})
	appendFlushed(t, l, 1, 2, 25, 25, 400)
	maintained(t, l)
	if n := len(l.shards[1].segments); n < 3 {
		t.Fatalf("%d segments, want at least 3", n)
	}
	own := l.shards[1].segments[0]
	at := own.entries[0].offset() + frameHeaderBytes + 9
	if err := sim.FlipBit(own.name, at, 1); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, l, Installation{Shard: 1, Index: 30, Term: 2, Held: 24, Dir: intakeDir, Segments: receive(t, intakeOptions(sim), 1)})
	l.Retain(1, Retention{Snapshot: 30, KeepFrom: 31, Live: roaring64.BitmapOf(1, 2, 9, 24)})
	for range settleCalls + 2 {
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
	}
	if s := l.Stats(); s.SegmentBytes > 2*s.SegmentLiveBytes {
		t.Errorf("%d bytes of segments for %d that live", s.SegmentBytes, s.SegmentLiveBytes)
	}
	wantReceived(t, l, 1)
	if e, err := l.Read(1, 2); err != nil || len(e.Data) != 400 {
		t.Errorf("entry 2: %d bytes, %v", len(e.Data), err)
	}
}
