package host

import (
	"sync"

	"github.com/beaver-raft/beaver/internal/shard"
)

// batchCache keeps the few entries read last from the log. A backlog is fetched in the order of its entries, by several callers
// at once, and each wants only a part of an entry: without it, every one of them reads the whole. Entries that were applied
// never change. The zero value is ready, and any goroutine may use it.
type batchCache struct {
	mu    sync.Mutex
	slots [batchesKept]*batchSlot
	next  int // the oldest
}

// batchSlot is one entry, read once by whoever comes first.
type batchSlot struct {
	index uint64
	once  sync.Once
	batch shard.Batch
	ok    bool
}

// get returns the entry at an index, which read reads if it is not here. An entry that cannot be read, or is a giant, is not
// remembered.
func (c *batchCache) get(index uint64, read func() (shard.Batch, bool)) (shard.Batch, bool) {
	s := c.slot(index)
	s.once.Do(func() {
		if s.batch, s.ok = read(); !s.ok || s.batch.Bytes() > batchKeepBytes {
			c.drop(s)
		}
	})
	return s.batch, s.ok
}

func (c *batchCache) slot(index uint64) *batchSlot {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.slots {
		if s != nil && s.index == index {
			return s
		}
	}
	s := &batchSlot{index: index}
	c.slots[c.next] = s
	c.next = (c.next + 1) % batchesKept
	return s
}

func (c *batchCache) drop(s *batchSlot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.slots {
		if c.slots[i] == s {
			c.slots[i] = nil
		}
	}
}
