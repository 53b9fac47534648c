package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestCollectPercent(t *testing.T) {
	for live, want := range map[uint64]int{
		0: 400, 1: 400, 10 << 20: 400, 32 << 20: 400, 64 << 20: 200, 128 << 20: 100, 128<<20 + 1: 100, 10 << 30: 100,
	} {
		if got := collectPercent(live); got != want {
			t.Errorf("%d bytes live: %d per cent, want %d", live, got, want)
		}
	}
}

// TestCollectorFollowsTheHeap: the percentage shrinks when more is live, and grows again.
func TestCollectorFollowsTheHeap(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Setenv(name, "")
	}
	before := debug.SetGCPercent(collectPercentMin)
	defer debug.SetGCPercent(before)
	collectSeldom()
	await := func(holds func(percent uint64) bool) {
		t.Helper()
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			runtime.GC()
			if metrics.Read(sample); holds(sample[0].Value.Uint64()) {
				return
			}
		}
		t.Fatalf("the percentage is %d", sample[0].Value.Uint64())
	}
	await(func(percent uint64) bool { return percent == collectPercentMax })
	large := make([]byte, 100<<20)
	await(func(percent uint64) bool { return percent < collectPercentMax/2 })
	runtime.KeepAlive(large)
	await(func(percent uint64) bool { return percent == collectPercentMax })
}
