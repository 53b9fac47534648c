package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2/roaring64"
)

// Compaction copies the live entries of neighbouring segments of a shard into one, named by the whole range, and removes
// the others. Crash points: before the rename there is a temporary, removed at Open. After it the wider file covers the
// others, which Open removes. A lone segment is replaced by the rename itself. With nothing live, files are just removed.
type mergeJob struct {
	shard ShardID
	group []*segment
	live  *roaring64.Bitmap
	w     *segmentWriter
	at    int // entry of group[from]
	from  int

	// A segment that is mended is written anew, alone: see mendseg.go.
	items  []mendItem // what is left to write; nil in an ordinary merge
	mended []uint64
	hurt   uint64    // in an ordinary merge: an entry that did not read back
	fresh  segmentID // its name when there was no segment; then group is empty
}

// id names the merged segment.
func (j *mergeJob) id() segmentID {
	if len(j.group) == 0 {
		return j.fresh
	}
	first := j.group[0]
	return segmentID{received: first.received, firstSeq: first.firstSeq, lastSeq: j.group[len(j.group)-1].lastSeq}
}

// nextMerge returns the next job: a dead segment, then a group that starts with a sparse segment, then many small ones. Of the groups it is
// the one of the oldest file: a kept file goes with its last segment, and what all shards have in a few files is merged before the next ones,
// so that the room that copies take is soon given back.
func (l *Log) nextMerge(deadOnly bool) (next *mergeJob) {
	for _, id := range l.Shards() {
		l.mu.RLock()
		s := l.shards[id]
		l.mu.RUnlock()
		if s.accounted == nil {
			continue // what is live is not known
		}
		for _, segments := range s.segmentLists() {
			group := l.pickGroup(segments, deadOnly)
			if group == nil || next != nil && next.group[0].firstSeq <= group[0].firstSeq {
				continue
			}
			next = &mergeJob{shard: id, group: group, live: s.accounted}
			if group[0].live == 0 {
				l.keeper.window.reset(nil)
				return next
			}
		}
	}
	if next != nil {
		l.keeper.window.reset(nil)
	}
	return next
}

func (l *Log) sparse(g *segment) bool {
	switch {
	case !g.counted || g.damaged || g.rest > 0:
		return false
	case g.kept != nil:
		return g.kept.sparse(l.opts.CompactBelow)
	}
	return g.liveBytes*100 < g.bytes*int64(l.opts.CompactBelow)
}

// settle is told once the deaths of one accounting are counted in a shard's segments. A segment of which much died just now is
// likely one that a queue is being served from: what is left dies next, and copying it would be for nothing (Rosenblum and
// Ousterhout, "The Design and Implementation of a Log-Structured File System", 1992, section 3.5: let what is hot cool down).
// It is left alone until accountings find it settled, or Maintain was idle a while.
func (l *Log) settle(s *shardLog) {
	for _, list := range s.segmentLists() {
		for _, g := range list {
			if g.lost > 0 && g.lost*unsettledFraction >= g.liveBytes {
				g.rest, l.keeper.unsettled = settleCalls, true
			} else {
				g.rest = 0
			}
			g.lost = 0
		}
	}
}

// cool is told that Maintain has nothing to do, or at once that there is no room to wait. It reports whether segments can be
// merged now that could not before. Having nothing to do between two pieces of a busy log is not being idle: there, the accounting
// that comes with the next file says what is settled.
func (l *Log) cool(atOnce bool) (settled bool) {
	if !l.keeper.unsettled {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	busy := l.durable-l.keeper.cooledAt > settleBytesMax
	l.keeper.cooledAt = l.durable
	if busy && !atOnce {
		return false
	}
	l.keeper.unsettled = false
	for _, s := range l.shards {
		for _, list := range s.segmentLists() {
			for _, g := range list {
				if g.rest == 0 {
					continue
				}
				if g.rest--; atOnce {
					g.rest = 0
				}
				settled = settled || g.rest == 0
				l.keeper.unsettled = l.keeper.unsettled || g.rest > 0
			}
		}
	}
	return settled
}

func (l *Log) pickGroup(segments []*segment, deadOnly bool) []*segment {
	for i, g := range segments {
		if g.live == 0 {
			return segments[i : i+1]
		}
	}
	if deadOnly {
		return nil
	}
	for i, g := range segments {
		if l.sparse(g) {
			return segments[i:l.extent(segments, i, true)]
		}
	}
	for i := 0; i < len(segments); {
		j := l.extent(segments, i, false)
		if j-i >= segmentMergeFanIn {
			return segments[i:j]
		}
		i = max(j, i+1)
	}
	return nil
}

// extent returns the end of the group from i: neighbours that are sparse or small, up to the target size. The first is
// taken in any case when it is sparse.
func (l *Log) extent(segments []*segment, i int, first bool) int {
	bytes, entries, target := int64(0), 0, int64(segmentTargetBytes)
	for j := i; j < len(segments); j++ {
		g := segments[j]
		if g.kept != nil { // What all shards copy before such a file goes must find room in what the reserve gives.
			target = l.reserveFileBytes()
		}
		fits := g.counted && !g.damaged && (l.sparse(g) || g.bytes < segmentSmallBytes && g.kept == nil) &&
			bytes+g.liveBytes <= target && entries+g.live <= segmentEntriesMax &&
			g.last()-segments[i].first < 1<<32
		if !fits && !(first && j == i) {
			return j
		}
		if bytes += g.liveBytes; g.kept != nil {
			bytes += g.kept.liveBytes() - g.liveBytes // The other shards' come next, before the file goes.
		}
		entries += g.live
	}
	return len(segments)
}

func (l *Log) stepMerge() error {
	job := l.keeper.merge
	if job.items != nil {
		return l.stepMend(job)
	}
	for budget := int64(maintainStepBytes); budget > 0; {
		if job.from == len(job.group) {
			return l.finishMerge(job)
		}
		g := job.group[job.from]
		if g.live == 0 || job.at == len(g.entries) {
			job.from, job.at = job.from+1, 0
			continue
		}
		n, err := l.copySegment(job, g, budget)
		if err != nil {
			if _, damaged := errors.AsType[*CorruptError](err); damaged {
				g.damaged, g.hurt = true, job.hurt
				l.NoteDamage(job.shard, job.hurt)
			}
			return err
		}
		budget -= n
	}
	return nil
}

// copySegment copies live entries of one segment until its end, or about so many bytes.
func (l *Log) copySegment(job *mergeJob, g *segment, budget int64) (copied int64, err error) {
	if job.w == nil {
		job.w, err = l.newSegmentWriter(job.shard, job.id(), nil)
		if err != nil {
			return 0, err
		}
	}
	if err = l.handles.hold(l.fs, g); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO) {
			job.hurt = g.index(job.at)
			return 0, &CorruptError{File: g.dataName(), Shard: g.shard, Index: job.hurt, Reason: "it cannot be opened: " + err.Error()}
		}
		return 0, fmt.Errorf("%w: %w", errRead, err)
	}
	defer g.mu.RUnlock()
	l.keeper.window.reset(g.file)
	for ; job.at < len(g.entries) && copied < budget; job.at++ {
		x, index := g.entries[job.at], g.index(job.at)
		if !job.live.Contains(index) {
			continue
		}
		p := place{segment: g, offset: x.offset(), fileID: g.fileID(), size: x.size, dataCRC: x.crc}
		if err := job.w.copyFrom(&l.keeper.window, &p, index); err != nil {
			if _, damaged := errors.AsType[*CorruptError](err); damaged && l.servedElsewhere(job.shard, g, index) {
				continue
			}
			job.hurt = index
			return copied, err
		}
		copied += x.size.frame()
	}
	return copied, nil
}

// servedElsewhere reports whether another segment serves an entry that one has: it was received, and goes first. So the one's is of no
// use, and when it is damaged, nobody mends it.
func (l *Log) servedElsewhere(shard ShardID, g *segment, index uint64) bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	other, _, ok := l.shards[shard].segmentOf(index)
	return ok && other != g
}

func (l *Log) finishMerge(job *mergeJob) error {
	dir := l.liveDir(job.shard)
	var merged []*segment
	var err error
	if job.w != nil {
		if err = job.w.seal(); err != nil {
			return err
		}
		job.w.g.counted = true
		merged = []*segment{job.w.g}
	}

	// Rename and index change together: a reader must not open the new file by the old segment's place in it.
	l.mu.Lock()
	if job.w != nil {
		if err = l.rename(job.w.temp, job.w.g.name); err != nil {
			l.mu.Unlock()
			return err
		}
	}
	s := l.shards[job.shard]
	id := job.id()
	list := &s.segments
	if id.received {
		list = &s.received
	}
	kept := make([]*segment, 0, len(*list)+1)
	if len(job.group) == 0 {
		kept = append(kept, merged...)
	}
	for _, g := range *list {
		switch {
		case len(job.group) > 0 && g == job.group[0]:
			kept = append(kept, merged...)
		case g.firstSeq > id.firstSeq && g.lastSeq <= id.lastSeq:
		default:
			kept = append(kept, g)
		}
	}
	*list = kept
	for _, index := range job.mended {
		l.unwant(s, index)
	}
	l.stats.EntriesMended += uint64(len(job.mended))
	l.stats.Compactions++
	for _, g := range merged {
		l.stats.CompactedBytes += uint64(g.bytes)
	}
	l.mu.Unlock()
	l.keeper.merge = nil

	for _, g := range job.group {
		l.handles.drop(g)
	}
	if job.w != nil {
		if err = l.syncDir(dir); err != nil {
			return err
		}
	}
	removed := false
	for _, g := range job.group {
		if job.w == nil || g.name != job.w.g.name {
			if err = l.fs.Remove(g.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove segment: %w", err)
			}
			removed = true
		}
	}
	if removed {
		if err = l.syncDir(dir); err != nil {
			return err
		}
	}
	return l.release(job.group)
}
