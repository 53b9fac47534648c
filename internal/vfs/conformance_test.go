package vfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// conformance is what every FS promises. dir is an empty directory of the test's own.
var conformance = []struct {
	name string
	run  func(t *testing.T, fsys vfs.FS, dir string)
}{
	{"create is exclusive and readable back", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, "hello", 0)
		wantContent(t, fsys, dir+"/a", "hello")
		_, err := fsys.Create(dir + "/a")
		wantIs(t, err, fs.ErrExist)
		got := make([]byte, 5)
		if n, err := f.ReadAt(got, 0); n != 5 || err != nil || string(got) != "hello" {
			t.Fatalf("ReadAt = %d %v %q", n, err, got)
		}
	}},
	{"hints about what is read change nothing that is read", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		want := strings.Repeat("0123456789abcdef", 1024)
		writeAt(t, f, want, 0) // not synced: what lets go of it must not lose it
		for _, r := range [][2]int64{{0, 16 << 10}, {4096, 4096}, {5, 100}, {0, 0}, {1 << 30, 4096}, {0, 1 << 40}, {0, -1}} {
			f.Prefetch(r[0], r[1])
			f.Uncache(r[0], r[1])
			got := make([]byte, len(want))
			if n, err := f.ReadAt(got, 0); n != len(want) || err != nil || string(got) != want {
				t.Fatalf("after hints about %v ReadAt = %d, %v, or other bytes", r, n, err)
			}
		}
	}},
	{"an uncached file reads back, however it was written", func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.CreateUncached(dir + "/a")
		must(t, err)
		defer func() { must(t, f.Close()) }()
		_, err = fsys.CreateUncached(dir + "/a")
		wantIs(t, err, fs.ErrExist)
		aligned := make([]byte, 64<<10) // the runtime aligns what is this large
		for i := range aligned {
			aligned[i] = byte(i % 251)
		}
		var want []byte
		for _, n := range []int{32 << 10, 4096, 8192 + 7, 4096, 5} { // whole blocks, a block and a rest, then out of step
			if got, err := f.WriteAt(aligned[:n], int64(len(want))); got != n || err != nil {
				t.Fatalf("WriteAt of %d bytes = %d, %v", n, got, err)
			}
			want = append(want, aligned[:n]...)
			got := make([]byte, len(want))
			if n, err := f.ReadAt(got, 0); n != len(want) || err != nil || !bytes.Equal(got, want) {
				t.Fatalf("ReadAt of %d bytes = %d, %v, or other bytes", len(want), n, err)
			}
		}
		writeAt(t, f, "again", 4096)
		copy(want[4096:], "again")
		wantContent(t, fsys, dir+"/a", string(want))
		if got, err := f.WriteAt(aligned[1:4097], 8192); got != 4096 || err != nil {
			t.Fatalf("WriteAt from memory that is not aligned = %d, %v", got, err)
		}
		copy(want[8192:], aligned[1:4097])
		wantContent(t, fsys, dir+"/a", string(want))
		must(t, f.Truncate(4100))
		must(t, f.Sync())
		wantContent(t, fsys, dir+"/a", string(want[:4100]))
	}},
	{"missing names", func(t *testing.T, fsys vfs.FS, dir string) {
		_, err := fsys.Open(dir + "/none")
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.OpenReadWrite(dir + "/none")
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Create(dir + "/none/a")
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Stat(dir + "/none")
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.List(dir + "/none")
		wantIs(t, err, fs.ErrNotExist)
		_, err = fsys.Usage(dir + "/none")
		wantIs(t, err, fs.ErrNotExist)
		wantIs(t, fsys.Remove(dir+"/none"), fs.ErrNotExist)
		wantIs(t, fsys.Rename(dir+"/none", dir+"/b"), fs.ErrNotExist)
		wantIs(t, fsys.SyncDir(dir+"/none"), fs.ErrNotExist)
	}},
	{"reads past the end", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, "abc", 0)
		p := make([]byte, 5)
		if n, err := f.ReadAt(p, 1); n != 2 || !errors.Is(err, io.EOF) {
			t.Fatalf("short read = %d %v", n, err)
		}
		if n, err := f.ReadAt(p, 100); n != 0 || !errors.Is(err, io.EOF) {
			t.Fatalf("read past the end = %d %v", n, err)
		}
		if n, err := f.ReadAt(p[:3], 0); n != 3 || err != nil {
			t.Fatalf("read to the end = %d %v", n, err)
		}
		if _, err := f.ReadAt(p, -1); err == nil {
			t.Fatal("negative offset accepted")
		}
	}},
	{"holes and crossing pages", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		long := strings.Repeat("0123456789abcdef", 1000)
		writeAt(t, f, long, 4090)
		writeAt(t, f, "XY", 8191)
		want := make([]byte, 4090, 4090+len(long))
		want = append(want, long...)
		copy(want[8191:], "XY")
		wantContent(t, fsys, dir+"/a", string(want))
	}},
	{"a file opened for reading refuses writes", func(t *testing.T, fsys vfs.FS, dir string) {
		create(t, fsys, dir+"/a")
		f, err := fsys.Open(dir + "/a")
		must(t, err)
		defer func() { must(t, f.Close()) }()
		if _, err := f.WriteAt([]byte("x"), 0); err == nil {
			t.Fatal("write accepted")
		}
		if err := f.Truncate(0); err == nil {
			t.Fatal("truncate accepted")
		}
	}},
	{"closed files refuse", func(t *testing.T, fsys vfs.FS, dir string) {
		f, err := fsys.Create(dir + "/a")
		must(t, err)
		must(t, f.Close())
		wantIs(t, f.Close(), fs.ErrClosed)
		_, err = f.ReadAt(make([]byte, 1), 0)
		wantIs(t, err, fs.ErrClosed)
		_, err = f.WriteAt([]byte("x"), 0)
		wantIs(t, err, fs.ErrClosed)
		wantIs(t, f.Sync(), fs.ErrClosed)
		if err := f.SyncData(); err == nil {
			t.Fatal("SyncData of a closed file succeeded")
		}
	}},
	{"truncate cuts, grows with zeros, and forgets what it cut", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, strings.Repeat("x", 10000), 0)
		must(t, f.Truncate(5000))
		wantContent(t, fsys, dir+"/a", strings.Repeat("x", 5000))
		must(t, f.Truncate(9000))
		wantContent(t, fsys, dir+"/a", strings.Repeat("x", 5000)+strings.Repeat("\x00", 4000))
		must(t, f.Truncate(0))
		writeAt(t, f, "z", 3)
		wantContent(t, fsys, dir+"/a", "\x00\x00\x00z")
		if err := f.Truncate(-1); err == nil {
			t.Fatal("negative size accepted")
		}
	}},
	{"preallocate extends with zeros and never shrinks", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, "abc", 0)
		must(t, f.Preallocate(3<<20/2))
		size, err := f.Size()
		if err != nil || size != 3<<20/2 {
			t.Fatalf("size %d %v", size, err)
		}
		must(t, f.Preallocate(10))
		got := content(t, fsys, dir+"/a")
		if len(got) != 3<<20/2 || got[:3] != "abc" || strings.Trim(got[3:], "\x00") != "" {
			t.Fatalf("content of %d bytes starts %q", len(got), got[:10])
		}
	}},
	{"rename replaces, and open handles stay with the file", func(t *testing.T, fsys vfs.FS, dir string) {
		a, b := create(t, fsys, dir+"/a"), create(t, fsys, dir+"/b")
		writeAt(t, a, "from a", 0)
		writeAt(t, b, "from b", 0)
		must(t, fsys.Rename(dir+"/a", dir+"/b"))
		wantContent(t, fsys, dir+"/b", "from a")
		_, err := fsys.Stat(dir + "/a")
		wantIs(t, err, fs.ErrNotExist)
		writeAt(t, a, "FROM", 0)
		wantContent(t, fsys, dir+"/b", "FROM a")
		writeAt(t, b, "lost", 0) // no name leads here any more
		p := make([]byte, 6)
		if _, err := b.ReadAt(p, 0); err != nil || string(p) != "lost b" {
			t.Fatalf("replaced file reads %q %v", p, err)
		}
		wantContent(t, fsys, dir+"/b", "FROM a")
	}},
	{"rename to itself and across directories", func(t *testing.T, fsys vfs.FS, dir string) {
		writeAt(t, create(t, fsys, dir+"/a"), "a", 0)
		must(t, fsys.Rename(dir+"/a", dir+"/a"))
		must(t, fsys.MkdirAll(dir+"/x/y"))
		must(t, fsys.Rename(dir+"/a", dir+"/x/y/b"))
		wantContent(t, fsys, dir+"/x/y/b", "a")
		if err := fsys.Rename(dir+"/x/y/b", dir+"/x"); err == nil {
			t.Fatal("a file replaced a directory")
		}
		if err := fsys.Rename(dir+"/x", dir+"/x/y/z"); err == nil {
			t.Fatal("a directory moved into itself")
		}
	}},
	{"a removed file lives on in its handles", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, "abc", 0)
		must(t, fsys.Remove(dir+"/a"))
		p := make([]byte, 3)
		if _, err := f.ReadAt(p, 0); err != nil || string(p) != "abc" {
			t.Fatalf("removed file reads %q %v", p, err)
		}
		must(t, f.Sync())
		writeAt(t, create(t, fsys, dir+"/a"), "new", 0)
		wantContent(t, fsys, dir+"/a", "new")
	}},
	{"directories", func(t *testing.T, fsys vfs.FS, dir string) {
		must(t, fsys.MkdirAll(dir+"/x/y/z"))
		must(t, fsys.MkdirAll(dir+"/x/y/z"))
		info, err := fsys.Stat(dir + "/x/y")
		if err != nil || !info.Dir {
			t.Fatalf("stat of a directory: %+v %v", info, err)
		}
		for _, name := range []string{"c", "a", "b"} {
			create(t, fsys, dir+"/x/"+name)
		}
		names, err := fsys.List(dir + "/x")
		if err != nil || !slices.Equal(names, []string{"a", "b", "c", "y"}) {
			t.Fatalf("list %v %v", names, err)
		}
		if err := fsys.Remove(dir + "/x/y"); err == nil {
			t.Fatal("removed a directory that is not empty")
		}
		must(t, fsys.Remove(dir+"/x/y/z"))
		must(t, fsys.SyncDir(dir+"/x/y"))
		if err := fsys.MkdirAll(dir + "/x/a/q"); err == nil {
			t.Fatal("made a directory below a file")
		}
		if _, err := fsys.List(dir + "/x/a"); err == nil {
			t.Fatal("listed a file")
		}
		if _, err := fsys.OpenReadWrite(dir + "/x"); err == nil {
			t.Fatal("opened a directory for writing")
		}
	}},
	{"stat tells the size", func(t *testing.T, fsys vfs.FS, dir string) {
		writeAt(t, create(t, fsys, dir+"/a"), "12345", 3)
		info, err := fsys.Stat(dir + "/a")
		if err != nil || info != (vfs.Info{Size: 8}) {
			t.Fatalf("%+v %v", info, err)
		}
	}},
	{"a lock is exclusive until closed, in one process too", func(t *testing.T, fsys vfs.FS, dir string) {
		l, err := fsys.Lock(dir + "/LOCK")
		must(t, err)
		_, err = fsys.Lock(dir + "/LOCK")
		wantIs(t, err, vfs.ErrLocked)
		other, err := fsys.Lock(dir + "/OTHER")
		must(t, err)
		must(t, l.Close())
		again, err := fsys.Lock(dir + "/LOCK")
		must(t, err)
		must(t, again.Close())
		must(t, other.Close())
		if err := other.Close(); err == nil {
			t.Fatal("closed a lock twice")
		}
		_, err = fsys.Lock(dir + "/none/LOCK")
		wantIs(t, err, fs.ErrNotExist)
	}},
	{"usage", func(t *testing.T, fsys vfs.FS, dir string) {
		u, err := fsys.Usage(dir)
		if err != nil || u.Total == 0 || u.Free > u.Total {
			t.Fatalf("%+v %v", u, err)
		}
	}},
	{"syncs succeed", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		writeAt(t, f, "abc", 0)
		must(t, f.SyncData())
		must(t, f.Sync())
		must(t, fsys.SyncDir(dir))
	}},
	{"writing nothing changes nothing", func(t *testing.T, fsys vfs.FS, dir string) {
		f := create(t, fsys, dir+"/a")
		if n, err := f.WriteAt(nil, 100); n != 0 || err != nil {
			t.Fatalf("%d %v", n, err)
		}
		wantContent(t, fsys, dir+"/a", "")
	}},
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, tc := range conformance {
		t.Run("os/"+tc.name, func(t *testing.T) {
			t.Parallel()
			tc.run(t, vfs.OS(), filepath.ToSlash(t.TempDir()))
		})
		t.Run("sim/"+tc.name, func(t *testing.T) {
			t.Parallel()
			s := vfs.NewSim(1, vfs.SimOptions{})
			must(t, s.MkdirAll("data"))
			tc.run(t, s, "data")
		})
		t.Run("sim after kill/"+tc.name, func(t *testing.T) {
			t.Parallel()
			s := vfs.NewSim(1, vfs.SimOptions{})
			must(t, s.MkdirAll("/data"))
			tc.run(t, s.CrashClone(vfs.Killed()), "/data")
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func create(t *testing.T, fsys vfs.FS, name string) vfs.File {
	t.Helper()
	f, err := fsys.Create(name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func writeAt(t *testing.T, f vfs.File, text string, offset int64) {
	t.Helper()
	if n, err := f.WriteAt([]byte(text), offset); n != len(text) || err != nil {
		t.Fatalf("WriteAt = %d %v", n, err)
	}
}

func content(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	size, err := f.Size()
	must(t, err)
	var b bytes.Buffer
	_, err = io.Copy(&b, io.NewSectionReader(f, 0, size))
	must(t, err)
	return b.String()
}

func wantContent(t *testing.T, fsys vfs.FS, name, want string) {
	t.Helper()
	if got := content(t, fsys, name); got != want {
		t.Fatalf("%s holds %d bytes %.60q, want %d bytes %.60q", name, len(got), got, len(want), want)
	}
}
