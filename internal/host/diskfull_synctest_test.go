package host

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// fillDisk takes the room of a disk but for some bytes, as another program would.
func fillDisk(t *testing.T, disk *vfs.Sim, free int64) (release func()) {
	t.Helper()
	f, err := disk.Create("elephant")
	if err != nil {
		t.Fatal(err)
	}
	u, err := disk.Usage("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Preallocate(int64(u.Free) - free); err != nil {
		t.Fatal(err)
	}
	return func() {
		_ = f.Close() // nobody reads it
		if err := disk.Remove("elephant"); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that others fill, and one that has room again, are noticed although nothing is written.
func TestFullIsNoticedWhenIdle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{CapacityBytes: 64 << 20})
		n := mustOpen(t, disk, nil, nil)
		synctest.Wait()
		if n.Full() {
			t.Error("full at the start")
		}
		release := fillDisk(t, disk, 64<<10)
		time.Sleep(2 * maintainInterval)
		synctest.Wait()
		if !n.Full() {
			t.Error("a disk that others filled is not noticed")
		}
		release()
		time.Sleep(2 * maintainInterval)
		synctest.Wait()
		if n.Full() {
			t.Error("there is room again, but new jobs are still refused")
		}
		n.mustClose(t)
	})
}

// On a full disk the reserve lets snapshots through, by which the log shrinks: acknowledgements go on for ever.
func TestReserveLetsSnapshotsThrough(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{CapacityBytes: 64 << 20})
		n := mustOpen(t, disk, nil, func(o *Options) { o.Shards = o.Shards[:1]; o.SnapshotBytes = 128 << 10 })
		write := func(count int) {
			t.Helper()
			for i := range count {
				if _, err := n.add(0, strings.Repeat("k", 90)+fmt.Sprintf("%03d", i%1000)); err != nil {
					t.Fatalf("addition %d of %d: %v; %+v", i, count, err, n.Stats().Log)
				}
				if i%100 == 0 {
					time.Sleep(time.Second)
				}
			}
		}
		write(5_000)
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := disk.Stat("data/log/reserve"); err != nil {
			t.Fatal(err)
		}
		release := fillDisk(t, disk, 64<<10)
		before := n.Stats().Shards[0].Snapshots
		write(8_000)
		s := n.Stats()
		if s.Shards[0].Snapshots < before+3 {
			t.Errorf("%d snapshots on the full disk; %+v", s.Shards[0].Snapshots-before, s.Log)
		}
		if !n.Full() {
			t.Error("the disk is full, but the node is not")
		}
		if _, err := disk.Stat("data/log/reserve"); err == nil {
			t.Error("the reserve was not needed: the test tests nothing")
		}
		release()
		time.Sleep(time.Minute)
		synctest.Wait()
		if _, err := disk.Stat("data/log/reserve"); err != nil || n.Full() {
			t.Errorf("after there is room again: %v, full %v", err, n.Full())
		}
		n.mustClose(t)
	})
}

// A quota is a full disk too: log maintenance waits, and the node goes on.
func TestQuotaIsDiskFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		refused := 0
		disk.SetHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpCreate && strings.Contains(op.Name, "spare") {
				refused++
				return syscall.EDQUOT
			}
			return nil
		})
		n := mustOpen(t, disk, nil, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		select {
		case err := <-n.fatal:
			t.Fatalf("the node ended: %v", err)
		default:
		}
		if refused < 2 {
			t.Errorf("tried %d times", refused)
		}
		if _, err := n.add(0, "k"); err != nil {
			t.Error(err)
		}
		disk.SetHook(nil)
		n.mustClose(t)
	})
}

// A snapshot that finds no room is counted, and taken when there is some.
func TestSnapshotWaitsForRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		n := mustOpen(t, disk, nil, func(o *Options) { o.Shards = o.Shards[:1]; o.SnapshotBytes = 4 << 10 })
		disk.SetHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpCreate && strings.Contains(op.Name, "snapshot") {
				return syscall.ENOSPC
			}
			return nil
		})
		add := func() {
			for range 200 {
				if _, err := n.add(0, "k"); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
		}
		add()
		if s := n.Stats().Shards[0]; s.SnapshotsFailed == 0 || s.Snapshots != 0 {
			t.Errorf("without room: %d taken, %d failed", s.Snapshots, s.SnapshotsFailed)
		}
		disk.SetHook(nil)
		time.Sleep(time.Minute)
		add()
		if s := n.Stats().Shards[0]; s.Snapshots == 0 {
			t.Error("no snapshot was taken when there was room again")
		}
		n.mustClose(t)
	})
}
