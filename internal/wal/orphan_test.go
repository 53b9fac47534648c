package wal

import (
	"errors"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// keptShards are those that have entries in sharedKept.
var keptShards = []ShardID{1, 2, fillShard}

// loseTail removes all tail files of a log.
func loseTail(t *testing.T, sim *vfs.Sim) {
	t.Helper()
	names, err := sim.List("log/tail")
	for _, name := range names {
		if strings.HasSuffix(name, tailSuffix) {
			err = errors.Join(err, sim.Remove("log/tail/"+name))
		}
	}
	if err = errors.Join(err, sim.SyncDir("log/tail")); err != nil {
		t.Fatal(err)
	}
}

// lostDisk has an orphan that was there when the tail was lost, with all that the log knew.
func lostDisk(t *testing.T) *vfs.Sim {
	t.Helper()
	_, disk := sharedDisk(t)
	for _, name := range inPlace(t, disk) {
		if err := errors.Join(disk.Remove(name), disk.SyncDir(path.Dir(name))); err != nil {
			t.Fatal(err)
		}
	}
	loseTail(t, disk)
	return disk
}

// forgetAll forgets shards.
func forgetAll(t *testing.T, l *Log, shards []ShardID) {
	t.Helper()
	for _, shard := range shards {
		if _, err := l.Forget(shard); err != nil {
			t.Fatal(err)
		}
	}
	mustFlush(t, l)
}

// A log that may have lost shards whole keeps an orphan as long as it has entries of a shard of which the log knows nothing, and no longer:
// whichever shard comes last, in the same process or after a crash.
func TestOrphanOfUnknownShards(t *testing.T) {
	disk := lostDisk(t)
	for last := range keptShards {
		for _, crash := range []bool{false, true} {
			sim := disk.CrashClone(vfs.AllLost())
			l, _ := reopenSim(t, sim, withPeers())
			shards := slices.Concat([]ShardID{5}, keptShards[last+1:], keptShards[:last+1])
			for n := range shards {
				maintained(t, l)
				if names := keptNames(t, sim); len(names) != 1 {
					t.Fatalf("with only %v forgotten, kept are %v", shards[:n], names)
				}
				if crash {
					sim = sim.CrashClone(vfs.AllLost())
					l, _ = reopenSim(t, sim, withPeers())
					forgetAll(t, l, shards[:n])
				}
				forgetAll(t, l, shards[n:n+1])
			}
			maintained(t, l)
			if names := keptNames(t, sim); len(names) > 0 {
				t.Errorf("with all of %v forgotten, kept are %v", shards, names)
			}
			checkKept(t, l)
		}
	}
}

// An orphan that the disk refuses to read stays, since it may read it later, and holds nothing up.
func TestUnreadableOrphan(t *testing.T) {
	sim := lostDisk(t)
	l, _ := reopenSim(t, sim, withPeers())
	forgetAll(t, l, keptShards)
	refused := 0
	sim.SetReadHook(func(op vfs.Op) error {
		if op.Name == sharedKept {
			refused++
			return syscall.EIO
		}
		return nil
	})
	maintained(t, l)
	if st := l.Stats(); refused == 0 || st.SpareFiles == 0 || st.KeptFiles != 1 {
		t.Errorf("refused %d times: %+v", refused, st)
	}
	sim = sim.CrashClone(vfs.AllLost())
	l, _ = reopenSim(t, sim, withPeers())
	forgetAll(t, l, keptShards)
	maintained(t, l)
	if names := keptNames(t, sim); len(names) > 0 {
		t.Errorf("it can be read, and kept are %v", names)
	}
}

// An orphan in which no entry can be seen stays: it is not known what it is.
func TestOrphanWithoutEntries(t *testing.T) {
	sim := lostDisk(t)
	f, err := sim.OpenReadWrite(sharedKept)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 4096), 0)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	l, _ := reopenSim(t, sim, withPeers())
	forgetAll(t, l, keptShards)
	maintained(t, l)
	if names := keptNames(t, sim); len(names) != 1 {
		t.Errorf("kept are %v", names)
	}
}

// Entries are found wherever their headers lie about the end of what one step reads, and whatever lies before them.
func TestNameShards(t *testing.T) {
	const id, name = 7, "log/tail/0000000007.kept"
	for around := int64(-2 * frameHeaderBytes); around <= 2*frameHeaderBytes; around += 8 {
		l, sim := openSim(t, keptOptions)
		k := &keptFile{id: id, name: name, size: 2*maintainStepBytes + 4096}
		f, err := sim.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		write := func(shard ShardID, offset int64) {
			b := appendFrame(nil, &frameHeader{kind: kindEntry, shard: shard, index: 1, term: 1}, nil)
			stampFrame(b, id, offset, 0)
			if _, err := f.WriteAt(b, offset); err != nil {
				t.Fatal(err)
			}
		}
		write(1, fileHeaderBytes)
		write(2, maintainStepBytes+around)
		write(3, k.size-frameHeaderBytes)
		state := appendState(nil, 4, &blankState)
		stampFrame(state, id, 4096, 0)
		_, err = f.WriteAt(state, 4096)
		if err = errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		steps := 0
		for ; k.named < k.size; steps++ {
			if err := l.nameShards(k); err != nil {
				t.Fatal(err)
			}
		}
		if steps != 3 || !slices.Equal(k.shards, []ShardID{1, 2, 3}) {
			t.Errorf("an entry %d bytes from the end of a step: %d steps found those of shards %v", around, steps, k.shards)
		}
	}
}
