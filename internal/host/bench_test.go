package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// sink is a driver without a machine: it proposes the same command again and again.
type sink struct {
	items   shard.Items
	left    int // batches to propose
	full    bool
	applied int
	want    int
	done    chan struct{}
	led     chan *sink // told when it leads; nil: nobody
	seq     uint64
}

func (s *sink) Apply(uint64, shard.Header, [][]byte) { s.applied++ }
func (s *sink) Snapshot() shard.Image                { return sinkImage{} }
func (s *sink) Restore(io.Reader) error              { return nil }
func (s *sink) Fingerprint() uint64                  { return 0 }
func (s *sink) Dropped(uint64, bool)                 {}
func (s *sink) Wakeup() int64                        { return 0 }
func (s *sink) Stamp() int64                         { return 0 }
func (s *sink) Verified() replica.Verification       { return replica.Verification{} }
func (s *sink) Doubted(replica.Doubt)                {}

func (s *sink) Leadership(leading bool, _ uint64) {
	if leading && s.led != nil {
		s.led <- s
	}
}

func (s *sink) Gather(b *shard.BatchBuilder, _ int64) uint64 {
	if s.left > 0 {
		s.left--
		b.Add(&s.items)
		for s.full && b.Fits(&s.items) {
			b.Add(&s.items)
		}
	}
	s.seq++
	return s.seq
}

func (s *sink) Settled() {
	if s.want > 0 && s.applied == s.want {
		s.want = 0
		s.done <- struct{}{}
	}
}

type sinkImage struct{}

func (sinkImage) WriteTo(io.Writer) (int64, error) { return 0, nil }
func (sinkImage) Live() *roaring64.Bitmap          { return roaring64.New() }
func (sinkImage) Fingerprint() uint64              { return 0 }

// benchNode opens a node of one shard on the real disk.
func benchNode(b *testing.B) (*Host, *sink) {
	b.Helper()
	s := &sink{done: make(chan struct{}, 1)}
	h, err := Open(b.Context(), Options{
		Dir: b.TempDir(), Node: 1, Shards: []shard.ID{0},
		Fatal:     func(err error) { b.Error(err) },
		NewDriver: func(shard.ID, Payloads) Driver { return s },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := h.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return h, s
}

// run has the shard propose a number of batches and waits until they are applied.
func (s *sink) run(b *testing.B, h *Host, batches int) {
	if err := h.StaleRead(context.Background(), 0, func() {
		s.left, s.applied, s.want = batches, 0, batches
	}); err != nil {
		b.Fatal(err)
	}
	h.Wake(0)
	<-s.done
}

// BenchmarkLone is the latency of one small durable command, beside the bare sync of as many bytes on the same disk.
func BenchmarkLone(b *testing.B) {
	h, s := benchNode(b)
	s.items.Commit(append(s.items.Buf(), bytes.Repeat([]byte{'x'}, 1024)...))
	bare := bareSync(b)
	var took, syncs []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		started := time.Now()
		s.left, s.applied, s.want = 1, 0, 1
		h.Wake(0)
		<-s.done
		took = append(took, time.Since(started))
		b.StopTimer()
		syncs = append(syncs, bare())
		b.StartTimer()
	}
	slices.Sort(took)
	slices.Sort(syncs)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(syncs[len(syncs)/2].Nanoseconds()), "fdatasync-p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// bareSync returns a function that writes and syncs 1.2 KB of a preallocated file.
func bareSync(b *testing.B) func() time.Duration {
	f, err := vfs.OS().Create(filepath.Join(b.TempDir(), "bare"))
	if err == nil {
		err = f.Preallocate(64 << 20)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	buf, off := bytes.Repeat([]byte{'y'}, 1200), int64(0)
	return func() time.Duration {
		started := time.Now()
		if _, err := f.WriteAt(buf, off); err != nil {
			b.Fatal(err)
		}
		if err := f.SyncData(); err != nil {
			b.Fatal(err)
		}
		off = (off + 1200) % (60 << 20)
		return time.Since(started)
	}
}

// BenchmarkThroughput is one shard writing full batches as fast as the disk takes them.
func BenchmarkThroughput(b *testing.B) {
	for _, kib := range []int{64, 256} {
		b.Run(fmt.Sprint(kib, "KiB"), func(b *testing.B) {
			h, s := benchNode(b)
			body := bytes.Repeat([]byte{'x'}, 1000)
			for s.items.Size() < kib<<10-2000 {
				s.items.Commit(append(s.items.Buf(), body...))
			}
			b.SetBytes(int64(s.items.Size()))
			b.ReportAllocs()
			b.ResetTimer()
			s.run(b, h, b.N)
			b.StopTimer()
			b.ReportMetric(float64(s.items.Len()*b.N)/b.Elapsed().Seconds(), "items/s")
		})
	}
}

// BenchmarkGroup is the latency of one small durable command in a group of three whose nodes share a disk, with no network
// between them, beside the bare sync of as many bytes.
func BenchmarkGroup(b *testing.B) {
	net := newNetwork()
	hosts := map[*sink]*Host{}
	led := make(chan *sink, 64)
	for _, r := range founders(3) {
		s := &sink{done: make(chan struct{}, 1), led: led}
		s.items.Commit(append(s.items.Buf(), bytes.Repeat([]byte{'x'}, 1024)...))
		h, err := Open(b.Context(), Options{
			Dir: b.TempDir(), Node: uint64(r.Node()), Cluster: 7, Replicas: []Replica{{Shard: 0, ID: r, Founders: founders(3)}},
			Fatal:      func(err error) { b.Error(err) },
			NewDriver:  func(shard.ID, Payloads) Driver { return s },
			NewMachine: func(shard.ID) shard.StateMachine { return new(sink) },
			Transport:  link{net, uint64(r.Node())},
		})
		if err != nil {
			b.Fatal(err)
		}
		hosts[s] = h
		net.plug(uint64(r.Node()), &node{Host: h})
		b.Cleanup(func() {
			if err := h.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
	s := <-led
	bare := bareSync(b)
	var took, syncs []time.Duration
	b.ReportAllocs()
	for b.Loop() {
		started := time.Now()
		s.run(b, hosts[s], 1)
		took = append(took, time.Since(started))
		b.StopTimer()
		syncs = append(syncs, bare())
		b.StartTimer()
	}
	slices.Sort(took)
	slices.Sort(syncs)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(syncs[len(syncs)/2].Nanoseconds()), "fdatasync-p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
