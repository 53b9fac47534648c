package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"syscall"
)

// mendItem is one row of a segment that is written anew.
type mendItem struct {
	index uint64
	row   int // in the old segment; -1: no file held it
}

// nextMend returns the job that writes one segment anew with what was mended of it: a merge of it alone. Entries that no file
// held, since their segment is gone, go with the neighbour below them, so that segments stay in order.
func (l *Log) nextMend() *mergeJob {
	for _, id := range l.Shards() {
		l.mu.RLock()
		s := l.shards[id]
		oldest := l.files[0].id
		l.mu.RUnlock()
		_, below := l.mendedIn(s)
		if len(below) == 0 {
			if job := l.nextRewrite(id, s); job != nil {
				return job
			}
			continue
		}
		job := &mergeJob{shard: id, live: s.accounted}
		g, _, held := s.segmentOf(below[0])
		if !held {
			g = neighbour(s.segments, below[0])
		}
		switch {
		case g != nil && !g.counted:
			continue // received a moment ago
		case g != nil:
			job.group = []*segment{g}
			job.items = g.liveRows(s)
		case oldest > 1:
			job.fresh = segmentID{firstSeq: oldest - 1, lastSeq: oldest - 1}
		default:
			continue // no file was ever retired: it is read from memory, and found again after a start
		}
		for _, index := range below {
			if _, _, held := s.segmentOf(index); !held && neighbour(s.segments, index) == g && (g == nil || !g.received) {
				job.items = append(job.items, mendItem{index, -1})
			}
		}
		slices.SortFunc(job.items, func(a, b mendItem) int {
			if a.index < b.index {
				return -1
			}
			return 1
		})
		if n := len(job.items); n == 0 || n > segmentEntriesMax || job.items[n-1].index-job.items[0].index > math.MaxUint32 {
			continue
		}
		l.keeper.window.reset(nil)
		return job
	}
	return nil
}

// nextRewrite returns the job that writes a segment anew whose index was rebuilt. It has nothing from peers to write, so it waits for
// room, and leaves alone what the disk refuses to read: that may pass.
func (l *Log) nextRewrite(shard ShardID, s *shardLog) *mergeJob {
	if s.accounted == nil || l.Full() {
		return nil
	}
	for _, list := range s.segmentLists() {
		for _, g := range list {
			if !g.rebuilt || !g.counted {
				continue
			}
			if items := g.liveRows(s); len(items) > 0 {
				l.keeper.window.reset(nil)
				return &mergeJob{shard: shard, group: []*segment{g}, live: s.accounted, items: items}
			}
		}
	}
	return nil
}

// neighbour is the last segment that begins below an index, or else the first; nil when there is none.
func neighbour(segments []*segment, index uint64) *segment {
	var found *segment
	for _, g := range segments {
		if found == nil || g.first < index {
			found = g
		}
	}
	return found
}

// liveRows lists the rows that are live.
func (g *segment) liveRows(s *shardLog) []mendItem {
	var items []mendItem
	for row := range g.entries {
		if index := g.index(row); s.accounted.Contains(index) {
			items = append(items, mendItem{index, row})
		}
	}
	return items
}

// stepMend writes a part of a segment anew.
func (l *Log) stepMend(job *mergeJob) error {
	if job.w == nil {
		w, err := l.newSegmentWriter(job.shard, job.id(), nil)
		if err != nil {
			return err
		}
		job.w = w
	}
	for budget := int64(maintainStepBytes); budget > 0; {
		if len(job.items) == 0 {
			return l.finishMerge(job)
		}
		if err := l.mendItem(job, job.items[0]); err != nil {
			return err
		}
		last := len(job.w.g.entries) - 1
		budget -= job.w.g.entries[last].size.frame()
		job.items = job.items[1:]
	}
	return nil
}

// mendItem writes one row: mended, or as it was read, or as damaged as it is.
func (l *Log) mendItem(job *mergeJob, it mendItem) error {
	if e, crc := l.mended(job.shard, it.index); e != nil {
		job.mended = append(job.mended, it.index)
		return job.w.add(e, crc)
	}
	g := job.group[0]
	x := g.entries[it.row]
	if err := l.handles.hold(l.fs, g); errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO) {
		if g.rebuilt {
			return g.leave(it.index, err)
		}
		job.w.g.damaged = true
		return job.w.add(&Entry{Index: it.index, Type: x.size.entryType()}, nameOnlyCRC)
	} else if err != nil {
		return fmt.Errorf("%w: %w", errRead, err)
	}
	defer g.mu.RUnlock()
	if l.keeper.window.file != g.file {
		l.keeper.window.reset(g.file)
	}
	p := place{segment: g, offset: x.offset(), fileID: g.fileID(), size: x.size, dataCRC: x.crc}
	e, err := l.keeper.window.entry(&p, job.shard, it.index)
	if err == nil {
		return job.w.add(&e, x.crc)
	}
	if _, damaged := errors.AsType[*CorruptError](err); !damaged {
		return err
	}
	if g.rebuilt && errors.Is(err, errUnreadable) {
		return g.leave(it.index, err)
	}
	p.term = g.term(it.row)
	damaged := job.w.g.damaged || !l.servedElsewhere(job.shard, g, it.index)
	err = job.w.addDamaged(&p, it.index, l.keeper.window.salvage(&p))
	job.w.g.damaged = damaged
	return err
}

// leave gives up writing a segment anew whose index was rebuilt: the next Open does that again.
func (g *segment) leave(index uint64, err error) error {
	g.rebuilt = false
	return &CorruptError{File: g.dataName(), Shard: g.shard, Index: index, Reason: "the disk cannot read it: " + err.Error()}
}

// setAside gives a segment of which nothing can be read another name, so that no start has to look at it again: it is for people. What it
// held and is live is known to be missing by then.
func (l *Log) setAside() (bool, error) {
	for _, id := range l.Shards() {
		l.mu.RLock()
		s := l.shards[id]
		l.mu.RUnlock()
		if len(s.barren) == 0 || s.accounted == nil {
			continue
		}
		if err := l.rename(s.barren[0].name, s.barren[0].name+damagedSuffix); err != nil {
			return false, err
		}
		s.barren = s.barren[1:]
		return true, l.syncDir(l.liveDir(id))
	}
	return false, nil
}
