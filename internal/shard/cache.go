package shard

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// entryOverheadBytes is what an entry costs in memory beside its data.
const entryOverheadBytes = 160

// entryCache keeps the newest entries of the log, contiguous, up to a number of bytes. Entries are shared, never
// copied and never changed, so whoever got one may hold it. Any goroutine may read; one writes.
type entryCache struct {
	bytesMax int64

	mu      sync.RWMutex
	entries []*raftpb.Entry // indexes first, first+1, ...
	first   uint64
	bytes   int64
}

func entryBytes(e *raftpb.Entry) int64 { return int64(len(e.GetData())) + entryOverheadBytes }

// append adds entries; those of the cache at or past the first of them are replaced, as in the log.
func (c *entryCache) append(entries []*raftpb.Entry) {
	if len(entries) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(entries[0].GetIndex())
	if len(c.entries) == 0 {
		c.first = entries[0].GetIndex()
	}
	for _, e := range entries {
		c.entries = append(c.entries, e)
		c.bytes += entryBytes(e)
	}
	evicted := 0
	for c.bytes > c.bytesMax && evicted < len(c.entries) {
		c.bytes -= entryBytes(c.entries[evicted])
		c.entries[evicted] = nil
		evicted++
	}
	c.entries = c.entries[evicted:]
	c.first += uint64(evicted)
}

// size is the number of bytes that the entries take.
func (c *entryCache) size() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.bytes
}

// cut removes the entries with index >= from, and all of them when from would leave a gap. REQUIRES: c.mu.
func (c *entryCache) cut(from uint64) {
	keep := 0
	if from >= c.first && from <= c.first+uint64(len(c.entries)) {
		keep = int(from - c.first)
	}
	for i := keep; i < len(c.entries); i++ {
		c.bytes -= entryBytes(c.entries[i])
		c.entries[i] = nil
	}
	c.entries = c.entries[:keep]
}

// get returns one entry.
func (c *entryCache) get(index uint64) (*raftpb.Entry, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if index < c.first || index-c.first >= uint64(len(c.entries)) {
		return nil, false
	}
	return c.entries[index-c.first], true
}

// slice returns the entries [lo, hi) in a slice of their own, at least one and as many as bytesMax allows; none when
// lo is not in the cache.
func (c *entryCache) slice(lo, hi, bytesMax uint64) []*raftpb.Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if lo < c.first || hi > c.first+uint64(len(c.entries)) || lo >= hi {
		return nil
	}
	found := c.entries[lo-c.first : hi-c.first]
	size := uint64(0)
	for i, e := range found {
		if size += uint64(entryBytes(e)); size > bytesMax && i > 0 {
			found = found[:i]
			break
		}
	}
	return append(make([]*raftpb.Entry, 0, len(found)), found...)
}
