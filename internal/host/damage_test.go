package host

import (
	"errors"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A log that is gone is not taken for a new one, whatever the snapshots hold.
func TestLostLogIsNotNew(t *testing.T) {
	t.Parallel()
	for _, snapshots := range []bool{false, true} {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		n := mustOpen(t, disk, nil, nil)
		for range 10 {
			if _, err := n.add(0, "k"); err != nil {
				t.Fatal(err)
			}
		}
		after := disk.CrashClone(vfs.AllLost())
		n.mustClose(t) // takes snapshots
		if snapshots {
			after = disk.CrashClone(vfs.AllLost())
		}
		removeAll(t, after, "data/log")
		for try := range 2 { // the refusal leaves nothing that the next start takes for a log
			_, err := openNode(t.Context(), after, nil, nil)
			if _, ok := errors.AsType[*wal.CorruptError](err); !ok {
				t.Errorf("snapshots %v, try %d: opened without its log: %v", snapshots, try, err)
			}
		}
	}
}

func removeAll(t *testing.T, fsys vfs.FS, name string) {
	t.Helper()
	info, err := fsys.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Dir {
		names, err := fsys.List(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, base := range names {
			removeAll(t, fsys, name+"/"+base)
		}
	}
	if err := fsys.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// The index of a segment may be damaged: its records give it back, with all jobs. A node that has no others refuses only when a record
// lost its name with it.
func TestDamagedSegmentIndex(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, func(o *Options) { o.SnapshotBytes = 16 << 10; o.WAL.FileBytes = 16 << 10 })
	for i := 0; n.Stats().Log.Segments == 0 && i < 20_000; i++ {
		key := strings.Repeat("k", 40) + string(rune('a'+i%23))
		if i < 20 {
			key = strings.Repeat("once", i+1) // live for ever
		}
		if _, err := n.add(0, key); err != nil {
			t.Fatal(err)
		}
	}
	n.mustClose(t)
	names, err := disk.List("data/log/live/00000")
	if err != nil || len(names) == 0 {
		t.Fatalf("no segments: %v", err)
	}
	name := "data/log/live/00000/" + names[0]
	info, err := disk.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := disk.FlipBit(name, info.Size-1, 2); err != nil {
		t.Fatal(err)
	}
	after := disk.CrashClone(vfs.AllLost())
	m := mustOpen(t, after, nil, nil)
	if found := m.Stats().Recovery.Rebuilt; len(found) != 1 || found[0].File != name || !found[0].Whole {
		t.Errorf("rebuilt were %+v", found)
	}
	for key, index := range m.drivers[0].newest {
		if _, item, err := m.Payload(0, index, 0); err != nil || string(item) != key {
			t.Errorf("payload %d: %q, %v", index, item, err)
		}
	}
	m.mustClose(t)
	if err := disk.FlipBit(name, 64+16, 0); err != nil { // the header of the first frame
		t.Fatal(err)
	}
	_, err = openNode(t.Context(), disk, nil, nil)
	if damage, ok := errors.AsType[*wal.CorruptError](err); !ok || damage.File != name {
		t.Errorf("with a record that has no name: %v", err)
	}
}

// At any time the newest snapshot may turn out damaged after a power cut: the one before it and the log behind it still
// give every answered addition, and every live payload, while files retire and snapshots are pruned all along.
func TestDamagedSnapshotFallsBackAtAnyTime(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, func(o *Options) { o.SnapshotBytes = 16 << 10; o.WAL.FileBytes = 16 << 10 })
	fallbacks := 0
	for i := range 2400 {
		a, err := n.add(0, strings.Repeat("k", 40)+string(rune('a'+i%23)))
		if err != nil {
			t.Fatal(err)
		}
		if i%60 != 59 {
			continue
		}
		after := disk.Crash(uint64(i))
		files, err := snapshot.List(after, SnapshotDir("data", 0))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) > 1 {
			fallbacks++
			if err := after.FlipBit(files[0].Path, files[0].Bytes/2, 2); err != nil {
				t.Fatal(err)
			}
		}
		m := mustOpen(t, after, nil, nil)
		v, err := m.value(t.Context(), 0, strings.Repeat("k", 40)+string(rune('a'+i%23)))
		if err != nil || v != a.value {
			t.Fatalf("after %d additions: %d, %v; answered %d", i+1, v, err, a.value)
		}
		for key, index := range m.drivers[0].newest {
			if _, item, err := m.Payload(0, index, 0); err != nil || string(item) != key {
				t.Fatalf("after %d additions: payload %d: %q, %v", i+1, index, item, err)
			}
		}
		m.mustClose(t)
	}
	if st := n.Stats(); fallbacks < 10 || st.Log.SealedEntriesDropped == 0 {
		t.Errorf("%d fallbacks, %+v: the test tests nothing", fallbacks, st.Log)
	}
	n.mustClose(t)
}
