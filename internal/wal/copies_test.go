package wal

import (
	"errors"
	"fmt"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// keptDisks are logs whose kept files hold more than what is live: what is dead, of other shards, and what is void.
var keptDisks = map[string]func(k *keptLog){
	"two shards": func(k *keptLog) {
		k.put(1, 1, 1, 2)
		k.put(2, 1, 1, 4)
		k.put(1, 1, 3, 5)
		k.kill(2, 2)
		k.retire(1)
	},
	"replaced in the same file": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.put(2, 1, 1, 2)
		k.put(1, 2, 3, 4)
		k.put(1, 3, 4, 5)
		k.retire(1)
	},
	"replaced in the next file": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.roll()
		k.put(1, 2, 3, 4)
		k.retire(2)
	},
	"replaced from the start": func(k *keptLog) {
		k.put(2, 1, 1, 1)
		k.put(1, 1, 1, 6)
		k.roll()
		k.put(1, 2, 1, 8)
		k.retire(2)
	},
	"replaced twice": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.roll()
		k.put(1, 2, 4, 9)
		k.roll()
		k.put(1, 3, 2, 3)
		k.retire(2) // nothing of the second
	},
	"replaced in the tail": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.roll()
		k.put(1, 2, 3, 4)
		k.tell(k.log)
		mustFlush(k.t, k.log)
		maintained(k.t, k.log)
	},
	"replaced, and that is dead": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.roll()
		k.put(1, 2, 3, 9)
		k.kill(1, 3, 4, 5, 6, 7)
		k.retire(2)
	},
	"cut by a snapshot": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.commit(1, 2)
		k.install(1, 20)
		k.put(1, 2, 21, 22)
		k.retire(1)
	},
	"cut by a snapshot in the next file": func(k *keptLog) {
		k.put(1, 1, 1, 6)
		k.commit(1, 2)
		k.roll()
		k.install(1, 20)
		k.put(1, 2, 21, 22)
		k.retire(2)
	},
}

// install installs a snapshot that does not agree with what is above the commit index, and refers to nothing else of this log.
func (k *keptLog) install(shard ShardID, index uint64) {
	k.t.Helper()
	if err := k.log.InstallSnapshot(shard, index, 2); err != nil {
		k.t.Fatal(err)
	}
	mustFlush(k.t, k.log)
	k.kill(shard, every(k.log.State(shard).HardState.Commit+1, index, 1)...)
}

func eachKeptDisk(t *testing.T, run func(t *testing.T, k *keptLog, disk *vfs.Sim)) {
	t.Helper()
	for name, build := range keptDisks {
		t.Run(name, func(t *testing.T) {
			k := newKeptLog(t)
			build(k)
			disk := k.disk()
			if len(inPlace(t, disk)) == 0 {
				t.Fatal("nothing is in place")
			}
			run(t, k, disk)
		})
	}
}

// Any bit of a segment in place may flip: a copy of its index is whole, with nothing that is live missing, and nothing served that is void.
// When it is the first that is not, the segment is written anew, and refers to the kept file no more.
func TestFlippedBitsInPlace(t *testing.T) {
	eachKeptDisk(t, func(t *testing.T, k *keptLog, disk *vfs.Sim) {
		for _, name := range inPlace(t, disk) {
			for _, offset := range written(t, disk, name) {
				sim := disk.CrashClone(vfs.AllLost())
				if err := sim.FlipBit(name, offset, uint(offset)%8); err != nil {
					t.Fatal(err)
				}
				first := offset < sizeOf(t, disk, name)/2
				l, found := reopenSim(t, sim, keptOptions)
				if first != (len(found.Rebuilt) == 1) || first && !found.Rebuilt[0].Whole || l.Incomplete(1) != nil {
					t.Fatalf("byte %d of %s: %+v", offset, name, found)
				}
				if first {
					k.rewritten(l, sim, name)
					continue
				}
				k.tell(l)
				k.check(l, fmt.Sprintf("byte %d of %s", offset, name))
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// written lists the offsets of a segment in place at which there is anything.
func written(t *testing.T, fsys vfs.FS, name string) (offsets []int64) {
	t.Helper()
	for at, b := range readAll(t, fsys, name) {
		if b != 0 {
			offsets = append(offsets, int64(at))
		}
	}
	return offsets
}

// rewritten checks that a log writes a segment anew whose index was rebuilt.
func (k *keptLog) rewritten(l *Log, sim *vfs.Sim, name string) {
	k.t.Helper()
	k.tell(l)
	k.check(l, name+" rebuilt")
	mustFlush(k.t, l)
	maintained(k.t, l)
	k.check(l, name+" written anew")
	if err := l.Close(); err != nil {
		k.t.Fatal(err)
	}
	l, found := reopenSim(k.t, sim.CrashClone(vfs.AllLost()), keptOptions)
	k.tell(l)
	k.check(l, name+" opened again")
	for _, left := range inPlace(k.t, sim) {
		if left == name || len(found.Rebuilt) > 0 {
			k.t.Fatalf("%s is still in place: %+v", name, found)
		}
	}
	if err := l.Close(); err != nil {
		k.t.Fatal(err)
	}
}

// With both copies damaged, the segment is as good as missing: a log that is alone is refused, and with others all that is live is wanted.
func TestBothCopiesDamaged(t *testing.T) {
	eachKeptDisk(t, func(t *testing.T, k *keptLog, disk *vfs.Sim) {
		name := inPlace(t, disk)[0]
		half := sizeOf(t, disk, name) / 2
		for _, at := range [][2]int64{{20, half - 20}, {fileHeaderBytes + 1, fileHeaderBytes + 1}, {20, 20}, {half - 20, half - 20}} {
			sim := disk.CrashClone(vfs.AllLost())
			if err := errors.Join(sim.FlipBit(name, at[0], 1), sim.FlipBit(name, half+at[1], 1)); err != nil {
				t.Fatal(err)
			}
			alone := keptOptions
			alone.FS, alone.Dir = sim.CrashClone(vfs.AllLost()), "log"
			_, _, err := Open(alone)
			if damage, ok := errors.AsType[*CorruptError](err); !ok || damage.File != name {
				t.Fatalf("%s: opened alone: %v", name, err)
			}
			l, found := reopenSim(t, sim, withPeers())
			if len(found.Rebuilt) != 1 || found.Rebuilt[0].Whole {
				t.Fatalf("%s: %+v", name, found)
			}
			k.tell(l)
			for shard := range k.live {
				l.SetMendable(shard, true)
			}
			if maintainAll(t, l) == nil {
				t.Fatalf("%s: nothing is missing", name)
			}
			k.mendAll(l)
			maintained(t, l)
			k.checkReads(l, name+" mended")
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
