package wal

import (
	"fmt"
	"maps"
	"slices"
)

// An orphan is a kept file to which no segment has referred since Open: a crash came between the removal of the last one and that of the
// file, or the last one was lost. It goes when nothing in it can be live: every shard has told what lives of it, and has all of that
// elsewhere.
//
// A log that may have lost shards whole (lost.go) never comes to know of which, and says so for as long as it exists. There, a file is
// looked through for whose entries it has, and goes when the log knows all those shards: what they need is known, or they
// were forgotten. Of one that is not known to the log, the file may hold the last that there is. So may one in which there is no entry to be seen.

// nextOrphan does one step towards giving back an orphan. It reports whether there was one.
func (l *Log) nextOrphan() (bool, error) {
	if !l.keeper.orphans {
		return false, nil
	}
	l.mu.RLock()
	sure, unknown := true, l.unknown != nil
	for _, s := range l.shards {
		sure = sure && s.accounted != nil && s.complete && !s.missing && !s.lost && s.incomplete == nil
	}
	l.mu.RUnlock()
	if !sure {
		return false, nil
	}
	for _, id := range slices.Sorted(maps.Keys(l.kept)) {
		k := l.kept[id]
		switch {
		case len(k.parts) > 0 || k.pinned || k.absent:
		case unknown && k.named < k.size:
			if err := l.nameShards(k); err != nil {
				k.pinned = true // It holds nothing else up, and is not removed for what may pass.
			}
			return true, nil
		case unknown && !l.knows(k.shards):
		default:
			return true, l.giveBack(k)
		}
	}
	l.keeper.orphans = false // Forget, by which alone one more shard is known, has them looked at again.
	return false, nil
}

// nameShards reads on in a kept file, as much as one step may, and notes the shards whose entries it meets. An entry whose header is damaged
// is nobody's any more: without a segment, nothing else has its name. But all that the disk refuses is an error, since it may read that later.
func (l *Log) nameShards(k *keptFile) error {
	f, err := l.fs.Open(k.name)
	if err != nil {
		return fmt.Errorf("open a kept log file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	end := min(k.size, k.named+maintainStepBytes)
	err = eachHeader(f, k.id, k.named, end, false, func(_ int64, h *frameHeader) bool {
		if h.kind == kindEntry && !slices.Contains(k.shards, h.shard) {
			k.shards = append(k.shards, h.shard)
		}
		return true
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", k.name, err)
	}
	if k.named = end; end < k.size {
		k.named = end&^7 - frameHeaderBytes + 8 // where the first header begins that did not fit in
	}
	return nil
}

// knows reports whether the log knows all of the shards, which are some.
func (l *Log) knows(shards []ShardID) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(shards) > 0 && !slices.ContainsFunc(shards, func(id ShardID) bool { return l.shards[id] == nil })
}
