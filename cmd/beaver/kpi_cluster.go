package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
)

// kpiCluster is three nodes, a client of them with default settings, and a queue on each shard.
type kpiCluster struct {
	run    *kpiRun
	fleet  *fleet
	client *beaver.Client
	queues []string
	homes  map[string]int
}

// cluster founds one below the part's directory. Relays cost processor time: only a part that cuts nodes off has them.
func (r *kpiRun) cluster(ctx context.Context, relays bool, args ...string) (_ *kpiCluster, err error) {
	c := &kpiCluster{run: r, homes: make(map[string]int)}
	args = append([]string{"--log-level", "warn"}, args...)
	if c.fleet, err = newFleet(ctx, filepath.Join(r.dir, "cluster"), r.log, relays, args...); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.client, err = beaver.NewClient(beaver.Config{Addr: c.fleet.urls()}); err != nil {
		return nil, err
	}
	info, err := c.client.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(info.Shards); i++ {
		name := fmt.Sprintf("kpi-%d", i)
		q, err := c.client.ConfigureQueue(ctx, name, beaver.QueueSettings{})
		if err != nil {
			return nil, err
		}
		c.queues, c.homes[name] = append(c.queues, name), q.Shard
	}
	return c, nil
}

// loaded is a cluster under load that has warmed up.
func (r *kpiRun) loaded(ctx context.Context) (*kpiCluster, *kpiLoad, error) {
	c, err := r.cluster(ctx, false)
	if err != nil {
		return nil, nil, err
	}
	load, err := c.load(ctx)
	if err == nil {
		err = pause(ctx, benchWarmUp)
	}
	if err != nil {
		c.close()
		return nil, nil, err
	}
	return c, load, nil
}

func (c *kpiCluster) close() {
	if c.client != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = c.client.Close(ctx) // what it still has under way is not measured
		cancel()
	}
	c.fleet.close()
}

// victim is the node that leads a queue, and all queues that it leads.
func (c *kpiCluster) victim(ctx context.Context, queue string) (*fleetNode, []string, error) {
	var n *fleetNode
	var led []string
	_, err := c.fleet.until(ctx, c.fleet.running()[0], "every shard has a leader", func(info *beaver.ClusterInfo) bool {
		n, led = nil, nil
		for node, shards := range leaders(info) {
			if slices.Contains(shards, c.homes[queue]) {
				n = c.fleet.nodes[node]
				for _, q := range c.queues {
					if slices.Contains(shards, c.homes[q]) {
						led = append(led, q)
					}
				}
			}
		}
		return n != nil
	})
	return n, led, err
}

// store stores a job, as a client would.
func (c *kpiCluster) store(ctx context.Context, queue string) error {
	_, err := c.client.Enqueue(ctx, beaver.Job{Queue: queue, Kind: "probe", Payload: []byte("probe")})
	return err
}

// kpiLoad is callers that store a job at a time and a worker that does the jobs, all with default settings.
type kpiLoad struct {
	stored, handled atomic.Int64
	failed          atomic.Pointer[error]
	stop            atomic.Bool
	group           sync.WaitGroup
	worker          *beaver.Worker
}

const kpiLoadCallers = 64

func (c *kpiCluster) load(ctx context.Context) (*kpiLoad, error) {
	l := &kpiLoad{}
	worker, err := beaver.NewWorker(c.client, beaver.WorkerConfig{
		Queues: c.queues, Concurrency: kpiLoadCallers, Name: "kpi",
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
			l.handled.Add(1)
			return nil
		}),
	})
	if err != nil {
		return nil, err
	}
	if err := worker.Start(ctx); err != nil {
		return nil, err
	}
	l.worker = worker
	payload := benchPayload(1024)
	for i := range kpiLoadCallers {
		l.group.Go(func() {
			for turn := i; !l.stop.Load(); turn++ {
				if _, err := c.client.Enqueue(ctx, beaver.Job{Queue: c.queues[turn%len(c.queues)], Kind: "load", Payload: payload}); err != nil {
					l.failed.CompareAndSwap(nil, &err)
					return
				}
				l.stored.Add(1)
			}
		})
	}
	return l, nil
}

// end stops the load, and returns the first error of a call.
func (l *kpiLoad) end(ctx context.Context) error {
	l.stop.Store(true)
	l.group.Wait()
	err := l.worker.Stop(ctx)
	if failed := l.failed.Load(); failed != nil {
		err = *failed
	}
	return err
}
