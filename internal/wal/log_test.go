package wal

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

func openSim(t *testing.T, opts Options) (*Log, *vfs.Sim) {
	t.Helper()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	opts.FS, opts.Dir = sim, "log"
	l, _, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, sim
}

func TestEntryLimit(t *testing.T) {
	l, _ := openSim(t, Options{FileBytes: 4096})
	big := make([]byte, EntryBytesMax+1)
	if _, err := l.Append(1, nil, []Entry{{Index: 1, Data: big}}); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("an entry over the limit: %v", err)
	}
	if _, err := l.Append(1, nil, []Entry{{Index: 1, Data: big[1:]}}); err != nil {
		t.Fatalf("an entry at the limit: %v", err)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	e, err := l.Read(1, 1)
	if err != nil || !bytes.Equal(e.Data, big[1:]) {
		t.Fatalf("read of an entry at the limit: %v", err)
	}
}

func TestBufferLimit(t *testing.T) {
	l, _ := openSim(t, Options{BufferBytes: bufferBytesMin})
	frame := int(frameBytes(0))
	first := make([]byte, bufferBytesMin-2*frame)
	if _, err := l.Append(1, nil, []Entry{{Index: 1, Data: first}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(1, nil, []Entry{{Index: 2, Data: make([]byte, 1)}}); !errors.Is(err, ErrBacklogged) {
		t.Fatalf("an append over the buffer's limit: %v", err)
	}
	if last := l.State(1).Last; last != 1 {
		t.Fatalf("a refused append moved last to %d", last)
	}
	if _, err := l.Append(1, nil, []Entry{{Index: 2}}); err != nil {
		t.Fatalf("an append at the buffer's limit: %v", err)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(1, nil, []Entry{{Index: 3, Data: make([]byte, 2*bufferBytesMin)}}); err != nil {
		t.Fatalf("a large append to an empty buffer: %v", err)
	}
}

func TestOptionsRefused(t *testing.T) {
	sim := vfs.NewSim(1, vfs.SimOptions{})
	for _, o := range []Options{
		{},
		{FS: sim},
		{FS: sim, Dir: "d", FileBytes: fileBytesMin - 1},
		{FS: sim, Dir: "d", FileBytes: fileBytesMax + 1},
		{FS: sim, Dir: "d", BufferBytes: bufferBytesMin - 1},
		{FS: sim, Dir: "d", ReserveBytes: -1},
		{FS: sim, Dir: "d", SpareFilesMax: -1},
		{FS: sim, Dir: "d", CompactBelow: 91},
	} {
		if l, _, err := Open(o); err == nil {
			t.Errorf("Open accepted %+v", l.opts)
		}
	}
}

// A newer format is refused with an error that names it, for tail files and segments.
func TestNewerFormat(t *testing.T) {
	h := tailHeader{id: 1, begun: fileHeaderBytes}
	s := segmentHeader{shard: 1, segmentID: segmentID{firstSeq: 1, lastSeq: 1}}
	for _, b := range [][]byte{h.encode(), s.encode(segmentMagic)} {
		b[8] = FormatVersion + 1
		sum := checksum(b[:60])
		for i := range 4 {
			b[60+i] = byte(sum >> (8 * i))
		}
		var version *VersionError
		if err := checkPreamble(b, string(b[:8]), "f"); !errors.As(err, &version) || version.Version != FormatVersion+1 {
			t.Errorf("%s of a newer version: %v", b[:8], err)
		}
	}
}

func TestFrameCodec(t *testing.T) {
	const id, offset = 7, 4096
	data := []byte("payload of an entry")
	h := frameHeader{kind: kindEntry, entryType: 3, shard: 9, index: 1 << 40, term: 5, dataCRC: checksum(data)}
	good := appendFrame(nil, &h, data)
	stampFrame(good, id, offset, 64)
	if got := int64(len(good)); got != frameBytes(len(data)) || got%8 != 0 {
		t.Fatalf("a frame of %d bytes", got)
	}
	scan := func(b []byte, id uint64, offset int64) error {
		s := tailScan{file: offsetReader{b, offset}, id: id, offset: offset, end: offset + int64(len(b))}
		_, _, err := s.next()
		return err
	}
	for _, c := range []struct {
		name   string
		id     uint64
		offset int64
		mutate func(b []byte) []byte
		want   error
	}{
		{"good", id, offset, func(b []byte) []byte { return b }, nil},
		{"other file", id + 1, offset, func(b []byte) []byte { return b }, errFrameFile},
		{"other place", id, offset + 512, func(b []byte) []byte { return b }, errFrameHeader},
		{"zeros", id, offset, func(b []byte) []byte { return make([]byte, len(b)) }, errFrameKind},
		{"short header", id, offset, func(b []byte) []byte { return b[:frameHeaderBytes-8] }, errFrameShort},
		{"short data", id, offset, func(b []byte) []byte { return b[:frameHeaderBytes+8] }, errFrameShort},
	} {
		if err := scan(c.mutate(bytes.Clone(good)), c.id, c.offset); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for bit := range 8 * (frameHeaderBytes + len(data)) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		if err := scan(b, id, offset); err == nil {
			t.Errorf("flipped bit %d was not found", bit)
		}
	}
}

// offsetReader places bytes at an offset of a file.
type offsetReader struct {
	b  []byte
	at int64
}

func (r offsetReader) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(r.b).ReadAt(p, off-r.at)
}

// Appends, flushes, reads, retention and maintenance at once; run with -race.
func TestConcurrent(t *testing.T) {
	l, _ := openSim(t, Options{FileBytes: 16 << 10, BufferBytes: 256 << 10})
	const shards, perShard = 3, 600
	var appended, durable, retired [shards]atomic.Uint64
	done := make(chan struct{})
	var writers, others sync.WaitGroup
	fail := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	payload := func(shard ShardID, index uint64) []byte {
		return bytes.Repeat([]byte{byte(shard), byte(index)}, int(20+index%200))
	}
	for id := range ShardID(shards) {
		writers.Go(func() {
			for index := uint64(1); index <= perShard; {
				if index > retired[id].Load()+100 {
					runtime.Gosched() // the others keep up, so that something is retired and merged in any case
					continue
				}
				_, err := l.Append(id, &HardState{Term: 1, Commit: index}, []Entry{{Index: index, Term: 1, Data: payload(id, index)}})
				if errors.Is(err, ErrBacklogged) {
					continue
				}
				fail(err)
				appended[id].Store(index)
				index++
			}
		})
	}
	background := func(work func()) {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					work()
				}
			}
		})
	}
	background(func() {
		var upTo [shards]uint64
		for i := range upTo {
			upTo[i] = appended[i].Load()
		}
		_, err := l.Flush()
		fail(err)
		for i := range upTo {
			durable[i].Store(upTo[i])
		}
	})
	background(func() {
		for id := range ShardID(shards) {
			snapshot := durable[id].Load()
			live := roaring64.New()
			for i := uint64(1); i <= snapshot; i += 7 {
				live.Add(i)
			}
			if snapshot > retired[id].Load() {
				l.Retain(id, Retention{Snapshot: snapshot, KeepFrom: snapshot + 1, Live: live})
				retired[id].Store(snapshot)
			}
		}
		_, err := l.Maintain()
		fail(err)
		_, _, _ = l.Stats(), l.NeedsSnapshot(), l.Full()
	})
	for range 2 {
		background(func() {
			for id := range ShardID(shards) {
				last := appended[id].Load()
				for i := uint64(1); i <= last; i += 7 {
					e, err := l.Read(id, i)
					if err != nil || !bytes.Equal(e.Data, payload(id, i)) {
						fail(fmt.Errorf("live entry %d of shard %d: %w", i, id, err))
						return
					}
				}
			}
		})
	}
	writers.Wait()
	close(done)
	others.Wait()
	for id := range ShardID(shards) {
		if _, err := l.Append(id, nil, []Entry{{Index: perShard + 1, Data: make([]byte, 16<<10)}}); err != nil {
			t.Fatal(err)
		}
		l.Retain(id, Retention{Snapshot: perShard, KeepFrom: perShard + 1, Live: roaring64.BitmapOf(1, perShard)})
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	settle(t, l)
	if st := l.Stats(); st.SealedEntriesCopied == 0 || st.Compactions == 0 {
		t.Errorf("nothing was retired or merged: %+v", st)
	}
}

// More segments than handles: reads go on, and the pool stays bounded.
func TestHandlesBounded(t *testing.T) {
	l, _ := openSim(t, Options{FileBytes: 4096})
	const shards = segmentHandlesMax + 20
	for id := range ShardID(shards) {
		if _, err := l.Append(id, nil, []Entry{{Index: 1, Term: 1, Data: []byte{byte(id)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	for id := range ShardID(shards) {
		l.Retain(id, Retention{Snapshot: 1, KeepFrom: 2, Live: roaring64.BitmapOf(1)})
	}
	if _, err := l.Append(0, nil, []Entry{{Index: 2, Data: make([]byte, 4096)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	settle(t, l)
	for range 3 {
		for id := range ShardID(shards) {
			if e, err := l.Read(id, 1); err != nil || e.Data[0] != byte(id) {
				t.Fatalf("read of shard %d: %v", id, err)
			}
		}
	}
	if n := len(l.handles.open); n > segmentHandlesMax || l.Stats().Segments < segmentHandlesMax {
		t.Errorf("%d handles open for %d segments", n, l.Stats().Segments)
	}
}
