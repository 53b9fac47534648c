package vfs

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What was read in order and is let go piece by piece leaves the memory, however large the pieces are in which the kernel read it ahead.
func TestUncacheLetsGo(t *testing.T) {
	const (
		size  = 32 << 20
		piece = 512 << 10
	)
	name := filepath.Join(t.TempDir(), "file")
	f, err := OS().Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := f.Preallocate(size); err != nil {
		t.Fatal(err)
	}
	f.Uncache(0, size)
	if residentBytes(t, name, size) > 0 {
		return // The file system lives in memory, or does not take the hint.
	}
	buf := make([]byte, 64<<10)
	for at := int64(0); at < size; at += int64(len(buf)) {
		if _, err := f.ReadAt(buf, at); err != nil {
			t.Fatal(err)
		}
		if end := at + int64(len(buf)); end%piece == 0 {
			f.Uncache(end-piece, piece)
		}
	}
	if n := residentBytes(t, name, size); n > cacheUnitBytes {
		t.Errorf("%d KiB of %d are still in memory", n>>10, size>>10)
	}
}

// residentBytes is how much of a file is in memory.
func residentBytes(t *testing.T, name string, size int) int {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	pages := make([]byte, size/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(size), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	resident := 0
	for _, p := range pages {
		resident += int(p&1) * os.Getpagesize()
	}
	return resident
}

// A file that is filled past the page cache takes no memory, and reads as zeros, also when its size is no multiple of anything.
func TestPreallocateUncached(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	f, err := OS().CreateUncached(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const size = 8 << 20
	for _, to := range []int64{100, 5000, 1 << 20, 1 << 20, size - 1, size} {
		if err := f.Preallocate(to); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Size(); err != nil || got != to {
			t.Fatalf("%d bytes, %v, and should be %d", got, err, to)
		}
	}
	u, direct := f.(*uncachedFile)
	if n := residentBytes(t, name, size); direct && u.direct != nil && n > size/2 {
		t.Errorf("%d KiB of %d are in memory", n>>10, size>>10)
	}
	b := make([]byte, size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("byte %d is not zero", i)
	}
}
