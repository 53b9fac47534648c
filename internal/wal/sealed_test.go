package wal

import (
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A sector at the end of the last file cannot be read for a while, so a start cuts the file off before it and begins the next one. When that
// one is lost, the sector reads again: the seal before it says that what it holds is void, though it looks as if it had been durable.
func TestSealedBeforeWhatWasUnreadable(t *testing.T) {
	opts := Options{FileBytes: 4096, KeepHoles: true, Peers: true}
	l, sim := openSim(t, opts)
	appendFlushed(t, l, 1, 1, 1, 12, 60)
	sim = sim.CrashClone(vfs.AllLost())
	const file = "log/tail/0000000001.wal"
	at := int64(1024)
	sim.SetReadHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpRead && op.Name == file && op.Offset < 4096 && op.Offset+op.Length > at {
			return syscall.EIO
		}
		return nil
	})
	l, found := reopenSim(t, sim, opts)
	if found.LostShards != 1 {
		t.Fatalf("%+v", found)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	sim = sim.CrashClone(vfs.AllLost()) // and the sector reads again
	if err := sim.Remove("log/tail/0000000002.wal"); err != nil {
		t.Fatal(err)
	}
	if _, found = reopenSim(t, sim, opts); found.LostShards != 1 || found.Damage == nil || found.Damage.File != "log/tail/0000000002.wal" {
		t.Fatalf("%+v", found)
	}
}
