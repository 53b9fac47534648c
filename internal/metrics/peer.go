package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Peer is another node of the cluster, as this one reaches it.
type Peer struct {
	Node      uint64
	Connected bool          // Raft messages to it have a connection
	RoundTrip time.Duration // smoothed; 0: not measured yet
	Told      bool          // it was heard of since this node started
	HeardAgo  time.Duration // since then
	Silent    bool          // nothing was heard of it for a node's TTL
	// Behind has, for each shard that this node leads, how many entries of its log the peer is not known to hold.
	Behind map[uint16]uint64
}

// peerCollector shows the connections to the other nodes. A node that is alone has none.
type peerCollector Set

var (
	peerConnected = prometheus.NewDesc("beaver_peer_connected", "1 when this node has a connection to the other one.", []string{"peer"}, nil)
	peerRoundTrip = prometheus.NewDesc("beaver_peer_round_trip_seconds", "Smoothed round trip to the other node; missing until it is measured.",
		[]string{"peer"}, nil)
	peerHeard = prometheus.NewDesc("beaver_peer_heartbeat_age_seconds",
		"How long ago the other node was heard of: it tells this one about once a second that it lives. Missing until it has.", []string{"peer"}, nil)
	peerSilent = prometheus.NewDesc("beaver_peer_silent", "1 when nothing was heard of the other node for 5 s.", []string{"peer"}, nil)
	peerLag    = prometheus.NewDesc("beaver_peer_lag_entries",
		"Entries of a shard that this node leads which the other one is not known to hold.", []string{"peer", "shard"}, nil)
)

// Describe implements prometheus.Collector.
func (c *peerCollector) Describe(descs chan<- *prometheus.Desc) {
	descs <- peerConnected
	descs <- peerRoundTrip
	descs <- peerHeard
	descs <- peerSilent
	descs <- peerLag
}

// Collect implements prometheus.Collector.
func (c *peerCollector) Collect(out chan<- prometheus.Metric) {
	list := c.peers.Load()
	if list == nil {
		return
	}
	for _, p := range (*list)() {
		peer := strconv.FormatUint(p.Node, 10)
		out <- prometheus.MustNewConstMetric(peerConnected, prometheus.GaugeValue, flag(p.Connected), peer)
		if p.RoundTrip > 0 {
			out <- prometheus.MustNewConstMetric(peerRoundTrip, prometheus.GaugeValue, p.RoundTrip.Seconds(), peer)
		}
		if p.Told {
			out <- prometheus.MustNewConstMetric(peerHeard, prometheus.GaugeValue, p.HeardAgo.Seconds(), peer)
		}
		out <- prometheus.MustNewConstMetric(peerSilent, prometheus.GaugeValue, flag(p.Silent), peer)
		for shard, n := range p.Behind {
			out <- prometheus.MustNewConstMetric(peerLag, prometheus.GaugeValue, float64(n), peer, strconv.Itoa(int(shard)))
		}
	}
}
