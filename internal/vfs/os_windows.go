package vfs

import (
	"errors"
	"io/fs"
	"math"
	"os"

	"golang.org/x/sys/windows"
)

// syncDirOS does nothing: Windows offers no way to sync a directory, and journals its names.
func syncDirOS(string) error { return nil }

func lockOS(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, math.MaxUint32, math.MaxUint32, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return ErrLocked
	}
	return err
}

func usageOS(dir string) (Usage, error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return Usage{}, &fs.PathError{Op: "usage", Path: dir, Err: err}
	}
	var u Usage
	if err := windows.GetDiskFreeSpaceEx(path, &u.Free, &u.Total, nil); err != nil {
		return Usage{}, &fs.PathError{Op: "usage", Path: dir, Err: err}
	}
	return u, nil
}
