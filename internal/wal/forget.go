package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// Forget makes the log as if it had never held anything of a shard: its replica on this node is gone for good, and whoever
// calls has decided that durably. The segments are gone when it returns, and the tail has forgotten the shard when Flush has
// returned the position. It may be called again, and is called again after a crash and after each Open for as long as the shard
// stays away: like every shard, one that was forgotten holds up the recycling of files until the log is told what of it is
// live. Nothing of the shard may be appended or read meanwhile. It waits for a step of Maintain, and Flush may go on beside it.
func (l *Log) Forget(shard ShardID) (Position, error) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.RLock()
	err := l.usable()
	known := l.shards[shard] != nil || l.unknown != nil
	position := l.pending.end()
	l.mu.RUnlock()
	if err != nil || !known {
		return position, err
	}
	l.keeper.abandon()
	segments, position := l.forget(shard)
	l.mu.RLock()
	oldest := l.files[0]
	l.mu.RUnlock()
	if oldest.begun {
		if err := l.removeUnfinished(oldest, shard); err != nil {
			return 0, l.fail(fmt.Errorf("forget shard %d: %w", shard, err))
		}
	}
	for _, g := range segments {
		l.handles.drop(g)
		if err := l.fs.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, l.fail(fmt.Errorf("forget shard %d: remove a segment: %w", shard, err))
		}
	}
	if len(segments) > 0 {
		if err := l.syncDir(l.liveDir(shard)); err != nil {
			return 0, l.fail(fmt.Errorf("forget shard %d: %w", shard, err))
		}
	}
	if err := l.release(segments); err != nil {
		return 0, l.fail(fmt.Errorf("forget shard %d: %w", shard, err))
	}
	return position, nil
}

// forget clears a shard's index, and returns the segments that were in it. REQUIRES: l.keeping.
func (l *Log) forget(shard ShardID) ([]*segment, Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shardFor(shard)
	if s.shardState != blankState || l.unknown != nil {
		s.become(blankState)
		s.damage, s.torn = nil, false
		l.appendShardState(shard, s)
	}
	segments := slices.Concat(s.segments, s.received, s.barren)
	s.segments, s.received, s.incomplete, s.barren, s.missing = nil, nil, nil, nil, false
	s.live, s.snapshot, s.fallback, s.complete = roaring64.New(), 0, false, true
	s.accounted, s.accountedAt = nil, 0
	l.unwantAbove(s, 0)
	l.keeper.orphans = l.keeper.orphans || l.unknown != nil // What waited for this shard may go.
	return segments, l.pending.end()
}
