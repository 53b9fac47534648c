package wal

import (
	"errors"
	"fmt"
	"path"
	"syscall"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// keeper is Maintain's own state: at most one job of each kind is under way.
type keeper struct {
	retire *retireJob
	merge  *mergeJob
	zero   *zeroJob
	window window
	spare  uint64 // number of the last spare file

	starved   bool     // the disk was full at the last try: merge, which frees room, before preparing files
	unsettled bool     // a segment may be: see settle
	orphans   bool     // there may be kept files that no segment refers to
	cooledAt  Position // how far the log was when Maintain last had nothing to do
}

// abandon gives up jobs under way; they begin again from the start.
func (k *keeper) abandon() {
	if k.retire != nil && k.retire.w != nil {
		k.retire.w.abandon()
	}
	if k.merge != nil && k.merge.w != nil {
		k.merge.w.abandon()
	}
	if k.zero != nil {
		_ = k.zero.file.Close() // a temporary: nothing is lost
	}
	k.retire, k.merge, k.zero = nil, nil, nil
}

// Maintain does one bounded step of background work and says whether there is more to do at once: it follows new live
// sets, moves live entries of retired tail files to segments and recycles the files, prepares a spare and the reserve,
// merges segments. It must be called by one goroutine at a time, and now and then also when the log is idle.
//
// ErrDiskFull means that nothing was changed and it is worth trying again when there is room; ErrRetry, the same for other
// passing troubles. *CorruptError tells of damage, once: a live entry does not read back. Nothing was dropped, the entry
// stays refused, and the rest goes on; more is true. Any other error is final, as for Flush.
func (l *Log) Maintain() (more bool, err error) {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	l.mu.RLock()
	err = l.usable()
	l.mu.RUnlock()
	if err != nil {
		return false, err
	}
	l.measureDisk()
	more, err = l.step()
	if err == nil {
		return more, nil
	}
	copying := l.keeper.retire != nil || l.keeper.merge != nil
	l.keeper.abandon()
	var damage *CorruptError
	switch {
	case errors.Is(err, errFinal):
	case errors.As(err, &damage):
		return true, err
	case isFull(err):
		l.keeper.starved = true
		if copying && !l.dropReserve() { // copying gives back more than it takes
			l.dropSpare(0)
		}
		l.measureDisk()
		return false, fullError("maintain log", err)
	case errors.Is(err, errRead), isPassing(err):
		return false, fmt.Errorf("maintain log: %w: %w", ErrRetry, err)
	}
	return false, l.fail(fmt.Errorf("maintain log: %w", err))
}

// isPassing reports whether an error is about the process or the machine, not about a file: it was not touched.
func isPassing(err error) bool {
	for _, passing := range [...]error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// RetryUnreadable lets Maintain try again to retire a file that the disk refused to read. The caller lets a minute or so
// pass first: such trouble may pass, and after unreadableTriesMax tries what still cannot be read is given up as damaged.
// REQUIRES: Maintain's goroutine.
func (l *Log) RetryUnreadable() {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, f := range l.files {
		f.resting = false
	}
}

// step does the first thing that is to be done. The order is fixed: the same calls do the same work.
func (l *Log) step() (more bool, err error) {
	k := &l.keeper
	switch {
	case k.zero != nil && !k.zero.reserve:
		return true, l.stepZero()
	case k.retire != nil:
		return true, l.stepRetire()
	case k.merge != nil:
		return true, l.stepMerge()
	}
	if more, err = l.account(); more || err != nil {
		return more, err
	}
	if more, err = l.mendTail(); more || err != nil {
		return more, err
	}
	if more, err = l.setAside(); more || err != nil {
		return more, err
	}
	if more, err = l.nextOrphan(); more || err != nil {
		return more, err
	}
	if k.merge = l.nextMend(); k.merge != nil {
		return true, nil
	}
	if k.merge = l.nextMerge(true); k.merge != nil {
		return true, nil
	}
	if k.retire = l.nextRetire(); k.retire != nil {
		return true, nil
	}
	if k.starved {
		k.starved = false
		l.cool(true)
		if k.merge = l.nextMerge(false); k.merge != nil {
			return true, nil
		}
	}
	if k.zero != nil {
		return l.stepReserve()
	}
	if k.zero, err = l.nextZero(); k.zero != nil || err != nil {
		return err == nil, err
	}
	if k.merge = l.nextMerge(false); k.merge != nil {
		return true, nil
	}
	return l.cool(l.Full()), nil
}

// account brings the segments' live bytes of one shard up to its newest live set, by the deaths since the last one.
// Jobs under way rely on the accounted set, so it runs only between them. The first time since Open that the set can be
// trusted, it also checks that all of it is there.
func (l *Log) account() (more bool, err error) {
	for _, id := range l.Shards() {
		l.mu.RLock()
		s := l.shards[id]
		live, snapshot, check := s.live, s.snapshot, !s.complete && !s.fallback
		l.mu.RUnlock()
		if live == s.accounted || live == nil {
			continue
		}
		if s.accounted != nil {
			l.countDead(s, roaring64.AndNot(s.accounted, live))
		}
		var hurt []uint64
		for _, list := range s.segmentLists() {
			for _, g := range list {
				if !g.counted && g.last() <= snapshot {
					hurt = append(hurt, l.recount(g, live)...)
				}
			}
		}
		s.accounted, s.accountedAt = live, snapshot
		l.mu.Lock()
		l.unwantDead(s)
		l.mu.Unlock()
		if check {
			var missing []uint64
			missing, err = l.checkComplete(id, s)
			hurt = append(hurt, missing...)
		}
		for _, index := range hurt {
			l.NoteDamage(id, index)
		}
		return true, err
	}
	return false, nil
}

// checkComplete looks for live entries that neither the tail nor a segment holds: a file that was lost would otherwise be
// noticed only when one of its jobs is wanted. The accounted segments tell how many there are; those that are missing
// are searched only if the sum is wrong.
func (l *Log) checkComplete(shard ShardID, s *shardLog) (missing []uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.complete {
		return nil, nil
	}
	s.complete = true // told once
	below := min(s.first, s.accountedAt+1)
	want, have := rankBelow(s.accounted, below), uint64(0)
	for i := range s.runs {
		from, to := min(s.runs[i].first, below), min(s.runs[i].next(), below)
		have += rankBelow(s.accounted, to) - rankBelow(s.accounted, from)
	}
	for _, list := range s.segmentLists() {
		for _, g := range list {
			have += uint64(g.live)
		}
	}
	if have >= want {
		return nil, nil
	}
	for it := s.accounted.Iterator(); it.HasNext() && len(missing) < wantedMax; {
		index := it.Next()
		if _, ok := s.find(index); ok {
			continue
		}
		if _, _, ok := s.segmentOf(index); !ok {
			missing = append(missing, index)
		}
	}
	if s.missing = len(missing) > 0; s.missing {
		err = &CorruptError{
			File: l.liveDir(shard), Shard: shard, Index: missing[0],
			Reason: fmt.Sprintf("a file is missing: jobs need this entry and %d more that the log does not have", want-have-1),
		}
	}
	return missing, err
}

// rankBelow is how many of the set are below an index.
func rankBelow(set *roaring64.Bitmap, below uint64) uint64 {
	if below == 0 {
		return 0
	}
	return set.Rank(below - 1)
}

// recount counts the live entries of a segment that was just opened or received. A live set that does not reach to its end
// would miscount the entries it knows nothing of as dead. It returns those of which only the name is here.
func (l *Log) recount(g *segment, live *roaring64.Bitmap) (nameOnly []uint64) {
	count, bytes := 0, int64(0)
	it := live.Iterator()
	it.AdvanceIfNeeded(g.first)
	for i := range g.entries {
		index := g.index(i)
		it.AdvanceIfNeeded(index)
		if !it.HasNext() {
			break
		}
		if it.PeekNext() == index {
			count++
			bytes += g.entries[i].size.frame()
			if g.entries[i].nameOnly() || g.kept != nil && g.kept.absent {
				nameOnly = append(nameOnly, index)
			}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	g.live, g.liveBytes, g.counted = count, bytes, true
	return nameOnly
}

// countDead subtracts the dead from the segments that hold them.
func (l *Log) countDead(s *shardLog, dead *roaring64.Bitmap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for it := dead.Iterator(); it.HasNext(); {
		index := it.Next()
		for _, list := range s.segmentLists() {
			if g, i, ok := findSegment(list, index); ok && g.counted {
				g.live--
				g.liveBytes -= g.entries[i].size.frame()
				g.lost += g.entries[i].size.frame()
				if g.damaged && (index == g.hurt || s.wanted[index] != nil) {
					g.damaged = false // what is left may be merged: whatever else is damaged is found then
				}
			}
		}
	}
	l.settle(s)
}

// zeroJob prepares a file of zeros, a piece each step: a spare tail file, or the reserve.
type zeroJob struct {
	file       vfs.File
	temp, name string
	size, done int64
	reserve    bool
}

func (l *Log) reserveName() string { return path.Join(l.opts.Dir, "reserve") }

func (l *Log) reserveFileBytes() int64 { return min(reserveFileBytesMax, l.opts.FileBytes) }

// nextZero begins to prepare a spare when there is none, or the reserve when there is room for it again.
func (l *Log) nextZero() (*zeroJob, error) {
	l.mu.RLock()
	spares, reserve := len(l.spares), l.reserveHeld
	l.mu.RUnlock()
	size := l.spareBytes()
	job := &zeroJob{}
	switch {
	case spares == 0 && l.roomFor(size): // else the room is for snapshots; the flusher makes do
		l.keeper.spare++
		job.size, job.temp, job.name = size, path.Join(l.tailDir(), "spare"+tempSuffix), l.spareName(l.keeper.spare)
	case !reserve && l.diskFree.Load() > l.reserveLimit()+2*uint64(l.reserveFileBytes()):
		job.size, job.temp, job.name = l.reserveFileBytes(), l.reserveName()+tempSuffix, l.reserveName()
		job.reserve = true
	default:
		return nil, nil
	}
	f, err := createReplacing(l.fs, job.temp, l.fs.CreateUncached)
	if err != nil {
		return nil, fmt.Errorf("prepare a file: %w", err)
	}
	job.file = f
	return job, nil
}

// stepReserve goes on with the reserve. It is large, and there is no hurry: under load, one step each time that Maintain is
// called with nothing else to do, unless a spare waits for it.
func (l *Log) stepReserve() (more bool, err error) {
	l.mu.RLock()
	hurry := len(l.spares) == 0
	l.mu.RUnlock()
	job := l.keeper.zero
	err = l.stepZero()
	return hurry || job.size-job.done <= maintainStepBytes || l.leisurely(), err
}

// Leisure reports whether the work that Maintain does next is to write zeros into a file that nothing waits for yet. It
// shares the disk with the log's flushes: a caller that lets some time pass between such steps keeps those fast.
func (l *Log) Leisure() bool {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	return l.keeper.zero != nil && l.leisurely()
}

// leisurely says that the current file will hold for a while.
func (l *Log) leisurely() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	n := len(l.files)
	return n > 0 && l.files[n-1].used < l.files[n-1].size/hurryFraction
}

func (l *Log) stepZero() error {
	job := l.keeper.zero
	if job.done < job.size {
		step := int64(maintainStepBytes)
		if l.leisurely() {
			step = leisureStepBytes
		}
		next := min(job.size, job.done+step)
		if err := job.file.Preallocate(next); err != nil {
			_ = l.fs.Remove(job.temp) // make room at once; Open removes it too
			return fmt.Errorf("prepare %s: %w", job.name, err)
		}
		job.done = next
		return nil
	}
	if err := job.file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w: %w", job.name, errFinal, err)
	}
	spare := spareFile{name: job.name, size: job.size}
	if !job.reserve { // The zeros went past the page cache. What follows does not.
		var err error
		if spare.file, err = l.fs.OpenReadWrite(job.temp); err != nil {
			return fmt.Errorf("open %s: %w", job.temp, err)
		}
	}
	err := l.rename(job.temp, job.name)
	if err == nil {
		err = l.syncDir(path.Dir(job.name))
	}
	if err == nil {
		err = job.file.Close()
	}
	if err != nil {
		if spare.file != nil {
			_ = spare.file.Close() // the first error says more
		}
		return err
	}
	l.keeper.zero = nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if job.reserve {
		l.reserveHeld, l.reserveGiven = true, false
	} else {
		l.spares = append(l.spares, spare)
	}
	return nil
}

// dropReserve gives the reserve's room back to the disk, so that acknowledgements and snapshots still fit.
func (l *Log) dropReserve() bool {
	l.mu.Lock()
	held := l.reserveHeld
	l.reserveHeld, l.reserveGiven = false, l.reserveGiven || held
	l.mu.Unlock()
	return held && l.fs.Remove(l.reserveName()) == nil
}

// ReleaseReserve gives room back to a full disk for a snapshot, by which the log can shrink: the reserve, or else a spare
// file, but the last. It reports whether there was something to give. Maintain makes the reserve again when there is room.
func (l *Log) ReleaseReserve() bool {
	released := l.dropReserve() || l.dropSpare(1)
	l.measureDisk()
	return released
}

// dropSpare removes a spare file if there are more than keep.
func (l *Log) dropSpare(keep int) bool {
	l.mu.Lock()
	var s spareFile
	if n := len(l.spares); n > keep {
		s = l.spares[n-1]
		l.spares = l.spares[:n-1]
	}
	l.mu.Unlock()
	if s.file != nil {
		_ = s.file.Close()      // void
		_ = l.fs.Remove(s.name) // Open removes it too
	}
	return s.file != nil
}

// errFinal marks failures to make names or data durable: whatever the reason, a retry would prove nothing.
var errFinal = errors.New("not certain to be durable")

func (l *Log) syncDir(dir string) error {
	if err := l.fs.SyncDir(dir); err != nil {
		return fmt.Errorf("sync %s: %w: %w", dir, errFinal, err)
	}
	return nil
}

// rename is a Rename of which a failure is final.
func (l *Log) rename(from, to string) error {
	if err := l.fs.Rename(from, to); err != nil {
		return fmt.Errorf("rename %s: %w: %w", from, errFinal, err)
	}
	return nil
}

// measureDisk looks at the free space. A failure leaves the last measure.
func (l *Log) measureDisk() {
	if u, err := l.fs.Usage(l.opts.Dir); err == nil {
		l.diskFree.Store(u.Free)
		l.diskTotal.Store(u.Total)
	}
}

// reserveLimit is the free space below which the disk counts as full: ReserveBytes, but at most a twentieth of the disk.
func (l *Log) reserveLimit() uint64 {
	return min(uint64(l.opts.ReserveBytes), l.diskTotal.Load()/20)
}

// Full reports that free disk, as Maintain and new files last saw it, is below the reserve: new jobs should be refused,
// acknowledgements and snapshots may go on. The room that the reserve file gave back does not count as free.
func (l *Log) Full() bool {
	return l.diskFree.Load() < l.fullBelow()
}

// fullBelow is the free space below which Full reports true.
func (l *Log) fullBelow() uint64 {
	limit := l.reserveLimit()
	l.mu.RLock()
	defer l.mu.RUnlock()
	if !l.reserveHeld && l.reserveGiven {
		limit += uint64(l.reserveFileBytes())
	}
	return limit
}
