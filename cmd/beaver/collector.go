package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// A node's live heap is mostly tens of MiB, since payloads are in the log, and the buffers of requests fill as much again many times
// a second. So it is collected once the heap has grown to five times what is live, instead of twice, as long as that is little: the heap grows
// by collectSpareBytes at most, or by what is live if that is more, which is Go's own default.
const (
	collectPercentMin = 100
	collectPercentMax = 400
	collectSpareBytes = 128 << 20
)

// collectPercent is by how much the heap may grow until the next collection, when so much was live at the last one.
func collectPercent(liveBytes uint64) int {
	return int(min(collectPercentMax, max(collectPercentMin, collectSpareBytes*100/max(1, liveBytes))))
}

// collectSeldom has the collector run less often, unless the environment says how often.
func collectSeldom() {
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		(&collector{live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}, percent: collectPercentMin}).adjust()
	}
}

// collector follows what is live from one collection to the next.
type collector struct {
	live    []metrics.Sample
	percent int
}

// adjust sets the percentage, and has itself called after the next collection, which lets go of the object that it allocates.
func (c *collector) adjust() {
	metrics.Read(c.live)
	if percent := collectPercent(c.live[0].Value.Uint64()); percent != c.percent {
		c.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.AddCleanup(new([64]byte), (*collector).adjust, c)
}
