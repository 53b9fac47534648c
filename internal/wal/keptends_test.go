package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A kept file is of use as long as one shard has not been forgotten, whenever the power goes.
func TestForgetWithKeptFile(t *testing.T) {
	k, disk := sharedDisk(t)
	l, _ := reopenSim(t, disk, keptOptions)
	k.tell(l)
	maintained(t, l)
	var disks []*vfs.Sim
	disk.SetHook(func(op vfs.Op) error {
		disks = append(disks, disk.CrashClone(vfs.AllLost()), disk.CrashClone(vfs.AllKept()), disk.CrashClone(vfs.Mixed(op.Number)))
		return nil
	})
	for shard, left := range []int{1, 0} {
		if _, err := l.Forget(ShardID(shard + 1)); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, l)
		if names := keptNames(t, disk); len(names) != left {
			t.Fatalf("with shard %d forgotten, kept are %v", shard+1, names)
		}
		checkKept(t, l)
	}
	disk.SetHook(nil)
	for i, sim := range disks {
		l, _ := reopenSim(t, sim, keptOptions)
		for shard := range ShardID(2) {
			if _, err := l.Forget(shard + 1); err != nil {
				t.Fatalf("crash %d: %v", i, err)
			}
		}
		l.Retain(fillShard, Retention{Snapshot: k.snapshots[fillShard], KeepFrom: 1, Live: even(0)})
		mustFlush(t, l)
		maintained(t, l)
		if names := keptNames(t, sim); len(names) > 0 {
			t.Fatalf("crash %d: kept are %v", i, names)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is dead by a live set that was wrong stays, with its file, as long as that was not accounted.
func TestDistrustWithKeptFile(t *testing.T) {
	k, disk := sharedDisk(t)
	l, _ := reopenSim(t, disk, keptOptions)
	k.tell(l)
	maintained(t, l)
	l.Retain(1, Retention{Snapshot: k.snapshots[1], KeepFrom: 1, Live: even(0)})
	l.Distrust(1)
	maintained(t, l)
	k.tell(l)
	maintained(t, l)
	k.check(l, "trusted again")
	for shard := range k.live {
		k.kill(shard, every(1, 99, 1)...)
	}
	k.tell(l)
	maintained(t, l)
	k.check(l, "dead")
}

// A shard whose segments are not to be believed is lost, and what its segments may refer to stays until it is forgotten; the other shard
// goes on.
func TestGiveUpWithKeptFile(t *testing.T) {
	k, disk := sharedDisk(t)
	names := inPlace(t, disk)
	other := readWhole(t, disk, names[1])
	f, err := disk.OpenReadWrite(names[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(other, 0)
	if err := errors.Join(err, f.Truncate(int64(len(other))), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	l, _ := reopenSim(t, disk, withPeers())
	if l.Lost(1) == nil || l.Lost(2) != nil {
		t.Fatalf("lost: %v, %v", l.Lost(1), l.Lost(2))
	}
	k.tell(l)
	maintained(t, l)
	for index, data := range k.live[2] {
		if e, err := l.Read(2, index); err != nil || string(e.Data) != data {
			t.Errorf("entry %d of shard 2 reads %q, %v", index, e.Data, err)
		}
	}
	k.kill(2, every(1, 9, 1)...)
	k.tell(l)
	maintained(t, l)
	if names := keptNames(t, disk); len(names) != 1 {
		t.Errorf("kept are %v", names)
	}
	if _, err := l.Forget(1); err != nil {
		t.Fatal(err)
	}
	mustFlush(t, l)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = reopenSim(t, disk.CrashClone(vfs.AllLost()), keptOptions)
	k.kill(1, every(1, 9, 1)...)
	l.Retain(1, Retention{Snapshot: 0, KeepFrom: 1, Live: even(0)})
	k.tell(l)
	maintained(t, l)
	if names := keptNames(t, l.fs); len(names) > 0 {
		t.Errorf("forgotten, and kept are %v", names)
	}
}

// An attempt to keep a file may be given up anywhere. If the next one copies the file, or finds nothing of a shard or of any to be live,
// no segment is left of the first that refers to a file that never was.
func TestKeepingIsGivenUp(t *testing.T) {
	base := newKeptLog(t)
	base.put(1, 1, 1, 3)
	base.put(2, 1, 1, 3)
	base.roll()
	disk := base.disk()
	changes := map[string]func(k *keptLog, l *Log){
		"same":    func(*keptLog, *Log) {},
		"copied":  func(_ *keptLog, l *Log) { l.opts.KeepAbove = 100 },
		"one":     func(k *keptLog, _ *Log) { k.kill(1, 1, 2, 3) },
		"other":   func(k *keptLog, _ *Log) { k.kill(2, 1, 2, 3) },
		"nothing": func(k *keptLog, _ *Log) { k.kill(1, 1, 2, 3); k.kill(2, 1, 2, 3) },
	}
	for name, change := range changes {
		for _, trouble := range []error{syscall.ENOSPC, syscall.EMFILE, errDistrust} {
			at, goesOn := uint64(1), true
			for ; goesOn; at++ {
				for n, cut := uint64(1), true; cut; n++ {
					k := base.clone(disk)
					goesOn = k.interrupt(trouble, at)
					change(k, k.log)
					k.tell(k.log)
					cut = goesOn && k.log.failed == nil && cutAt(t, k.log, k.sim, n)
					k.afterCrash(fmt.Sprintf("%s, %v at %d, power at %d", name, trouble, at, n), n)
					_ = k.log.Close() // its disk may be gone
				}
			}
			if at < 12 {
				t.Errorf("%s, %v: met only %d times", name, trouble, at-2)
			}
		}
	}
}

// clone opens a copy of a disk, of which the same is live.
func (k *keptLog) clone(disk *vfs.Sim) *keptLog {
	k.t.Helper()
	c := &keptLog{t: k.t, sim: disk.CrashClone(vfs.AllLost()), snapshots: maps.Clone(k.snapshots), live: make(map[ShardID]map[uint64]string)}
	for shard, live := range k.live {
		c.live[shard] = maps.Clone(live)
	}
	c.log, _ = reopenSim(k.t, c.sim, keptOptions)
	c.tell(c.log)
	mustFlush(k.t, c.log)
	return c
}

// errDistrust stands for a call of Distrust in the middle of a job.
var errDistrust = errors.New("distrust")

// interrupt maintains a log until it meets trouble at a change of the disk. It reports whether it came to that.
func (k *keptLog) interrupt(trouble error, at uint64) (met bool) {
	k.t.Helper()
	first := k.sim.Ops()
	k.sim.SetHook(func(op vfs.Op) error {
		if op.Number < first+at {
			return nil
		}
		met = true
		if op.Number == first+at && !errors.Is(trouble, errDistrust) {
			return trouble
		}
		return nil
	})
	defer k.sim.SetHook(nil)
	for !met {
		more, err := k.log.Maintain()
		if err != nil || !more {
			break
		}
	}
	if met && errors.Is(trouble, errDistrust) {
		k.log.Distrust(1)
	}
	return met
}

// afterCrash checks the disk that is left, whatever the outcome.
func (k *keptLog) afterCrash(when string, seed uint64) {
	k.t.Helper()
	for _, outcome := range []vfs.Outcome{vfs.AllLost(), vfs.Mixed(seed)} {
		after := k.sim.CrashClone(outcome)
		o := keptOptions
		o.FS, o.Dir = after, "log"
		l, _, err := Open(o)
		if err != nil {
			k.t.Fatalf("%s: %v", when, err)
		}
		k.tell(l)
		mustFlush(k.t, l)
		maintained(k.t, l)
		k.check(l, when)
		if err := l.Close(); err != nil {
			k.t.Fatal(err)
		}
	}
}

// queueEntry is entry index of a queue whose entries tell their own index.
func queueEntry(index uint64) Entry {
	return Entry{Index: index, Term: 1, Data: bytes.Repeat(binary.LittleEndian.AppendUint64(nil, index), 25)}
}

// A long queue is served while its kept files go round: whoever reads meanwhile gets the entry that was asked for, or hears that it is gone.
func TestReadersOfRecycledKeptFiles(t *testing.T) {
	const length, total = 200, 3000
	l, _ := openSim(t, Options{FileBytes: 4096, ReserveBytes: 1})
	var head, served atomic.Uint64 // the queue's first entry, and how many reads got theirs
	head.Store(1)
	done := make(chan struct{})
	var group sync.WaitGroup
	for seed := range uint64(3) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 5))
			for {
				select {
				case <-done:
					return
				default:
				}
				index := head.Load() + rng.Uint64N(length)
				e, err := l.Read(1, index)
				switch {
				case err == nil && bytes.Equal(e.Data, queueEntry(index).Data):
					served.Add(1)
				case errors.Is(err, ErrUnavailable), errors.Is(err, ErrCompacted) && index < head.Load():
				default:
					t.Errorf("entry %d reads %d bytes, %v", index, len(e.Data), err)
					return
				}
			}
		})
	}
	for index := uint64(1); index <= total; index++ {
		if _, err := l.Append(1, nil, []Entry{queueEntry(index)}); err != nil {
			t.Fatal(err)
		}
		mustFlush(t, l)
		if index > length && index%10 == 0 {
			head.Store(index - length + 1)
			live := roaring64.New()
			live.AddRange(index-length+1, index+1)
			l.Retain(1, Retention{Snapshot: index, KeepFrom: index + 1, Live: live})
			maintained(t, l)
		}
	}
	close(done)
	group.Wait()
	checkKept(t, l)
	if st := l.Stats(); st.SealedEntriesKept < total/2 || served.Load() == 0 {
		t.Errorf("%d reads; %+v", served.Load(), st)
	}
	if names := keptNames(t, l.fs); len(names) > 2*length*256/4096 || !slices.IsSorted(names) {
		t.Errorf("kept are %v", names)
	}
}
