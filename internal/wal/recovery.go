package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
)

// Open opens the log in opts.Dir, making it when there is none, and recovers it; the caller has locked the directory.
//
// Order: tail files are read whole and verified, in the order of their ids; then segments' index blocks. What was read
// from the unsealed file but cannot be proven durable is written again to a new file and synced before Open returns,
// since bytes read back after a crash may be only in the page cache. Errors: *CorruptError, *VersionError, ErrDiskFull,
// and those of the disk. After an error nothing was removed but temporary files.
func Open(opts Options) (*Log, Recovery, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, Recovery{}, err
	}
	l := &Log{opts: opts, fs: opts.FS, shards: make(map[ShardID]*shardLog), kept: make(map[uint64]*keptFile)}
	l.writer.states = make(map[ShardID]shardState)
	l.headers.New = func() any { return new([frameHeaderBytes]byte) }
	r := recovery{log: l}
	if err := r.run(); err != nil {
		for _, f := range l.files {
			_ = f.file.Close()
		}
		for _, s := range l.spares {
			_ = s.file.Close()
		}
		return nil, r.found, fmt.Errorf("open log: %w", err)
	}
	return l, r.found, nil
}

// recovery is one Open under way.
type recovery struct {
	log     *Log
	found   Recovery
	headers []tailHeader // of log.files

	repeated    int64         // end of the part of a file that says what the file before said
	unknown     *CorruptError // damage that may have taken shards whole
	unknownFile *tailFile
	gone        map[uint64]*CorruptError // by the id of a file: that those before it are missing
	none        *CorruptError            // that all are
	spares      []string
}

func (r *recovery) run() error {
	l := r.log
	for _, dir := range []string{l.opts.Dir, l.tailDir(), l.liveRoot()} {
		if err := l.fs.MkdirAll(dir); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	if err := r.syncNames(); err != nil {
		return err
	}
	if _, err := l.fs.Stat(l.reserveName()); err == nil {
		l.reserveHeld = true
	}
	if err := r.removeTemporary(l.opts.Dir); err != nil {
		return err
	}
	l.measureDisk()
	if err := r.openFiles(); err != nil {
		return err
	}
	end, err := r.replay()
	if err != nil {
		return err
	}
	if l.unknown = r.none; len(l.files) > 0 {
		r.closeLost(&end)
	}
	if err = r.checkShards(); err != nil {
		return err
	}
	if err = r.openSegments(); err != nil {
		return err
	}
	r.findOrphans()
	if err = r.needsPeers(); err != nil {
		return err
	}
	if err = r.removeSpares(); err != nil {
		return err
	}
	if err = r.begin(end); err != nil {
		return err
	}
	for _, s := range l.shards {
		s.durableFirst, s.durableLast, s.durableCommit = s.first, s.last, s.hard.Commit
		r.found.EntriesReplayed += len(s.tail().entries)
		r.found.Holes += len(s.wanted)
		for _, g := range s.gaps {
			r.found.Holes += int(g.last - g.first + 1)
		}
		if s.lost {
			r.found.LostShards++
		}
	}
	r.found.TailFiles = len(l.files)
	l.opened = true
	return nil
}

// syncNames makes the names that Open will rely on durable: a process that was killed may have left them in memory only,
// and a power cut after this Open must not take back what it builds on.
func (r *recovery) syncNames() error {
	l := r.log
	for _, dir := range []string{l.tailDir(), l.liveRoot(), l.opts.Dir} {
		if err := l.fs.SyncDir(dir); err != nil {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	for dir := l.opts.Dir; path.Dir(dir) != dir; {
		dir = path.Dir(dir)
		// A directory that others own was not made by us.
		if err := l.fs.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return nil
}

// removeTemporary removes files that a crash left half made.
func (r *recovery) removeTemporary(dir string) error {
	names, err := r.log.fs.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, tempSuffix) {
			if err = r.log.fs.Remove(path.Join(dir, name)); err != nil {
				return fmt.Errorf("remove temporary file: %w", err)
			}
			r.found.RemovedTemporaryFiles++
		}
	}
	return nil
}

// openFiles finds the tail files and checks their headers and their chain.
func (r *recovery) openFiles() error {
	l := r.log
	if err := r.removeTemporary(l.tailDir()); err != nil {
		return err
	}
	names, err := l.fs.List(l.tailDir())
	if err != nil {
		return fmt.Errorf("list %s: %w", l.tailDir(), err)
	}
	var ids []uint64
	for _, name := range names {
		if id, ok := parseTailName(name); ok {
			ids = append(ids, id)
		} else if id, ok = parseFileID(name, keptSuffix); ok {
			if err = r.openKept(id); err != nil {
				return err
			}
		} else if strings.HasPrefix(name, sparePrefix) {
			r.spares = append(r.spares, name)
		}
	}
	slices.Sort(ids)
	for i, id := range ids {
		if i > 0 && id != ids[i-1]+1 {
			damage := &CorruptError{File: l.tailName(ids[i-1] + 1), Reason: "the file is missing, though later ones exist"}
			if !r.missingFile(damage) {
				return damage
			}
			if r.gone == nil {
				r.gone = make(map[uint64]*CorruptError)
			}
			r.gone[id] = damage
		}
		if err := r.openFile(id); err != nil {
			return err
		}
	}
	if len(ids) > 0 || len(r.spares) == 0 && len(l.kept) == 0 && !l.opts.Existing {
		return nil
	}
	damage := &CorruptError{File: l.tailDir(), Reason: "all log files are missing, though spare ones exist"}
	switch {
	case l.opts.Existing:
		damage.Reason = "all log files are missing, though there was a log"
	case len(l.kept) > 0:
		damage.Reason = "all log files are missing, though kept ones exist"
	}
	if !r.missingFile(damage) {
		return damage
	}
	r.none = damage
	return r.afterSegments()
}

// missingFile is told that files of the tail are missing, and reports whether that is passed over.
func (r *recovery) missingFile(damage *CorruptError) bool {
	if !r.log.opts.KeepHoles || !r.log.opts.Peers {
		return false
	}
	r.passedOver(damage)
	return true
}

func (r *recovery) openFile(id uint64) error {
	l := r.log
	f := &tailFile{id: id, name: l.tailName(id), dataStart: fileHeaderBytes, highest: make(map[ShardID]uint64)}
	file, err := l.fs.OpenReadWrite(f.name)
	if err != nil {
		return fmt.Errorf("open log file: %w", err)
	}
	f.file = file
	l.files = append(l.files, f)
	if f.size, err = file.Size(); err != nil {
		return fmt.Errorf("open log file %s: %w", f.name, err)
	}
	b := make([]byte, fileHeaderBytes)
	err = readFull(file, b, 0)
	var h tailHeader
	if err == nil {
		h, err = decodeTailHeader(b, f.name)
	}
	if err == nil && h.id != id {
		err = errFileName
	}
	if err == nil && h.begun > f.size {
		err = errFileHeader
	}
	switch damaged := isDamage(err); {
	case l.opts.KeepHoles && (damaged || errors.Is(err, syscall.EIO)):
		r.passedOver(&CorruptError{File: f.name, Reason: err.Error()})
		h = unknownHeader(id)
	case damaged:
		return &CorruptError{File: f.name, Reason: err.Error()}
	case err != nil:
		return fmt.Errorf("open log file %s: %w", f.name, err)
	}
	r.headers = append(r.headers, h)
	return nil
}

// replay reads all tail files into the index. It returns the end of the last one.
func (r *recovery) replay() (tailEnd, error) {
	l := r.log
	pos := Position(0)
	for i, f := range l.files {
		f.firstPos = pos
		r.repeated = 0
		if gone := r.gone[f.id]; gone != nil {
			r.loses(l.files[i-1], gone)
			for _, s := range l.shards {
				s.incomplete = gone
			}
		}
		if i > 0 && r.unknown == nil {
			r.repeated = fileHeaderBytes + int64(len(l.shards))*frameBytes(shardStateBytes)
		}
		if r.headers[i].lost {
			r.unknown, r.unknownFile = &CorruptError{File: f.name, Reason: "an earlier start found the log damaged"}, f
		}
		if i == len(l.files)-1 {
			end, err := findEnd(f.file, f.name, f.id, r.headers[i].begun, f.size, l.opts.KeepHoles)
			r.found.BytesRead += end.read
			if err != nil {
				return end, err
			}
			f.used = end.proven
			l.durable = f.endPos()
			if !end.sealed {
				return end, r.replayFile(f, end.end, end.proven, i == 0)
			}
			damage := &CorruptError{File: l.tailName(f.id + 1), Reason: "the file is missing, though the one before was sealed"}
			if !r.missingFile(damage) {
				return end, damage
			}
			err = r.replayFile(f, end.end, end.proven, i == 0)
			r.loses(f, damage)
			return end, err
		}
		if f.used = r.headers[i+1].prevUsed; r.gone[l.files[i+1].id] != nil {
			f.used = usedUnknown // It tells of a file that is missing.
		}
		if f.used == usedUnknown {
			var err error
			if f.used, err = findSealed(f.file, f.name, f.id, r.headers[i].begun, f.size); err != nil {
				return tailEnd{}, err
			}
		}
		if f.used > f.size {
			return tailEnd{}, &CorruptError{File: f.name, Offset: f.size, Reason: "the file is too short"}
		}
		if err := r.replayFile(f, f.used, f.used, i == 0); err != nil {
			return tailEnd{}, err
		}
		pos = f.endPos()
	}
	return tailEnd{}, nil
}

// replayFile reads a file up to end into the index; the writer's states follow up to proven.
func (r *recovery) replayFile(f *tailFile, end, proven int64, oldest bool) error {
	l := r.log
	scan := tailScan{file: f.file, id: f.id, offset: fileHeaderBytes, end: end, around: l.opts.KeepHoles}
	for scan.offset < end {
		at := scan.offset
		h, data, err := scan.next()
		switch {
		case err == nil:
			if r.meet(f, &h); at >= proven {
				r.keepDoubts()
			}
			err = r.apply(f, h, data, at, oldest)
		case l.opts.KeepHoles && !errors.Is(err, errScan):
			err = r.damaged(f, &scan, &h, err, end)
		}
		if errors.Is(err, errScan) {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if err != nil {
			return &CorruptError{File: f.name, Offset: at, Shard: h.shard, Index: h.index, Reason: err.Error()}
		}
		if s := l.shards[h.shard]; s != nil && h.kind != 0 && scan.offset <= proven {
			l.writer.states[h.shard] = s.shardState
			f.noteHighest(h)
		}
	}
	if proven == end {
		r.found.BytesRead += scan.read
	}
	return nil
}

// noteHighest keeps the highest index of each shard in the file.
func (f *tailFile) noteHighest(h frameHeader) {
	if h.kind == kindEntry && h.index > f.highest[h.shard] {
		f.highest[h.shard] = h.index
	}
}

// apply puts one frame into the index.
func (r *recovery) apply(f *tailFile, h frameHeader, data []byte, at int64, oldest bool) error {
	s := r.log.shardFor(h.shard)
	switch h.kind {
	case kindEntry:
		if s.lost {
			return nil // It was written again before that was known, and nobody reads it.
		}
		if h.index > s.last+1 {
			r.misses(f, s, &h, h.index-1, at)
		}
		if s.doubt != nil && h.index >= s.first {
			r.settle(s, &h)
		}
		if h.index < s.first || h.index > s.last+1 {
			return fmt.Errorf("entry %d does not follow %d to %d", h.index, s.first, s.last)
		}
		if h.index <= s.last {
			s.truncate(h.index - 1)
			r.log.unwantAbove(s, h.index-1)
		}
		pos := f.firstPos + Position(at-f.dataStart)
		s.push(tailEntry{pos: pos, term: h.term, size: packSize(int(h.dataBytes), h.entryType), crc: h.dataCRC})
		return nil
	case kindState:
		st, err := decodeState(data)
		if err != nil {
			return err
		}
		if s.hardLost = nil; s.lost || st.lost {
			r.applyLost(f, s, st, at)
			return nil
		}
		if st.last > s.last && st.first <= st.last && !oldest {
			r.misses(f, s, &h, st.last, at)
		}
		if s.doubt != nil {
			r.doubtState(s, st)
			s.become(st)
			r.log.unwantAbove(s, st.last)
			return nil
		}
		// Only a snapshot makes a tail jump, and then it is empty; or this is where the recycled files ended.
		if st.last > s.last && st.first <= st.last && !oldest {
			return errors.New(missing(s.last+1, st.last))
		}
		s.become(st)
		r.log.unwantAbove(s, st.last)
		return nil
	case kindMark, kindSeal:
	}
	return fmt.Errorf("a %s is where frames should go on", h.kind)
}

// checkShards checks that each shard's tail is whole.
func (r *recovery) checkShards() error {
	for _, id := range r.log.Shards() {
		s := r.log.shards[id]
		for !s.lost {
			first, last := s.firstMissing()
			if first == 0 {
				break
			}
			damage := &CorruptError{
				File: r.log.tailDir(), Shard: id, Index: first,
				Reason: fmt.Sprintf("entries %d to %d are missing: an older log file was removed", first, last),
			}
			if !r.missingFile(damage) {
				return damage
			}
			if last == s.last { // With the term of the last entry, what the replica votes by is lost.
				r.close(id, s, damage)
				break
			}
			s.addGap(gap{first, last, damage})
		}
	}
	return nil
}

// needsPeers refuses what only replicas on other nodes can make up for, when there are none: before the log is changed.
func (r *recovery) needsPeers() error {
	l := r.log
	if !l.opts.KeepHoles || l.opts.Peers {
		return nil
	}
	for _, id := range l.Shards() {
		s := l.shards[id]
		switch hole, _ := s.holes(0); {
		case s.lost:
			return lostShard(id, s.damage)
		case hole > 0:
			if _, err := l.Read(id, hole); err != nil {
				return err
			}
			return r.found.Damage // The disk reads now what it refused before.
		case s.incomplete != nil:
			return s.incomplete
		}
	}
	return nil
}

// begin makes the log writable: it goes on in a file that was closed on purpose, else begins a new one, with what was
// read from the last one but cannot be proven durable.
func (r *recovery) begin(end tailEnd) error {
	l := r.log
	if end.clean {
		l.writer.synced = end.end
		l.pending.base, l.flushing.base = l.durable, l.durable
		return nil
	}
	l.flushing.base = l.durable
	if len(l.files) > 0 {
		f := l.files[len(l.files)-1]
		if end.torn > 0 {
			r.found.TornBytes, r.found.TornFile, r.found.TornOffset = end.torn, f.name, end.end
		}
		again := make([]byte, end.end-end.proven)
		if err := readFull(f.file, again, end.proven); err != nil {
			return fmt.Errorf("read %s: %w", f.name, err)
		}
		r.found.RewrittenBytes = int64(len(again))
		l.flushing.data = again
	}
	if _, err := l.beginFile(l.flushing.data); err != nil {
		return err
	}
	l.durable = l.flushing.end()
	l.flushing = buffer{base: l.durable}
	l.pending.base = l.durable
	return nil
}

// removeSpares removes the spare files: they never outlive a process. One of them may hold frames for the file that was
// about to be begun, under the very id that comes next, and those must not be there when it is begun again. It also
// gives a full disk the room that Open needs.
func (r *recovery) removeSpares() error {
	for _, name := range r.spares {
		if err := r.log.fs.Remove(path.Join(r.log.tailDir(), name)); err != nil {
			return fmt.Errorf("remove spare file: %w", err)
		}
	}
	return nil
}
