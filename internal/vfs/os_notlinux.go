//go:build !linux

package vfs

import "os"

// syncDataOS is a full sync where the system has no portable fdatasync; on darwin it reaches the platter (F_FULLFSYNC).
func syncDataOS(f *os.File) error { return f.Sync() }

// prefetchOS does nothing: other systems read ahead as they see fit.
func prefetchOS(*os.File, int64, int64) {}

func uncacheOS(*os.File, int64, int64) {}

// createUncachedOS makes an ordinary file: what other systems offer to get past the cache (F_NOCACHE, NO_BUFFERING) has rules
// of its own.
func createUncachedOS(name string) (File, error) { return osFS{}.Create(name) }
