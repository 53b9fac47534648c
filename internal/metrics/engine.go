package metrics

import (
	"math"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// engineCollector shows the engine's figures.
type engineCollector Set

// figures are the descriptions of all the engine's figures, made once a collector asks.
type figures struct {
	jobs, oldest, enqueued, completed, failed, crashed, died, cancelled, expired, retried, discarded *prometheus.Desc
	enqueueSeconds, waitSeconds, runSeconds, queuesOmitted                                           *prometheus.Desc

	waitingCalls, waitingBytes, inFlight, parked, overloaded, handedOff, batches, batchedItems *prometheus.Desc
	sessions, leases, timers                                                                   *prometheus.Desc

	applied, leading, term, snapshotBytes, snapshotSeconds, snapshotPause, snapshotLag, snapshotAge, snapshots *prometheus.Desc
	shardRecovery, replayed                                                                                    *prometheus.Desc

	flushSeconds, batchBytes, batchItems, flushedBytes, flushedEntries          *prometheus.Desc
	tailFiles, segments, segmentBytes, segmentLive, compactions, compactedBytes *prometheus.Desc
	entriesDropped, entriesCopied, diskFree, diskTotal, diskFull, recovery      *prometheus.Desc
	workers, workersLost, damaged                                               *prometheus.Desc

	transfers, transferBytes, transferFullBytes, messagesDropped, chunksDropped *prometheus.Desc
}

func newFigures() *figures {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("beaver_"+name, help, labels, nil)
	}
	perQueue := func(name, help string) *prometheus.Desc { return desc(name, help, "queue") }
	perShard := func(name, help string) *prometheus.Desc { return desc(name, help, "shard") }
	return &figures{
		jobs:           desc("jobs", "Jobs now, by queue and state.", "queue", "state"),
		oldest:         perQueue("oldest_ready_age_seconds", "How long ago the oldest ready job was stored."),
		enqueued:       perQueue("jobs_enqueued_total", "Jobs stored."),
		completed:      perQueue("jobs_completed_total", "Jobs acked."),
		failed:         perQueue("attempts_failed_total", "Attempts that ended in a failure."),
		crashed:        perQueue("attempts_lost_total", "Attempts lost with their worker."),
		died:           perQueue("jobs_died_total", "Jobs that became dead."),
		cancelled:      perQueue("jobs_cancelled_total", "Jobs cancelled."),
		expired:        perQueue("jobs_expired_total", "Jobs whose time ran out before they ran."),
		retried:        perQueue("jobs_retried_total", "Dead jobs made ready again."),
		discarded:      perQueue("jobs_discarded_total", "Dead jobs thrown away."),
		enqueueSeconds: perQueue("enqueue_duration_seconds", "From the call to its durable answer."),
		waitSeconds:    perQueue("job_wait_seconds", "From ready to leased."),
		runSeconds:     perQueue("job_run_seconds", "From leased to ended."),
		queuesOmitted:  desc("queues_omitted", "Queues without latencies of their own, since there are too many."),

		waitingCalls: perShard("shard_waiting_calls", "Commands that wait to be proposed."),
		waitingBytes: perShard("shard_waiting_bytes", "Bytes of the commands that wait to be proposed."),
		inFlight:     perShard("shard_entries_in_flight", "Entries proposed and not yet applied."),
		parked:       perShard("shard_parked_fetches", "Fetches that wait for a job."),
		overloaded:   perShard("shard_overloaded_total", "Calls refused since too many were waiting."),
		handedOff:    perShard("shard_handed_off_total", "Fetches that rode in the entry of the enqueue that fed them."),
		batches:      perShard("shard_batches_total", "Entries applied."),
		batchedItems: perShard("shard_batched_items_total", "Commands' items in these entries."),
		sessions:     perShard("shard_sessions", "Client sessions remembered."),
		leases:       perShard("shard_leases", "Jobs in workers' hands."),
		timers:       perShard("shard_timers", "Timers set: schedules, backoffs, deadlines, expiries."),

		applied:         perShard("shard_applied_index", "Index of the last entry applied."),
		leading:         perShard("shard_leading", "1 when this node leads the shard."),
		term:            perShard("shard_term", "Raft term."),
		snapshotBytes:   perShard("snapshot_bytes", "Size of the newest partial snapshot."),
		snapshotSeconds: perShard("snapshot_duration_seconds", "How long the newest snapshot took, in the background."),
		snapshotPause:   perShard("snapshot_pause_seconds", "For how long the newest snapshot stopped the shard."),
		snapshotLag:     perShard("snapshot_lag_entries", "Entries applied since the newest snapshot."),
		snapshotAge:     perShard("snapshot_age_seconds", "How long ago the newest snapshot was stored; missing when that was before the start."),
		snapshots:       perShard("snapshots_total", "Snapshots taken since the start."),
		shardRecovery:   perShard("shard_recovery_seconds", "How long the shard's recovery took at the start."),
		replayed:        perShard("shard_recovery_entries", "Entries replayed at the start."),

		flushSeconds:   desc("log_flush_seconds", "Write and fdatasync of one group commit."),
		batchBytes:     desc("batch_bytes", "Bytes of one entry."),
		batchItems:     desc("batch_items", "Items of one entry."),
		flushedBytes:   desc("log_flushed_bytes_total", "Bytes written to the log."),
		flushedEntries: desc("log_flushed_entries_total", "Entries written to the log."),
		tailFiles:      desc("log_tail_files", "Files of the log that are not yet split into segments."),
		segments:       desc("log_segments", "Live segments."),
		segmentBytes:   desc("log_segment_bytes", "Bytes of all live segments."),
		segmentLive:    desc("log_segment_live_bytes", "Bytes in live segments that are still needed."),
		compactions:    desc("log_compactions_total", "Segments rewritten since most of them was dead."),
		compactedBytes: desc("log_compacted_bytes_total", "Bytes copied by compactions."),
		entriesDropped: desc("log_entries_dropped_total", "Entries that were dead before their file was sealed: never written twice."),
		entriesCopied:  desc("log_entries_copied_total", "Entries written a second time, into a live segment."),
		diskFree:       desc("disk_free_bytes", "Room left on the data directory's disk."),
		diskTotal:      desc("disk_size_bytes", "Size of the data directory's disk."),
		diskFull:       desc("disk_full", "1 when enqueues are refused for want of room."),
		recovery:       desc("recovery_seconds", "How long the recovery took at the start."),

		transfers:         desc("transfers_total", "Snapshots sent to other nodes, to the end or not."),
		transferBytes:     desc("transfer_bytes_total", "Bytes sent in these."),
		transferFullBytes: desc("transfer_full_bytes_total", "Bytes that full snapshots would have sent in their place."),
		messagesDropped:   desc("messages_dropped_total", "Raft messages of other nodes dropped: too many waited, or they were not what they said."),
		chunksDropped:     desc("transfer_chunks_dropped_total", "Chunks of snapshots from other nodes dropped since too many waited."),

		workers:     desc("workers", "Registered workers."),
		workersLost: desc("workers_lost_total", "Workers that went silent, since the start."),
		damaged:     desc("jobs_damaged_total", "Payloads found damaged, since the start."),
	}
}

// Describe implements prometheus.Collector. It sends nothing: what there is depends on queues and shards, which makes the
// collector an unchecked one.
func (c *engineCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *engineCollector) Collect(out chan<- prometheus.Metric) {
	source := c.source.Load()
	if source == nil {
		return
	}
	stats := (*source).Stats()
	s := sink{out: out, figures: newFigures()}
	s.queues(&stats)
	s.shards(&stats)
	s.host(&stats)
	s.log(&stats)
}

// sink sends figures to a scrape.
type sink struct {
	*figures
	out chan<- prometheus.Metric
}

func (s *sink) gauge(d *prometheus.Desc, v float64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (s *sink) counter(d *prometheus.Desc, v uint64, labels ...string) {
	s.out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

// latency sends a histogram of the engine's.
func (s *sink) latency(d *prometheus.Desc, h *engine.HistogramStats, labels ...string) {
	buckets := make(map[float64]uint64, len(h.Bounds))
	total := uint64(0)
	for i, bound := range h.Bounds {
		if i < len(h.Counts) {
			total += h.Counts[i]
		}
		buckets[bound] = total
	}
	s.out <- prometheus.MustNewConstHistogram(d, max(h.Count, total), h.Sum, buckets, labels...)
}

// powers sends a histogram whose bucket i counts the values below 2^i that are in no bucket before. scale turns a value
// into the figure's unit; buckets that are empty at both ends are left out, but for the first.
func (s *sink) powers(d *prometheus.Desc, counts []uint64, count, sum uint64, scale float64) {
	buckets := make(map[float64]uint64, len(counts))
	total := uint64(0)
	for i, n := range counts[:len(counts)-1] { // the last one has no upper bound
		total += n
		buckets[math.Ldexp(scale, i)] = total
		if total >= count {
			break
		}
	}
	s.out <- prometheus.MustNewConstHistogram(d, max(count, total), float64(sum)*scale, buckets)
}

// states are the states whose jobs are shown.
var states = [...]struct {
	state queue.State
	name  string
}{
	{queue.StateScheduled, "scheduled"},
	{queue.StateReady, "ready"},
	{queue.StateRunning, "running"},
	{queue.StateBackoff, "backoff"},
	{queue.StateDead, "dead"},
}

func (s *sink) queues(stats *engine.Stats) {
	listed := stats.Queues[:min(len(stats.Queues), QueueLabelsMax)]
	var rest [len(states)]uint64
	for i := range stats.Shards {
		for k, st := range states {
			rest[k] += stats.Shards[i].Totals.ByState[st.state]
		}
	}
	for i := range listed {
		q := &listed[i]
		for k, st := range states {
			n := q.Info.ByState[st.state]
			rest[k] -= min(rest[k], n)
			s.gauge(s.jobs, float64(n), q.Name, st.name)
		}
		s.queue(q)
	}
	omitted := stats.QueuesOmitted + len(stats.Queues) - len(listed)
	s.gauge(s.queuesOmitted, float64(omitted))
	if omitted > 0 {
		for k, st := range states {
			s.gauge(s.jobs, float64(rest[k]), otherQueues, st.name)
		}
	}
}

func (s *sink) queue(q *engine.QueueStats) {
	s.gauge(s.oldest, q.OldestReadyAge, q.Name)
	i := &q.Info
	s.counter(s.enqueued, i.Enqueued, q.Name)
	s.counter(s.completed, i.Completed, q.Name)
	s.counter(s.failed, i.Failed, q.Name)
	s.counter(s.crashed, i.Crashed, q.Name)
	s.counter(s.died, i.Died, q.Name)
	s.counter(s.cancelled, i.Cancelled, q.Name)
	s.counter(s.expired, i.Expired, q.Name)
	s.counter(s.retried, i.Retried, q.Name)
	s.counter(s.discarded, i.Discarded, q.Name)
	s.latency(s.enqueueSeconds, &q.Enqueue, q.Name)
	s.latency(s.waitSeconds, &q.Wait, q.Name)
	s.latency(s.runSeconds, &q.Run, q.Name)
}

func (s *sink) shards(stats *engine.Stats) {
	for i := range stats.Shards {
		p := &stats.Shards[i]
		shard := strconv.Itoa(int(p.ID))
		s.gauge(s.waitingCalls, float64(p.WaitingCalls), shard)
		s.gauge(s.waitingBytes, float64(p.WaitingBytes), shard)
		s.gauge(s.inFlight, float64(p.InFlight), shard)
		s.gauge(s.parked, float64(p.ParkedFetches), shard)
		s.counter(s.overloaded, p.Overloaded, shard)
		s.counter(s.handedOff, p.HandedOff, shard)
		s.counter(s.batches, p.Batches, shard)
		s.counter(s.batchedItems, p.BatchedItems, shard)
		s.gauge(s.sessions, float64(p.Totals.Sessions), shard)
		s.gauge(s.leases, float64(p.Totals.Leases), shard)
		s.gauge(s.timers, float64(p.Totals.Timers), shard)
	}
}

func (s *sink) host(stats *engine.Stats) {
	for i := range stats.Host.Shards {
		h := &stats.Host.Shards[i]
		shard := strconv.Itoa(int(h.ID))
		s.gauge(s.applied, float64(h.Applied), shard)
		s.gauge(s.leading, flag(h.Leading), shard)
		s.gauge(s.term, float64(h.Term), shard)
		s.gauge(s.snapshotBytes, float64(h.SnapshotBytes), shard)
		s.gauge(s.snapshotSeconds, h.SnapshotSeconds, shard)
		s.gauge(s.snapshotPause, h.SnapshotPause, shard)
		s.gauge(s.snapshotLag, float64(h.Applied-min(h.Applied, h.SnapshotIndex)), shard)
		if h.SnapshotMillis != 0 {
			s.gauge(s.snapshotAge, float64(max(0, stats.NowMillis-h.SnapshotMillis))/1000, shard)
		}
		s.counter(s.snapshots, h.Snapshots, shard)
		s.gauge(s.shardRecovery, h.RecoverySeconds, shard)
		s.gauge(s.replayed, float64(h.EntriesReplayed), shard)
	}
	s.gauge(s.recovery, stats.Host.RecoverySeconds)
	s.counter(s.transfers, stats.Host.TransfersEnded)
	s.counter(s.transferBytes, stats.Host.TransferBytes)
	s.counter(s.transferFullBytes, stats.Host.TransferFullBytes)
	s.counter(s.messagesDropped, stats.Host.MessagesDropped)
	s.counter(s.chunksDropped, stats.Host.ChunksDropped)
	s.gauge(s.workers, float64(stats.Workers))
	s.counter(s.workersLost, stats.WorkersLost)
	s.counter(s.damaged, stats.JobsDamaged)
}

func (s *sink) log(stats *engine.Stats) {
	h, l := &stats.Host, &stats.Host.Log
	s.powers(s.flushSeconds, h.FlushMicros.Buckets[:], h.FlushMicros.Count, h.FlushMicros.Sum, 1e-6)
	s.powers(s.batchBytes, h.BatchBytes.Buckets[:], h.BatchBytes.Count, h.BatchBytes.Sum, 1)
	s.powers(s.batchItems, h.BatchItems.Buckets[:], h.BatchItems.Count, h.BatchItems.Sum, 1)
	s.counter(s.flushedBytes, l.FlushedBytes)
	s.counter(s.flushedEntries, l.FlushedEntries)
	s.gauge(s.tailFiles, float64(l.TailFiles))
	s.gauge(s.segments, float64(l.Segments))
	s.gauge(s.segmentBytes, float64(l.SegmentBytes))
	s.gauge(s.segmentLive, float64(l.SegmentLiveBytes))
	s.counter(s.compactions, l.Compactions)
	s.counter(s.compactedBytes, l.CompactedBytes)
	s.counter(s.entriesDropped, l.SealedEntriesDropped)
	s.counter(s.entriesCopied, l.SealedEntriesCopied)
	s.gauge(s.diskFree, float64(l.DiskFree))
	s.gauge(s.diskTotal, float64(l.DiskTotal))
	s.gauge(s.diskFull, flag(stats.DiskFull))
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
