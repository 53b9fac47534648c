package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// node is a host over a simulated disk with its drivers.
type node struct {
	*Host
	drivers map[shard.ID]*driver
	fatal   chan error
}

// nodeOptions are the options of a small node; the drivers land in drivers.
func nodeOptions(fsys vfs.FS, drivers map[shard.ID]*driver, fatal chan error) Options {
	return Options{
		FS: fsys, Dir: "data", Node: 1, Shards: []shard.ID{0, 1},
		Fatal: func(err error) { fatal <- err },
		NewDriver: func(id shard.ID, _ Payloads) Driver {
			drivers[id] = newDriver(id)
			return drivers[id]
		},
		WAL: wal.Options{FileBytes: 256 << 10},
	}
}

func openNode(ctx context.Context, fsys vfs.FS, log nodeLog, edit func(*Options)) (*node, error) {
	n := &node{drivers: map[shard.ID]*driver{}, fatal: make(chan error, 1)}
	opts := nodeOptions(fsys, n.drivers, n.fatal)
	if edit != nil {
		edit(&opts)
	}
	var err error
	if log == nil {
		n.Host, err = Open(ctx, opts)
	} else {
		n.Host, err = openWith(ctx, opts, func(wal.Options) (nodeLog, wal.Recovery, error) { return log, wal.Recovery{}, nil })
	}
	return n, err
}

func mustOpen(t testing.TB, fsys vfs.FS, log nodeLog, edit func(*Options)) *node {
	t.Helper()
	n, err := openNode(t.Context(), fsys, log, edit)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) mustClose(t testing.TB) {
	t.Helper()
	if err := n.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// add adds one to a counter and waits for the answer.
func (n *node) add(id shard.ID, key string) (*addition, error) {
	a := n.drivers[id].push(key)
	n.Wake(id)
	<-a.done
	return a, a.err
}

// value reads a counter.
func (n *node) value(ctx context.Context, id shard.ID, key string) (v uint64, err error) {
	err = n.Read(ctx, id, func() { v = n.drivers[id].values[key] })
	return v, err
}

func TestAddAndRead(t *testing.T) {
	t.Parallel()
	n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), newMemLog(), nil)
	for i := range uint64(100) {
		a, err := n.add(1, "k")
		if err != nil || a.value != i+1 {
			t.Fatalf("addition %d: %d, %v", i, a.value, err)
		}
		h, item, err := n.Payload(1, a.index, a.first)
		if err != nil || string(item) != "k" || h.Proposer != 1 {
			t.Fatalf("payload: %+v %q %v", h, item, err)
		}
	}
	if v, err := n.value(t.Context(), 1, "k"); err != nil || v != 100 {
		t.Fatalf("read %d, %v", v, err)
	}
	n.mustClose(t)
	if err := n.Read(t.Context(), 1, func() {}); !errors.Is(err, ErrStopped) {
		t.Fatalf("a read after Close: %v", err)
	}
}

func TestConcurrentAdditions(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 50
	n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), newMemLog(), func(o *Options) { o.SnapshotBytes = 10_000 })
	var group sync.WaitGroup
	for c := range callers {
		group.Go(func() {
			key := fmt.Sprint("key", c%7)
			var last uint64
			for i := range each {
				a, err := n.add(shard.ID(c%2), key)
				if err != nil || a.value <= last {
					t.Errorf("caller %d, addition %d: %d after %d, %v", c, i, a.value, last, err)
					return
				}
				last = a.value
				if v, err := n.value(context.Background(), shard.ID(c%2), key); err != nil || v < last {
					t.Errorf("caller %d reads %d after %d, %v", c, v, last, err)
				}
				if _, item, err := n.Payload(shard.ID(c%2), a.index, a.first); err != nil || string(item) != key {
					t.Errorf("payload %q, %v", item, err)
				}
			}
		})
	}
	group.Wait()
	var total uint64
	for _, s := range n.Stats().Shards {
		total += s.BatchItems
	}
	if total != callers*each {
		t.Errorf("%d items applied, want %d", total, callers*each)
	}
	n.mustClose(t)
}
