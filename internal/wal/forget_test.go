package wal

import (
	"errors"
	"fmt"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// even is the set of the even numbers up to an index.
func even(upTo uint64) *roaring64.Bitmap {
	b := roaring64.New()
	for i := uint64(2); i <= upTo; i += 2 {
		b.Add(i)
	}
	return b
}

// settled makes a log with two shards that each have live segments and a tail.
func settled(t *testing.T) (*Log, *vfs.Sim) {
	t.Helper()
	l, sim := openSim(t, Options{FileBytes: 4096})
	for from := uint64(1); from <= 81; from += 20 {
		for shard := range ShardID(2) {
			appendFlushed(t, l, shard+1, 1, from, from+19, 200)
			l.Retain(shard+1, Retention{Snapshot: from + 9, KeepFrom: from + 10, Live: even(from + 9)})
			mustFlush(t, l)
		}
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
	}
	if l.Stats().Segments == 0 {
		t.Fatal("there are no segments")
	}
	return l, sim
}

// checkForgotten looks whether shard 2 is as new, and shard 1 as it was.
func checkForgotten(t *testing.T, l *Log, when string) {
	t.Helper()
	if s := l.State(2); s != (ShardState{First: 1}) {
		t.Fatalf("%s: shard 2 is %+v", when, s)
	}
	if held := l.Held(2); held != 0 {
		t.Errorf("%s: %d entries are held of it", when, held)
	}
	for i := uint64(1); i <= 100; i++ {
		if _, err := l.Read(2, i); err == nil {
			t.Errorf("%s: entry %d of it is there", when, i)
		}
		if _, err := l.Read(1, i); err != nil && i%2 == 0 {
			t.Errorf("%s: entry %d of shard 1: %v", when, i, err)
		}
	}
}

// A shard that was forgotten is as new, also after a restart, holds up no file, and can begin again.
func TestForget(t *testing.T) {
	t.Parallel()
	l, sim := settled(t)
	if _, err := l.Forget(9); err != nil {
		t.Fatalf("a shard that was never here: %v", err)
	}
	if _, err := l.Forget(2); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	checkForgotten(t, l, "at once")
	if names, _ := sim.List("log/live/00002"); len(names) > 0 {
		t.Errorf("segments are left: %v", names)
	}
	for from := uint64(101); from <= 161; from += 20 {
		appendFlushed(t, l, 1, 1, from, from+19, 200)
		l.Retain(1, Retention{Snapshot: from + 19, KeepFrom: from + 20, Live: even(from + 19)})
		mustFlush(t, l)
		if damage := maintainAll(t, l); damage != nil {
			t.Fatal(damage)
		}
	}
	if files := l.Stats().TailFiles; files > 2 {
		t.Errorf("%d files are held up", files)
	}
	for _, outcome := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept()} {
		again, _, err := Open(Options{FS: sim.CrashClone(outcome), Dir: "log", FileBytes: 4096})
		if err != nil {
			t.Fatal(err)
		}
		checkForgotten(t, again, fmt.Sprint(outcome))
		// A new life, by a snapshot, that is behind where the old one was.
		if err := again.InstallSnapshot(2, 50, 3); err != nil {
			t.Fatal(err)
		}
		appendFlushed(t, again, 2, 3, 51, 60, 200)
		again.Retain(1, Retention{Snapshot: 180, KeepFrom: 181, Live: even(180)})
		again.Retain(2, Retention{Snapshot: 60, KeepFrom: 61, Live: even(60)})
		mustFlush(t, again)
		if s := again.State(2); s.First != 61 || s.Last != 60 {
			t.Errorf("the new life has %+v", s)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A crash before any call that changes the disk: when it is repeated, the shard is as new, and the other as it was.
func TestForgetCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	l, sim := settled(t)
	var disks []*vfs.Sim
	sim.SetHook(func(op vfs.Op) error {
		for _, o := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed(), vfs.Mixed(op.Number)} {
			disks = append(disks, sim.CrashClone(o))
		}
		return nil
	})
	if _, err := l.Forget(2); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	sim.SetHook(nil)
	if len(disks) < 8 {
		t.Fatalf("only %d crashes", len(disks))
	}
	for i, disk := range disks {
		again, _, err := Open(Options{FS: disk, Dir: "log", FileBytes: 4096})
		if err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		if _, err := again.Forget(2); err != nil {
			t.Fatalf("crash %d: %v", i, err)
		}
		mustFlush(t, again)
		checkForgotten(t, again, fmt.Sprintf("crash %d", i))
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Forget(2); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Forget(2); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
