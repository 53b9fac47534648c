package snapshot

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// outcomes are the ways each crash can end; BEAVER_SEEDS adds mixed ones.
func outcomes() []vfs.Outcome {
	seeds, err := strconv.ParseUint(os.Getenv("BEAVER_SEEDS"), 10, 64)
	if err != nil {
		seeds = 3
		if testing.Short() {
			seeds = 1
		}
	}
	all := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed()}
	for seed := range seeds {
		all = append(all, vfs.Mixed(seed))
	}
	return all
}

// TestCrashAtEveryCall: write and prune, crashed before each call that changes the disk, in every outcome: the newest
// durable snapshot or the one being written is loaded whole, the older retained one is there too, and the shard goes on.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	const size = chunkBytesMax + 100
	sim := vfs.NewSim(1, vfs.SimOptions{})
	durable := uint64(0)
	crashes := 0
	sim.SetHook(func(op vfs.Op) error {
		for _, o := range outcomes() {
			crashes++
			after := sim.CrashClone(o)
			index, damages, err := load(after, size)
			if durable == 0 && errors.Is(err, ErrNone) {
				continue
			}
			if err != nil || len(damages) > 0 || index != durable && index != durable+1 {
				t.Errorf("before %v, %v: loaded %d with %d durable, damages %v, %v", op, o, index, durable, damages, err)
				continue
			}
			if err := goOn(after, index, size); err != nil {
				t.Errorf("before %v, %v: %v", op, o, err)
			}
		}
		return nil
	})
	for index := range uint64(4) {
		mustWrite(t, sim, index+1, size)
		durable = index + 1
		if err := Prune(sim, testDir, 2); err != nil {
			t.Fatal(err)
		}
	}
	if crashes < 100 {
		t.Errorf("only %d crashes", crashes)
	}
}

// goOn checks what a restarted shard needs: the snapshot before the loaded one, and that the next is written without
// litter and survives another crash.
func goOn(sim *vfs.Sim, loaded uint64, size int) error {
	files, err := List(sim, testDir)
	if err != nil {
		return err
	}
	for i, f := range files {
		if f.Err != nil {
			return f.Err
		}
		if want := loaded - uint64(i); f.Index != want {
			return fmt.Errorf("file %d holds snapshot %d, want %d", i, f.Index, want)
		}
	}
	if loaded > 1 && len(files) < 2 {
		return fmt.Errorf("the snapshot before %d is gone", loaded)
	}
	if _, err := Write(sim, testDir, testMeta(loaded+1), encodeBytes(testContent(loaded+1, size))); err != nil {
		return err
	}
	if err := Prune(sim, testDir, 2); err != nil {
		return err
	}
	again := sim.CrashClone(vfs.AllLost())
	if index, _, err := load(again, size); err != nil || index != loaded+1 {
		return fmt.Errorf("after the next snapshot and crash: loaded %d, %w", index, err)
	}
	return noLitter(again)
}

func noLitter(sim *vfs.Sim) error {
	list, err := sim.List(testDir)
	if err != nil {
		return err
	}
	for _, name := range list {
		if _, ok := parseFileName(name); !ok {
			return fmt.Errorf("left %s behind", name)
		}
	}
	if len(list) > KeepDefault {
		return fmt.Errorf("left %s behind", strings.Join(list, " "))
	}
	return nil
}

// TestEveryCallFailing: each call of a write fails in turn. The error comes out, the snapshot before is loaded whatever
// crash follows, and after a restart the next write leaves no litter.
func TestEveryCallFailing(t *testing.T) {
	t.Parallel()
	const size = chunkBytesMax + 100
	for _, fault := range []error{syscall.EIO, syscall.ENOSPC} {
		for n := uint64(1); ; n++ {
			sim := vfs.NewSim(n, vfs.SimOptions{})
			mustWrite(t, sim, 1, size)
			mustWrite(t, sim, 2, size)
			start := sim.Ops()
			sim.FailAt(start+n, fault)
			_, err := Write(sim, testDir, testMeta(3), encodeBytes(testContent(3, size)))
			if err == nil {
				if calls := sim.Ops() - start; n != calls+1 {
					t.Fatalf("call %d of %d failed and Write did not tell", n, calls)
				}
				break
			}
			if !errors.Is(err, fault) {
				t.Fatalf("call %d: %v", n, err)
			}
			for _, o := range outcomes() {
				after := sim.CrashClone(o)
				index, damages, err := load(after, size)
				if err != nil || len(damages) > 0 || index != 2 && index != 3 {
					t.Fatalf("call %d, %v: loaded %d, damages %v, %v", n, o, index, damages, err)
				}
				if err := goOn(after, index, size); err != nil {
					t.Fatalf("call %d, %v: %v", n, o, err)
				}
			}
		}
	}
}

// TestDiskFull: a snapshot that finds no room leaves the old ones and gives its room back, so the acks that end jobs
// still fit; when there is room again the next one is written and nothing is left over.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	const size = 3 * chunkBytesMax
	sim := vfs.NewSim(1, vfs.SimOptions{})
	mustWrite(t, sim, 1, size)
	before, err := sim.Usage("/")
	if err != nil {
		t.Fatal(err)
	}
	used := int64(before.Total - before.Free)
	for room := int64(0); room < size; room += 200_000 {
		sim.SetCapacity(used + room)
		_, err := Write(sim, testDir, testMeta(2), encodeBytes(testContent(2, size)))
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("room for %d: %v", room, err)
		}
		now, err := sim.Usage("/")
		if err != nil || int64(now.Total-now.Free) != used {
			t.Fatalf("room for %d: %d bytes used, were %d", room, now.Total-now.Free, used)
		}
		wantLoad(t, sim, size, 1, 0)
	}
	sim.SetCapacity(0)
	if err := goOn(sim, 1, size); err != nil {
		t.Fatal(err)
	}
}
