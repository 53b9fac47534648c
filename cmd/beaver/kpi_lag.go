package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

const (
	kpiLagSeconds = 10
	kpiLagPoll    = 5 * time.Millisecond
)

// appliedAt is what a node had applied of a shard, when it said so.
type appliedAt struct {
	index uint64
	at    time.Time
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
	led, held := make(map[int][]appliedAt), make(map[int]map[uint64][]appliedAt) // by shard; the latter by node
	for id, n := range c.fleet.nodes {
		group.Go(func() {
			for pause(asking, kpiLagPoll) == nil {
				before := time.Now()
				s, err := n.client.Status(asking)
				if err != nil {
					continue
				}
				after := time.Now()
				mu.Lock()
				for _, sh := range s.Shards {
					if held[sh.ID] == nil {
						held[sh.ID] = make(map[uint64][]appliedAt)
					}
					if sh.Role == "leader" {
						led[sh.ID] = append(led[sh.ID], appliedAt{sh.AppliedIndex, before})
					} else {
						held[sh.ID][id] = append(held[sh.ID][id], appliedAt{sh.AppliedIndex, after})
					}
				}
				mu.Unlock()
			}
		})
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
	note := fmt.Sprintf("%.0f jobs/s stored and done, %d samples; includes the questions' own time", rate, len(lags))
	return []kpiFact{
		{Name: "replication lag, p50", Value: 1000 * quantile(lags, 0.5).Seconds(), Unit: "ms", Note: note},
		{Name: "replication lag, p99", Value: 1000 * quantile(lags, 0.99).Seconds(), Unit: "ms", Note: note},
		kpiFact{Name: "replication lag, max", Value: 1000 * slices.Max(lags).Seconds(), Unit: "ms", Note: note}.below(100),
	}, nil
}

// lagsOf finds for each sample of a leader when each of the others first had as much.
func lagsOf(led map[int][]appliedAt, held map[int]map[uint64][]appliedAt) (lags []time.Duration) {
	for id, samples := range led {
		for _, others := range held[id] {
			next := 0
			for _, s := range samples {
				for next < len(others) && (others[next].index < s.index || others[next].at.Before(s.at)) {
					next++
				}
				if next < len(others) {
					lags = append(lags, others[next].at.Sub(s.at))
				}
			}
		}
	}
	return lags
}
