// Package vfs is the only door through which the engine touches files: a small interface, the operating
// system behind it, and a seeded simulated disk that crashes.
//
// Invariant: after a crash only synced data and synced names are certain. A file's bytes survive once Sync or
// SyncData returned; a file's existence, rename or removal survives once SyncDir of its directory returned.
// A caller that needs more than this is wrong, and the simulated disk will show it.
//
// Names are slash-separated paths. The package imports nothing of ours.
package vfs

import (
	"errors"
	"io"
	"syscall"
)

// Causes inside the fs.PathError that both file systems return.
const (
	errNotDir   = syscall.ENOTDIR
	errNotEmpty = syscall.ENOTEMPTY
	errIsDir    = syscall.EISDIR
	errBadFile  = syscall.EBADF
	errNoSpace  = syscall.ENOSPC
)

// ErrLocked is returned by Lock when another process holds the lock.
var ErrLocked = errors.New("locked by another process")

// UncachedBytes is the alignment, in the file and in memory, of writes that go past the page cache.
const UncachedBytes = 4096

// FS is a file system. All methods may be called from any goroutine. Errors satisfy errors.Is with
// io/fs.ErrNotExist, fs.ErrExist and syscall.ENOSPC where those apply.
type FS interface {
	// Create makes a new empty file for reading and writing; fs.ErrExist when the name is taken.
	Create(name string) (File, error)
	// CreateUncached is Create for a file that is written once and not read soon. Writes that begin at a multiple of
	// UncachedBytes in the file, from memory so aligned, go past the page cache as far as they are whole multiples of it,
	// where the system can do that: they cost neither a copy nor the memory that others read from. All other writes work too.
	CreateUncached(name string) (File, error)
	// Open opens an existing file for reading.
	Open(name string) (File, error)
	// OpenReadWrite opens an existing file for reading and writing.
	OpenReadWrite(name string) (File, error)
	// Remove deletes a file or an empty directory. Durable after SyncDir of the parent.
	Remove(name string) error
	// Rename atomically replaces newName by oldName. Durable after SyncDir of the parents.
	Rename(oldName, newName string) error
	// MkdirAll makes a directory and its missing parents, and syncs every parent it changed.
	MkdirAll(dir string) error
	// List returns the names in a directory, sorted.
	List(dir string) ([]string, error)
	// Stat describes a file or directory.
	Stat(name string) (Info, error)
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
	// Lock takes an exclusive advisory lock on name, creating it, until the Closer is closed or the process ends.
	// It returns ErrLocked when another holder has it.
	Lock(name string) (io.Closer, error)
	// Usage tells the capacity of the disk that holds dir, in bytes.
	Usage(dir string) (Usage, error)
}

// File is an open file. ReadAt may run concurrently with everything; writes to overlapping ranges may not.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes the file's data and metadata (its size) durable.
	// After an error nothing may be assumed of any byte written since the last success, and a retry proves nothing.
	Sync() error
	// SyncData makes the data durable, and metadata only as far as needed to read it back (fdatasync).
	SyncData() error
	// Truncate sets the size.
	Truncate(size int64) error
	// Preallocate extends the file to size with written zeros, so that later writes below size change no metadata.
	Preallocate(size int64) error
	// Size returns the current size in bytes.
	Size() (int64, error)
	// Prefetch says that these bytes will be read soon. The system may begin to read them and does not wait for them. From
	// the first call on it does not begin to read ahead of this file by itself, but goes on where it had.
	Prefetch(offset, size int64)
	// Uncache says that these bytes will not be read again soon, and neither those just before them: the system lets go of a
	// file in pieces of its own size. The memory that holds them serves what is read next.
	Uncache(offset, size int64)
}

// Info describes a file.
type Info struct {
	Size int64
	Dir  bool
}

// Usage is a disk's room in bytes. Free is what an unprivileged process can still use.
type Usage struct {
	Free, Total uint64
}
