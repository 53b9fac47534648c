package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// kpiLagAskers ask each node in turns, so that one question that is held up on its way does not look like a follower that is behind.
const (
	kpiLagSeconds = 10
	kpiLagAskers  = 3
	kpiLagPoll    = kpiLagAskers * 5 * time.Millisecond
)

// appliedAt is what a node had applied of a shard: a leader not before it was asked, and another one when it had answered.
type appliedAt struct {
	index uint64
	at    time.Time
}

// appliedBy is what nodes had applied, by shard and node.
type appliedBy map[int]map[uint64][]appliedAt

func (a appliedBy) add(shard int, node, index uint64, at time.Time) {
	if a[shard] == nil {
		a[shard] = make(map[uint64][]appliedAt)
	}
	a[shard][node] = append(a[shard][node], appliedAt{index, at})
}

// kpiLag asks all nodes under load, again and again, how far they are. What a leader had applied, and so acknowledged, at one time,
// each of the others had at some time later: that is its lag, as far as the pace of the questions tells.
func kpiLag(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, load, err := r.loaded(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	stored := load.stored.Load()
	asking, cancel := context.WithTimeout(ctx, kpiLagSeconds*time.Second)
	defer cancel()
	var group sync.WaitGroup
	var mu sync.Mutex
	led, held := make(appliedBy), make(appliedBy)
	var slowest time.Duration
	for id, n := range c.fleet.nodes {
		for range kpiLagAskers {
			group.Go(func() {
				for pause(asking, kpiLagPoll) == nil {
					before := time.Now()
					s, err := n.client.Status(asking)
					if err != nil {
						continue
					}
					after := time.Now()
					mu.Lock()
					slowest = max(slowest, after.Sub(before))
					for _, sh := range s.Shards {
						if sh.Role == "leader" {
							led.add(sh.ID, id, sh.AppliedIndex, before)
						} else {
							held.add(sh.ID, id, sh.AppliedIndex, after)
						}
					}
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	rate := float64(load.stored.Load()-stored) / kpiLagSeconds
	if err := load.end(ctx); err != nil {
		return nil, err
	}
	lags := lagsOf(led, held)
	if len(lags) == 0 {
		return nil, fmt.Errorf("no node told of its shards")
	}
	note := fmt.Sprintf("%.0f jobs/s stored and done, %d samples; includes the questions' own time, %.0f ms at worst", rate, len(lags), 1000*slowest.Seconds())
	return []kpiFact{
		{Name: "replication lag, p50", Value: 1000 * quantile(lags, 0.5).Seconds(), Unit: "ms", Note: note},
		{Name: "replication lag, p99", Value: 1000 * quantile(lags, 0.99).Seconds(), Unit: "ms", Note: note},
		kpiFact{Name: "replication lag, max", Value: 1000 * slices.Max(lags).Seconds(), Unit: "ms", Note: note}.below(100),
	}, nil
}

// lagsOf finds for each sample of a leader when each of the others first had as much.
func lagsOf(led, held appliedBy) (lags []time.Duration) {
	for id, leaders := range led {
		for _, others := range held[id] {
			slices.SortFunc(others, func(a, b appliedAt) int { return a.at.Compare(b.at) })
			for _, samples := range leaders {
				for _, s := range reachedAt(samples) {
					first, _ := slices.BinarySearchFunc(others, s.at, func(o appliedAt, at time.Time) int { return o.at.Compare(at) })
					if n := slices.IndexFunc(others[first:], func(o appliedAt) bool { return o.index >= s.index }); n >= 0 {
						lags = append(lags, others[first+n].at.Sub(s.at))
					}
				}
			}
		}
	}
	return lags
}

// reachedAt is since when a leader may have had what it said: not before it was asked, nor before it was asked by somebody to whom it said
// less, though the first question had been on its way since long before.
func reachedAt(samples []appliedAt) []appliedAt {
	sorted := slices.SortedFunc(slices.Values(samples), func(a, b appliedAt) int { return cmp.Compare(a.index, b.index) })
	var less, same time.Time // the last question that was answered with less, and with as much as the sample before
	for i := range sorted {
		s := &sorted[i]
		if i > 0 && s.index > sorted[i-1].index && same.After(less) {
			less = same
		}
		if s.at.After(same) {
			same = s.at
		}
		if s.at.Before(less) {
			s.at = less
		}
	}
	return sorted
}
