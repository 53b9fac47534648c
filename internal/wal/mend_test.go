package wal

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// precious is the entry that damagedLog has.
func precious() *Entry {
	return &Entry{Index: 1, Term: 1, Data: []byte(strings.Repeat("precious", 12))}
}

// hurt flips a bit of the entry 1 of a log: while it is in the tail, or when it was copied to a segment.
func hurt(t *testing.T, copied bool, at int64) (*Log, *vfs.Sim) {
	t.Helper()
	l, sim, file, offset := damagedLog(t)
	name := file.name
	if copied {
		retireRound(t, l, roaring64.BitmapOf(1))
		name, offset = "log/live/00001/0000000001-0000000001.seg", fileHeaderBytes
	}
	if err := sim.FlipBit(name, offset+at, 3); err != nil {
		t.Fatal(err)
	}
	return l, sim
}

// maintained calls Maintain until there is no more to do, whatever damage it reports.
func maintained(t *testing.T, l *Log) {
	t.Helper()
	for maintainAll(t, l) != nil {
	}
}

// A damaged entry is named exactly, wherever it lies and whatever of it is damaged; only the very entry takes its place,
// and then it is read from memory, from its file, and after a start.
func TestMend(t *testing.T) {
	for _, copied := range []bool{false, true} {
		for _, at := range []int64{0, 4, 17, 25, 33, frameHeaderBytes, frameHeaderBytes + 70} {
			l, sim := hurt(t, copied, at)
			whole := func(when string) {
				t.Helper()
				if e, err := l.Read(1, 1); err != nil || string(e.Data) != string(precious().Data) || e.Term != 1 {
					t.Errorf("%s, copied %v, byte %d: reads %+v, %v", when, copied, at, e, err)
				}
			}
			if l.NoteDamage(1, 1) != nil {
				t.Error("nobody can be asked, and somebody would wait")
			}
			l.SetMendable(1, true)
			waits := l.NoteDamage(1, 1)
			want := Name{Index: 1, Term: 1, Known: true, Bytes: 96, CRC: checksum(precious().Data)}
			if names := l.Wanted(1, 0, 9); len(names) != 1 || names[0] != want {
				t.Fatalf("copied %v, byte %d: wanted are %+v", copied, at, names)
			}
			for _, other := range []*Entry{
				{Index: 1, Term: 2, Data: precious().Data},
				{Index: 1, Term: 1, Type: 1, Data: precious().Data},
				{Index: 1, Term: 1, Data: []byte("another")},
				{Index: 1, Data: precious().Data},
			} {
				if err := l.Mend(1, other); !errors.Is(err, ErrNotNamed) {
					t.Errorf("%+v in its place: %v", other, err)
				}
			}
			select {
			case <-waits:
				t.Error("nothing was mended, and nobody waits")
			default:
			}
			if err := errors.Join(l.Mend(1, precious()), l.Mend(1, precious()), l.Mend(1, &Entry{Index: 7, Term: 1})); err != nil {
				t.Fatal(err)
			}
			<-waits
			whole("in memory")
			if len(l.Wanted(1, 0, 9)) != 0 {
				t.Error("it is still wanted")
			}
			maintained(t, l)
			whole("written")
			if l.mendedBytes != 0 || l.Stats().EntriesDamaged != 0 || l.Stats().EntriesMended != 1 {
				t.Errorf("%d bytes wait, %+v", l.mendedBytes, l.Stats())
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if l, _, err = Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); err != nil {
				t.Fatalf("copied %v, byte %d: %v", copied, at, err)
			}
			whole("opened again")
			retireRound(t, l, roaring64.BitmapOf(1))
			whole("copied on")
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What the disk damages of the index block, once it was read, does not change the name of an entry that is damaged too.
func TestMendUnderDamagedIndex(t *testing.T) {
	const row = fileHeaderBytes + frameHeaderBytes + 96 // of the index block: the file has one frame
	for _, at := range []int64{4, frameHeaderBytes + 70} {
		for _, spoilt := range []int64{row, row + 15, row + 20, row + segmentIndexBytes + 50} {
			l, sim := hurt(t, true, at)
			if err := sim.FlipBit("log/live/00001/0000000001-0000000001.seg", spoilt, 4); err != nil {
				t.Fatal(err)
			}
			l.SetMendable(1, true)
			l.NoteDamage(1, 1)
			if err := l.Mend(1, precious()); err != nil {
				t.Errorf("byte %d of the frame and byte %d of the file: %v", at, spoilt, err)
			}
			maintained(t, l)
			if e, err := l.Read(1, 1); err != nil || string(e.Data) != string(precious().Data) || e.Term != 1 {
				t.Errorf("byte %d of the frame and byte %d of the file: reads %+v, %v", at, spoilt, e, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); err != nil {
				t.Errorf("the segment was not written anew: %v", err)
			} else if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A segment that is gone is made anew from what peers have, and what came without its data gets it.
func TestMendWhatIsNowhere(t *testing.T) {
	l, sim, _, _ := damagedLog(t)
	retireRound(t, l, roaring64.BitmapOf(1))
	if err := errors.Join(l.Close(), sim.Remove("log/live/00001/0000000001-0000000001.seg")); err != nil {
		t.Fatal(err)
	}
	l, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	l.SetMendable(1, true)
	l.Retain(1, Retention{Snapshot: 1, KeepFrom: 2, Live: roaring64.BitmapOf(1)})
	if damage := maintainAll(t, l); damage == nil || damage.Index != 1 {
		t.Fatalf("the loss is told as %v", damage)
	}
	if names := l.Wanted(1, 0, 9); len(names) != 1 || names[0] != (Name{Index: 1}) {
		t.Fatalf("wanted are %+v", names)
	}
	if err := l.Mend(1, precious()); err != nil {
		t.Fatal(err)
	}
	maintained(t, l)
	if e, err := l.Read(1, 1); err != nil || string(e.Data) != string(precious().Data) || l.mendedBytes != 0 {
		t.Errorf("reads %+v, %v; %d bytes wait", e, err, l.mendedBytes)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, _, err = Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); err != nil {
		t.Fatal(err)
	}
	if e, err := l.Read(1, 1); err != nil || e.Term != 1 {
		t.Errorf("opened again, it reads %+v, %v", e, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestMendReceivedByName(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4096})
	in, err := OpenIntake(IntakeOptions{FS: sim, Dir: "in", Shard: 1, Next: 1})
	if err != nil {
		t.Fatal(err)
	}
	other := &Entry{Index: 2, Term: 1, Data: []byte("other")}
	if err := errors.Join(in.Add(&Entry{Index: 1}, true), in.Add(other, false)); err != nil {
		t.Fatal(err)
	}
	names, err := in.Seal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Install(Installation{Shard: 1, Index: 3, Term: 1, Dir: "in", Segments: names}); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	l.SetMendable(1, true)
	l.Retain(1, Retention{Snapshot: 3, KeepFrom: 4, Live: roaring64.BitmapOf(1, 2)})
	maintained(t, l)
	if names := l.Wanted(1, 0, 9); len(names) != 1 || names[0] != (Name{Index: 1}) {
		t.Fatalf("wanted are %+v", names)
	}
	if err := l.Mend(1, precious()); err != nil {
		t.Fatal(err)
	}
	maintained(t, l)
	for _, want := range []*Entry{precious(), other} {
		if e, err := l.Read(1, want.Index); err != nil || string(e.Data) != string(want.Data) {
			t.Errorf("entry %d reads %+v, %v", want.Index, e, err)
		}
	}
}

// Scrub finds what is damaged in live entries and in the tail, once around, and goes on behind it.
func TestScrub(t *testing.T) {
	for _, copied := range []bool{false, true} {
		l, _ := hurt(t, copied, frameHeaderBytes)
		appendFlushed(t, l, 3, 1, 1, 5, 10)
		l.SetMendable(1, true)
		found := 0
		for range 4 {
			_, err := l.Scrub(1 << 20)
			if IsDamage(err) {
				found++
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if found != 2 || len(l.Wanted(1, 0, 9)) != 1 {
			t.Errorf("copied %v: found %d times in two rounds, wanted are %v", copied, found, l.Wanted(1, 0, 9))
		}
	}
}

// What is replaced, dead or given up is not waited for.
func TestMendIsOver(t *testing.T) {
	over := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for what, end := range map[string]func(l *Log){
		"replaced": func(l *Log) { appendFlushed(t, l, 1, 2, 1, 1, 5) },
		"given up": func(l *Log) { l.GiveUp(1, 1) },
		"dead": func(l *Log) {
			l.Retain(1, Retention{Snapshot: 1, KeepFrom: 2, Live: roaring64.New()})
			maintained(t, l)
		},
	} {
		l, _ := hurt(t, false, frameHeaderBytes)
		l.SetMendable(1, true)
		waits := l.NoteDamage(1, 1)
		if over(waits) {
			t.Errorf("%s: over before", what)
		}
		end(l)
		if !over(waits) {
			t.Errorf("%s: still waited for", what)
		}
		if gone := len(l.Wanted(1, 0, 9)) == 0; gone != (what != "given up") {
			t.Errorf("%s: wanted are %v", what, l.Wanted(1, 0, 9))
		}
		if what == "given up" && l.NoteDamage(1, 1) != nil {
			t.Error("what was given up is waited for again")
		}
	}
}

// Power may go at any call of mending: the entry is then whole, or damaged under its name, and nothing else is harmed.
func TestCrashWhileMending(t *testing.T) {
	for _, copied := range []bool{false, true} {
		crashes := 0
		for n := uint64(1); ; n++ {
			l, sim := hurt(t, copied, frameHeaderBytes+70)
			appendFlushed(t, l, 9, 1, 1, 2, 5) // proof that what lies before was durable
			l.SetMendable(1, true)
			l.NoteDamage(1, 1)
			if err := l.Mend(1, precious()); err != nil {
				t.Fatal(err)
			}
			first := sim.Ops()
			sim.SetHook(func(op vfs.Op) error {
				if op.Number >= first+n {
					return vfs.ErrPowerCut
				}
				return nil
			})
			var err error
			for more := true; more && err == nil; {
				more, err = l.Maintain()
			}
			sim.SetHook(nil)
			if err == nil {
				break
			}
			crashes++
			after, _, err := Open(Options{FS: sim.CrashClone(vfs.Mixed(n)), Dir: "log", FileBytes: 4096})
			if damage := new(CorruptError); errors.As(err, &damage) && !copied && damage.Index == 1 {
				continue // it is in the tail, and as damaged as before
			}
			if err != nil {
				t.Fatalf("copied %v, call %d: %v", copied, n, err)
			}
			if _, err := after.Read(1, 1); err != nil && after.NoteDamage(1, 1) == nil && len(after.Wanted(1, 0, 1)) != 1 {
				t.Errorf("copied %v, call %d: the entry lost its name: %v", copied, n, err)
			}
			if copied {
				after.Retain(1, Retention{Snapshot: 1, KeepFrom: 2, Live: roaring64.BitmapOf(1)})
				if err := after.Mend(1, precious()); err != nil {
					t.Fatal(err)
				}
				maintained(t, after)
				if _, err := after.Read(1, 1); err != nil {
					t.Errorf("call %d: mended after the crash, it reads %v", n, err)
				}
			}
			if leftovers, _ := after.fs.List(path.Join("log", "live", "00001")); len(leftovers) > 1 {
				t.Errorf("copied %v, call %d: %v", copied, n, leftovers)
			}
			if err := after.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if crashes < 2 {
			t.Errorf("copied %v: only %d crashes", copied, crashes)
		}
	}
}

// What waits for Maintain is bounded.
func TestMendLimits(t *testing.T) {
	l, _ := hurt(t, false, frameHeaderBytes)
	l.SetMendable(1, true)
	l.NoteDamage(1, 1)
	l.mendedBytes = mendBytesMax - 95
	if err := l.Mend(1, precious()); !errors.Is(err, ErrBacklogged) {
		t.Errorf("a byte over the limit: %v", err)
	}
	l.mendedBytes--
	if err := l.Mend(1, precious()); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	s := l.shards[1]
	for i := uint64(2); len(s.wanted) < wantedMax; i++ {
		s.wanted[i] = &want{name: Name{Index: i}, done: make(chan struct{})}
	}
	appendFlushed(t, l, 1, 1, 2, 2, 5)
	delete(s.wanted, 2)
	s.wanted[1<<40] = &want{}
	if c := l.NoteDamage(1, 2); c == nil || s.wanted[2] != nil {
		t.Error("over the limit of what is noted, nobody waits, or it was noted")
	}
}

// What was found damaged may be replaced by another entry before it is noted: the old name is not noted for the new one, or else
// a peer's old entry would be read in its place.
func TestMendReplacedMeanwhile(t *testing.T) {
	l, _ := openSim(t, Options{})
	l.SetMendable(1, true)
	appendOne := func(term uint64, data string) {
		t.Helper()
		if _, err := l.Append(1, nil, []Entry{{Index: 1, Term: term, Data: []byte(data)}}); err != nil {
			t.Fatal(err)
		}
	}
	appendOne(1, "old")
	old, ok := l.name(1, 1)
	if !ok {
		t.Fatal("the entry has no name")
	}
	appendOne(2, "new and longer")
	if l.note(1, &old) != nil || len(l.Wanted(1, 0, 9)) != 0 {
		t.Errorf("wanted are %+v", l.Wanted(1, 0, 9))
	}
	if err := l.Mend(1, &Entry{Index: 1, Term: 1, Data: []byte("old")}); err != nil {
		t.Fatal(err)
	}
	if e, err := l.Read(1, 1); err != nil || e.Term != 2 || string(e.Data) != "new and longer" {
		t.Errorf("reads %+v, %v", e, err)
	}
}

// A log that failed for a sector that cannot be written is no damage that peers could mend.
func TestIsDamage(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{syscall.EIO, true},
		{fmt.Errorf("read: %w", &CorruptError{Reason: "the data checksum does not match"}), true},
		{ErrUnavailable, false},
		{fmt.Errorf("sync next.tmp: %w: %w", errFinal, syscall.EIO), false},
		{fmt.Errorf("%w: %w", ErrClosed, fmt.Errorf("maintain log: %w", syscall.EIO)), false},
	} {
		if got := IsDamage(c.err); got != c.want {
			t.Errorf("%v: damage %v, want %v", c.err, got, c.want)
		}
	}
}
