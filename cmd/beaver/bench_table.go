package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// benchRow is one measured figure, or the median of several runs. Fields that do not apply are zero.
type benchRow struct {
	Name            string  `json:"name"`
	Runs            int     `json:"runs"`
	JobsPerSec      float64 `json:"jobs_per_second,omitempty"`
	BestPerSec      float64 `json:"best_jobs_per_second,omitempty"`
	P50Micros       float64 `json:"p50_us,omitempty"`
	P99Micros       float64 `json:"p99_us,omitempty"`
	CPUMicros       float64 `json:"cpu_us_per_job,omitempty"` // of server and client together
	SyncMicros      float64 `json:"fdatasync_p50_us"`         // 4 KiB write and fdatasync on the same disk, just before
	PacedSyncMicros float64 `json:"paced_fdatasync_p50_us"`   // the same with the scenario's rest between two
	RoundTripMicros float64 `json:"round_trip_p50_us"`        // 1 KiB to another process and back, likewise paced
	Note            string  `json:"note,omitempty"`

	beside string // the row of the same scenario with the first number of partitions; empty: it is that
}

// medianRows turns the rows of several runs into one row a name, in the order of the first run: the median of each figure, the
// best rate, and the last run's note.
func medianRows(runs [][]benchRow) []benchRow {
	var names []string
	byName := make(map[string][]benchRow)
	for _, rows := range runs {
		for _, row := range rows {
			if byName[row.Name] == nil {
				names = append(names, row.Name)
			}
			byName[row.Name] = append(byName[row.Name], row)
		}
	}
	out := make([]benchRow, len(names))
	for i, name := range names {
		rows := byName[name]
		median := func(figure func(*benchRow) float64) float64 {
			values := make([]float64, len(rows))
			for i := range rows {
				values[i] = figure(&rows[i])
			}
			slices.Sort(values)
			return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
		}
		out[i] = benchRow{
			Name: name, Runs: len(rows), Note: rows[len(rows)-1].Note, beside: rows[0].beside,
			JobsPerSec:      median(func(r *benchRow) float64 { return r.JobsPerSec }),
			P50Micros:       median(func(r *benchRow) float64 { return r.P50Micros }),
			P99Micros:       median(func(r *benchRow) float64 { return r.P99Micros }),
			CPUMicros:       median(func(r *benchRow) float64 { return r.CPUMicros }),
			SyncMicros:      median(func(r *benchRow) float64 { return r.SyncMicros }),
			PacedSyncMicros: median(func(r *benchRow) float64 { return r.PacedSyncMicros }),
			RoundTripMicros: median(func(r *benchRow) float64 { return r.RoundTripMicros }),
		}
		for _, row := range rows {
			out[i].BestPerSec = max(out[i].BestPerSec, row.JobsPerSec)
		}
	}
	return out
}

func printRows(out io.Writer, rows []benchRow) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(table, "SCENARIO\tJOBS/S\tBEST\tP50 µs\tP99 µs\tCPU µs/JOB\tFDATASYNC µs\tPACED µs\tROUND TRIP µs\tNOTE"); err != nil {
		return err
	}
	number := func(v float64, decimals int) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprintf("%.*f", decimals, v)
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, number(r.JobsPerSec, 0), number(r.BestPerSec, 0),
			number(r.P50Micros, 0), number(r.P99Micros, 0), number(r.CPUMicros, 1), number(r.SyncMicros, 0),
			number(r.PacedSyncMicros, 0), number(r.RoundTripMicros, 0), r.Note); err != nil {
			return err
		}
	}
	return table.Flush()
}
