package wal

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

const (
	rebuildName    = "log/live/00001/0000000001-0000000001.seg"
	rebuildEntries = 3
)

func rebuildEntry(index uint64) *Entry {
	return &Entry{Index: index, Term: index, Data: []byte(strings.Repeat(fmt.Sprint(index), 20))}
}

// segmentDisk has a log with one segment of the entries 1 to rebuildEntries of shard 1, which are live.
func segmentDisk(t *testing.T) *vfs.Sim {
	t.Helper()
	l, sim := openSim(t, Options{FileBytes: 4096})
	for index := range uint64(rebuildEntries) {
		if _, err := l.Append(1, nil, []Entry{*rebuildEntry(index + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	mustFlush(t, l)
	appendFlushed(t, l, 2, 1, 1, 99, 64)
	retainRebuilt(l)
	mustFlush(t, l)
	if damage := maintainAll(t, l); damage != nil {
		t.Fatal(damage)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return sim.CrashClone(vfs.AllLost())
}

func retainRebuilt(l *Log) {
	l.Retain(1, Retention{Snapshot: rebuildEntries, KeepFrom: rebuildEntries + 1, Live: roaring64.BitmapOf(1, 2, 3)})
	l.Retain(2, Retention{Snapshot: 99, KeepFrom: 100, Live: roaring64.New()})
}

func sizeOf(t *testing.T, sim *vfs.Sim, name string) int64 {
	t.Helper()
	info, err := sim.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size
}

// openRebuilt opens a log, and checks that what it serves is right, and what it does not is told as damage.
func openRebuilt(t *testing.T, sim *vfs.Sim, holes bool) (l *Log, found Recovery, refused []uint64) {
	t.Helper()
	l, found, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096, KeepHoles: holes, Peers: holes})
	if err != nil {
		if _, damaged := errors.AsType[*CorruptError](err); !damaged {
			t.Fatalf("it does not open: %v", err)
		}
		return nil, found, nil
	}
	retainRebuilt(l)
	for index := range uint64(rebuildEntries) {
		switch e, err := l.Read(1, index+1); {
		case err == nil && (e.Term != index+1 || string(e.Data) != string(rebuildEntry(index+1).Data)):
			t.Fatalf("entry %d reads %+v", index+1, e)
		case err != nil && !IsDamage(err):
			t.Fatalf("entry %d: %v", index+1, err)
		case err != nil:
			refused = append(refused, index+1)
		}
	}
	return l, found, refused
}

// heals lets peers bring what is missing, and checks that the disk is then as if nothing had happened.
func heals(t *testing.T, l *Log, sim *vfs.Sim) {
	t.Helper()
	l.SetMendable(1, true)
	maintained(t, l)
	for index := range uint64(rebuildEntries) {
		if _, err := l.Read(1, index+1); err != nil {
			l.NoteDamage(1, index+1)
		}
	}
	for _, name := range l.Wanted(1, 0, 9) {
		if err := l.Mend(1, rebuildEntry(name.Index)); err != nil {
			t.Fatal(err)
		}
	}
	maintained(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, found, refused := openRebuilt(t, sim.CrashClone(vfs.AllLost()), false)
	if again == nil || len(refused) > 0 || len(found.Rebuilt) > 0 || found.Damage != nil {
		t.Fatalf("not healed: %+v, refused are %v", found, refused)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// Every bit of a segment that is no part of a frame may flip: nothing is lost, even of a log without peers, and Maintain writes the
// segment anew.
func TestRebuildFlippedBits(t *testing.T) {
	base := segmentDisk(t)
	size := sizeOf(t, base, rebuildName)
	frames := rebuildEntries * frameBytes(20)
	for offset := range size {
		if offset >= fileHeaderBytes && offset < fileHeaderBytes+frames {
			continue
		}
		for bit := range uint(8) {
			sim := base.CrashClone(vfs.AllLost())
			if err := sim.FlipBit(rebuildName, offset, bit); err != nil {
				t.Fatal(err)
			}
			l, found, refused := openRebuilt(t, sim, false)
			if l == nil || len(refused) > 0 || len(found.Rebuilt) != 1 || !found.Rebuilt[0].Whole || l.Incomplete(1) != nil {
				t.Fatalf("bit %d of byte %d: %+v, refused are %v", bit, offset, found, refused)
			}
			heals(t, l, sim)
		}
	}
}

// The index and a frame are damaged: what keeps its name is a damaged entry, and what lost it is asked for by its index; a log
// without peers does not open then.
func TestRebuildWithDamagedFrames(t *testing.T) {
	base := segmentDisk(t)
	size, frame := sizeOf(t, base, rebuildName), frameBytes(20)
	for _, index := range []int64{10, fileHeaderBytes + rebuildEntries*frame + 1, size - 20} { // header, index block, footer
		for row := range int64(rebuildEntries) {
			for at := range frame - 4 { // less the padding
				sim := base.CrashClone(vfs.AllLost())
				err := errors.Join(sim.FlipBit(rebuildName, index, 2), sim.FlipBit(rebuildName, fileHeaderBytes+row*frame+at, 5))
				if err != nil {
					t.Fatal(err)
				}
				where := fmt.Sprintf("byte %d, and %d of frame %d", index, at, row)
				named := at >= frameHeaderBytes
				alone, _, refused := openRebuilt(t, sim.CrashClone(vfs.AllLost()), false)
				if (alone != nil) != named {
					t.Fatalf("%s: opens without peers: %v", where, alone != nil)
				}
				l, found, refused2 := openRebuilt(t, sim, true)
				if l == nil || len(refused2) != 1 || refused2[0] != uint64(row+1) || (l.Incomplete(1) == nil) != named || found.Damage == nil {
					t.Fatalf("%s: %+v, refused are %v and %v, %v", where, found, refused, refused2, l.Incomplete(1))
				}
				heals(t, l, sim)
			}
		}
	}
}

// A segment may be cut anywhere, and any of its sectors unreadable: what is gone is missed, and comes again.
func TestRebuildTornAndUnreadable(t *testing.T) {
	base := segmentDisk(t)
	size, frame := sizeOf(t, base, rebuildName), frameBytes(20)
	for cut := range size {
		sim := base.CrashClone(vfs.AllLost())
		f, err := sim.OpenReadWrite(rebuildName)
		if err == nil {
			err = errors.Join(f.Truncate(cut), f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		whole := cut >= fileHeaderBytes+rebuildEntries*frame+segmentIndexBytes
		alone, _, _ := openRebuilt(t, sim.CrashClone(vfs.AllLost()), false)
		if (alone != nil) != whole {
			t.Fatalf("cut at %d: opens without peers: %v", cut, alone != nil)
		}
		l, _, refused := openRebuilt(t, sim, true)
		if left := max(cut-fileHeaderBytes, 0) / frame; l == nil || (l.Incomplete(1) == nil) != whole || len(refused) > rebuildEntries-int(min(left, rebuildEntries)) {
			t.Fatalf("cut at %d: refused are %v", cut, refused)
		}
		heals(t, l, sim)
	}
	for sector := int64(0); sector < size; sector += 64 {
		sim := base.CrashClone(vfs.AllLost())
		sim.SetReadHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpRead && op.Name == rebuildName && op.Offset < sector+64 && sector < op.Offset+op.Length {
				return syscall.EIO
			}
			return nil
		})
		if l, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096}); l == nil && !errors.Is(err, syscall.EIO) {
			t.Fatalf("bytes %d on: without peers: %v", sector, err)
		} else if l != nil && l.Close() != nil {
			t.Fatal("it does not close")
		}
		l, _, _ := openRebuilt(t, sim, true)
		if l == nil {
			t.Fatalf("bytes %d on cannot be read, and it does not open", sector)
		}
		sim.SetReadHook(nil) // the trouble passed
		heals(t, l, sim)
	}
}

// What the disk refuses to read for a while is not written as damaged in the segment's place.
func TestRebuiltIsLeftAloneWhileUnreadable(t *testing.T) {
	base := segmentDisk(t)
	for _, op := range []vfs.OpKind{vfs.OpRead} {
		sim := base.CrashClone(vfs.AllLost())
		if err := sim.FlipBit(rebuildName, 10, 1); err != nil {
			t.Fatal(err)
		}
		l, _, _ := openRebuilt(t, sim, true)
		sim.SetReadHook(func(o vfs.Op) error {
			if o.Kind == op && o.Name == rebuildName {
				return syscall.EIO
			}
			return nil
		})
		maintained(t, l)
		sim.SetReadHook(nil)
		maintained(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		again, found, refused := openRebuilt(t, sim, true)
		if again == nil || len(refused) > 0 || len(found.Rebuilt) != 1 {
			t.Fatalf("opened again: %+v, refused are %v", found, refused)
		}
		heals(t, again, sim)
	}
}

// Power may go at any call while a segment is written anew.
func TestCrashWhileRewriting(t *testing.T) {
	base := segmentDisk(t)
	for n := uint64(1); ; n++ {
		sim := base.CrashClone(vfs.AllLost())
		if err := sim.FlipBit(rebuildName, sizeOf(t, sim, rebuildName)-1, 1); err != nil {
			t.Fatal(err)
		}
		l, _, _ := openRebuilt(t, sim, false)
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
			if n < 5 {
				t.Errorf("only %d crashes", n-1)
			}
			return
		}
		after := sim.CrashClone(vfs.Mixed(n))
		again, _, refused := openRebuilt(t, after, false)
		if again == nil || len(refused) > 0 {
			t.Fatalf("call %d: refused are %v", n, refused)
		}
		heals(t, again, after)
	}
}

// A merge that a crash cut short leaves the files that it covers. If the wider one lost entries, they stay until it is written anew.
func TestIncompleteSegmentCoversNothing(t *testing.T) {
	base := segmentDisk(t)
	frame := frameBytes(20)
	l, _, _ := openRebuilt(t, base, false)
	l.mu.RLock()
	narrow := l.shards[1].segments[0]
	l.mu.RUnlock()
	w, err := l.newSegmentWriter(1, segmentID{firstSeq: 1, lastSeq: l.files[0].id - 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for index := range uint64(rebuildEntries) {
		e := rebuildEntry(index + 1)
		if err := w.add(e, checksum(e.Data)); err != nil {
			t.Fatal(err)
		}
	}
	wide := w.g.name
	if err := errors.Join(w.seal(), l.rename(w.temp, wide), l.syncDir("log/live/00001"), l.Close()); err != nil || wide == narrow.name {
		t.Fatal(err, wide)
	}
	if err := errors.Join(base.FlipBit(wide, 10, 1), base.FlipBit(wide, fileHeaderBytes+frame, 1)); err != nil {
		t.Fatal(err)
	}
	sim := base.CrashClone(vfs.AllLost())
	l, found, refused := openRebuilt(t, sim, true)
	if l == nil || len(refused) != 1 || sizeOf(t, sim, narrow.name) == 0 {
		t.Fatalf("%+v, refused are %v", found, refused)
	}
	heals(t, l, sim)
	if err := base.Remove(wide); err != nil {
		t.Fatal(err)
	}
	if l, _, refused := openRebuilt(t, base, false); l == nil || len(refused) > 0 {
		t.Errorf("without the wider one, refused are %v", refused)
	}
}
