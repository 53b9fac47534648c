package transfer_test

import (
	"io"
	"testing"

	"github.com/RoaringBitmap/roaring/v2/roaring64"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// BenchmarkTransfer sends 640 entries of 100 KiB to a new follower, on the real disk, and installs them. What the network
// costs is not in it.
func BenchmarkTransfer(b *testing.B) {
	const entries, size = 640, 100 << 10
	fsys := vfs.OS()
	check := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	openLog := func(dir string) *wal.Log {
		log, _, err := wal.Open(wal.Options{FS: fsys, Dir: dir + "/log", ReserveBytes: 1})
		check(err)
		return log
	}
	leaderDir := b.TempDir()
	leader := openLog(leaderDir)
	defer func() { check(leader.Close()) }()
	h := newHistory(1)
	for index := range uint64(entries) {
		h.add(1, true, nil, make([]byte, size))
		_, err := leader.Append(testShard, nil, []wal.Entry{h.entries[index]})
		check(err)
		_, err = leader.Flush()
		check(err)
	}
	m := h.at(entries)
	meta := snapshot.Meta{Shard: uint16(testShard), Index: entries, Term: 1, Fingerprint: m.sum}
	_, err := snapshot.Write(fsys, leaderDir+"/snapshots", meta, m.writeTo)
	check(err)
	b.SetBytes(entries * size)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		log := openLog(dir)
		cfg := transfer.ReceiverConfig{
			FS: fsys, Shard: testShard, Dir: transfer.Dir(dir, testShard), SnapshotDir: dir + "/snapshots", Log: log,
			Verify: func(snapshot.Meta, io.Reader) (transfer.State, error) {
				return transfer.State{Fingerprint: m.sum, Live: m.live}, nil
			},
		}
		recv, err := transfer.NewReceiver(cfg)
		check(err)
		loaded, err := snapshot.OpenAt(fsys, leaderDir+"/snapshots", entries)
		check(err)
		s, err := transfer.NewSender(transfer.SenderConfig{Term: 1, Transfer: 1, Snapshot: loaded, Live: roaring64.FastOr(m.live), Log: leader})
		check(err)
		b.StartTimer()
		for !recv.Ready() {
			chunk, err := s.Next(transfer.ChunkBytesDefault)
			check(err)
			a, err := recv.Accept(chunk)
			check(err)
			s.Acked(a.Append(nil))
		}
		_, _, err = recv.Install()
		check(err)
		_, err = log.Flush()
		check(err)
		_, err = recv.Installed()
		check(err)
		b.StopTimer()
		check(s.Close())
		check(log.Close())
		b.StartTimer()
	}
}
