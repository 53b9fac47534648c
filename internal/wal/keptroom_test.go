package wal

import (
	"errors"
	"strings"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// mostlyDead is a log of four shards that share all files, of whose entries all but each third died after they were retired.
func mostlyDead(t *testing.T, keepAbove int) (*Log, *vfs.Sim) {
	t.Helper()
	const shards, entries = 4, 1024
	l, sim := openSim(t, Options{FileBytes: 4 << 20, ReserveBytes: 4 << 20, KeepAbove: keepAbove})
	data := make([]byte, 32<<10-frameHeaderBytes)
	sim.SetCapacity(4 << 30)
	retain := func(upTo, step uint64) {
		for shard := ShardID(1); shard <= shards; shard++ {
			live := roaring64.New()
			for index := uint64(1); index <= upTo; index += step {
				live.Add(index)
			}
			l.Retain(shard, Retention{Snapshot: upTo, KeepFrom: upTo + 1, Live: live})
		}
	}
	for i := uint64(1); i <= entries; i++ {
		for shard := ShardID(1); shard <= shards; shard++ {
			if _, err := l.Append(shard, nil, []Entry{{Index: i, Term: 1, Data: data}}); err != nil {
				t.Fatal(err)
			}
		}
		mustFlush(t, l)
		if i%128 == 0 {
			retain(i, 1)
			mustFlush(t, l)
			maintained(t, l)
		}
	}
	retain(entries, 3)
	return l, sim
}

// usedBytes is what a simulated disk holds.
func usedBytes(sim *vfs.Sim) int64 {
	u, _ := sim.Usage("log")
	return int64(u.Total - u.Free)
}

// Copies take room before the files go that they are made of: a few files' worth, whether those were kept or not.
func TestRoomOfCompaction(t *testing.T) {
	for _, keepAbove := range []int{75, 100} {
		l, sim := mostlyDead(t, keepAbove)
		before, peak := usedBytes(sim), int64(0)
		for range 4000 {
			if _, err := l.Maintain(); err != nil {
				t.Fatal(err)
			}
			peak = max(peak, usedBytes(sim))
		}
		if peak > before+16<<20 || usedBytes(sim) > before/2 {
			t.Errorf("KeepAbove %d: %d MiB before, %d at the peak, %d at the end", keepAbove, before>>20, peak>>20, usedBytes(sim)>>20)
		}
	}
}

// With little room on the disk it is got back all the same, and the log goes on.
func TestCompactionOnSmallDisk(t *testing.T) {
	for _, keepAbove := range []int{75, 100} {
		l, sim := mostlyDead(t, keepAbove)
		sim.SetCapacity(usedBytes(sim) + 20<<20)
		for range 500 {
			if _, err := l.Maintain(); err != nil {
				t.Fatal(err)
			}
		}
		if l.Full() || !l.reserveHeld {
			t.Errorf("KeepAbove %d: two thirds are dead, and the disk is full", keepAbove)
		}
		last := l.State(1).Last
		appendFlushed(t, l, 1, 1, last+1, last+9000, 1000)
	}
}

// Want of file handles leaves no spare that nobody knows of.
func TestSparesWithoutHandles(t *testing.T) {
	l, sim := openSim(t, Options{FileBytes: 4 << 20})
	sim.SetReadHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpOpen && strings.Contains(op.Name, "spare") {
			return syscall.EMFILE
		}
		return nil
	})
	for range 100 {
		if _, err := l.Maintain(); err != nil && !errors.Is(err, ErrRetry) {
			t.Fatal(err)
		}
	}
	names, err := sim.List("log/tail")
	if err != nil || len(names) > 2 { // the current one, and the one that is tried again
		t.Errorf("there are %v, %v", names, err)
	}
}
