package wal

import (
	"fmt"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/vfs"
)

func benchLog(b *testing.B) *Log {
	b.Helper()
	l, _, err := Open(Options{FS: vfs.OS(), Dir: b.TempDir(), ReserveBytes: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	return l
}

// fill appends and flushes entries, and keeps the log small.
func fill(tb testing.TB, l *Log, count, size, perFlush int, sparse uint64) {
	tb.Helper()
	data := make([]byte, size)
	entry := make([]Entry, 1)
	for i := range count {
		index := l.State(1).Last + 1
		entry[0] = Entry{Index: index, Term: 1, Data: data}
		if _, err := l.Append(1, nil, entry); err != nil {
			tb.Fatal(err)
		}
		if (i+1)%perFlush == 0 {
			if _, err := l.Flush(); err != nil {
				tb.Fatal(err)
			}
		}
		if files, _ := l.Sealed(); files > 0 && sparse > 0 && (i+1)%perFlush == 0 {
			live := roaring64.New()
			for j := uint64(1); j <= index; j += sparse {
				live.Add(j)
			}
			l.Retain(1, Retention{Snapshot: index, KeepFrom: index + 1, Live: live})
			settle(tb, l)
		}
	}
}

func settle(tb testing.TB, l *Log) {
	tb.Helper()
	for more := true; more; {
		var err error
		if more, err = l.Maintain(); err != nil {
			tb.Fatal(err)
		}
	}
}

func BenchmarkAppendFlush(b *testing.B) {
	for _, size := range []int{1 << 10, 100 << 10} {
		for _, perFlush := range []int{1, 16} {
			b.Run(fmt.Sprintf("bytes=%d/flush=%d", size, perFlush), func(b *testing.B) {
				l := benchLog(b)
				settle(b, l)
				data := make([]byte, size)
				entry := make([]Entry, 1)
				next := uint64(1)
				b.SetBytes(int64(size * perFlush))
				b.ReportAllocs()
				for b.Loop() {
					for range perFlush {
						entry[0] = Entry{Index: next, Term: 1, Data: data}
						if _, err := l.Append(1, nil, entry); err != nil {
							b.Fatal(err)
						}
						next++
					}
					if _, err := l.Flush(); err != nil {
						b.Fatal(err)
					}
					if files, _ := l.Sealed(); files > 0 {
						b.StopTimer()
						l.Retain(1, Retention{Snapshot: next - 1, KeepFrom: next, Live: roaring64.New()})
						settle(b, l)
						b.StartTimer()
					}
				}
			})
		}
	}
}

func BenchmarkReadSegment(b *testing.B) {
	l := benchLog(b)
	fill(b, l, 1400, 100<<10, 16, 2)
	if l.Stats().Segments == 0 {
		b.Fatal("no segment")
	}
	buf := make([]byte, 1024)
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(100 << 10)
		for b.Loop() {
			if _, err := l.Read(1, 101); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("part", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := l.ReadPart(1, 101, buf, 1000); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	for _, c := range []struct {
		name               string
		count, size, flush int
		sparse             uint64
	}{
		{"tail=128MiB", 1310, 100 << 10, 16, 0},
		{"tail=128MiB/entries=1KiB", 128 << 10, 1 << 10, 256, 0},
		{"segments=100k", 400_000, 1 << 10, 1024, 4},
	} {
		b.Run(c.name, func(b *testing.B) {
			opts := Options{FS: vfs.OS(), Dir: b.TempDir(), ReserveBytes: 1}
			l, _, err := Open(opts)
			if err != nil {
				b.Fatal(err)
			}
			fill(b, l, c.count, c.size, c.flush, c.sparse)
			settle(b, l)
			if err = l.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				l, found, err := Open(opts)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(found.BytesRead)/(1<<20), "MiB-read")
				if err := l.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMissing looks up a million live entries by name, in ten segments.
func BenchmarkMissing(b *testing.B) {
	const count, segments = 1_000_000, 10
	l := &Log{shards: make(map[ShardID]*shardLog)}
	s := l.shardFor(1)
	live := roaring64.New()
	for n := range uint64(segments) {
		g := &segment{first: 1 + n*2*count/segments}
		for i := range uint32(count / segments) {
			g.entries = append(g.entries, segEntry{delta: 2 * i, size: packSize(1000, 0)})
			live.Add(g.first + 2*uint64(i))
		}
		s.segments = append(s.segments, g)
	}
	for b.Loop() {
		if missing, _ := l.Missing(1, live, 4*count); missing != 0 {
			b.Fatal(missing)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/entry")
}
