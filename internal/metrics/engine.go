package metrics

import (
	"math"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
)

// engineCollector shows the engine's figures.
type engineCollector Set

// figures are the descriptions of all the engine's figures, made once a collector asks.
type figures struct {
	jobs, oldest, enqueued, completed, failed, crashed, died, cancelled, expired, retried, discarded *prometheus.Desc
	uniqueKeys, deduplicated                                                                         *prometheus.Desc
	enqueueSeconds, waitSeconds, runSeconds, queuesOmitted                                           *prometheus.Desc

	waitingCalls, waitingBytes, inFlight, parked, overloaded, handedOff, batches, batchedItems *prometheus.Desc
	sessions, leases, timers                                                                   *prometheus.Desc

	applied, last, leading, leader, elections, term, inDoubt                                   *prometheus.Desc
	snapshotBytes, snapshotSeconds, snapshotPause, snapshotLag, snapshotAge, snapshots, noRoom *prometheus.Desc
	shardRecovery, replayed, clock, calls, callSeconds                                         *prometheus.Desc

	flushSeconds, batchBytes, batchItems, flushedBytes, flushedEntries                             *prometheus.Desc
	tailFiles, segments, segmentBytes, segmentLive, compactions, compactedBytes                    *prometheus.Desc
	entriesDropped, entriesCopied, entriesKept, keptBytes, diskFree, diskTotal, diskFull, recovery *prometheus.Desc
	workers, workersLost, damaged                                                                  *prometheus.Desc
	connected, slots, processors, dataBytes, ledStored, ledEnded                                   *prometheus.Desc

	transfers, transferBytes, transferFullBytes, messagesDropped, chunksDropped *prometheus.Desc
}

func newFigures() *figures {
	f := &figures{}
	f.ofQueues()
	f.ofShards()
	f.ofNode()
	return f
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("beaver_"+name, help, labels, nil)
}

func perQueue(name, help string) *prometheus.Desc { return desc(name, help, "queue") }

func perShard(name, help string) *prometheus.Desc { return desc(name, help, "shard") }

func (f *figures) ofQueues() {
	f.jobs = desc("jobs", "Jobs now, by queue and state.", "queue", "state")
	f.oldest = perQueue("oldest_ready_age_seconds", "How long ago the oldest ready job was stored.")
	f.enqueued = perQueue("jobs_enqueued_total", "Jobs stored.")
	f.completed = perQueue("jobs_completed_total", "Jobs acked.")
	f.failed = perQueue("attempts_failed_total", "Attempts that ended in a failure.")
	f.crashed = perQueue("attempts_lost_total", "Attempts lost with their worker.")
	f.died = perQueue("jobs_died_total", "Jobs that became dead.")
	f.cancelled = perQueue("jobs_cancelled_total", "Jobs cancelled.")
	f.expired = perQueue("jobs_expired_total", "Jobs whose time ran out before they ran.")
	f.retried = perQueue("jobs_retried_total", "Dead jobs made ready again.")
	f.discarded = perQueue("jobs_discarded_total", "Dead jobs thrown away.")
	f.uniqueKeys = perQueue("unique_keys", "Unique keys held now, also by jobs that have ended and whose window has not passed.")
	f.deduplicated = perQueue("jobs_deduplicated_total", "Enqueued jobs that were not stored, since another held their unique key.")
	f.enqueueSeconds = perQueue("enqueue_duration_seconds", "From the call to its durable answer.")
	f.waitSeconds = perQueue("job_wait_seconds", "From ready to leased.")
	f.runSeconds = perQueue("job_run_seconds", "From leased to ended.")
	f.queuesOmitted = desc("queues_omitted", "Queues without latencies of their own, since there are too many.")
}

func (f *figures) ofShards() {
	f.waitingCalls = perShard("shard_waiting_calls", "Commands that wait to be proposed.")
	f.waitingBytes = perShard("shard_waiting_bytes", "Bytes of the commands that wait to be proposed.")
	f.inFlight = perShard("shard_entries_in_flight", "Entries proposed and not yet applied.")
	f.parked = perShard("shard_parked_fetches", "Fetches that wait for a job.")
	f.overloaded = perShard("shard_overloaded_total", "Calls refused since too many were waiting.")
	f.handedOff = perShard("shard_handed_off_total", "Fetches that rode in the entry of the enqueue that fed them.")
	f.batches = perShard("shard_batches_total", "Entries applied.")
	f.batchedItems = perShard("shard_batched_items_total", "Commands' items in these entries.")
	f.sessions = perShard("shard_sessions", "Client sessions remembered.")
	f.leases = perShard("shard_leases", "Jobs in workers' hands.")
	f.timers = perShard("shard_timers", "Timers set: schedules, backoffs, deadlines, expiries.")
	f.applied = perShard("shard_applied_index", "Index of the last entry applied.")
	f.last = perShard("shard_last_index", "Index of the last entry of this node's log, applied or not.")
	f.leader = perShard("shard_leader", "Id of the node that leads the shard, as this node knows it; 0: nobody is known to.")
	f.elections = perShard("shard_elections_total", "Terms since the start in which this node heard of a leader; each but the first is a change.")
	f.inDoubt = perShard("shard_in_doubt", "1 while nobody knows whether this node's state of the shard is right, or it is known to be wrong and not yet rebuilt.")
	f.leading = perShard("shard_leading", "1 when this node leads the shard.")
	f.term = perShard("shard_term", "Raft term.")
	f.snapshotBytes = perShard("snapshot_bytes", "Size of the newest partial snapshot.")
	f.snapshotSeconds = perShard("snapshot_duration_seconds", "How long the newest snapshot took, in the background.")
	f.snapshotPause = perShard("snapshot_pause_seconds", "For how long the newest snapshot stopped the shard.")
	f.snapshotLag = perShard("snapshot_lag_entries", "Entries applied since the newest snapshot.")
	f.snapshotAge = perShard("snapshot_age_seconds", "How long ago the newest snapshot was stored; missing when that was before the start.")
	f.snapshots = perShard("snapshots_total", "Snapshots taken since the start.")
	f.noRoom = perShard("snapshots_failed_total", "Snapshots since the start that found no room on the disk; each is tried again.")
	f.shardRecovery = perShard("shard_recovery_seconds", "How long the shard's recovery took at the start.")
	f.replayed = perShard("shard_recovery_entries", "Entries replayed at the start.")
}

func (f *figures) ofNode() {
	f.flushSeconds = desc("log_flush_seconds", "Write and fdatasync of one group commit.")
	f.batchBytes = desc("batch_bytes", "Bytes of one entry.")
	f.batchItems = desc("batch_items", "Items of one entry.")
	f.flushedBytes = desc("log_flushed_bytes_total", "Bytes written to the log.")
	f.flushedEntries = desc("log_flushed_entries_total", "Entries written to the log.")
	f.tailFiles = desc("log_tail_files", "Files of the log that are not yet split into segments.")
	f.segments = desc("log_segments", "Live segments.")
	f.segmentBytes = desc("log_segment_bytes", "Bytes of all live segments.")
	f.segmentLive = desc("log_segment_live_bytes", "Bytes in live segments that are still needed.")
	f.compactions = desc("log_compactions_total", "Segments rewritten since most of them was dead.")
	f.compactedBytes = desc("log_compacted_bytes_total", "Bytes copied by compactions.")
	f.entriesDropped = desc("log_entries_dropped_total", "Entries that were dead before their file was sealed: never written twice.")
	f.entriesCopied = desc("log_entries_copied_total", "Entries written a second time, into a live segment.")
	f.entriesKept = desc("log_entries_kept_total", "Live entries that stayed in the file that they were written to when it was retired.")
	f.keptBytes = desc("log_kept_bytes", "Size of the retired log files that stay in place, since nearly all that was in them was live.")
	f.diskFree = desc("disk_free_bytes", "Room left on the data directory's disk.")
	f.diskTotal = desc("disk_size_bytes", "Size of the data directory's disk.")
	f.diskFull = desc("disk_full", "1 when enqueues are refused for want of room.")
	f.recovery = desc("recovery_seconds", "How long the recovery took at the start.")
	f.clock = desc("clock_seconds", "The node's wall clock, in seconds since 1970.")
	f.calls = desc("forwarded_calls_total", "Calls to other nodes, answered or not: commands, queries and fetches of shards that they lead, signs of life, notices.", "kind")
	f.callSeconds = desc("forwarded_call_duration_seconds", "Calls to other nodes that were answered, until then. Fetches are left out: they wait for jobs.", "kind")

	f.transfers = desc("transfers_total", "Snapshots sent to other nodes, to the end or not.")
	f.transferBytes = desc("transfer_bytes_total", "Bytes sent in these.")
	f.transferFullBytes = desc("transfer_full_bytes_total", "Bytes that full snapshots would have sent in their place.")
	f.messagesDropped = desc("messages_dropped_total", "Raft messages of other nodes dropped: too many waited, or they were not what they said.")
	f.chunksDropped = desc("transfer_chunks_dropped_total", "Chunks of snapshots from other nodes dropped since too many waited.")
	f.workers = desc("workers", "Registered workers.")
	f.workersLost = desc("workers_lost_total", "Workers that went silent, since the start.")
	f.connected = desc("workers_connected", "Workers that are connected to this node.")
	f.slots = desc("worker_slots_connected", "Jobs that the workers connected to this node run at once.")
	f.processors = desc("processors", "Processors that the process may use.")
	f.dataBytes = desc("data_bytes", "Size of all files in the data directory.")
	f.ledStored = desc("led_jobs_stored_total", "Jobs stored on shards while this node led them: the sum over all nodes counts each once.")
	f.ledEnded = desc("led_attempts_ended_total", "Attempts acked or failed on shards while this node led them: the sum over all nodes counts each once.")
	f.damaged = desc("jobs_damaged_total", "Payloads found damaged, since the start.")
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

// span is which buckets of a histogram by powers of two are shown: those of the values below 2^first to 2^last.
type span struct{ first, last int }

// The buckets shown are always the same ones: the rate of one that appears late would be wrong.
var (
	flushSpan      = span{4, 24} // microseconds: 16 µs to 17 s
	batchBytesSpan = span{6, 23} // to 8 MiB: an entry has less
	batchItemsSpan = span{0, 15}
)

// powers sends a histogram whose bucket i counts the values below 2^i that are in no bucket before. scale turns a value
// into the figure's unit.
func (s *sink) powers(d *prometheus.Desc, h *host.Histogram, of span, scale float64) {
	buckets := make(map[float64]uint64, of.last-of.first+1)
	total := uint64(0)
	for i, n := range h.Buckets {
		total += n
		if i >= of.first && i <= of.last {
			buckets[math.Ldexp(scale, i)] = total
		}
	}
	s.out <- prometheus.MustNewConstHistogram(d, max(h.Count, total), float64(h.Sum)*scale, buckets)
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
	s.gauge(s.uniqueKeys, float64(i.Unique), q.Name)
	s.counter(s.deduplicated, i.Deduplicated, q.Name)
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
		s.gauge(s.last, float64(h.Last), shard)
		s.gauge(s.leader, float64(h.Leader), shard)
		s.counter(s.elections, h.Elections, shard)
		s.gauge(s.inDoubt, flag(h.Doubt.Index != 0), shard)
		s.gauge(s.term, float64(h.Term), shard)
		s.gauge(s.snapshotBytes, float64(h.SnapshotBytes), shard)
		s.gauge(s.snapshotSeconds, h.SnapshotSeconds, shard)
		s.gauge(s.snapshotPause, h.SnapshotPause, shard)
		s.gauge(s.snapshotLag, float64(h.Applied-min(h.Applied, h.SnapshotIndex)), shard)
		if h.SnapshotMillis != 0 {
			s.gauge(s.snapshotAge, float64(max(0, stats.NowMillis-h.SnapshotMillis))/1000, shard)
		}
		s.counter(s.snapshots, h.Snapshots, shard)
		s.counter(s.noRoom, h.SnapshotsFailed, shard)
		s.gauge(s.shardRecovery, h.RecoverySeconds, shard)
		s.gauge(s.replayed, float64(h.EntriesReplayed), shard)
	}
	s.gauge(s.recovery, stats.Host.RecoverySeconds)
	s.gauge(s.clock, float64(stats.NowMillis)/1000)
	for _, c := range stats.Calls {
		s.counter(s.calls, c.Count, c.Kind)
		if len(c.Took.Bounds) > 0 {
			s.latency(s.callSeconds, &c.Took, c.Kind)
		}
	}
	s.counter(s.transfers, stats.Host.TransfersEnded)
	s.counter(s.transferBytes, stats.Host.TransferBytes)
	s.counter(s.transferFullBytes, stats.Host.TransferFullBytes)
	s.counter(s.messagesDropped, stats.Host.MessagesDropped)
	s.counter(s.chunksDropped, stats.Host.ChunksDropped)
	s.gauge(s.workers, float64(stats.Workers))
	s.counter(s.workersLost, stats.WorkersLost)
	s.gauge(s.connected, float64(stats.Load.Workers))
	s.gauge(s.slots, float64(stats.Load.Slots))
	s.gauge(s.processors, float64(stats.Load.Processors))
	s.gauge(s.dataBytes, float64(stats.Load.DataBytes))
	s.counter(s.ledStored, stats.Stored)
	s.counter(s.ledEnded, stats.Ended)
	s.counter(s.damaged, stats.JobsDamaged)
}

func (s *sink) log(stats *engine.Stats) {
	h, l := &stats.Host, &stats.Host.Log
	s.powers(s.flushSeconds, &h.FlushMicros, flushSpan, 1e-6)
	s.powers(s.batchBytes, &h.BatchBytes, batchBytesSpan, 1)
	s.powers(s.batchItems, &h.BatchItems, batchItemsSpan, 1)
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
	s.counter(s.entriesKept, l.SealedEntriesKept)
	s.gauge(s.keptBytes, float64(l.KeptBytes))
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
