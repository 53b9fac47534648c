package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	fileMode = 0o600 // jobs are private to the user that runs the server
	dirMode  = 0o700

	// zerosBytes is one write of zeros: few calls, and the zeros stay in the processor's cache from one to the next.
	zerosBytes = 64 << 10
)

// OS returns the operating system's files.
func OS() FS { return osFS{} }

type osFS struct{}

var _ FS = osFS{}

func (osFS) Create(name string) (File, error) {
	return openOS(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

func (osFS) CreateUncached(name string) (File, error) { return createUncachedOS(name) }

func (osFS) Open(name string) (File, error) {
	return openOS(name, os.O_RDONLY)
}

func (osFS) OpenReadWrite(name string) (File, error) {
	return openOS(name, os.O_RDWR)
}

func (osFS) Remove(name string) error { return os.Remove(filepath.FromSlash(name)) }

func (osFS) Rename(oldName, newName string) error {
	return os.Rename(filepath.FromSlash(oldName), filepath.FromSlash(newName))
}

// MkdirAll syncs each parent right after it gained a name, so a directory that exists after a power cut is reachable.
func (o osFS) MkdirAll(dir string) error {
	dir = filepath.Clean(filepath.FromSlash(dir))
	info, err := os.Stat(dir)
	if err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errNotDir}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := o.MkdirAll(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(parent)
}

func (osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.FromSlash(dir)) // sorted by name
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (osFS) Stat(name string) (Info, error) {
	info, err := os.Stat(filepath.FromSlash(name))
	if err != nil {
		return Info{}, err
	}
	return Info{Size: info.Size(), Dir: info.IsDir()}, nil
}

func (osFS) SyncDir(dir string) error { return syncDirOS(filepath.FromSlash(dir)) }

func (osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.FromSlash(name), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, err
	}
	if err := lockOS(f); err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil // closing the only descriptor drops the lock
}

func (osFS) Usage(dir string) (Usage, error) { return usageOS(filepath.FromSlash(dir)) }

type osFile struct {
	*os.File
}

func openOS(name string, flag int) (File, error) {
	f, err := os.OpenFile(filepath.FromSlash(name), flag, fileMode)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (f osFile) Prefetch(offset, size int64) { prefetchOS(f.File, offset, size) }

func (f osFile) Uncache(offset, size int64) { uncacheOS(f.File, offset, size) }

func (f osFile) SyncData() error { return syncDataOS(f.File) }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Preallocate writes the zeros instead of asking the file system to reserve blocks: a reserved block is still
// converted, with a metadata write, when data first reaches it, and that would be paid inside each fdatasync.
func (f osFile) Preallocate(size int64) error {
	offset, err := f.Size()
	if err != nil {
		return err
	}
	if offset >= size {
		return nil
	}
	zeros := make([]byte, min(zerosBytes, size-offset))
	for offset < size {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-offset)], offset)
		if err != nil {
			return err
		}
		offset += int64(n)
	}
	return f.Sync()
}
