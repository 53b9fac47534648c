//go:build !unix

package main

import (
	"errors"
	"os"
)

// canFreeze says why processes cannot be frozen here.
func canFreeze() error {
	return errors.New("the demo freezes a process with SIGSTOP, which this system does not have; run it on Linux or macOS, or try beaver bench here")
}

func freeze(*os.Process) error { return canFreeze() }

func thaw(*os.Process) error { return canFreeze() }
