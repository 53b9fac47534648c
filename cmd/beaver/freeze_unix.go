//go:build unix

package main

import (
	"os"
	"syscall"
)

// canFreeze returns nil: processes can be frozen here.
func canFreeze() error { return nil }

// freeze stops a process without its knowing, as a long pause of its machine would.
func freeze(p *os.Process) error { return p.Signal(syscall.SIGSTOP) }

func thaw(p *os.Process) error { return p.Signal(syscall.SIGCONT) }
