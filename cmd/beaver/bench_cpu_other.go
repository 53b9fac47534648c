//go:build !linux

package main

import "time"

// processCPU is the processor time that a process has used so far; here it cannot be told.
func processCPU(int) time.Duration { return 0 }
