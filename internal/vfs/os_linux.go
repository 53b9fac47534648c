package vfs

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

func syncDataOS(f *os.File) error {
	if err := retryInterrupted(func() error { return unix.Fdatasync(int(f.Fd())) }); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// prefetchOS gives hints: that one is not taken changes nothing but the time that a read takes.
func prefetchOS(f *os.File, offset, size int64) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM)
	adviseOS(f, offset, size, unix.FADV_WILLNEED)
}

// cacheUnitBytes is the largest piece in which the kernel keeps a file in memory, as it does what it read ahead: an aligned one.
const cacheUnitBytes = 2 << 20

// uncacheOS begins where the piece does in which the range begins: the kernel lets go of whole pieces only, and one that reaches into the
// range was not let go with what lies before it.
func uncacheOS(f *os.File, offset, size int64) {
	from := offset &^ (cacheUnitBytes - 1)
	adviseOS(f, from, offset+size-from, unix.FADV_DONTNEED)
}

func adviseOS(f *os.File, offset, size int64, advice int) {
	if size > 0 { // else the kernel takes it for the rest of the file
		_ = unix.Fadvise(int(f.Fd()), offset, size, advice)
	}
}
