package main

import (
	"os"
	"testing"
	"time"
)

func TestProcessCPU(t *testing.T) {
	before, deadline := processCPU(os.Getpid()), time.Now().Add(10*time.Second)
	for processCPU(os.Getpid()) < before+2*clockTick {
		if time.Now().After(deadline) {
			t.Fatal("a busy process seems to use no processor time")
		}
	}
	if got := processCPU(-1); got != 0 {
		t.Errorf("a process that is not there used %v", got)
	}
}
