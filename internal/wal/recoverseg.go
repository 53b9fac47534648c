package wal

import (
	"errors"
	"fmt"
	"path"
	"sort"
	"strconv"
)

// openSegments reads the index blocks of all shards' segments.
func (r *recovery) openSegments() error {
	return r.eachLiveDir(func(id ShardID, _ string) error {
		_, known := r.log.shards[id]
		err := r.openShardSegments(id)
		if damage, ok := errors.AsType[*CorruptError](err); ok && r.missingFile(damage) {
			err = r.giveUp(id, damage)
		}
		if s := r.log.shards[id]; s != nil && !known && r.log.unknown != nil {
			r.close(id, s, r.log.unknown)
		}
		return err
	})
}

// giveUp closes a shard whose segments contradict each other, or are not what they are called: which of them are to be believed cannot be
// told. None is read any more; they are removed when the shard is forgotten.
func (r *recovery) giveUp(shard ShardID, damage *CorruptError) error {
	dir := r.log.liveDir(shard)
	names, err := r.log.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	s := r.log.shardFor(shard)
	s.segments, s.received, s.incomplete, s.barren = nil, nil, nil, nil
	for _, name := range names {
		if id, ok := parseSegmentName(name); ok {
			s.barren = append(s.barren, &segment{segmentID: id, shard: shard, name: path.Join(dir, name)})
			r.pin(id)
		}
	}
	r.close(shard, s, damage)
	s.torn = true
	return nil
}

// eachLiveDir calls fn for each shard's directory of segments.
func (r *recovery) eachLiveDir(fn func(id ShardID, dir string) error) error {
	l := r.log
	dirs, err := l.fs.List(l.liveRoot())
	if err != nil {
		return fmt.Errorf("list %s: %w", l.liveRoot(), err)
	}
	for _, dir := range dirs {
		id, err := strconv.ParseUint(dir, 10, 16)
		if err != nil || l.liveDir(ShardID(id)) != path.Join(l.liveRoot(), dir) {
			continue // not ours
		}
		if err = fn(ShardID(id), path.Join(l.liveRoot(), dir)); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) openShardSegments(shard ShardID) error {
	l := r.log
	dir := l.liveDir(shard)
	// A merged segment must be durable by name before those that it covers go.
	if err := l.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	if err := r.removeTemporary(dir); err != nil {
		return err
	}
	names, err := l.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	var segments, received []*segment
	unfinished := false
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		if len(l.files) == 0 && r.none == nil {
			return &CorruptError{File: l.tailDir(), Shard: shard, Reason: "all log files are missing, though segments exist"}
		}
		oldest := l.writer.first
		if len(l.files) > 0 {
			oldest = l.files[0].id
		}
		if !id.received && id.firstSeq < oldest && id.lastSeq >= oldest {
			return &CorruptError{
				File: path.Join(dir, name), Shard: shard,
				Reason: fmt.Sprintf("it reaches into log file %d, which was not retired", oldest),
			}
		}
		if !id.received && id.firstSeq >= oldest {
			// Its tail file was not retired, and has been replayed whole.
			if err = l.fs.Remove(path.Join(dir, name)); err != nil {
				return fmt.Errorf("remove unfinished segment: %w", err)
			}
			r.found.RemovedTemporaryFiles++
			unfinished = true
			continue
		}
		g, err := r.openSegment(path.Join(dir, name), shard, id)
		switch {
		case err != nil:
			return err
		case id.received:
			received = append(received, g)
		default:
			segments = append(segments, g)
		}
	}
	if unfinished { // The file may be copied next time, and must not be taken for kept after another crash.
		if err = l.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	if segments, err = r.adopt(segments); err != nil {
		return err
	}
	if received, err = r.adopt(received); err != nil {
		return err
	}
	if len(segments)+len(received) > 0 {
		s := l.shardFor(shard)
		s.segments, s.received = segments, received
		r.found.Segments += len(segments) + len(received)
	}
	return r.findKept(shard)
}

// openSegment opens a segment, and rebuilds its index if that is damaged.
func (r *recovery) openSegment(name string, shard ShardID, id segmentID) (*segment, error) {
	l := r.log
	g, rebuilt, err := openOrRebuild(l.fs, name, shard, id, l.opts.KeepHoles)
	if err != nil || rebuilt == nil {
		return g, err
	}
	damage := rebuilt.damage()
	if !rebuilt.Whole {
		if !l.opts.KeepHoles {
			return nil, damage
		}
		l.shardFor(shard).incomplete = damage
	}
	r.passedOver(damage)
	r.found.Rebuilt = append(r.found.Rebuilt, *rebuilt)
	return g, nil
}

// adopt orders a shard's segments of one origin and removes those that a wider one covers.
func (r *recovery) adopt(segments []*segment) ([]*segment, error) {
	l := r.log
	sort.Slice(segments, func(i, j int) bool {
		a, b := segments[i], segments[j]
		return a.firstSeq < b.firstSeq || a.firstSeq == b.firstSeq && a.lastSeq > b.lastSeq
	})
	var kept []*segment
	var wide *segment // the last one that no other covers
	for _, g := range segments {
		if wide != nil && g.lastSeq <= wide.lastSeq {
			if wide.incomplete {
				r.pin(g.segmentID)
				continue // This may hold what the wider one lost: it stays until that is written anew.
			}
			if err := l.fs.Remove(g.name); err != nil {
				return nil, fmt.Errorf("remove merged segment: %w", err)
			}
			r.found.RemovedTemporaryFiles++
			continue
		}
		if wide != nil && g.firstSeq <= wide.lastSeq {
			return nil, overlap(g, wide)
		}
		if wide = g; len(g.entries) == 0 {
			s := l.shardFor(g.shard)
			s.barren = append(s.barren, g)
			continue
		}
		if n := len(kept); n > 0 && g.first <= kept[n-1].last() {
			return nil, overlap(g, kept[n-1])
		}
		kept = append(kept, g)
	}
	return kept, nil
}

func overlap(g, before *segment) error {
	return &CorruptError{File: g.name, Shard: g.shard, Index: g.first, Reason: "the segment overlaps " + before.name}
}

// afterSegments finds the id with which a tail begins anew of which no file is left: above those that segments come from, and those of kept
// files, to which maybe none refers any more.
func (r *recovery) afterSegments() error {
	for id := range r.log.kept {
		r.log.writer.first = max(r.log.writer.first, id+1)
	}
	return r.eachLiveDir(func(_ ShardID, dir string) error {
		names, err := r.log.fs.List(dir)
		if err != nil {
			return fmt.Errorf("list %s: %w", dir, err)
		}
		for _, name := range names {
			if id, ok := parseSegmentName(name); ok && !id.received {
				r.log.writer.first = max(r.log.writer.first, id.lastSeq+1)
			}
		}
		return nil
	})
}

// openKept is told of a kept file.
func (r *recovery) openKept(id uint64) error {
	l := r.log
	info, err := l.fs.Stat(l.keptName(id))
	if err != nil {
		return fmt.Errorf("look at a kept log file: %w", err)
	}
	l.kept[id] = &keptFile{id: id, name: l.keptName(id), size: info.Size}
	l.stats.KeptFiles++
	l.stats.KeptBytes += info.Size
	return nil
}

// pin is told of a segment that is left on the disk, and is not in the index.
func (r *recovery) pin(id segmentID) {
	if k := r.log.kept[id.firstSeq]; k != nil && !id.received && id.firstSeq == id.lastSeq {
		k.pinned = true
	}
}

// findKept finds the files that a shard's segments in place refer to. One that is missing is like a segment that is, but its entries have
// their names.
func (r *recovery) findKept(shard ShardID) error {
	l := r.log
	s := l.shards[shard]
	if s == nil {
		return nil
	}
	for _, list := range [...][]*segment{s.segments, s.barren} {
		for _, g := range list {
			if g.kept == nil {
				continue
			}
			k := l.kept[g.kept.id]
			if k == nil {
				k = g.kept
				k.absent = true
				l.kept[k.id] = k
			}
			if k.absent {
				damage := &CorruptError{File: k.name, Shard: shard, Reason: "the file is missing, though " + g.name + " refers to it"}
				if !r.missingFile(damage) {
					return damage
				}
				g.damaged = true
			}
			g.kept = k
			k.parts = append(k.parts, g)
		}
	}
	return nil
}

// findOrphans looks for kept files to which no segment refers.
func (r *recovery) findOrphans() {
	for _, k := range r.log.kept {
		r.log.keeper.orphans = r.log.keeper.orphans || len(k.parts) == 0
	}
}
