package wal

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/beaver-raft/beaver/internal/invariant"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// writer is the flusher's view of the stream: the shards' states behind the last frame written, which a new file begins
// with. It lags the index of the log by what is buffered.
type writer struct {
	states map[ShardID]shardState
	synced int64  // bytes of the current file known durable
	first  uint64 // id of the first file, if there is none; 0: 1
}

// observe follows the stream by one frame.
func (w *writer) observe(f *tailFile, b []byte) {
	h := parseHeader(b)
	switch h.kind {
	case kindEntry:
		s, ok := w.states[h.shard]
		if !ok {
			s = blankState
		}
		s.last = h.index
		w.states[h.shard] = s
		if h.index > f.highest[h.shard] {
			f.highest[h.shard] = h.index
		}
	case kindState:
		s, err := decodeState(b[frameHeaderBytes:][:h.dataBytes])
		invariant.Check(err == nil, "own state frame of shard %d does not decode", h.shard)
		w.states[h.shard] = s.after(w.states[h.shard])
	case kindMark, kindSeal:
		invariant.Check(false, "a %s frame was appended to the stream", h.kind)
	}
}

// Flush writes and syncs everything appended before the call and returns the position up to which the log is durable.
// It must be called by one goroutine at a time; appends go on meanwhile, into the other buffer. An error is final: the
// log takes no further writes, and nothing that was not durable before may be acknowledged.
func (l *Log) Flush() (Position, error) {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return 0, err
	}
	if len(l.pending.data) == 0 {
		defer l.mu.Unlock()
		return l.durable, nil
	}
	l.flushing = l.pending
	l.pending = buffer{base: l.flushing.end(), data: l.free[:0]}
	l.free = nil
	l.mu.Unlock()

	if err := l.write(l.flushing.data); err != nil {
		return 0, l.fail(fmt.Errorf("flush log: %w", err))
	}

	l.mu.Lock()
	defer l.mu.Unlock()
	l.durable = l.flushing.end()
	l.stats.Flushes++
	l.stats.FlushedBytes += uint64(len(l.flushing.data))
	l.stats.FlushedEntries += uint64(l.flushing.count)
	if cap(l.flushing.data) <= bufferKeepBytes {
		l.free = l.flushing.data[:0]
	}
	l.flushing = buffer{base: l.durable}
	l.publishDurable()
	return l.durable, nil
}

// publishDurable lets Maintain see how far the shards' bounds are durable. REQUIRES: l.mu, nothing in flight.
func (l *Log) publishDurable() {
	for id, st := range l.writer.states {
		s := l.shards[id]
		s.durableFirst, s.durableLast, s.durableCommit = st.first, st.last, st.hard.Commit
	}
}

// write puts stream frames into the current file and, when it is full, into next ones: one write and one sync a file.
func (l *Log) write(stream []byte) error {
	for len(stream) > 0 {
		f := l.current()
		if n := l.stamp(f, stream, f.used, l.writer.synced); n > 0 {
			if err := writeSync(f, padded(f, stream, n, f.used), f.used); err != nil {
				return err
			}
			l.extend(f, f.used+int64(n))
			stream = stream[n:]
			continue
		}
		n, err := l.beginFile(stream)
		if err != nil {
			return err
		}
		stream = stream[n:]
	}
	return nil
}

// current returns the file being written, nil before the first. Only the flusher appends to files.
func (l *Log) current() *tailFile {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.files) == 0 {
		return nil
	}
	return l.files[len(l.files)-1]
}

// padded is the first n bytes of a stream, which are written at an offset. When they are all of it, zeros follow them to the end of a page
// of the file, if there is room in the buffer behind the stream: what lies there in the file is void. A page that is neither written whole nor
// in memory is read from the disk first, while the flush waits.
func padded(f *tailFile, stream []byte, n int, offset int64) []byte {
	end := offset + int64(n)
	pad := int(-end & (vfs.UncachedBytes - 1))
	if n < len(stream) || n+pad > cap(stream) || end+int64(pad) > f.size {
		return stream[:n]
	}
	whole := stream[:n+pad]
	clear(whole[n:])
	return whole
}

func writeSync(f *tailFile, b []byte, offset int64) error {
	if _, err := f.file.WriteAt(b, offset); err != nil {
		return fmt.Errorf("write %s at %d: %w", f.name, offset, err)
	}
	if err := f.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", f.name, err)
	}
	return nil
}

// extend says that the file is durable up to used.
func (l *Log) extend(f *tailFile, used int64) {
	l.mu.Lock()
	f.used = used
	l.mu.Unlock()
	l.writer.synced = used
}

// stamp completes the headers of as many frames as fit into the file at offset, and returns their bytes. Room for one
// mark or seal is always left.
func (l *Log) stamp(f *tailFile, stream []byte, offset, synced int64) int {
	n := int64(0)
	for n < int64(len(stream)) {
		b := stream[n:]
		size := frameBytes(int(binary.LittleEndian.Uint32(b[32:])))
		if offset+n+size > f.size-frameHeaderBytes {
			break
		}
		stampFrame(b, f.id, offset+n, synced)
		l.writer.observe(f, b)
		n += size
	}
	return int(n)
}

// beginFile makes the next file current, with as much of the stream as fits in it, and seals the one before.
//
// Crash points: before the rename is durable the file is a spare or a temporary, which Open removes, and the old file is
// the last. After it, the new header says where the old file ends, and all of both is synced. The seal comes last: an
// old file with a seal and without a successor is a missing file, not an end.
func (l *Log) beginFile(stream []byte) (int, error) {
	prev := l.current()
	f := &tailFile{id: max(1, l.writer.first), highest: make(map[ShardID]uint64)}
	head := tailHeader{}
	if prev != nil {
		f.id, head.prevUsed = prev.id+1, prev.used
	}
	head.id, head.prevID = f.id, f.id-1
	l.mu.RLock()
	head.lost = l.unknown != nil
	l.mu.RUnlock()
	preamble := make([]byte, fileHeaderBytes)
	for _, id := range slices.Sorted(maps.Keys(l.writer.states)) {
		at := len(preamble)
		st := l.writer.states[id]
		head.marked = head.marked || st.lost
		preamble = appendState(preamble, id, &st)
		stampFrame(preamble[at:], f.id, int64(at), 0)
	}
	need := int64(len(preamble)) + frameHeaderBytes
	if len(stream) > 0 {
		need += frameBytes(int(binary.LittleEndian.Uint32(stream[32:])))
	}
	if !l.opened {
		need += int64(len(stream)) // at Open the whole of a rewritten tail must be in one file: see recovery
	}
	spare, err := l.takeSpare(need)
	if err != nil {
		return 0, err
	}
	f.name, f.size, f.file = l.tailName(f.id), spare.size, spare.file
	f.dataStart = int64(len(preamble))
	n := l.stamp(f, stream, f.dataStart, 0)
	invariant.Check(len(stream) == 0 || n > 0, "file %d of %d bytes has no room for a frame", f.id, f.size)
	head.begun = f.dataStart + int64(n)
	copy(preamble, head.encode())
	if _, err = f.file.WriteAt(preamble, 0); err == nil {
		err = writeSync(f, padded(f, stream, n, f.dataStart), f.dataStart)
	}
	if err == nil {
		err = l.fs.Rename(spare.name, f.name)
	}
	if err == nil {
		err = l.fs.SyncDir(l.tailDir())
	}
	if err != nil {
		return 0, fmt.Errorf("begin log file %s: %w", f.name, err)
	}
	f.firstPos = l.flushing.base + Position(len(l.flushing.data)-len(stream))
	f.used = f.dataStart + int64(n)
	l.writer.synced = f.used
	l.mu.Lock()
	l.files = append(l.files, f)
	l.mu.Unlock()
	if prev != nil {
		if err = l.writeMark(prev, kindSeal); err != nil {
			return 0, err
		}
	}
	l.measureDisk()
	return n, nil
}

// writeMark writes a frame without data behind the last frame of a file, all of which is durable.
func (l *Log) writeMark(f *tailFile, kind frameKind) error {
	h := frameHeader{kind: kind}
	b := appendFrame(nil, &h, nil)
	stampFrame(b, f.id, f.used, f.used)
	if f.used+int64(len(b)) > f.size {
		return nil // a file cut by recovery may be full to the brim; a mark only helps
	}
	return writeSync(f, b, f.used)
}
