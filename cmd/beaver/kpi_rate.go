package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// kpiRateTurns is how often a rate with a target is measured. The median counts, as with beaver bench --runs: a disk that stands still for a
// second of one turn says nothing about the nodes.
const kpiRateTurns = 3

// kpiRateScenario is a scenario of beaver bench, and its target.
type kpiRateScenario struct {
	scenario, name string
	target         float64 // 0: there is none
	latency        bool    // it is the median latency that counts, in µs
	queues         int
}

func kpiRateScenarios() []kpiRateScenario {
	return []kpiRateScenario{
		{"enqueue-batch", "enqueues in calls of 100", 140_000, false, 1},
		{"cycle-batch", "enqueue + fetch + ack in calls of 100", 63_000, false, 1},
		{"enqueue-64", "one job at a time, 64 callers of one client", 33_000, false, 1},
		{"enqueue-lone", "a lone enqueue, p50", 900, true, 1},
		{"enqueue-batch", "enqueues in calls of 100, a queue on each shard", 0, false, fleetShards},
		{"enqueue-64", "64 callers of one client, a queue on each shard", 0, false, fleetShards},
	}
}

// kpiRate is beaver bench on three nodes, all scenarios in turn, so that a slow minute of the machine touches each of them once.
func kpiRate(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	collectSeldom()
	opts := benchOptions{dir: r.dir, seconds: r.seconds, runs: 1, payloadBytes: 1024, nodes: fleetNodes, log: r.progress}
	scenarios := kpiRateScenarios()
	rows := make([][]benchRow, len(scenarios))
	for turn := range kpiRateTurns {
		for i, s := range scenarios {
			if s.target == 0 && turn > 0 {
				continue
			}
			opts.only, opts.queues = []string{s.scenario}, s.queues
			got, err := runScenarios(ctx, opts)
			if err != nil {
				return nil, err
			}
			rows[i] = append(rows[i], got[0])
		}
	}
	facts := make([]kpiFact, len(scenarios))
	for i, s := range scenarios {
		facts[i] = s.fact(rows[i])
	}
	return facts, nil
}

// fact is the turn in the middle, and what the others came to.
func (s kpiRateScenario) fact(turns []benchRow) kpiFact {
	figure := func(row benchRow) float64 {
		if s.latency {
			return row.P50Micros
		}
		return row.JobsPerSec
	}
	turns = slices.SortedFunc(slices.Values(turns), func(a, b benchRow) int { return cmp.Compare(figure(a), figure(b)) })
	row := turns[len(turns)/2]
	f := kpiFact{Name: s.name, Value: figure(row), Unit: "jobs/s", SyncRate: float64(time.Second/time.Microsecond) / row.SyncMicros}
	f.Note = fmt.Sprintf("fdatasync p50 %.0f µs, %.1f µs of processor a job", row.SyncMicros, row.CPUMicros)
	if s.latency {
		f.Unit = "µs"
		f.Note = fmt.Sprintf("fdatasync p50 %.0f µs, p99 of the enqueue %.0f µs", row.SyncMicros, row.P99Micros)
	}
	if n := len(turns); n > 1 {
		f.Note += fmt.Sprintf("; the median of %d turns from %s to %s", n, quantity(figure(turns[0]), ""), quantity(figure(turns[n-1]), f.Unit))
	}
	switch {
	case s.target == 0:
		return f
	case s.latency:
		return f.below(s.target)
	}
	return f.above(s.target)
}
