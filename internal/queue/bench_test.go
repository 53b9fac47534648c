package queue

import (
	"fmt"
	"io"
	"runtime"
	"testing"
)

const benchQueue QueueID = 7

// benchItems builds the items of one entry that enqueues n jobs under a header.
func benchItems(session SessionID, seq uint64, n int, payload []byte) [][]byte {
	items := [][]byte{AppendEnqueue(nil, session, seq, n, false, 0)}
	spec := Spec{Queue: benchQueue, Priority: 5, EnqueuedAt: 1700000000000, Kind: "mail", ContentType: "application/json", Payload: payload}
	for range n {
		items = append(items, AppendJob(nil, &spec))
	}
	return items
}

func benchMachine(tb testing.TB) *Machine {
	tb.Helper()
	m := New(1)
	var out Results
	s := DefaultSettings()
	m.Apply(1, 1, [][]byte{AppendConfigure(nil, benchQueue, 1, &s)}, &out)
	if out.Items[0].Code != CodeOK {
		tb.Fatalf("configure: %v", out.Items[0])
	}
	return m
}

// fill enqueues jobs, so many per entry, and returns the next index.
func fill(m *Machine, jobs, perEntry int) uint64 {
	var out Results
	items := benchItems(SessionID{}, 0, perEntry, nil)
	index := m.Applied() + 1
	for done := 0; done < jobs; done += perEntry {
		m.Apply(index, 1, items, &out)
		index++
	}
	return index
}

func BenchmarkCycle(b *testing.B) {
	for _, backlog := range []int{0, 10_000_000} {
		b.Run(fmt.Sprintf("backlog=%d", backlog), func(b *testing.B) {
			const n = 100
			m := benchMachine(b)
			fill(m, backlog, n)
			enqueue := benchItems(SessionID{}, 0, n, make([]byte, 1024))
			fetch := [][]byte{AppendFetch(nil, 3, []QueueID{benchQueue}, n, 0, 0)}
			acks := make([][]byte, n)
			var out Results
			now := Millis(1)
			index := m.Applied() + 1
			b.ReportAllocs()
			jobs := 0
			for b.Loop() {
				m.Apply(index, now, enqueue, &out)
				m.Apply(index+1, now, fetch, &out)
				if len(out.Leases) != n {
					b.Fatalf("%d leases", len(out.Leases))
				}
				for i, l := range out.Leases {
					acks[i] = AppendAck(acks[i][:0], l.Pos, l.Token, "", nil)
				}
				m.Apply(index+2, now, acks, &out)
				index += 3
				now++
				jobs += n
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(jobs), "ns/job")
		})
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func BenchmarkBacklog(b *testing.B) {
	const jobs = 10_000_000
	for _, perEntry := range []int{100, 1} {
		before := heapBytes()
		m := benchMachine(b)
		fill(m, jobs, perEntry)
		perJob := float64(heapBytes()-before) / jobs
		name := fmt.Sprintf("jobs=%d/per-entry=%d/", jobs, perEntry)
		b.Run(name+"snapshot", func(b *testing.B) {
			for b.Loop() {
				m.Snapshot()
			}
			b.ReportMetric(perJob, "heap-B/job")
		})
		img := m.Snapshot()
		b.Run(name+"encode", func(b *testing.B) {
			var n int64
			for b.Loop() {
				n, _ = img.WriteTo(io.Discard)
			}
			b.ReportMetric(float64(n), "image-B")
		})
		b.Run(name+"live", func(b *testing.B) {
			for b.Loop() {
				img.Live()
			}
		})
		b.Run(name+"restore", func(b *testing.B) {
			for b.Loop() {
				pr, pw := io.Pipe()
				go func() {
					_, err := img.WriteTo(pw)
					pw.CloseWithError(err)
				}()
				if _, err := Restore(1, pr); err != nil {
					b.Fatal(err)
				}
			}
		})
		runtime.KeepAlive(m)
	}
}
