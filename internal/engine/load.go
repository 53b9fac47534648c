package engine

import (
	"path"
	"runtime"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// NodeLoad is what a node tells the others of itself: what it has, how much of it is left, and what it does. Its JSON is what heartbeats
// carry: fields may come, and keep their names.
type NodeLoad struct {
	Processors     int     // that the process may use
	ProcessorShare float64 // of these in use, over the last seconds; 0: not known, or idle
	DiskBytes      uint64  // size of the disk that holds the data directory
	DiskFree       uint64
	DiskFull       bool    // new jobs are refused
	DataBytes      uint64  // of all files in the data directory
	Leads          int     // shards, the catalog too
	Stored         float64 // jobs a second on the data shards that it leads, over the last seconds
	Ended          float64 // attempts, likewise
	Workers        int     // connected to it
	Slots          int     // jobs that these run at once
}

// sample is what a node had done at one moment.
type sample struct {
	at            time.Duration // since the start
	stored, ended uint64
	processor     time.Duration
}

// meter keeps the samples of the last seconds. Any goroutine may call it.
type meter struct {
	mu      sync.Mutex
	samples [loadSamples]sample // REQUIRES: mu; a ring
	taken   int                 // REQUIRES: mu; how many ever were
	data    uint64              // REQUIRES: mu; bytes of the data directory, as last measured
}

func (m *meter) add(s sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples[m.taken%loadSamples] = s
	m.taken++
}

// span are the oldest sample that is kept and the newest; the same one twice, or two of nothing, when there are no two.
func (m *meter) span() (oldest, newest sample, data uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taken == 0 {
		return sample{}, sample{}, m.data
	}
	return m.samples[max(0, m.taken-loadSamples)%loadSamples], m.samples[(m.taken-1)%loadSamples], m.data
}

func (m *meter) measured(bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data = bytes
}

// takeSample has the meter take note of what the node has done.
func (e *Engine) takeSample() {
	s := sample{at: time.Since(e.started)}
	s.stored, s.ended = e.done()
	if e.opts.ProcessorTime != nil {
		s.processor = e.opts.ProcessorTime()
	}
	e.meter.add(s)
}

// done is how many jobs were stored, and how many attempts ended, on the shards that this node led at the time, since the start.
func (e *Engine) done() (stored, ended uint64) {
	for _, p := range e.data() {
		stored, ended = stored+p.stored.Load(), ended+p.ended.Load()
	}
	return stored, ended
}

// Load tells how loaded this node is.
func (e *Engine) Load() NodeLoad {
	h := e.host.Stats()
	oldest, newest, data := e.meter.span()
	l := NodeLoad{
		Processors: runtime.GOMAXPROCS(0), DiskBytes: h.Log.DiskTotal, DiskFree: h.Log.DiskFree, DiskFull: e.host.Full(), DataBytes: data,
	}
	for i := range h.Shards {
		if h.Shards[i].Leading {
			l.Leads++
		}
	}
	if took := (newest.at - oldest.at).Seconds(); took > 0 {
		l.Stored, l.Ended = float64(newest.stored-oldest.stored)/took, float64(newest.ended-oldest.ended)/took
		l.ProcessorShare = (newest.processor - oldest.processor).Seconds() / took / float64(l.Processors)
	}
	for _, w := range e.workers.all() {
		if !w.orphan && !w.isGone() && w.heardLately() {
			l.Workers, l.Slots = l.Workers+1, l.Slots+w.info.Concurrency
		}
	}
	return l
}

// surveyor measures the data directory from time to time. A disk that stalls holds up nothing else.
func (e *Engine) surveyor() {
	ticker := time.NewTicker(surveyInterval)
	defer ticker.Stop()
	for {
		e.meter.measured(bytesIn(e.opts.FS, e.opts.Dir))
		select {
		case <-ticker.C:
		case <-e.background.Done():
			return
		}
	}
}

// bytesIn is the size of all files in a directory and below. What goes meanwhile, or cannot be read, is left out.
func bytesIn(fsys vfs.FS, dir string) (total uint64) {
	names, err := fsys.List(dir)
	if err != nil {
		return 0
	}
	for _, name := range names {
		name = path.Join(dir, name)
		switch info, err := fsys.Stat(name); {
		case err != nil:
		case info.Dir:
			total += bytesIn(fsys, name)
		default:
			total += uint64(max(0, info.Size))
		}
	}
	return total
}
