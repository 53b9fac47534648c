package wal

// Stats returns counts since Open and what there is now.
func (l *Log) Stats() Stats {
	l.mu.RLock()
	defer l.mu.RUnlock()
	st := l.stats
	st.TailFiles, st.SpareFiles = len(l.files), len(l.spares)
	for _, s := range l.shards {
		st.EntriesDamaged += uint64(len(s.wanted))
		for _, list := range s.segmentLists() {
			st.Segments += len(list)
			for _, g := range list {
				st.SegmentBytes += g.bytes
				st.SegmentLiveBytes += g.liveBytes
			}
		}
	}
	st.DiskFree, st.DiskTotal = l.diskFree.Load(), l.diskTotal.Load()
	return st
}

// Sealed returns how many tail files are sealed and wait for snapshots or for Maintain, and the bytes used in them.
func (l *Log) Sealed() (files int, bytes int64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for i := 0; i < len(l.files)-1; i++ {
		files++
		bytes += l.files[i].used
	}
	return files, bytes
}

// NeedsSnapshot returns the shards, sorted, of which a new snapshot (or the first Retain since Open) would bring a sealed
// file nearer to being recycled: those with entries in a sealed file that the newest snapshot does not cover, or, in a
// file older than the newest sealed one, that KeepFrom does not cover. The latter need a snapshot even at the same index,
// so that the older one they keep the log for is replaced.
func (l *Log) NeedsSnapshot() []ShardID {
	l.mu.RLock()
	defer l.mu.RUnlock()
	var ids []ShardID
	for _, id := range l.sortedShards() {
		s := l.shards[id]
		for i := 0; i < len(l.files)-1; i++ {
			highest, ok := l.files[i].highest[id]
			if !ok {
				continue
			}
			highest = min(highest, s.last)
			if s.live == nil || highest > s.snapshot || i < len(l.files)-2 && highest >= s.first {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}
