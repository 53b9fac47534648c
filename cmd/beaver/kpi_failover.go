package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	kpiCuts        = 10 // times that a leader is cut off
	kpiLossRounds  = 3
	kpiLossSeconds = 10
)

// kpiFailover kills leaders, one after the other, and then cuts some off from their peers while clients still reach them.
func kpiFailover(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, err := r.cluster(ctx, true)
	if err != nil {
		return nil, err
	}
	defer c.close()
	watching := watchDiskAside(ctx, r.dir)
	defer func() { _, _ = watching() }() // an error before says more
	var killed, cut []time.Duration
	for i := range r.kills {
		n, queues, err := c.victim(ctx, c.queues[i%len(c.queues)])
		if err != nil {
			return nil, err
		}
		event := time.Now()
		n.kill()
		took, err := servesAgain(ctx, event, queues, c.store)
		if err != nil {
			return nil, err
		}
		killed = append(killed, took)
		if _, err := n.start(ctx); err != nil {
			return nil, err
		}
		if _, err := c.fleet.whole(ctx, c.fleet.other(n.id).id); err != nil {
			return nil, err
		}
	}
	r.say("%d leaders were killed", r.kills)
	for i := range min(kpiCuts, r.kills) {
		took, err := c.cutOff(ctx, c.queues[i%len(c.queues)])
		if err != nil {
			return nil, err
		}
		cut = append(cut, took)
	}
	watch, err := watching()
	if err != nil {
		return nil, fmt.Errorf("watch the disk: %w", err)
	}
	killedNote, cutNote := fmt.Sprintf("%d times kill -9", len(killed)), fmt.Sprintf("%d times; clients still reach it, and one of them is connected to it", len(cut))
	return []kpiFact{
		kpiFact{Name: "leader killed → all its queues store jobs, p50", Value: quantile(killed, 0.5).Seconds(), Unit: "s", Note: killedNote}.below(1),
		kpiFact{Name: "leader killed → all its queues store jobs, max", Value: slices.Max(killed).Seconds(), Unit: "s", Note: killedNote}.below(3),
		{Name: "leader cut off → all its queues store jobs, p50", Value: quantile(cut, 0.5).Seconds(), Unit: "s", Note: cutNote},
		kpiFact{Name: "leader cut off → all its queues store jobs, max", Value: slices.Max(cut).Seconds(), Unit: "s", Note: cutNote}.below(3),
		watch.fact("all the while"),
	}, nil
}

// cutOff cuts the leader of a queue off from its peers, and measures until a client of the cluster and one that began with that very node
// have stored a job in each of its queues.
func (c *kpiCluster) cutOff(ctx context.Context, queue string) (took time.Duration, err error) {
	n, queues, err := c.victim(ctx, queue)
	if err != nil {
		return 0, err
	}
	own, err := beaver.NewClient(beaver.Config{Addr: n.url()})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, own.Close(ctx)) }()
	store := func(ctx context.Context, queue string) error {
		_, err := own.Enqueue(ctx, beaver.Job{Queue: queue, Kind: "probe", Payload: []byte("probe")})
		return err
	}
	if err := store(ctx, queue); err != nil {
		return 0, err
	}
	event := time.Now()
	c.fleet.network.isolate(n.id)
	defer c.fleet.network.heal()
	stuck := make(chan error, 1)
	var atNode time.Duration
	go func() {
		var err error
		atNode, err = servesAgain(ctx, event, queues, store)
		stuck <- err
	}()
	took, err = servesAgain(ctx, event, queues, c.store)
	if err := errors.Join(err, <-stuck); err != nil {
		return 0, err
	}
	c.fleet.network.heal()
	_, err = c.fleet.whole(ctx, c.fleet.other(n.id).id)
	return max(took, atNode), err
}

// kpiLoss kills a leader under load, and compares the ten seconds from then on with the ten before.
func kpiLoss(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, load, err := r.loaded(ctx)
	if err != nil {
		return nil, err
	}
	defer c.close()
	rates := func() (stored, handled float64, err error) {
		stored, handled = float64(load.stored.Load()), float64(load.handled.Load())
		err = pause(ctx, kpiLossSeconds*time.Second)
		return (float64(load.stored.Load()) - stored) / kpiLossSeconds, (float64(load.handled.Load()) - handled) / kpiLossSeconds, err
	}
	var worstStored, worstHandled float64
	var note string
	for i := range kpiLossRounds {
		storedBefore, handledBefore, err := rates()
		if err != nil {
			return nil, err
		}
		n, _, err := c.victim(ctx, c.queues[i%len(c.queues)])
		if err != nil {
			return nil, err
		}
		n.kill()
		stored, handled, err := rates()
		if err != nil {
			return nil, err
		}
		if _, err := n.start(ctx); err != nil {
			return nil, err
		}
		if _, err := c.fleet.whole(ctx, c.fleet.other(n.id).id); err != nil {
			return nil, err
		}
		r.say("%.0f jobs/s stored and %.0f handled before, %.0f and %.0f in the %d s from a kill on", storedBefore, handledBefore, stored, handled, kpiLossSeconds)
		worstStored = max(worstStored, 100*(1-stored/storedBefore))
		worstHandled = max(worstHandled, 100*(1-handled/handledBefore))
		note = fmt.Sprintf("worst of %d kills, 64 callers; about %.0f jobs/s before", kpiLossRounds, storedBefore)
	}
	return []kpiFact{
		kpiFact{Name: "leader killed: loss of enqueues in 10 s", Value: worstStored, Unit: "%", Note: note}.below(40),
		kpiFact{Name: "leader killed: loss of jobs done in 10 s", Value: worstHandled, Unit: "%", Note: note}.below(40),
	}, load.end(ctx)
}
