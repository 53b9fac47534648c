package host

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/beaver-raft/beaver/internal/shard"
)

// TestBatchCache reads an entry once for all who want it, keeps the last few, and remembers no failure.
func TestBatchCache(t *testing.T) {
	var (
		c     batchCache
		reads atomic.Int64
	)
	small, giant := sealed(t, 10), sealed(t, batchKeepBytes)
	read := func(keep, ok bool) func() (shard.Batch, bool) {
		return func() (shard.Batch, bool) {
			reads.Add(1)
			if !keep {
				return giant, ok
			}
			return small, ok
		}
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if b, ok := c.get(1, read(true, true)); !ok || b.Bytes() != small.Bytes() {
				t.Errorf("the entry has %d bytes, %v", b.Bytes(), ok)
			}
		})
	}
	group.Wait()
	for _, step := range []struct {
		what     string
		index    uint64
		keep, ok bool
		want     int64 // reads until then
	}{
		{"kept", 1, true, true, 1},
		{"unreadable", 2, false, false, 2},
		{"tried again", 2, true, true, 3},
		{"too large to keep", 3, false, true, 4},
		{"read again", 3, false, true, 5},
		{"another", 4, true, true, 6},
		{"another", 5, true, true, 7},
		{"another", 6, true, true, 8},
		{"another", 7, true, true, 9},
		{"forgotten", 1, true, true, 10},
		{"kept", 7, true, true, 10},
	} {
		if _, ok := c.get(step.index, read(step.keep, step.ok)); ok != step.ok {
			t.Errorf("%s: entry %d: %v", step.what, step.index, ok)
		}
		if got := reads.Load(); got != step.want {
			t.Errorf("%s: %d reads; want %d", step.what, got, step.want)
		}
	}
}

// sealed is a batch of one item of so many bytes.
func sealed(t *testing.T, size int) shard.Batch {
	t.Helper()
	var (
		items   shard.Items
		builder shard.BatchBuilder
	)
	items.Add(func(dst []byte) []byte { return append(dst, make([]byte, size)...) })
	builder.Add(&items)
	b, err := shard.OpenBatch(builder.Seal(shard.Header{Stamp: 7}))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
