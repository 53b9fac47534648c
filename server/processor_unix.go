//go:build unix

package server

import (
	"syscall"
	"time"
)

// processorTime is how much processor time this process has taken since it started.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // never, on a process's own
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
