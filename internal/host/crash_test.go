package host

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// history is what the workload was told, and what the machine was at each index, as of now.
type history struct {
	mu       sync.Mutex
	answered map[string]uint64 // the last value answered, per key
	asked    map[string]uint64 // the number of additions begun, per key
	prints   map[uint64]uint64 // applied index to fingerprint
}

func newHistory() *history {
	return &history{answered: map[string]uint64{}, asked: map[string]uint64{}, prints: map[uint64]uint64{0: 0}}
}

// clone copies what was answered up to now.
func (hist *history) clone() map[string]uint64 {
	hist.mu.Lock()
	defer hist.mu.Unlock()
	return maps.Clone(hist.answered)
}

// crashOptions make small files, so that a short workload rotates, snapshots and compacts.
func crashOptions(o *Options) {
	o.WAL.FileBytes = 32 << 10
	o.SnapshotBytes = 24 << 10
	o.Shards = o.Shards[:1]
}

// workload adds, one after the other, restarts in between, and adds again. It stops at the first error.
func workload(ctx context.Context, disk vfs.FS, hist *history) error {
	for range 2 {
		n, err := openNode(ctx, disk, nil, crashOptions)
		if err != nil {
			return err
		}
		d := n.drivers[0]
		d.onApplied = func() {
			hist.mu.Lock()
			hist.prints[d.applied] = d.print
			hist.mu.Unlock()
		}
		for i := range 30 {
			key := fmt.Sprint("key", i%5, strings.Repeat("x", 1500))
			hist.mu.Lock()
			hist.asked[key]++
			hist.mu.Unlock()
			a, err := n.add(0, key)
			if err != nil {
				return errors.Join(err, n.Close(ctx))
			}
			hist.mu.Lock()
			hist.answered[key] = a.value
			hist.mu.Unlock()
		}
		if err := n.Close(ctx); err != nil {
			return err
		}
	}
	return nil
}

// crashed is a disk as a crash left it, and what had been answered by then.
type crashed struct {
	name     string
	disk     *vfs.Sim
	answered map[string]uint64
	prints   map[uint64]uint64 // what the machine was at each index, when that is known
}

// check opens a crashed disk: everything answered is there, the state is one that the machine had, and it goes on.
func (c crashed) check(t *testing.T, hist *history) {
	t.Helper()
	for round := range 2 {
		n, err := openNode(t.Context(), c.disk, nil, crashOptions)
		if err != nil {
			t.Fatalf("%s, round %d: %v", c.name, round, err)
		}
		d := n.drivers[0]
		err = n.Read(t.Context(), 0, func() {
			if want := c.prints[d.applied]; c.prints != nil && round == 0 && d.print != want {
				t.Errorf("%s: fingerprint %x at index %d, a replay from the start has %x", c.name, d.print, d.applied, want)
			}
			for key, v := range c.answered {
				if d.values[key] < v {
					t.Errorf("%s, round %d: %.4s is %d, %d was answered", c.name, round, key, d.values[key], v)
				}
				if d.values[key] > hist.asked[key] {
					t.Errorf("%s, round %d: %.4s is %d, only %d were asked for", c.name, round, key, d.values[key], hist.asked[key])
				}
			}
		})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if _, err := n.add(0, "afterwards"); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		for key, index := range d.newest {
			if _, item, err := n.Payload(0, index, 0); err != nil || string(item) != key {
				t.Errorf("%s, round %d: payload of %.4s at %d: %v", c.name, round, key, index, err)
			}
		}
		c.disk = c.disk.CrashClone(vfs.AllLost())
		if err := n.Close(context.Background()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
}

// seeds is how many outcomes each crash has, from BEAVER_SEEDS.
func seeds(t *testing.T, otherwise int) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("BEAVER_SEEDS"))
	if err != nil {
		return otherwise
	}
	return n
}

// sparse is how much a test is thinned out where everything is slow and checked twice: n under the race detector.
func sparse(n int) int {
	if invariant.Expensive {
		return n
	}
	return 1
}

// A crash before every call that changes the disk, with several outcomes.
func TestCrashAtEveryCall(t *testing.T) {
	t.Parallel()
	outcomes := seeds(t, 1)
	hist := newHistory()
	var (
		mu      sync.Mutex
		crashes []crashed
	)
	disk := vfs.NewSim(1, vfs.SimOptions{})
	disk.SetHook(func(op vfs.Op) error {
		all := []vfs.Outcome{vfs.AllLost(), vfs.AllKept(), vfs.Killed()}
		for i := range outcomes {
			all = append(all, vfs.Mixed(op.Number*1000+uint64(i)))
		}
		if outcomes == 1 {
			all = all[op.Number%4:][:1] // one outcome for each call, in turn
		}
		mu.Lock()
		defer mu.Unlock()
		for _, o := range all {
			crashes = append(crashes, crashed{fmt.Sprintf("%s before call %d", o, op.Number), disk.CrashClone(o), hist.clone(), hist.prints})
		}
		return nil
	})
	if err := workload(t.Context(), disk, hist); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d crashes", len(crashes))
	for i, c := range crashes {
		if outcomes > 1 || i%sparse(5) == 0 {
			c.check(t, hist)
		}
		crashes[i] = crashed{} // lets its disk go
	}
}

// Each call that changes the disk fails in turn. Nothing answered is lost, and the node is usable after a restart.
func TestEveryCallFails(t *testing.T) {
	t.Parallel()
	clean := vfs.NewSim(1, vfs.SimOptions{})
	if err := workload(t.Context(), clean, newHistory()); err != nil {
		t.Fatal(err)
	}
	step := uint64(7 * sparse(3))
	if seeds(t, 0) > 1 {
		step = 1
	}
	for _, failure := range []error{syscall.EIO, syscall.ENOSPC} {
		for number := uint64(1); number <= clean.Ops(); number += step {
			hist := newHistory()
			disk := vfs.NewSim(1, vfs.SimOptions{})
			disk.FailAt(number, failure)
			err := workload(t.Context(), disk, hist)
			name := fmt.Sprintf("call %d fails with %v (workload: %v)", number, failure, err)
			crashed{name, disk.CrashClone(vfs.AllLost()), hist.clone(), nil}.check(t, hist)
			if t.Failed() {
				return
			}
		}
	}
}
