package wal

import (
	"errors"
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/invariant"
)

// Retiring a tail file. Only the oldest sealed file is considered, when for every shard with entries in it the highest
// index there, of those that were not replaced for good, is below the shard's durable first index, and covered by the
// live set that Maintain has accounted. Then
//
//  1. for each such shard with live entries in the file a segment is written, synced, named, its directory synced;
//  2. the file is renamed to a spare (or removed; or when nearly all of it is live, kept: inplace.go), and the directory synced;
//  3. the index forgets the file and learns the segments.
//
// Crash points: before 2 is durable the file is still there and is replayed; segments whose sequence numbers reach it are
// leftovers, which Open removes once the file has proven whole. After 2 the segments are durable and complete.
type retireJob struct {
	file   *tailFile
	shards []ShardID  // of the entries in the file
	lists  []liveList // what is live of it and not begun yet
	ready  bool       // that is known
	kept   *keptFile  // what the file becomes; nil: it is copied
	todo   []copyItem
	w      *segmentWriter
	done   []*segment
	live   uint64
	total  uint64
	damage error // the first that was met: *CorruptError
	hurt   []hurtEntry
}

// hurtEntry is an entry that was copied as damaged as it is.
type hurtEntry struct {
	shard ShardID
	index uint64
}

// liveList is what is live of one shard.
type liveList struct {
	shard ShardID
	items []copyItem
}

// copyItem is one live entry to copy, or to leave where it is.
type copyItem struct {
	index uint64
	entry tailEntry
}

// nextRetire returns a job for the oldest sealed file if nothing needs it any more.
func (l *Log) nextRetire() *retireJob {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.files) < 2 {
		return nil
	}
	f := l.files[0]
	if f.resting || f.endPos() > l.durable { // A flush under way has sealed it: no shard's durable bounds speak of its end.
		return nil
	}
	job := &retireJob{file: f}
	for _, id := range l.sortedShards() {
		highest, ok := f.highest[id]
		if !ok {
			continue
		}
		s := l.shards[id]
		// What the accounted live set does not speak of is not known to be dead: an installed snapshot moves first
		// past entries before Retain tells of them.
		highest = min(highest, s.durableLast)
		if s.accounted == nil || highest >= s.durableFirst || highest > s.accountedAt {
			return nil
		}
		job.shards = append(job.shards, id)
	}
	l.keeper.window.reset(f.file)
	return job
}

// liveIn lists a shard's live entries in a sealed file, and counts all that are there.
func (l *Log) liveIn(f *tailFile, shard ShardID) (live []copyItem, total int) {
	l.mu.RLock()
	s := l.shards[shard]
	received := s.received
	type stretch struct {
		first   uint64
		entries []tailEntry
	}
	var all []stretch
	for i := range s.runs {
		first, entries := s.runs[i].between(f.firstPos, f.endPos())
		if len(entries) > 0 {
			all = append(all, stretch{first, append([]tailEntry(nil), entries...)})
		}
	}
	l.mu.RUnlock()
	for _, st := range all {
		total += len(st.entries)
		for i, e := range st.entries {
			index := st.first + uint64(i)
			if !s.accounted.Contains(index) {
				continue
			}
			if _, _, ok := findSegment(s.segments, index); ok {
				continue // It could not be read for a while, and came from a peer.
			}
			if g, n, ok := findSegment(received, index); !ok || g.entries[n].nameOnly() {
				live = append(live, copyItem{index, e})
			}
		}
	}
	return live, total
}

func (l *Log) stepRetire() error {
	job := l.keeper.retire
	if !job.ready {
		return l.list(job)
	}
	for budget := int64(maintainStepBytes); budget > 0; {
		if len(job.todo) == 0 {
			if job.w != nil {
				return l.finishCopy(job)
			}
			if len(job.lists) == 0 {
				return l.finishRetire(job)
			}
			if err := l.beginCopy(job); err != nil {
				return err
			}
			continue
		}
		item := &job.todo[0]
		if job.kept != nil {
			job.w.refer(item.index, &item.entry, job.file.offset(item.entry.pos))
			budget -= segmentIndexBytes
		} else {
			if err := l.copyItem(job, *item); err != nil {
				return err
			}
			budget -= item.entry.size.frame()
		}
		job.todo = job.todo[1:]
	}
	return nil
}

// list finds out what is live in the file.
func (l *Log) list(job *retireJob) error {
	if job.file.begun {
		for _, shard := range job.shards {
			if err := l.removeUnfinished(job.file, shard); err != nil {
				return err
			}
		}
		job.file.begun = false
	}
	for _, shard := range job.shards {
		items, total := l.liveIn(job.file, shard)
		job.total += uint64(total)
		job.live += uint64(len(items))
		if len(items) > 0 {
			job.lists = append(job.lists, liveList{shard, items})
		}
	}
	job.ready = true
	l.decideStay(job)
	return nil
}

// copyItem copies one live entry. Damage does not hold up the file: what is damaged is copied as it is.
func (l *Log) copyItem(job *retireJob, item copyItem) error {
	p := place{
		tail: job.file, offset: job.file.offset(item.entry.pos), fileID: job.file.id,
		size: item.entry.size, term: item.entry.term, dataCRC: item.entry.crc,
	}
	err := job.w.copyFrom(&l.keeper.window, &p, item.index)
	if err == nil {
		return nil
	}
	if _, damaged := errors.AsType[*CorruptError](err); !damaged {
		return err
	}
	if errors.Is(err, errUnreadable) && job.file.unreadable < unreadableTriesMax {
		job.file.unreadable++
		job.file.resting = job.file.unreadable < unreadableTriesMax
		return err
	}
	if job.damage == nil {
		job.damage = err
	}
	job.hurt = append(job.hurt, hurtEntry{job.w.g.shard, item.index})
	return job.w.addDamaged(&p, item.index, l.keeper.window.salvage(&p))
}

func (l *Log) beginCopy(job *retireJob) error {
	next := job.lists[0]
	job.lists = job.lists[1:]
	w, err := l.newSegmentWriter(next.shard, segmentID{firstSeq: job.file.id, lastSeq: job.file.id}, job.kept)
	if err != nil {
		return err
	}
	job.w, job.todo = w, next.items
	return nil
}

func (l *Log) finishCopy(job *retireJob) error {
	if err := job.w.seal(); err != nil {
		return err
	}
	job.file.begun = true
	if err := l.rename(job.w.temp, job.w.g.name); err != nil {
		return err
	}
	if err := l.syncDir(l.liveDir(job.w.g.shard)); err != nil {
		return err
	}
	job.w.g.counted = true
	job.done = append(job.done, job.w.g)
	job.w = nil
	return nil
}

func (l *Log) finishRetire(job *retireJob) error {
	f := job.file
	l.mu.RLock()
	recycle := job.kept == nil && f.size == l.opts.FileBytes && len(l.spares) < l.opts.SpareFilesMax
	l.mu.RUnlock()
	l.keeper.spare++
	spare := spareFile{name: l.spareName(l.keeper.spare), size: f.size, file: f.file}
	var err error
	switch {
	case job.kept != nil:
		err = l.rename(f.name, job.kept.name)
	case recycle:
		err = l.rename(f.name, spare.name)
	default:
		err = l.fs.Remove(f.name)
	}
	if err != nil {
		return fmt.Errorf("retire log file: %w", err)
	}
	if err = l.syncDir(l.tailDir()); err != nil {
		return err
	}
	if job.kept != nil {
		job.kept.parts = job.done
		l.kept[f.id] = job.kept
	}
	l.mu.Lock()
	invariant.Check(l.files[0] == f, "file %d retired out of order", f.id)
	l.files = append([]*tailFile(nil), l.files[1:]...)
	for id := range f.highest {
		l.shards[id].forget(f.endPos())
	}
	for _, g := range job.done {
		s := l.shards[g.shard]
		s.segments = append(slices.Clip(s.segments), g)
	}
	if job.kept != nil {
		l.stats.SealedEntriesKept += job.live
		l.stats.KeptFiles++
		l.stats.KeptBytes += job.kept.size
	} else {
		l.stats.SealedEntriesCopied += job.live
	}
	l.stats.SealedEntriesDropped += job.total - job.live
	l.mu.Unlock()
	l.keeper.retire = nil
	for _, h := range job.hurt {
		l.NoteDamage(h.shard, h.index)
	}

	f.mu.Lock() // until its last reader is done
	defer f.mu.Unlock()
	if !recycle {
		if job.kept != nil {
			f.file.Uncache(0, f.size) // Those whom nobody has asked for by now come last.
		}
		if err = f.file.Close(); err != nil {
			return fmt.Errorf("retire log file: %w", err)
		}
		return job.damage
	}
	l.mu.Lock()
	l.spares = append(l.spares, spare)
	l.mu.Unlock()
	return job.damage
}
