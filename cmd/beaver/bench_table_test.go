package main

import (
	"slices"
	"strings"
	"testing"
)

func TestMedianRows(t *testing.T) {
	run := func(rate, p50 float64, note string) []benchRow {
		return []benchRow{{Name: "a", JobsPerSec: rate, P50Micros: p50, Note: note}, {Name: "b", SyncMicros: rate}}
	}
	tests := []struct {
		name string
		runs [][]benchRow
		want []benchRow
	}{
		{"no run", nil, []benchRow{}},
		{"one run", [][]benchRow{run(5, 2, "x")}, []benchRow{
			{Name: "a", Runs: 1, JobsPerSec: 5, BestPerSec: 5, P50Micros: 2, Note: "x"}, {Name: "b", Runs: 1, SyncMicros: 5},
		}},
		{"odd", [][]benchRow{run(9, 1, "x"), run(1, 3, "y"), run(4, 2, "z")}, []benchRow{
			{Name: "a", Runs: 3, JobsPerSec: 4, BestPerSec: 9, P50Micros: 2, Note: "z"}, {Name: "b", Runs: 3, SyncMicros: 4},
		}},
		{"even", [][]benchRow{run(9, 1, "x"), run(1, 3, "y")}, []benchRow{
			{Name: "a", Runs: 2, JobsPerSec: 5, BestPerSec: 9, P50Micros: 2, Note: "y"}, {Name: "b", Runs: 2, SyncMicros: 5},
		}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got := medianRows(tc.runs); !slices.Equal(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestPrintRows(t *testing.T) {
	var out strings.Builder
	err := printRows(&out, []benchRow{{Name: "enqueue-64", JobsPerSec: 50000.4, CPUMicros: 12.34, SyncMicros: 200, PacedSyncMicros: 210, Note: "64 callers"}})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if got, want := strings.Fields(lines[1]), []string{"enqueue-64", "50000", "-", "-", "-", "12.3", "200", "210", "-", "64", "callers"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
