// Package metrics has every figure that a node shows to Prometheus: its name, its unit and its help.
//
// Invariant: label sets are bounded. Queues have at most QueueLabelsMax labels, and what is beyond is summed up under
// "other"; procedures and codes are those of the API; shards and peers are at most as many as a cluster may have. Nothing is
// counted twice: the engine keeps its own counters, and a scrape reads them.
//
// A Set has a registry of its own. It never logs, and holds no lock while the engine is asked.
package metrics

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/beaver-raft/beaver/internal/engine"
)

// QueueLabelsMax is how many queues have figures of their own.
const QueueLabelsMax = 1000

// otherQueues is the label of all queues beyond QueueLabelsMax.
const otherQueues = "other"

// Source is what the figures are read from: the engine.
type Source interface {
	// Stats is called once a scrape, from any goroutine.
	Stats() engine.Stats
}

// Set is the figures of one node.
type Set struct {
	registry *prometheus.Registry
	source   atomic.Pointer[Source]
	streams  atomic.Pointer[func() (enqueue, work int64)]
	panics   atomic.Pointer[func() int64]
	peers    atomic.Pointer[func() []Peer]
	node     atomic.Pointer[nodeInfo]
	version  string
	requests *prometheus.HistogramVec
}

// New makes the figures of a node of the given version. Until SetEngine only those of the process are there.
func New(version string) *Set {
	s := &Set{
		version:  version,
		registry: prometheus.NewPedanticRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "beaver_rpc_request_duration_seconds",
			Help:    "How long calls took, by procedure and code. A stream counts once, when it ends.",
			Buckets: prometheus.ExponentialBuckets(100e-6, 2.5, 14),
		}, []string{"procedure", "code"}),
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "beaver_build_info", Help: "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	panics := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "beaver_rpc_panics_total", Help: "Calls that a panic ended. Each is a bug; the log has its stack.",
	}, func() float64 {
		if count := s.panics.Load(); count != nil {
			return float64((*count)())
		}
		return 0
	})
	s.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, s.requests, panics, (*streamCollector)(s), (*peerCollector)(s), (*nodeCollector)(s), (*engineCollector)(s),
	)
	return s
}

// SetEngine gives the figures their source.
func (s *Set) SetEngine(source Source) { s.source.Store(&source) }

// SetStreams tells how many streams of each kind are open.
func (s *Set) SetStreams(count func() (enqueue, work int64)) { s.streams.Store(&count) }

// SetPanics tells how many panics ended calls.
func (s *Set) SetPanics(count func() int64) { s.panics.Store(&count) }

// SetPeers tells of the connections to the other nodes.
func (s *Set) SetPeers(list func() []Peer) { s.peers.Store(&list) }

// Handler serves the figures to Prometheus.
func (s *Set) Handler() http.Handler {
	return promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
}

// Recorder returns what takes note of the ends of calls of one procedure.
func (s *Set) Recorder(procedure string) func(code string, elapsed time.Duration) {
	codes := s.requests.MustCurryWith(prometheus.Labels{"procedure": procedure})
	ok := codes.WithLabelValues("ok") // there from the start, so that a rate can be taken
	return func(code string, elapsed time.Duration) {
		if code == "ok" {
			ok.Observe(elapsed.Seconds())
			return
		}
		codes.WithLabelValues(code).Observe(elapsed.Seconds())
	}
}

// streamCollector shows the open streams.
type streamCollector Set

var streamsOpen = prometheus.NewDesc("beaver_rpc_streams", "Open streams, by kind.", []string{"kind"}, nil)

// Describe implements prometheus.Collector.
func (c *streamCollector) Describe(descs chan<- *prometheus.Desc) { descs <- streamsOpen }

// Collect implements prometheus.Collector.
func (c *streamCollector) Collect(out chan<- prometheus.Metric) {
	count := c.streams.Load()
	if count == nil {
		return
	}
	enqueue, work := (*count)()
	out <- prometheus.MustNewConstMetric(streamsOpen, prometheus.GaugeValue, float64(enqueue), "enqueue")
	out <- prometheus.MustNewConstMetric(streamsOpen, prometheus.GaugeValue, float64(work), "work")
}
