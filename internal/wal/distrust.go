package wal

// Distrust says that what a shard called live was not: the state that said so was wrong. Until Retain tells of another
// snapshot, all that there is counts as live, as before the first Retain: nothing is dropped, and no file goes. What was dropped
// already may be missed: the snapshot to come must bring all that it refers to (Intake with Replace). It waits for a step of
// Maintain.
func (l *Log) Distrust(shard ShardID) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	switch k := &l.keeper; {
	case k.merge != nil && k.merge.shard == shard, k.retire != nil:
		k.abandon() // It goes by the wrong set.
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.shards[shard]
	if s == nil {
		return
	}
	s.live, s.accounted, s.accountedAt = nil, nil, 0
	for _, segments := range s.segmentLists() {
		for _, g := range segments {
			g.live, g.liveBytes, g.counted = len(g.entries), g.bytes, false
		}
	}
}
