package host

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func TestRestart(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	var cluster uint64
	for round := range uint64(4) {
		n := mustOpen(t, disk, nil, nil)
		if round > 0 && n.Cluster() != cluster {
			t.Fatalf("cluster %x, was %x", n.Cluster(), cluster)
		}
		cluster = n.Cluster()
		for i := range uint64(20) {
			a, err := n.add(1, "k")
			if err != nil || a.value != round*20+i+1 {
				t.Fatalf("round %d, addition %d: %d, %v", round, i, a.value, err)
			}
		}
		n.mustClose(t)
	}
}

// A graceful Close leaves nothing to replay but what Raft itself wrote, and the payloads are where they were.
func TestCloseLeavesNothingToReplay(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	var last *addition
	for i := range 200 {
		a, err := n.add(0, fmt.Sprint("key", i))
		if err != nil {
			t.Fatal(err)
		}
		last = a
	}
	n.mustClose(t)
	n = mustOpen(t, disk, nil, nil)
	if s := n.Stats().Shards[0]; s.EntriesReplayed > 1 || s.SnapshotIndex < last.index {
		t.Errorf("%d entries replayed behind snapshot %d", s.EntriesReplayed, s.SnapshotIndex)
	}
	if _, item, err := n.Payload(0, last.index, last.first); err != nil || string(item) != "key199" {
		t.Errorf("payload %q, %v", item, err)
	}
	n.mustClose(t)
}

func TestSecondProcessRefused(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	if _, err := openNode(t.Context(), disk, nil, nil); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("a second process: %v", err)
	}
	if _, err := n.add(0, "still-serving"); err != nil {
		t.Fatal(err)
	}
	n.mustClose(t)
	mustOpen(t, disk, nil, nil).mustClose(t)
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		prep func(*vfs.Sim) error
		edit func(*Options)
		want string
	}{
		{"other node", nil, func(o *Options) { o.Node = 2 }, "belongs to node 1"},
		{"other cluster", nil, func(o *Options) { o.Cluster = 5 }, "belongs to cluster"},
		{"shard missing", nil, func(o *Options) { o.Shards = o.Shards[:1] }, "not configured"},
		{"file gone", func(s *vfs.Sim) error { return s.Remove("data/IDENTITY") }, nil, "is missing, but the directory has data"},
		{"all gone but the records", func(s *vfs.Sim) error {
			return errors.Join(s.Remove("data/IDENTITY"), s.Rename("data/log", "gone"), s.Rename("data/snapshots", "away"))
		}, nil, "is missing, but the directory has data"},
		{"record damaged", func(s *vfs.Sim) error { return flip(s, "data/replicas/00001", 17) }, nil, "is damaged"},
		{"bit flipped", func(s *vfs.Sim) error { return flip(s, "data/IDENTITY", 17) }, nil, "is damaged"},
		{"newer format", func(s *vfs.Sim) error { return rewrite(s, "data/IDENTITY", 8, 9) }, nil, "format 9, this program reads up to 1"},
		{"other file", func(s *vfs.Sim) error { return rewrite(s, "data/IDENTITY", 0, 'X') }, nil, "is no identity file"},
	} {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		n := mustOpen(t, disk, nil, nil)
		n.mustClose(t)
		if tc.prep != nil {
			if err := tc.prep(disk); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := openNode(t.Context(), disk, nil, tc.edit); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// rewrite changes one byte of a file.
func rewrite(disk vfs.FS, name string, off int64, to byte) error {
	f, err := disk.OpenReadWrite(name)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{to}, off)
	return errors.Join(err, f.Sync(), f.Close())
}

// flip flips all bits of one byte: whatever it was, it is another now.
func flip(disk vfs.FS, name string, off int64) error {
	f, err := disk.Open(name)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], off)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return rewrite(disk, name, off, ^b[0])
}

// The newest snapshot is damaged: the one before it and a longer replay give the same state.
func TestDamagedSnapshotFallsBack(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	for i := range 100 {
		if _, err := n.add(0, fmt.Sprint("key", i%9)); err != nil {
			t.Fatal(err)
		}
	}
	n.mustClose(t)
	n = mustOpen(t, disk, nil, nil)
	for i := range 100 {
		if _, err := n.add(0, fmt.Sprint("key", i%7)); err != nil {
			t.Fatal(err)
		}
	}
	n.mustClose(t)
	want := n.drivers[0].freeze()

	files, err := snapshot.List(disk, SnapshotDir("data", 0))
	if err != nil || len(files) != SnapshotsKept {
		t.Fatalf("%d snapshots, %v", len(files), err)
	}
	if err := flip(disk, files[0].Path, files[0].Bytes/2); err != nil {
		t.Fatal(err)
	}
	n = mustOpen(t, disk, nil, nil)
	s := n.Stats().Shards[0]
	if s.DamagedSnapshot != 1 || s.EntriesReplayed < 100 {
		t.Errorf("%d damaged, %d replayed", s.DamagedSnapshot, s.EntriesReplayed)
	}
	if got := n.drivers[0].freeze(); got.print != want.print {
		t.Errorf("fingerprint %x, want %x", got.print, want.print)
	}
	n.mustClose(t)

	// Both damaged: the node refuses, and says which files.
	files, err = snapshot.List(disk, SnapshotDir("data", 0))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := flip(disk, f.Path, f.Bytes/3); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := openNode(t.Context(), disk, nil, nil); !errors.Is(err, snapshot.ErrAllDamaged) {
		t.Errorf("all damaged: %v", err)
	}
}

// A snapshot that is intact but of another state is not believed.
func TestFingerprintMismatchRefused(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	if _, err := n.add(0, "k"); err != nil {
		t.Fatal(err)
	}
	n.mustClose(t)
	dir := SnapshotDir("data", 0)
	loaded, _, err := snapshot.Load(disk, dir)
	if err != nil {
		t.Fatal(err)
	}
	meta := loaded.Meta
	meta.Fingerprint++
	image := n.drivers[0].Snapshot()
	if _, err := snapshot.Write(disk, dir, meta, writerOf(image)); err != nil {
		t.Fatal(err)
	}
	var re *RestoreError
	if _, err := openNode(t.Context(), disk, nil, nil); !errors.As(err, &re) || re.Shard != 0 {
		t.Fatalf("got %v", err)
	}
}

// Snapshots are taken while the machine goes on, sealed files are recycled, an idle shard does not stand in the way,
// and the live payloads stay readable.
func TestSnapshotsLetFilesGo(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, func(o *Options) { o.SnapshotBytes = 64 << 10 })
	idle, err := n.add(1, "idle")
	if err != nil {
		t.Fatal(err)
	}
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		live  = map[string]*addition{}
	)
	for c := range 8 {
		group.Go(func() {
			for i := range 150 {
				key := fmt.Sprint(c, "-", i%50, "-", strings.Repeat("x", 2000))
				a, err := n.add(0, key)
				if err != nil {
					t.Errorf("%v", err)
					return
				}
				mu.Lock()
				live[key] = a
				mu.Unlock()
			}
		})
	}
	group.Wait()
	s := n.Stats()
	if s.Shards[0].Snapshots < 5 || s.Shards[0].SnapshotPause > 0.1 {
		t.Errorf("%d snapshots, pause %v s", s.Shards[0].Snapshots, s.Shards[0].SnapshotPause)
	}
	if s.Shards[0].Last < s.Shards[0].Applied || s.Shards[0].SnapshotMillis == 0 {
		t.Errorf("%+v", s.Shards[0])
	}
	check := func() {
		t.Helper()
		for key, a := range live {
			if _, item, err := n.Payload(0, a.index, a.first); err != nil || string(item) != key {
				t.Fatalf("payload of %.10q at %d: %v", key, a.index, err)
			}
		}
		if _, item, err := n.Payload(1, idle.index, idle.first); err != nil || string(item) != "idle" {
			t.Fatalf("payload of the idle shard: %q, %v", item, err)
		}
	}
	check()
	if files := s.Log.TailFiles; files > 12 {
		t.Errorf("%d tail files are kept", files)
	}
	n.mustClose(t)
	n = mustOpen(t, disk, nil, nil)
	check()
	n.mustClose(t)
}

// After a failed sync nothing more is answered, and Fatal hears of it once.
func TestFailedSyncAnswersNothing(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, nil)
	if _, err := n.add(0, "k"); err != nil {
		t.Fatal(err)
	}
	disk.FailFrom(disk.Ops()+1, syscall.EIO)
	a, err := n.add(0, "k")
	if !errors.Is(err, errUnknown) {
		t.Fatalf("answered %d, %v", a.value, err)
	}
	if err := <-n.fatal; !errors.Is(err, syscall.EIO) {
		t.Fatalf("fatal: %v", err)
	}
	if err := n.Read(t.Context(), 0, func() {}); !errors.Is(err, ErrStopped) {
		t.Fatalf("a read after the failure: %v", err)
	}
	_ = n.Close(context.Background()) // the disk is broken, closing it may say so
}

// A payload that is damaged on the disk is reported with its file and offset, and never served.
func TestDamagedPayload(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	n := mustOpen(t, disk, nil, func(o *Options) { o.CacheBytes = 1 })
	key := strings.Repeat("z", 9000)
	a, err := n.add(0, key)
	if err != nil {
		t.Fatal(err)
	}
	names, err := disk.List(path.Join(LogDir("data"), "tail"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := 0
	for _, name := range names {
		if path.Ext(name) == ".wal" { // the maintainer renames spares meanwhile
			damaged += damageText(t, disk, path.Join(LogDir("data"), "tail", name), "zzzzzzzz")
		}
	}
	if damaged == 0 {
		t.Fatal("the payload is not on the disk")
	}
	_, _, err = n.Payload(0, a.index, a.first)
	if de := (*shard.DamagedItemError)(nil); !errors.As(err, &de) || !strings.Contains(err.Error(), "tail/") {
		t.Fatalf("got %v", err)
	}
	_ = n.Close(context.Background())
}

// damageText changes the first place where text stands in a file.
func damageText(t *testing.T, disk vfs.FS, name, text string) int {
	t.Helper()
	f, err := disk.OpenReadWrite(name)
	if err != nil {
		t.Fatal(err)
	}
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(b), text)
	if at >= 0 {
		if _, err := f.WriteAt([]byte{'!'}, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return map[bool]int{true: 1, false: 0}[at >= 0]
}

func TestProgress(t *testing.T) {
	t.Parallel()
	disk := vfs.NewSim(1, vfs.SimOptions{})
	mustOpen(t, disk, nil, nil).mustClose(t)
	var reports []Progress
	n := mustOpen(t, disk, nil, func(o *Options) { o.Progress = func(p Progress) { reports = append(reports, p) } })
	done := 0
	for _, p := range reports {
		if p.Done {
			done++
		}
	}
	if done != 2 {
		t.Errorf("reports: %+v", reports)
	}
	n.mustClose(t)
}

func TestCloseAtDeadline(t *testing.T) {
	t.Parallel()
	log := newMemLog()
	hold, held := make(chan struct{}), make(chan struct{}, 1)
	n := mustOpen(t, vfs.NewSim(1, vfs.SimOptions{}), log, nil)
	log.mu.Lock()
	log.onFlush = func() error {
		select {
		case held <- struct{}{}:
		default:
		}
		<-hold
		return nil
	}
	log.mu.Unlock()
	a := n.drivers[0].push("k")
	n.Wake(0)
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	time.AfterFunc(50*time.Millisecond, func() { close(hold) })
	if err := n.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("close: %v", err)
	}
	<-a.done
	if a.err != nil && !errors.Is(a.err, errUnknown) {
		t.Fatalf("the call got %v", a.err)
	}
}
