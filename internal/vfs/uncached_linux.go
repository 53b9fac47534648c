package vfs

import (
	"errors"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uncachedFile writes past the page cache (O_DIRECT) what is aligned, and the rest, at most the last block of a file when
// its writer keeps to UncachedBytes, through it. The kernel keeps both views of the file the same.
//
// A page of the cache that is touched for the first time costs several times what the copy into it does, most of all in a
// virtual machine that has to be given the memory; a log that copies live entries would pay that for every byte.
type uncachedFile struct {
	osFile
	direct *os.File // nil where the file system has no such writes
}

func createUncachedOS(name string) (File, error) {
	f, err := os.OpenFile(filepath.FromSlash(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	direct, err := os.OpenFile(f.Name(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil { // tmpfs of older kernels among others; were it anything else, the next call on the file would say so
		return osFile{f}, nil //nolint:nilerr // It is a hint.
	}
	return &uncachedFile{osFile{f}, direct}, nil
}

func (f *uncachedFile) WriteAt(p []byte, offset int64) (int, error) {
	whole := len(p) &^ (UncachedBytes - 1)
	if f.direct == nil || whole == 0 || offset%UncachedBytes != 0 || uintptr(unsafe.Pointer(&p[0]))%UncachedBytes != 0 {
		return f.osFile.WriteAt(p, offset)
	}
	n, err := f.direct.WriteAt(p[:whole], offset)
	if errors.Is(err, unix.EINVAL) { // blocks larger than ours: nothing was written
		err = f.direct.Close()
		f.direct = nil
	}
	if err != nil || n == len(p) {
		return n, err
	}
	rest, err := f.osFile.WriteAt(p[n:], offset+int64(n))
	return n + rest, err
}

// Preallocate is that of other files, in larger pieces: each waits for the disk.
func (f *uncachedFile) Preallocate(size int64) error {
	zeros := alignedZeros()
	for {
		offset, err := f.Size()
		if err != nil {
			return err
		}
		if offset >= size {
			return f.Sync()
		}
		if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-offset)], offset); err != nil {
			return err
		}
	}
}

// alignedZeros are enough zeros for a write past the page cache.
func alignedZeros() []byte {
	b := make([]byte, uncachedZerosBytes+UncachedBytes)
	at := int(-uintptr(unsafe.Pointer(&b[0])) & (UncachedBytes - 1))
	return b[at:][:uncachedZerosBytes]
}

// uncachedZerosBytes is what one write past the page cache fills with zeros.
const uncachedZerosBytes = 256 << 10

func (f *uncachedFile) Close() error {
	err := f.osFile.Close()
	if f.direct != nil {
		err = errors.Join(err, f.direct.Close())
	}
	return err
}
