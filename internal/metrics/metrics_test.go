package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
)

// fixed is a source that always says the same.
type fixed engine.Stats

func (f fixed) Stats() engine.Stats { return engine.Stats(f) }

// statsWith are figures of a node with n queues of one ready job each, and extra ready jobs in queues beyond these.
func statsWith(n, omitted int, extra uint64) engine.Stats {
	histogram := engine.HistogramStats{Bounds: []float64{0.001, 0.01}, Counts: []uint64{1, 2, 3}, Count: 6, Sum: 1.5}
	s := engine.Stats{QueuesOmitted: omitted, Workers: 2, Shards: []engine.ShardStats{{ID: 1}}}
	for i := range n {
		q := engine.QueueStats{Name: fmt.Sprintf("q%d", i), Enqueue: histogram, Wait: histogram, Run: histogram}
		q.Info.ByState[queue.StateReady] = 1
		q.Info.Enqueued, q.Info.Unique, q.Info.Deduplicated = 5, 3, 7
		s.Queues = append(s.Queues, q)
	}
	s.Shards[0].Totals.ByState[queue.StateReady] = uint64(n) + extra
	s.NowMillis = 9500
	s.Load = engine.NodeLoad{Processors: 8, DataBytes: 4096, Workers: 3, Slots: 24}
	s.Stored, s.Ended = 70, 60
	s.Host.Shards = []host.ShardStats{{ID: 1, Applied: 10, SnapshotIndex: 4, SnapshotMillis: 2000, Leading: true, Leader: 3, Last: 12, Elections: 2}, {ID: 2}}
	s.Host.Shards[1].Doubt.Index = 9
	s.Calls = []engine.CallStats{{Kind: "fetch", Count: 7}, {Kind: "query", Count: 8, Took: histogram}}
	s.Host.FlushMicros.Buckets[5], s.Host.FlushMicros.Count, s.Host.FlushMicros.Sum = 2, 2, 48
	return s
}

func scrape(t *testing.T, s *Set) string {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", w.Code, w.Body)
	}
	return w.Body.String()
}

func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(text, "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestScrape(t *testing.T) {
	s := New("v1")
	if text := scrape(t, s); strings.Contains(text, "beaver_jobs{") || !strings.Contains(text, "go_goroutines") {
		t.Error("before the engine: want the process's figures only")
	}
	s.SetEngine(fixed(statsWith(1, 0, 0)))
	s.SetStreams(func() (int64, int64) { return 3, 4 })
	s.SetPanics(func() int64 { return 2 })
	s.SetPeers(func() []Peer {
		return []Peer{
			{Node: 2, Connected: true, RoundTrip: 3 * time.Millisecond, Behind: map[uint16]uint64{1: 5}, Told: true, HeardAgo: 500 * time.Millisecond},
			{Node: 4, Silent: true},
		}
	})
	s.SetNode(3, "eu-1")
	record := s.Recorder("/beaver.v1.JobService/Ack")
	record("ok", time.Millisecond)
	record("not_found", time.Second)
	wantLines(t, scrape(t, s),
		`beaver_build_info{version="v1"} 1`,
		`beaver_jobs{queue="q0",state="ready"} 1`,
		`beaver_jobs_enqueued_total{queue="q0"} 5`,
		`beaver_unique_keys{queue="q0"} 3`,
		`beaver_jobs_deduplicated_total{queue="q0"} 7`,
		`beaver_enqueue_duration_seconds_bucket{queue="q0",le="0.001"} 1`,
		`beaver_enqueue_duration_seconds_bucket{queue="q0",le="0.01"} 3`,
		`beaver_enqueue_duration_seconds_bucket{queue="q0",le="+Inf"} 6`,
		`beaver_snapshot_lag_entries{shard="1"} 6`,
		`beaver_snapshot_age_seconds{shard="1"} 7.5`,
		`beaver_shard_leading{shard="1"} 1`,
		`beaver_shard_leader{shard="1"} 3`,
		`beaver_shard_leader{shard="2"} 0`,
		`beaver_shard_in_doubt{shard="1"} 0`,
		`beaver_shard_in_doubt{shard="2"} 1`,
		`beaver_shard_last_index{shard="1"} 12`,
		`beaver_shard_elections_total{shard="1"} 2`,
		`beaver_snapshots_failed_total{shard="1"} 0`,
		`beaver_forwarded_calls_total{kind="fetch"} 7`,
		`beaver_forwarded_calls_total{kind="query"} 8`,
		`beaver_forwarded_call_duration_seconds_bucket{kind="query",le="0.01"} 3`,
		`beaver_forwarded_call_duration_seconds_count{kind="query"} 6`,
		`beaver_clock_seconds 9.5`,
		`beaver_node_info{node="3",version="v1",zone="eu-1"} 1`,
		`beaver_workers_connected 3`,
		`beaver_worker_slots_connected 24`,
		`beaver_processors 8`,
		`beaver_data_bytes 4096`,
		`beaver_led_jobs_stored_total 70`,
		`beaver_led_attempts_ended_total 60`,
		`beaver_peer_heartbeat_age_seconds{peer="2"} 0.5`,
		`beaver_peer_silent{peer="2"} 0`,
		`beaver_peer_silent{peer="4"} 1`,
		`beaver_peer_connected{peer="2"} 1`,
		`beaver_peer_connected{peer="4"} 0`,
		`beaver_peer_lag_entries{peer="2",shard="1"} 5`,
		`beaver_peer_round_trip_seconds{peer="2"} 0.003`,
		`beaver_log_flush_seconds_bucket{le="1.6e-05"} 0`,
		`beaver_log_flush_seconds_bucket{le="3.2e-05"} 2`,
		`beaver_log_flush_seconds_bucket{le="16.777216"} 2`,
		`beaver_log_flush_seconds_sum 4.8e-05`,
		`beaver_rpc_streams{kind="work"} 4`,
		`beaver_rpc_panics_total 2`,
		`beaver_rpc_request_duration_seconds_count{code="not_found",procedure="/beaver.v1.JobService/Ack"} 1`,
		`beaver_queues_omitted 0`,
	)
}

// The age of a snapshot that was stored before the start is not known, and not made up.
func TestUnknownSnapshotAge(t *testing.T) {
	s := New("v1")
	s.SetEngine(fixed(statsWith(1, 0, 0)))
	if text := scrape(t, s); strings.Contains(text, `beaver_snapshot_age_seconds{shard="2"}`) {
		t.Error("an age that nobody knows")
	}
}

func TestLint(t *testing.T) {
	s := New("v1")
	s.SetEngine(fixed(statsWith(1, 1, 1)))
	s.SetStreams(func() (int64, int64) { return 0, 0 })
	s.Recorder("p")("ok", 0)
	problems, err := promlint.New(strings.NewReader(scrape(t, s))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "beaver_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// At the limit every queue has its label; beyond it the rest is summed up.
func TestQueueLabels(t *testing.T) {
	s := New("v1")
	s.SetEngine(fixed(statsWith(QueueLabelsMax, 0, 0)))
	text := scrape(t, s)
	if strings.Contains(text, `queue="other"`) {
		t.Error("at the limit: there is nothing else")
	}
	wantLines(t, text, fmt.Sprintf(`beaver_jobs{queue="q%d",state="ready"} 1`, QueueLabelsMax-1))
	s.SetEngine(fixed(statsWith(QueueLabelsMax+1, 4, 9)))
	text = scrape(t, s)
	wantLines(t, text, `beaver_jobs{queue="other",state="ready"} 10`, `beaver_queues_omitted 5`)
	if strings.Contains(text, fmt.Sprintf(`queue="q%d"`, QueueLabelsMax)) {
		t.Error("over the limit: a label too many")
	}
}
