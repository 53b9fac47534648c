package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeInfo is a node's series of its own. Other nodes tell nothing of its zone: each is scraped, and a figure that all of them had would
// be counted as often.
type nodeInfo struct {
	node          uint64
	zone, version string
}

// SetNode tells which node this is, and where.
func (s *Set) SetNode(node uint64, zone string) {
	s.node.Store(&nodeInfo{node: node, zone: zone, version: s.version})
}

// nodeCollector shows which node this is.
type nodeCollector Set

var nodeDesc = prometheus.NewDesc("beaver_node_info", "Always 1; the labels tell which node this is, its zone, and what runs there.",
	[]string{"node", "zone", "version"}, nil)

// Describe implements prometheus.Collector.
func (c *nodeCollector) Describe(descs chan<- *prometheus.Desc) { descs <- nodeDesc }

// Collect implements prometheus.Collector.
func (c *nodeCollector) Collect(out chan<- prometheus.Metric) {
	if n := c.node.Load(); n != nil {
		out <- prometheus.MustNewConstMetric(nodeDesc, prometheus.GaugeValue, 1, strconv.FormatUint(n.node, 10), n.zone, n.version)
	}
}
