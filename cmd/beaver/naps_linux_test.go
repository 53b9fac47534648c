package main

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNapLonger runs itself in a process of its own, which executes itself anew, once.
func TestNapLonger(t *testing.T) {
	const inside = "BEAVER_TEST_NAPS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestNapLonger$")
		cmd.Env = append(os.Environ(), inside+"=1")
		if output, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		return
	}
	napLonger()
	if _, there := os.LookupEnv(nappedEnv); there {
		t.Error("the sign of the new process is still there, for its children to see")
	}
	slacks := make(chan int)
	const threads = 4
	for range threads {
		go func() {
			runtime.LockOSThread() // never unlocked: each goroutine gets a thread of its own
			slack, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			if err != nil {
				t.Error(err)
			}
			slacks <- slack
		}()
	}
	for range threads {
		if slack := <-slacks; slack < napSlackNanos {
			t.Errorf("a thread has a slack of %d ns", slack)
		}
	}
}
