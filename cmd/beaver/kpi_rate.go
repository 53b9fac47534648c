package main

import (
	"context"
	"fmt"
	"time"
)

// kpiRate is beaver bench on three nodes.
func kpiRate(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	collectSeldom()
	opts := benchOptions{dir: r.dir, seconds: r.seconds, runs: 1, payloadBytes: 1024, nodes: fleetNodes, log: r.progress}
	var facts []kpiFact
	for _, m := range []struct {
		scenario, name string
		target         float64
		latency        bool
		queues         int
	}{
		{"enqueue-batch", "enqueues in calls of 100", 140_000, false, 1},
		{"cycle-batch", "enqueue + fetch + ack in calls of 100", 63_000, false, 1},
		{"enqueue-64", "one job at a time, 64 callers of one client", 33_000, false, 1},
		{"enqueue-lone", "a lone enqueue, p50", 900, true, 1},
		{"enqueue-batch", "enqueues in calls of 100, a queue on each shard", 0, false, fleetShards},
		{"enqueue-64", "64 callers of one client, a queue on each shard", 0, false, fleetShards},
	} {
		opts.only, opts.queues = []string{m.scenario}, m.queues
		rows, err := runScenarios(ctx, opts)
		if err != nil {
			return facts, err
		}
		row := rows[0]
		f := kpiFact{Name: m.name, Value: row.JobsPerSec, Unit: "jobs/s", SyncRate: float64(time.Second/time.Microsecond) / row.SyncMicros}
		f.Note = fmt.Sprintf("fdatasync p50 %.0f µs, %.1f µs of processor a job", row.SyncMicros, row.CPUMicros)
		if m.target > 0 {
			f = f.above(m.target)
		}
		if m.latency {
			f = kpiFact{Name: m.name, Value: row.P50Micros, Unit: "µs", SyncRate: f.SyncRate}.below(m.target)
			f.Note = fmt.Sprintf("fdatasync p50 %.0f µs, p99 of the enqueue %.0f µs", row.SyncMicros, row.P99Micros)
		}
		facts = append(facts, f)
	}
	return facts, nil
}
