package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/beaver-raft/beaver"
)

// partitionsMax is how many partitions a queue can have.
const partitionsMax = 64

// numbersOfPartitions are those that everything is measured with, one after the other.
func (o *benchOptions) numbersOfPartitions() []int {
	if len(o.partitions) == 0 {
		return []int{1}
	}
	return o.partitions
}

// shards is what the servers need to hold all partitions, as arguments.
func (o *benchOptions) shards() []string {
	most := slices.Max(o.numbersOfPartitions())
	if most <= fleetShards {
		return nil
	}
	return []string{"--shards", strconv.Itoa(most)}
}

// spread makes the queues of the load, if they are to have several partitions.
func (b *benchRun) spread(ctx context.Context) error {
	if b.spreadOver <= 1 {
		return nil
	}
	client, err := b.sdk()
	if err != nil {
		return err
	}
	for _, name := range b.queuesOf(benchQueue) {
		if _, err := client.ConfigureQueue(ctx, name, beaver.QueueSettings{Partitions: &b.spreadOver}); err != nil {
			return errors.Join(err, client.Close(ctx))
		}
	}
	return client.Close(ctx)
}

// spreadName is what a row is called whose queue has several partitions.
func spreadName(name string, partitions int) string {
	if partitions <= 1 {
		return name
	}
	return fmt.Sprintf("%s/%d", name, partitions)
}

// key is the ordering key of one of several jobs, if they have any.
func (b *benchRun) key(turn uint64) string {
	if b.keys == 0 {
		return ""
	}
	return fmt.Sprintf("key-%d", turn%uint64(b.keys))
}

// compareSpread notes for each row with another number of partitions than the first how it compares with that one's of the same run.
func compareSpread(rows []benchRow, runs [][]benchRow) {
	for i := range rows {
		if rows[i].beside == "" {
			continue
		}
		var ratios []float64
		what := "its rate"
		for _, run := range runs {
			figure := func(name string) float64 {
				at := slices.IndexFunc(run, func(r benchRow) bool { return r.Name == name })
				if run[at].P50Micros > 0 {
					what = "its p50"
					return run[at].P50Micros
				}
				return run[at].JobsPerSec
			}
			ratios = append(ratios, figure(rows[i].Name)/figure(rows[i].beside))
		}
		slices.Sort(ratios)
		n := len(ratios)
		rows[i].Note += fmt.Sprintf("; %s is %.2f of that of %s", what, (ratios[(n-1)/2]+ratios[n/2])/2, rows[i].beside)
		if n > 1 {
			rows[i].Note += fmt.Sprintf(", the median of %d runs from %.2f to %.2f", n, ratios[0], ratios[n-1])
		}
	}
}
