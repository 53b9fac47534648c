package wal

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// damagedLog has the live entry 1 of shard 1 in a sealed file, at an offset of it, and entries of shard 2 that are dead.
func damagedLog(t *testing.T) (l *Log, sim *vfs.Sim, file *tailFile, offset int64) {
	t.Helper()
	l, sim = openSim(t, Options{FileBytes: 4096})
	if _, err := l.Append(1, nil, []Entry{{Index: 1, Term: 1, Data: []byte(strings.Repeat("precious", 12))}}); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	l.mu.RLock()
	defer l.mu.RUnlock()
	e, _ := l.shards[1].find(1)
	file = l.fileAt(e.pos)
	return l, sim, file, file.offset(e.pos)
}

// retireRound fills some files for shard 2, lets them go, and returns the damage that Maintain reports meanwhile.
func retireRound(t *testing.T, l *Log, live *roaring64.Bitmap) (damages []*CorruptError) {
	t.Helper()
	from := l.State(2).Last + 1
	appendFlushed(t, l, 2, 1, from, from+99, 64)
	l.Retain(1, Retention{Snapshot: 1, KeepFrom: 2, Live: live})
	l.Retain(2, Retention{Snapshot: from + 99, KeepFrom: from + 100, Live: roaring64.New()})
	mustFlush(t, l)
	for {
		damage := maintainAll(t, l)
		if damage == nil {
			return damages
		}
		damages = append(damages, damage)
	}
}

// One damaged live entry is reported once, stays refused by its name, and holds up nothing: its file retires, others do,
// and when its jobs are done it is gone.
func TestDamagedLiveEntryHoldsUpNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		at   int64 // in the frame
		part string
	}{
		{"in the data", frameHeaderBytes + 70, "precious"}, // parts with checksums of their own stay readable
		{"in the header's index", 17, ""},
		{"in the header's checksum", 4, ""},
		{"in the header's length", 33, ""},
		{"in the kind", 0, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, sim, file, offset := damagedLog(t)
			if err := sim.FlipBit(file.name, offset+tc.at, 3); err != nil {
				t.Fatal(err)
			}
			refused := func(when string) {
				t.Helper()
				var damage *CorruptError
				if _, err := l.Read(1, 1); !errors.As(err, &damage) || damage.Index != 1 || damage.Shard != 1 {
					t.Errorf("%s, a read says: %v", when, err)
				}
				part := make([]byte, 8)
				if _, err := l.ReadPart(1, 1, part, 0); tc.part != "" && (err != nil || string(part) != tc.part) {
					t.Errorf("%s, a part reads %q, %v", when, part, err)
				} else if tc.part == "" && !errors.As(err, &damage) {
					t.Errorf("%s, a read of a part says: %v", when, err)
				}
			}
			live := roaring64.BitmapOf(1)
			reports := 0
			for range 12 {
				reports += len(retireRound(t, l, live.Clone()))
				if files, _ := l.Sealed(); files > 0 {
					t.Fatalf("%d sealed files are kept", files)
				}
				refused("maintained")
			}
			if reports != 1 {
				t.Errorf("reported %d times", reports)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if l, _, err = Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			retireRound(t, l, live.Clone())
			refused("opened again")
			retireRound(t, l, roaring64.New())
			if _, err := l.Read(1, 1); !errors.Is(err, ErrCompacted) {
				t.Errorf("dead, a read says: %v", err)
			}
			if n := l.Stats().Segments; n != 0 {
				t.Errorf("%d segments are left", n)
			}
		})
	}
}

// What the disk refuses to read is tried again before it counts as damaged, and holds up only its own file.
func TestUnreadableEntryIsTriedAgain(t *testing.T) {
	for _, heals := range []bool{false, true} {
		l, sim, file, _ := damagedLog(t)
		bad := true
		sim.SetReadHook(func(op vfs.Op) error {
			if bad && op.Kind == vfs.OpRead && (strings.HasSuffix(op.Name, "next.tmp") || op.Name == file.name) {
				return syscall.EIO
			}
			return nil
		})
		live := roaring64.BitmapOf(1)
		for try := 1; try < unreadableTriesMax; try++ {
			if n := len(retireRound(t, l, live.Clone())); n != 1 {
				t.Fatalf("try %d: reported %d times", try, n)
			}
			if files, _ := l.Sealed(); files == 0 {
				t.Fatalf("try %d: the file retired", try)
			}
			l.RetryUnreadable()
		}
		bad = !heals
		retireRound(t, l, live.Clone())
		if files, _ := l.Sealed(); files > 0 {
			t.Errorf("%d sealed files are kept", files)
		}
		var damage *CorruptError
		if _, err := l.Read(1, 1); heals && err != nil || !heals && !errors.As(err, &damage) {
			t.Errorf("heals %v: %v", heals, err)
		}
	}
}

// Trouble that passes, such as a want of file handles, ends nothing.
func TestMaintainRetriesPassingTrouble(t *testing.T) {
	for _, kind := range []vfs.OpKind{vfs.OpRead, vfs.OpCreate, vfs.OpMkdir} {
		l, sim, _, _ := damagedLog(t)
		from := uint64(1)
		appendFlushed(t, l, 2, 1, from, from+99, 64)
		l.Retain(1, Retention{Snapshot: 1, KeepFrom: 2, Live: roaring64.BitmapOf(1)})
		l.Retain(2, Retention{Snapshot: 100, KeepFrom: 101, Live: roaring64.New()})
		mustFlush(t, l)
		hook := func(op vfs.Op) error {
			if op.Kind == kind {
				return syscall.EMFILE
			}
			return nil
		}
		sim.SetHook(hook)
		sim.SetReadHook(hook)
		var err error
		for more := true; more && err == nil; {
			more, err = l.Maintain()
		}
		if !errors.Is(err, ErrRetry) {
			t.Fatalf("kind %d: %v", kind, err)
		}
		sim.SetHook(nil)
		sim.SetReadHook(nil)
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
		if _, err := l.Read(1, 1); err != nil {
			t.Error(err)
		}
		if files, _ := l.Sealed(); files > 0 {
			t.Errorf("%d sealed files are kept", files)
		}
	}
}

// A segment that is gone when segments are merged is damage, and its other neighbours go on.
func TestMergeWithoutItsSourceIsDamage(t *testing.T) {
	l, sim, _, _ := damagedLog(t)
	retireRound(t, l, roaring64.BitmapOf(1))
	l.mu.RLock()
	g := l.shards[1].segments[0]
	l.mu.RUnlock()
	if err := sim.Remove(g.name); err != nil {
		t.Fatal(err)
	}
	l.handles.drop(g)
	job := &mergeJob{shard: 1, group: []*segment{g}, live: l.shards[1].accounted}
	l.keeper.merge = job
	if damage := maintainAll(t, l); damage == nil || damage.File != g.name || !g.damaged {
		t.Errorf("got %v", damage)
	}
	if damages := retireRound(t, l, roaring64.New()); len(damages) != 0 {
		t.Errorf("when it is dead: %v", damages)
	}
}

// A segment whose file is gone is noticed before a worker asks for one of its jobs, and told once. After a fallback to an
// older snapshot some of its live set may be gone rightly; the next set is checked.
func TestMissingSegmentIsNoticed(t *testing.T) {
	for _, tc := range []struct {
		name     string
		remove   bool
		fallback bool
		want     [2]bool // damage is told at the first and the second Retain
	}{
		{"whole", false, false, [2]bool{}},
		{"missing", true, false, [2]bool{true, false}},
		{"missing, fallback", true, true, [2]bool{false, true}},
	} {
		l, sim := openSim(t, Options{FileBytes: 4096})
		appendFlushed(t, l, 1, 1, 1, 5, 64)
		retained := func(l *Log, snapshot uint64, fallback bool) *CorruptError {
			t.Helper()
			l.Retain(1, Retention{Snapshot: snapshot, KeepFrom: 6, Live: roaring64.BitmapOf(1, 2, 3), Fallback: fallback})
			return maintainAll(t, l)
		}
		appendFlushed(t, l, 2, 1, 1, 200, 64)
		appendFlushed(t, l, 1, 1, 6, 7, 64)
		l.Retain(2, Retention{Snapshot: 200, KeepFrom: 201, Live: roaring64.New()})
		l.Retain(1, Retention{Snapshot: 5, KeepFrom: 6, Live: roaring64.BitmapOf(1, 2, 3)})
		mustFlush(t, l)
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
		names, err := sim.List("log/live/00001")
		if err != nil || len(names) != 1 {
			t.Fatal(names, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if tc.remove {
			if err := sim.Remove("log/live/00001/" + names[0]); err != nil {
				t.Fatal(err)
			}
		}
		again, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096})
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range tc.want {
			damage := retained(again, 6+uint64(i), tc.fallback && i == 0)
			if (damage != nil) != want || damage != nil && (damage.Index != 1 || damage.Shard != 1) {
				t.Errorf("%s, retention %d: %v", tc.name, i, damage)
			}
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A segment that begins before the oldest log file and ends in it cannot come from a crash: it is not removed.
func TestSegmentAcrossTheOldestFileIsDamage(t *testing.T) {
	l, sim, _, _ := damagedLog(t)
	retireRound(t, l, roaring64.BitmapOf(1))
	l.mu.RLock()
	g, oldest := l.shards[1].segments[0], l.files[0].id
	l.mu.RUnlock()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name := l.liveDir(1) + "/" + segmentID{firstSeq: g.firstSeq, lastSeq: oldest}.base()
	if err := sim.Rename(g.name, name); err != nil {
		t.Fatal(err)
	}
	var damage *CorruptError
	if _, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); !errors.As(err, &damage) || damage.File != name {
		t.Errorf("got %v", err)
	}
	if _, err := sim.Stat(name); err != nil {
		t.Errorf("it is gone: %v", err)
	}
}

// Salvaging reads around what the disk refuses.
func TestSalvageReadsAroundBadPieces(t *testing.T) {
	data := strings.Repeat("0123456789abcdef", 2000)
	bad := int64(3 * salvageBytes)
	w := window{file: refusingReader{strings.NewReader(data), bad}}
	p := place{offset: 100, size: packSize(20_000, 0)}
	got := w.salvage(&p)
	want := []byte(data[100:][:frameHeaderBytes+20_000])
	clear(want[bad-100 : bad-100+salvageBytes])
	if string(got) != string(want) {
		t.Error("the salvaged bytes differ")
	}
}

// refusingReader fails every read that touches the piece at bad.
type refusingReader struct {
	io.ReaderAt
	bad int64
}

func (r refusingReader) ReadAt(p []byte, off int64) (int, error) {
	if off < r.bad+salvageBytes && off+int64(len(p)) > r.bad {
		return 0, syscall.EIO
	}
	return r.ReaderAt.ReadAt(p, off)
}
