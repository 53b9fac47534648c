package host

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// hangGuard is when a test that waits for something gives up; nothing depends on how long it takes.
const hangGuard = time.Minute

// slowSync makes each sync of data take a while, as on a disk.
func slowSync(d time.Duration) vfs.SimOptions {
	return vfs.SimOptions{Latency: func(op vfs.Op) {
		if op.Kind == vfs.OpSyncData {
			time.Sleep(d) //nolint:forbidigo // This is the disk's latency; no test waits by it.
		}
	}}
}

// keepBusy gives the shard its next command whenever the last one is applied, as clients do that take turns, until the
// returned function is called.
func (n *node) keepBusy(t *testing.T, id shard.ID) (stop func()) {
	t.Helper()
	var stopped atomic.Bool
	d := n.drivers[id]
	if err := n.StaleRead(t.Context(), id, func() {
		d.onApplied = func() {
			if !stopped.Load() {
				d.push("key")
			}
		}
	}); err != nil {
		t.Fatal(err)
	}
	d.push("key")
	n.Wake(id)
	return func() { stopped.Store(true) }
}

// A shard that always has one more small command serves reads, takes the snapshots without which the log only grows,
// and publishes its statistics.
func TestBusyShardServesReadsAndSnapshots(t *testing.T) {
	t.Parallel()
	n := mustOpen(t, vfs.NewSim(1, slowSync(time.Millisecond)), nil, func(o *Options) { o.SnapshotBytes = 1000 })
	stop := n.keepBusy(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), hangGuard)
	defer cancel()
	before, err := n.value(ctx, 0, "key")
	if err != nil {
		t.Fatalf("a read: %v", err)
	}
	for {
		s := n.Stats().Shards[0]
		if s.Snapshots > 0 && s.Applied > before {
			break
		}
		if _, err := n.value(ctx, 0, "key"); err != nil {
			t.Fatalf("no snapshot and fresh statistics: %v; %+v", err, s)
		}
	}
	stop()
	n.mustClose(t)
}

// More shards than the log's buffer has room for are slowed down; the node does not end.
func TestFullWriteBufferIsBackPressure(t *testing.T) {
	t.Parallel()
	const shards = 6
	n := mustOpen(t, vfs.NewSim(1, slowSync(5*time.Millisecond)), nil, func(o *Options) {
		o.Shards = nil
		for id := range shard.ID(shards) {
			o.Shards = append(o.Shards, id)
		}
		o.WAL.FileBytes = 16 << 20
		o.WAL.BufferBytes = 1 << 20
	})
	big := strings.Repeat("k", 600<<10)
	var group sync.WaitGroup
	for id := range shard.ID(shards) {
		for range 4 {
			group.Go(func() {
				for range 3 {
					if _, err := n.add(id, big); err != nil {
						t.Errorf("shard %d: %v", id, err)
						return
					}
				}
			})
		}
	}
	group.Wait()
	select {
	case err := <-n.fatal:
		t.Fatalf("the node ended: %v", err)
	default:
	}
	n.mustClose(t)
}
