package wal

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// withPeers is keptOptions of a log whose shards have replicas elsewhere.
func withPeers() Options {
	o := keptOptions
	o.KeepHoles, o.Peers = true, true
	return o
}

// sharedDisk has one kept file, of two shards.
func sharedDisk(t *testing.T) (*keptLog, *vfs.Sim) {
	t.Helper()
	k := newKeptLog(t)
	keptDisks["two shards"](k)
	return k, k.disk()
}

const sharedKept = "log/tail/0000000001.kept"

// mendAll gives a log what it wants.
func (k *keptLog) mendAll(l *Log) (mended int) {
	k.t.Helper()
	for shard, live := range k.live {
		for _, name := range l.Wanted(shard, 0, 99) {
			e := &Entry{Index: name.Index, Term: 1, Data: []byte(live[name.Index])}
			if err := l.Mend(shard, e); err != nil {
				k.t.Fatalf("entry %d of shard %d, wanted as %+v: %v", name.Index, shard, name, err)
			}
			mended++
		}
	}
	return mended
}

// mends lets peers bring what a log has noted, and checks that nothing is in place when it is whole, or damaged when it opens again.
func (k *keptLog) mends(l *Log, sim *vfs.Sim, want int) {
	k.t.Helper()
	if mended := k.mendAll(l); mended != want {
		k.t.Fatalf("%d entries were mended, not %d", mended, want)
	}
	k.check(l, "mended")
	maintained(k.t, l)
	k.check(l, "mended and written")
	if err := l.Close(); err != nil {
		k.t.Fatal(err)
	}
	l, found := reopenSim(k.t, sim.CrashClone(vfs.AllLost()), keptOptions)
	k.tell(l)
	maintained(k.t, l)
	k.check(l, "mended and opened again")
	if found.Damage != nil || l.Stats().EntriesDamaged > 0 {
		k.t.Fatalf("opened again: %+v, %+v", found, l.Stats())
	}
	if err := l.Close(); err != nil {
		k.t.Fatal(err)
	}
}

// A frame of a kept file that is damaged is refused by the entry's name, and by no other; it is mended like any other, and the segment
// is written anew.
func TestDamagedKeptFrame(t *testing.T) {
	k, disk := sharedDisk(t)
	probe, _ := reopenSim(t, disk.CrashClone(vfs.AllLost()), keptOptions)
	g := probe.shards[1].segments[0]
	for row, x := range g.entries {
		for at := int64(0); at < frameHeaderBytes+int64(x.size.bytes()); at += 3 {
			sim := disk.CrashClone(vfs.AllLost())
			if err := sim.FlipBit(sharedKept, x.offset()+at, uint(at)%8); err != nil {
				t.Fatal(err)
			}
			l, found := reopenSim(t, sim, withPeers())
			k.tell(l)
			l.SetMendable(1, true)
			maintained(t, l)
			index := g.index(row)
			_, err := l.Read(1, index)
			if damage, ok := errors.AsType[*CorruptError](err); !ok || damage.File != sharedKept || damage.Index != index || found.Damage != nil {
				t.Fatalf("byte %d of entry %d: %v, %+v", at, index, err, found)
			}
			l.NoteDamage(1, index)
			if names := l.Wanted(1, 0, 9); len(names) != 1 || !names[0].Known || names[0].Index != index || (names[0].Term == 1) == (at < frameHeaderBytes) {
				t.Fatalf("byte %d of entry %d: wanted are %+v", at, index, names)
			}
			k.mends(l, sim, 1)
			if left := inPlace(t, sim); len(left) != 1 || left[0] == g.name {
				t.Fatalf("in place are %v", left)
			}
		}
	}
}

// A kept file is lost: alone, the log does not open, and says which file is to be put back; with others, all that is live is wanted.
func TestMissingKeptFile(t *testing.T) {
	k, disk := sharedDisk(t)
	if err := errors.Join(disk.Remove(sharedKept), disk.SyncDir("log/tail")); err != nil {
		t.Fatal(err)
	}
	for _, holes := range []bool{false, true} {
		sim := disk.CrashClone(vfs.AllLost())
		before := everyFile(t, sim)
		o := keptOptions
		o.FS, o.Dir, o.KeepHoles = sim, "log", holes
		_, _, err := Open(o)
		damage, ok := errors.AsType[*CorruptError](err)
		if !ok || damage.File != sharedKept || !strings.Contains(damage.Reason, "missing, though log/live/00001/0000000001-0000000001.seg refers to it") {
			t.Fatalf("opened alone: %v", err)
		}
		if after := everyFile(t, sim); !slices.Equal(before, after) {
			t.Fatalf("it was\n%v\nand is\n%v", before, after)
		}
	}
	l, found := reopenSim(t, disk, withPeers())
	if found.Damage == nil || found.Damage.File != sharedKept {
		t.Fatalf("%+v", found)
	}
	k.tell(l)
	for shard := range k.live {
		l.SetMendable(shard, true)
	}
	maintained(t, l)
	k.mends(l, disk, len(k.live[1])+len(k.live[2]))
}

// everyFile lists what is below the log's directory, with sizes.
func everyFile(t *testing.T, sim *vfs.Sim) []string {
	t.Helper()
	s := script{sim: sim}
	return strings.Split(s.ls(t), "\n")
}

// A segment in place is lost: what it had is told missing, and wanted; the file stays as long as it is.
func TestMissingSegmentInPlace(t *testing.T) {
	k := newKeptLog(t)
	k.put(1, 1, 1, 3)
	k.retire(1)
	disk := k.disk()
	name := inPlace(t, disk)[0]
	if err := errors.Join(disk.Remove(name), disk.SyncDir("log/live/00001")); err != nil {
		t.Fatal(err)
	}
	l, _ := reopenSim(t, disk, withPeers())
	k.tell(l)
	l.SetMendable(1, true)
	damage := maintainAll(t, l)
	if damage == nil || damage.Shard != 1 || damage.Index != 1 || !strings.Contains(damage.Reason, "missing") {
		t.Fatalf("told: %v", damage)
	}
	maintained(t, l)
	if names := keptNames(t, disk); len(names) != 1 {
		t.Fatalf("kept are %v", names)
	}
	if mended := k.mendAll(l); mended != 3 {
		t.Fatalf("%d mended", mended)
	}
	maintained(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = reopenSim(t, disk.CrashClone(vfs.AllLost()), keptOptions)
	k.tell(l)
	maintained(t, l)
	k.check(l, "opened again") // and no kept file
}

// cutAt maintains a log until the power goes at a change of the disk. It reports whether it came to that.
func cutAt(t *testing.T, l *Log, sim *vfs.Sim, n uint64) bool {
	t.Helper()
	first := sim.Ops()
	sim.SetHook(func(op vfs.Op) error {
		if op.Number >= first+n {
			return vfs.ErrPowerCut
		}
		return nil
	})
	defer sim.SetHook(nil)
	for {
		more, err := l.Maintain()
		if _, damaged := errors.AsType[*CorruptError](err); err != nil && !damaged {
			return true
		}
		if !more && err == nil {
			return false
		}
	}
}

// Power may go while the last segments of a kept file, and the file itself, go. A file to which none refers any more goes once all shards
// have told what they need, and that is all there; and not by what a fallback says. So it is in a log that once lost all that it had.
func TestOrphanedKeptFile(t *testing.T) {
	for _, lost := range []bool{false, true} {
		k := newKeptLog(t)
		if lost {
			disk := k.disk()
			loseTail(t, disk)
			o := withPeers()
			o.Existing = true
			k.log, _ = reopenSim(t, disk, o)
			k.sim = disk
			forgetAll(t, k.log, keptShards)
		}
		keptDisks["two shards"](k)
		k.losesLast(k.disk())
	}
}

// losesLast lets all that is kept die, and the power go in between.
func (k *keptLog) losesLast(disk *vfs.Sim) {
	t := k.t
	t.Helper()
	k.kill(1, every(1, 9, 1)...)
	k.kill(2, every(1, 9, 1)...)
	orphans := 0
	for n := uint64(1); ; n++ {
		sim := disk.CrashClone(vfs.AllLost())
		l, _ := reopenSim(t, sim, keptOptions)
		k.tell(l)
		mustFlush(t, l)
		if !cutAt(t, l, sim, n) {
			break
		}
		for _, outcome := range []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Mixed(n)} {
			after := sim.CrashClone(outcome)
			left := len(keptNames(t, after))
			orphan := left > 0 && len(inPlace(t, after)) == 0
			l, _ := reopenSim(t, after, keptOptions)
			if orphan {
				orphans++
				k.keepsOrphan(l, after)
			}
			k.tell(l)
			maintained(t, l)
			k.check(l, fmt.Sprint("call ", n))
			if names := keptNames(t, after); len(names) > 0 {
				t.Fatalf("call %d, %v: kept are %v", n, outcome, names)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if orphans < 2 {
		t.Errorf("only %d orphans", orphans)
	}
}

// keepsOrphan checks that a log does not give back a file as long as it does not know that nothing is missing.
func (k *keptLog) keepsOrphan(l *Log, sim *vfs.Sim) {
	k.t.Helper()
	for _, shard := range []ShardID{1, 2, fillShard} {
		maintained(k.t, l)
		if names := keptNames(k.t, sim); len(names) != 1 {
			k.t.Fatalf("before shard %d has told what it needs, kept are %v", shard, names)
		}
		l.Retain(shard, Retention{Snapshot: 1, KeepFrom: 1, Live: even(0), Fallback: shard == fillShard})
	}
	maintained(k.t, l)
	if names := keptNames(k.t, sim); len(names) != 1 {
		k.t.Fatalf("by what a fallback says, kept are %v", names)
	}
}

// All tail files and all segments are lost, and a kept file is there: the log begins anew behind it, since frames are told apart by the id of
// their file.
func TestTailBeginsBehindKeptFiles(t *testing.T) {
	_, disk := sharedDisk(t)
	names := append(inPlace(t, disk), "log/tail/0000000002.wal")
	for _, name := range names {
		if err := disk.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	l, _ := reopenSim(t, disk, withPeers())
	if id := l.current().id; id != 2 {
		t.Errorf("the log begins with file %d", id)
	}
}

// A kept file that cannot be removed for a passing reason is removed later.
func TestKeptFileIsGivenBackLater(t *testing.T) {
	k, disk := sharedDisk(t)
	o := keptOptions
	o.SpareFilesMax = 1
	l, _ := reopenSim(t, disk, o)
	maintained(t, l) // makes the spare
	refused := 0
	disk.SetHook(func(op vfs.Op) error {
		if op.Kind == vfs.OpRemove && op.Name == sharedKept && refused == 0 {
			refused++
			return syscall.EINTR
		}
		return nil
	})
	for shard := range k.live {
		k.kill(shard, every(1, 9, 1)...)
	}
	k.tell(l)
	mustFlush(t, l)
	for more := true; more; {
		var err error
		if more, err = l.Maintain(); errors.Is(err, ErrRetry) {
			more = true
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if names := keptNames(t, disk); refused != 1 || len(names) > 0 {
		t.Errorf("refused %d times, and kept are %v", refused, names)
	}
}
