//go:build !linux

package vfs

import "os"

// syncDataOS is a full sync where the system has no portable fdatasync; on darwin it reaches the platter (F_FULLFSYNC).
func syncDataOS(f *os.File) error { return f.Sync() }
