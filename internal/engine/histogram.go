package engine

import (
	"sync/atomic"
	"time"
)

// A histogram has histogramBuckets buckets; their upper bounds, but the last, are 50 µs and then doubling, to an hour.
const histogramBuckets = 27

const histogramFirst = 50 * time.Microsecond

// histogram counts durations in fixed buckets. Any goroutine may add to it; adding is two atomic additions.
type histogram struct {
	counts [histogramBuckets]atomic.Uint64
	nanos  atomic.Int64
}

func (h *histogram) add(d time.Duration) { h.addMany(d, 1) }

func (h *histogram) addMany(d time.Duration, n uint64) {
	d = max(d, 0)
	i := 0
	for bound := histogramFirst; i < histogramBuckets-1 && d > bound; bound *= 2 {
		i++
	}
	h.counts[i].Add(n)
	h.nanos.Add(int64(d) * int64(n))
}

func (h *histogram) read() HistogramStats {
	s := HistogramStats{
		Bounds: make([]float64, histogramBuckets-1),
		Counts: make([]uint64, histogramBuckets),
		Sum:    time.Duration(h.nanos.Load()).Seconds(),
	}
	bound := histogramFirst
	for i := range s.Bounds {
		s.Bounds[i] = bound.Seconds()
		bound *= 2
	}
	for i := range s.Counts {
		s.Counts[i] = h.counts[i].Load()
		s.Count += s.Counts[i]
	}
	return s
}

// meters are one queue's latencies.
type meters struct{ enqueue, wait, run histogram }
