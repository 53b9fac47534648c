package wal

import (
	"errors"
	"fmt"
)

// scrubCursor is where Scrub goes on.
type scrubCursor struct {
	shard ShardID
	index uint64 // next to read
}

// Scrub reads on through all entries that are needed, live ones and the tail, until about so many bytes were read, and then
// begins again with the next call. Damage is noted, so that peers are asked for it, and returned as a *CorruptError; the
// next call goes on behind it. Without Scrub, damage would be found when a payload is wanted: maybe when no peer has it any
// more. It must be called by one goroutine at a time; any error but damage may pass.
func (l *Log) Scrub(bytes int64) (read int64, err error) {
	for read < bytes {
		shard, index, ok := l.nextToScrub()
		if !ok {
			return read, nil // all was read once
		}
		e, err := l.Read(shard, index)
		read += int64(len(e.Data)) + frameHeaderBytes
		switch {
		case err == nil || errors.Is(err, ErrCompacted) || errors.Is(err, ErrUnavailable): // gone meanwhile
		case IsDamage(err):
			l.NoteDamage(shard, index)
			return read, err
		default:
			return read, fmt.Errorf("scrub log: %w", err)
		}
	}
	return read, nil
}

// nextToScrub moves the cursor. It is false behind the last entry, and begins again from the first.
func (l *Log) nextToScrub() (ShardID, uint64, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	c := &l.scrub
	for _, id := range l.sortedShards() {
		if id < c.shard {
			continue
		}
		if id > c.shard {
			*c = scrubCursor{shard: id}
		}
		s := l.shards[id]
		next := max(c.index, s.first)
		if s.live != nil && c.index <= s.snapshot {
			it := s.live.Iterator()
			it.AdvanceIfNeeded(c.index)
			if it.HasNext() && it.PeekNext() < next {
				next = it.Next()
			}
		}
		if g := s.gapAt(next); g != nil {
			next = g.last + 1
		}
		if next <= s.last {
			c.index = next + 1
			return id, next, true
		}
		*c = scrubCursor{shard: id + 1}
	}
	*c = scrubCursor{}
	return 0, 0, false
}
