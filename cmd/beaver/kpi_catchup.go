package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	// kpiCatchUpMax bounds the backlog of a cluster: each of its nodes has all of it on the same disk.
	kpiCatchUpMax = 300_000
	// kpiAwayShare and kpiCycleShare are what comes while a follower is away, in parts of the backlog: jobs that stay, and jobs
	// that come and go.
	kpiAwayShare  = 10
	kpiCycleShare = 1
	kpiPassing    = 256 // at once
)

// catchUp has a follower miss a part of the load, and then a node lose its disk: what each is sent, and how long it takes until it has
// all jobs. The second one gets what a full snapshot has.
func (r *kpiRun) catchUp(ctx context.Context) ([]kpiFact, error) {
	c, err := r.cluster(ctx, true)
	if err != nil {
		return nil, err
	}
	defer c.close()
	backlog := min(r.backlog, kpiCatchUpMax)
	if err := c.fill(ctx, backlog, c.queues); err != nil {
		return nil, err
	}
	if _, err := c.fleet.whole(ctx, 1); err != nil {
		return nil, err
	}
	away := c.fleet.nodes[fleetNodes]
	away.kill()
	if err := c.fill(ctx, backlog/kpiAwayShare, c.queues); err != nil {
		return nil, err
	}
	if err := c.pass(ctx, backlog/kpiCycleShare); err != nil {
		return nil, err
	}
	late, err := c.receives(ctx, func() (*fleetNode, error) {
		_, err := away.start(ctx)
		return away, err
	})
	if err != nil {
		return nil, fmt.Errorf("a follower that was away: %w", err)
	}
	away.kill()
	if err := away.wipe(); err != nil {
		return nil, err
	}
	fresh, err := c.receives(ctx, func() (*fleetNode, error) { return c.fleet.join(ctx, away.id) })
	if err != nil {
		return nil, fmt.Errorf("a node with an empty disk: %w", err)
	}
	what := fmt.Sprintf("follower %s behind: ", quantity(float64(backlog/kpiAwayShare+backlog/kpiCycleShare), "jobs"))
	note := fmt.Sprintf("of %s waiting; %s of the jobs it missed still wait", quantity(float64(backlog+backlog/kpiAwayShare), ""), quantity(float64(backlog/kpiAwayShare), ""))
	return []kpiFact{
		{Name: what + "sent", Value: late.bytes, Unit: "B", Note: note},
		{Name: "the same with an empty disk: sent", Value: fresh.bytes, Unit: "B", Note: "what a full snapshot sends: it has nothing"},
		kpiFact{Name: what + "partial is smaller by", Value: 100 * (1 - late.bytes/fresh.bytes), Unit: "%"}.above(40),
		{Name: what + "has all jobs", Value: late.took.Seconds(), Unit: "s", Note: "from the start of its process"},
		{Name: "the same with an empty disk: has all jobs", Value: fresh.took.Seconds(), Unit: "s", Note: "from beaver cluster replace on"},
		kpiFact{Name: what + "partial is faster by", Value: 100 * (1 - late.took.Seconds()/fresh.took.Seconds()), Unit: "%"}.above(50),
	}, nil
}

// received is what a node was sent until it had all jobs.
type received struct {
	bytes float64
	took  time.Duration
}

// receives starts a node and waits until it has all jobs.
func (c *kpiCluster) receives(ctx context.Context, start func() (*fleetNode, error)) (r received, err error) {
	before := make(map[uint64]int64)
	for id, n := range c.fleet.nodes {
		before[id] = n.relay.taken.Load()
	}
	began := time.Now()
	n, err := start()
	if err != nil {
		return r, err
	}
	if _, err := c.fleet.whole(ctx, n.id); err != nil {
		return r, err
	}
	r.took = time.Since(began)
	r.bytes = float64(n.relay.taken.Load() - before[n.id])
	return r, nil
}

// fill stores n jobs of 1 KiB, spread over the queues of the cluster.
func (c *kpiCluster) fill(ctx context.Context, n int, queues []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	payload := benchPayload(1024)
	var left atomic.Int64
	left.Store(int64(n / benchBatch))
	var group sync.WaitGroup
	for range benchCallers {
		group.Go(func() {
			jobs := make([]beaver.Job, benchBatch)
			for batch := left.Add(-1); batch >= 0; batch = left.Add(-1) {
				for i := range jobs {
					jobs[i] = beaver.Job{Queue: queues[int(batch)%len(queues)], Kind: "kpi", Payload: payload}
				}
				answers, err := c.client.EnqueueMany(ctx, jobs)
				for _, a := range answers {
					if a.Err != nil {
						err = errors.Join(err, a.Err)
					}
				}
				if err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// pass has n jobs come and go.
func (c *kpiCluster) pass(ctx context.Context, n int) error {
	var queues []string
	for _, q := range c.queues {
		queues = append(queues, q+"-passing")
	}
	n = n / benchBatch * benchBatch
	var handled atomic.Int64
	done := make(chan struct{})
	worker, err := beaver.NewWorker(c.client, beaver.WorkerConfig{
		Queues: queues, Concurrency: kpiPassing, Name: "kpi",
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
			if handled.Add(1) == int64(n) {
				close(done)
			}
			return nil
		}),
	})
	if err != nil {
		return err
	}
	if err := worker.Start(ctx); err != nil {
		return err
	}
	if err := c.fill(ctx, n, queues); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return worker.Stop(ctx)
}
