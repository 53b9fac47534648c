package main

import (
	"os"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// napSlackNanos is how late the kernel may wake a thread that sleeps for a time.
//
// Go's runtime has a monitor thread, which sleeps for 20 µs at a time while the process is busy. With the kernel's usual slack of 50 µs
// it then wakes 14,000 times a second in each process: on two cores, the three nodes of a cluster and their load spend a quarter of their time
// on that. What waits for the network or the disk wakes as soon as before, and Go's own timers count whole milliseconds.
const napSlackNanos = 1_000_000

// nappedEnv tells a process that it was executed anew, so that it is not again, whatever the kernel says.
const nappedEnv = "BEAVER_NAPPED"

// napLonger gives all threads of this process that slack, and those of its children. A thread takes the slack of the one that makes it,
// and the monitor is made before any code of ours runs. So the program is executed anew, in the same process, before it has done
// anything. napLonger returns in the new one, or when there is nothing to change or no way to.
func napLonger() {
	if os.Getenv(nappedEnv) != "" {
		_ = os.Unsetenv(nappedEnv) // it cannot fail for such a name
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || slack >= napSlackNanos {
		return
	}
	exe, err := os.Executable()
	if err != nil || unix.Prctl(unix.PR_SET_TIMERSLACK, napSlackNanos, 0, 0, 0) != nil {
		return
	}
	_ = syscall.Exec(exe, os.Args, slices.Concat(os.Environ(), []string{nappedEnv + "=1"})) // else all goes on as it was
}
