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
