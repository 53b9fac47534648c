package wal

import (
	"errors"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// contradiction makes the disk of a log whose shard 1 has segments that contradict each other: one that covered others is gone, and those came
// back, since their removal was not durable. Shard 2 is whole.
func contradiction(t *testing.T) *vfs.Sim {
	t.Helper()
	l, sim := openSim(t, Options{FileBytes: 4096})
	appendFlushed(t, l, 2, 1, 1, 5, 10)
	mustInstall(t, l, Installation{Shard: 1, Index: 100, Term: 2, Dir: intakeDir, Segments: receive(t, intakeOptions(sim), every(1, 100, 1)...)})
	old, err := sim.List(l.liveDir(1))
	if err != nil || len(old) < 2 {
		t.Fatalf("received %v, %v", old, err)
	}
	copies := make(map[string][]byte)
	for _, name := range old {
		copies[name] = readWhole(t, sim, l.liveDir(1)+"/"+name)
	}
	again := intakeOptions(sim)
	again.Next, again.Replace = l.NextReceived(1), true
	names := receive(t, again, every(1, 200, 1)...)
	mustInstall(t, l, Installation{Shard: 1, Index: 200, Term: 2, Dir: intakeDir, Segments: names})
	if err := errors.Join(l.Close(), sim.Remove(l.liveDir(1)+"/"+names[0])); err != nil {
		t.Fatal(err)
	}
	for name, b := range copies {
		f, err := sim.Create(l.liveDir(1) + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(b, 0)
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if err := sim.SyncDir(l.liveDir(1)); err != nil {
		t.Fatal(err)
	}
	return sim
}

func readWhole(t *testing.T, sim *vfs.Sim, name string) []byte {
	t.Helper()
	f, err := sim.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b
}

// A shard whose segments contradict each other is lost, if there are others that have it, and the log's other shards are not; when it is
// forgotten nothing of it is left. Alone, the log is refused, each time.
func TestContradictingSegments(t *testing.T) {
	sim := contradiction(t)
	for range 2 {
		_, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096, KeepHoles: true})
		if damage, ok := errors.AsType[*CorruptError](err); !ok || damage.Shard != 1 || !strings.Contains(damage.File, "/live/") {
			t.Fatalf("opened alone: %v", err)
		}
	}
	opts := Options{FileBytes: 4096, KeepHoles: true, Peers: true}
	for range 2 {
		l, found := reopenSim(t, sim, opts)
		damage, ok := errors.AsType[*CorruptError](l.Lost(1))
		if !ok || damage.Shard != 1 || !strings.Contains(damage.Reason, "overlaps") || found.LostShards != 1 || found.Damage == nil {
			t.Fatalf("lost: %v, %+v", l.Lost(1), found)
		}
		if err := l.Lost(2); err != nil {
			t.Error(err)
		}
		if _, err := l.Read(2, 5); err != nil {
			t.Error(err)
		}
		if _, err := l.Append(1, nil, []Entry{{Index: 201, Term: 2}}); err == nil {
			t.Error("a shard that is lost takes entries")
		}
		if damage := maintainAll(t, l); damage != nil {
			t.Error(damage)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	l, _ := reopenSim(t, sim, opts)
	if _, err := l.Forget(1); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	if left, err := sim.List(l.liveDir(1)); err != nil || len(left) > 0 {
		t.Errorf("%v are left: %v", left, err)
	}
	if err := errors.Join(l.Lost(1), l.Close()); err != nil {
		t.Fatal(err)
	}
	l, found := reopenSim(t, sim, opts)
	if err := l.Lost(1); err != nil || found.LostShards != 0 {
		t.Errorf("forgotten, and lost again: %v, %+v", err, found)
	}
}
