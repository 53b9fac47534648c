package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCompareSpread(t *testing.T) {
	run := func(one, four, p50 float64) []benchRow {
		return []benchRow{
			{Name: "a", JobsPerSec: one},
			{Name: "a/4", JobsPerSec: four, beside: "a", Note: "fast"},
			{Name: "b", JobsPerSec: 1, P50Micros: 100},
			{Name: "b/4", JobsPerSec: 1, P50Micros: p50, beside: "b"},
		}
	}
	for _, tc := range []struct {
		runs [][]benchRow
		want []string
	}{
		{[][]benchRow{run(200, 100, 150)}, []string{"", "fast; its rate is 0.50 of that of a", "", "; its p50 is 1.50 of that of b"}},
		{[][]benchRow{run(100, 90, 90), run(100, 130, 110), run(100, 100, 100)}, []string{
			"", "fast; its rate is 1.00 of that of a, the median of 3 runs from 0.90 to 1.30", "", "; its p50 is 1.00 of that of b, the median of 3 runs from 0.90 to 1.10",
		}},
	} {
		rows := medianRows(tc.runs)
		compareSpread(rows, tc.runs)
		for i, row := range rows {
			if row.Note != tc.want[i] {
				t.Errorf("%s: %q, want %q", row.Name, row.Note, tc.want[i])
			}
		}
	}
}

// TestBatchesHaveAllKeys: jobs have as many ordering keys as they are to have, in turn, however many go by one call.
func TestBatchesHaveAllKeys(t *testing.T) {
	for _, tc := range []struct{ keys, size, want int }{{0, 100, 1}, {3, 100, 1}, {3, 1, 3}, {250, 100, 3}} {
		b := &benchRun{benchOptions: benchOptions{keys: tc.keys}}
		all := b.batches("q", tc.size).all
		keys := make(map[string]bool)
		for _, req := range all {
			for _, j := range req.GetJobs() {
				if k := j.GetOrderingKey(); k != "" {
					keys[k] = true
				}
			}
		}
		if len(all) != tc.want || len(keys) != tc.keys {
			t.Errorf("%+v: %d requests with %d keys", tc, len(all), len(keys))
		}
	}
}

func TestBenchRefusesPartitions(t *testing.T) {
	valid := benchOptions{seconds: 1, runs: 1, queues: 1, nodes: 1, backlog: 100, out: io.Discard, log: io.Discard}
	for want, edit := range map[string]func(*benchOptions){
		"--partitions is [0]":         func(o *benchOptions) { o.partitions = []int{0} },
		"--partitions is [1 65]":      func(o *benchOptions) { o.partitions = []int{1, 65} },
		"--partitions is [4 1 4]":     func(o *benchOptions) { o.partitions = []int{4, 1, 4} },
		"--ordering-keys is -1":       func(o *benchOptions) { o.keys = -1 },
		"--ordering-keys is 10001":    func(o *benchOptions) { o.keys = 10_001 },
		"the scenario \"backlog\" is": func(o *benchOptions) { o.partitions, o.only = []int{2}, []string{"backlog"} },
	} {
		o := valid
		edit(&o)
		if err := runBench(context.Background(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

// TestBenchShards: the servers have as many shards as the partitions take, and what they have unasked otherwise.
func TestBenchShards(t *testing.T) {
	for _, tc := range []struct {
		partitions []int
		want       string
	}{{nil, "[]"}, {[]int{1, 4}, "[]"}, {[]int{64}, "[--shards 64]"}} {
		o := benchOptions{partitions: tc.partitions}
		if got := fmt.Sprint(o.shards()); got != tc.want {
			t.Errorf("%v: %s, want %s", tc.partitions, got, tc.want)
		}
	}
}
