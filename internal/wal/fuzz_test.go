package wal

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// readAll returns a file's content.
func readAll(tb testing.TB, fsys vfs.FS, name string) []byte {
	tb.Helper()
	f, err := fsys.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		tb.Fatal(err)
	}
	b := make([]byte, size)
	if _, err = f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		tb.Fatal(err)
	}
	if err = f.Close(); err != nil {
		tb.Fatal(err)
	}
	return b
}

// sample makes a log with two tail files and a segment, and returns the last tail file and the segment.
func sample(tb testing.TB) (tail, segment []byte) {
	tb.Helper()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	l, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096})
	if err != nil {
		tb.Fatal(err)
	}
	fill(tb, l, 6, 1000, 1, 2)
	fill(tb, l, 2, 100, 1, 0)
	l.Retain(1, Retention{Snapshot: 6, KeepFrom: 7, Live: roaring64.BitmapOf(1, 3, 5)})
	if _, err = l.Flush(); err != nil {
		tb.Fatal(err)
	}
	settle(tb, l)
	tail = readAll(tb, sim, l.current().name)
	if s := l.shards[1].segments; len(s) > 0 {
		segment = readAll(tb, sim, s[0].name)
	}
	if err = l.Close(); err != nil {
		tb.Fatal(err)
	}
	return tail, segment
}

// sampleInPlace is a segment of three entries whose frames are in a kept file.
func sampleInPlace(tb testing.TB) []byte {
	tb.Helper()
	sim := vfs.NewSim(1, vfs.SimOptions{})
	if err := sim.MkdirAll("log/live/00001"); err != nil {
		tb.Fatal(err)
	}
	kept := &keptFile{id: 1}
	w, err := createSegment(sim, "log/live/00001", "", 1, segmentID{firstSeq: 1, lastSeq: 1}, kept)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range uint64(3) {
		w.refer(2*i+1, &tailEntry{term: 1, size: packSize(100, 0), crc: 7}, 64+int64(i)*200)
	}
	if err := w.seal(); err != nil {
		tb.Fatal(err)
	}
	return readAll(tb, sim, w.g.name)
}

func FuzzFrame(f *testing.F) {
	h := frameHeader{kind: kindEntry, shard: 1, index: 1, term: 1}
	b := appendFrame(nil, &h, nil)
	stampFrame(b, 1, 64, 0)
	f.Add(b)
	st := shardState{first: 1, known: true}
	b = appendState(nil, 3, &st)
	stampFrame(b, 1, 64, 0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s := tailScan{file: offsetReader{b, 64}, id: 1, offset: 64, end: 64 + int64(len(b))}
		h, data, err := s.next()
		if err != nil {
			return
		}
		if h.kind == kindState {
			if st, err := decodeState(data); err == nil {
				var again [shardStateBytes]byte
				st.encode(&again)
				if !bytes.Equal(again[:48], data[:48]) {
					t.Fatal("a state does not encode as it was")
				}
			}
		}
		again := appendFrame(nil, &h, data)
		stampFrame(again, 1, 64, h.syncOffset)
		if !bytes.Equal(again[:frameHeaderBytes], b[:frameHeaderBytes]) {
			t.Fatal("a frame does not encode as it was")
		}
	})
}

// FuzzTailFile opens a log whose last file is anything at all: it must be refused, or read to some end.
func FuzzTailFile(f *testing.F) {
	tail, _ := sample(f)
	f.Add(tail, uint16(0), byte(0))
	f.Add(tail, uint16(200), byte(4))
	f.Add(tail[:2000], uint16(10), byte(1))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, flip byte) {
		b = bytes.Clone(b)
		if int(at) < len(b) {
			b[at] ^= flip
		}
		if len(b) >= fileHeaderBytes { // past the header, mostly
			h := tailHeader{id: 1, begun: fileHeaderBytes}
			copy(b, h.encode())
		}
		sim := vfs.NewSim(1, vfs.SimOptions{})
		if err := sim.MkdirAll("log/tail"); err != nil {
			t.Fatal(err)
		}
		file, err := sim.Create("log/tail/0000000001.wal")
		if err != nil {
			t.Fatal(err)
		}
		if _, err = file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		if err = Inspect(sim, "log", func(Record) error { return nil }); err != nil {
			t.Fatal(err)
		}
		l, _, err := Open(Options{FS: sim, Dir: "log", FileBytes: 4096})
		if err != nil {
			return
		}
		for _, id := range l.Shards() {
			st := l.State(id)
			for i := st.First; i <= st.Last; i++ {
				if _, err := l.Read(id, i); err != nil {
					t.Fatalf("entry %d was recovered but not read: %v", i, err)
				}
			}
		}
		_ = l.Close()
	})
}

func FuzzSegmentIndex(f *testing.F) {
	_, segment := sample(f)
	if segment == nil {
		f.Fatal("no segment")
	}
	f.Add(segment, uint16(0), byte(0), false)
	f.Add(segment, uint16(len(segment)-100), byte(1), true)
	for _, row := range []int{0, 8, 16, 24, 28} {
		f.Add(sampleInPlace(f), uint16(fileHeaderBytes+segmentIndexBytes+row), byte(1), true)
	}
	f.Add(sampleInPlace(f), uint16(0), byte(0), false)
	f.Fuzz(func(t *testing.T, b []byte, at uint16, flip byte, fix bool) {
		b = bytes.Clone(b)
		if int(at) < len(b) {
			b[at] ^= flip
		}
		if foot := len(b) - fileHeaderBytes; fix && foot >= fileHeaderBytes {
			// Let changes of the index block and the footer pass the checksums.
			if h, err := decodeSegmentHeader(b[foot:], footerMagic, "f"); err == nil && h.indexAt >= 0 && h.indexAt <= int64(foot) {
				h.indexCRC = checksum(b[h.indexAt:foot])
				copy(b[foot:], h.encode(footerMagic))
			}
		}
		g, err := loadSegment(bytes.NewReader(b), int64(len(b)), "f", 1, segmentID{firstSeq: 1, lastSeq: 1})
		if err != nil {
			return
		}
		for i := range g.entries {
			if n, ok := g.find(g.index(i)); !ok || n != i {
				t.Fatalf("entry %d is not found", i)
			}
			if end := g.entries[i].offset() + g.entries[i].size.frame(); end > int64(len(b)) && g.kept == nil {
				t.Fatalf("entry %d ends at %d of %d", i, end, len(b))
			}
		}
	})
}
