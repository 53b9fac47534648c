package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// kpiLagAskers ask each node in turns, so that one question that is held up on its way does not look like a follower that is behind.
const (
	kpiLagSeconds = 10
	kpiLagRest    = 5 * time.Second // for which the disk is watched while nothing else uses it
	kpiLagAskers  = 3
	kpiLagPoll    = kpiLagAskers * 5 * time.Millisecond
)

// appliedAt is what a node had applied of a shard: a leader not before it was asked, and any node when it had answered.
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
// each of the others had at some time later: that is its lag, as far as the pace of the questions tells. An entry that a follower has is
// synced there, so a disk that stands still makes a lag as long as that. What the disk did meanwhile, and what it does at rest, is told with it.
func kpiLag(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	resting, cancel := context.WithTimeout(ctx, kpiLagRest)
	defer cancel()
	rest, err := watchDisk(resting, r.dir)
	if err != nil {
		return nil, fmt.Errorf("watch the disk: %w", err)
	}
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
	watching := watchDiskAside(asking, r.dir)
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
						}
						held.add(sh.ID, id, sh.AppliedIndex, after)
					}
					mu.Unlock()
				}
			})
		}
	}
	group.Wait()
	rate := float64(load.stored.Load()-stored) / kpiLagSeconds
	watch, err := watching()
	if err := errors.Join(load.end(ctx), err); err != nil {
		return nil, err
	}
	return lagFacts(lagsOf(led, held), rest, watch, fmt.Sprintf("%.0f jobs/s stored and done; includes the questions' own time, %.0f ms at worst", rate, 1000*slowest.Seconds()))
}

// lagFacts judges the lags. The target is for what the nodes add to the disk's own stalls.
func lagFacts(windows []span, rest, watch *diskWatch, note string) ([]kpiFact, error) {
	if len(windows) == 0 {
		return nil, fmt.Errorf("no node told of its shards")
	}
	lags, own := make([]time.Duration, len(windows)), time.Duration(0)
	for i, w := range windows {
		lags[i], own = w.length(), max(own, w.without(watch.stalls))
	}
	note = fmt.Sprintf("%d samples at %s", len(windows), note)
	ms := func(d time.Duration) float64 { return 1000 * d.Seconds() }
	return []kpiFact{
		{Name: "replication lag, p50", Value: ms(quantile(lags, 0.5)), Unit: "ms", Note: note},
		{Name: "replication lag, p99", Value: ms(quantile(lags, 0.99)), Unit: "ms", Note: note},
		{Name: "replication lag, max", Value: ms(slices.Max(lags)), Unit: "ms", Note: note},
		kpiFact{Name: "replication lag without the disk's stalls, max", Value: ms(own), Unit: "ms", Note: note}.below(100),
		rest.fact("at rest"),
		watch.fact("under this load"),
	}, nil
}

// lagsOf finds for each sample of a leader when each of the others first had as much: from the one to the other it lags. What a node had
// counts also from the time when it led itself: the lead moves.
func lagsOf(led, held appliedBy) (lags []span) {
	for id, leaders := range led {
		for node, had := range held[id] {
			slices.SortFunc(had, func(a, b appliedAt) int { return a.at.Compare(b.at) })
			for leader, samples := range leaders {
				if leader != node {
					lags = appendLags(lags, reachedAt(samples), had)
				}
			}
		}
	}
	return lags
}

// appendLags appends how long each sample of a leader was ahead of what another node had, which is in order. One that the other one never
// reached counts up to its last answer.
func appendLags(lags []span, samples, had []appliedAt) []span {
	for _, s := range samples {
		first, _ := slices.BinarySearchFunc(had, s.at, func(h appliedAt, at time.Time) int { return h.at.Compare(at) })
		later := had[first:]
		if len(later) == 0 {
			continue
		}
		n := slices.IndexFunc(later, func(h appliedAt) bool { return h.index >= s.index })
		if n < 0 {
			n = len(later) - 1
		}
		lags = append(lags, span{s.at, later[n].at})
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
