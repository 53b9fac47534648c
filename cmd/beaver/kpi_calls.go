package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	kpiCallRounds = 3
	kpiCutLasts   = 3 * time.Second // of a cut, after the others serve
	kpiProducers  = 4               // of each client
)

// kpiCaller is clients with default settings that make all kinds of calls and count what fails.
type kpiCaller struct {
	cluster *kpiCluster
	stop    atomic.Bool
	calls   atomic.Int64
	stored  atomic.Int64

	mu     sync.Mutex
	failed []error
}

// kpiCalls has nodes fail under clients, one way after the other.
func kpiCalls(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, err := r.cluster(ctx, true)
	if err != nil {
		return nil, err
	}
	defer c.close()
	one, err := beaver.NewClient(beaver.Config{Addr: c.fleet.nodes[1].url()}) // the other nodes are for it to learn
	if err != nil {
		return nil, err
	}
	defer func() { _ = one.Close(ctx) }() // nothing is under way
	k := &kpiCaller{cluster: c}
	worker, err := beaver.NewWorker(c.client, beaver.WorkerConfig{
		Queues: c.queues, Concurrency: kpiProducers, Name: "kpi",
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error { return nil }),
	})
	if err != nil {
		return nil, err
	}
	if err := worker.Start(ctx); err != nil {
		return nil, err
	}
	var group sync.WaitGroup
	for _, client := range []*beaver.Client{c.client, one} {
		for range kpiProducers {
			group.Go(func() { k.produce(ctx, client) })
		}
	}
	faults, err := k.trouble(ctx)
	k.stop.Store(true)
	group.Wait()
	if err != nil {
		return nil, err
	}
	if err := k.settle(ctx); err != nil {
		return nil, err
	}
	calls := float64(k.calls.Load())
	note := fmt.Sprintf("%.0f calls, %d failed; %d faults", calls, len(k.failed), faults)
	for _, err := range k.failed[:min(3, len(k.failed))] {
		r.say("failed: %v", err)
	}
	return []kpiFact{
		kpiFact{Name: "calls that succeed under faults", Value: 100 * (1 - float64(len(k.failed))/calls), Unit: "%", Note: note}.above(99.9),
	}, worker.Stop(ctx)
}

// called counts a call, and reports whether it went well.
func (k *kpiCaller) called(what string, err error) bool {
	k.calls.Add(1)
	if err != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.failed = append(k.failed, fmt.Errorf("%s: %w", what, err))
	}
	return err == nil
}

// produce stores jobs, one by one and several at once, and reads jobs and queues.
func (k *kpiCaller) produce(ctx context.Context, client *beaver.Client) {
	for i := 0; !k.stop.Load(); i++ {
		job := beaver.Job{Queue: k.cluster.queues[i%len(k.cluster.queues)], Kind: "call", Payload: []byte("call")}
		if i%10 == 9 {
			answers, err := client.EnqueueMany(ctx, []beaver.Job{job, job, job})
			if k.called("EnqueueMany", err) {
				for _, a := range answers {
					if a.Err == nil {
						k.stored.Add(1)
					} else {
						k.called("EnqueueMany", a.Err)
					}
				}
			}
			continue
		}
		id, err := client.Enqueue(ctx, job)
		if k.called("Enqueue", err) {
			k.stored.Add(1)
		}
		switch i % 10 {
		case 0:
			if err == nil {
				_, err := client.Job(ctx, id)
				k.called("Job", err)
			}
		case 5:
			_, err := client.Queue(ctx, job.Queue)
			k.called("Queue", err)
		}
	}
}

// trouble kills, cuts off and restarts nodes, and returns how many times.
func (k *kpiCaller) trouble(ctx context.Context) (faults int, err error) {
	c := k.cluster
	for round := range kpiCallRounds {
		n, queues, err := c.victim(ctx, c.queues[round%len(c.queues)])
		if err != nil {
			return faults, err
		}
		event := time.Now()
		n.kill()
		if _, err := servesAgain(ctx, event, queues, k.store); err != nil {
			return faults, err
		}
		if _, err := n.start(ctx); err != nil {
			return faults, err
		}
		if n, queues, err = c.victim(ctx, c.queues[(round+1)%len(c.queues)]); err != nil {
			return faults, err
		}
		event = time.Now()
		c.fleet.network.isolate(n.id)
		if _, err := servesAgain(ctx, event, queues, k.store); err != nil {
			return faults, err
		}
		if err := pause(ctx, kpiCutLasts); err != nil {
			return faults, err
		}
		c.fleet.network.heal()
		faults += 2
		for _, id := range c.fleet.running() {
			if _, err := c.fleet.whole(ctx, id); err != nil {
				return faults, err
			}
			c.fleet.nodes[id].stop()
			if _, err := c.fleet.nodes[id].start(ctx); err != nil {
				return faults, err
			}
			faults++
		}
	}
	return faults, nil
}

func (k *kpiCaller) store(ctx context.Context, queue string) error {
	_, err := k.cluster.client.Enqueue(ctx, beaver.Job{Queue: queue, Kind: "probe", Payload: []byte("probe")})
	if k.called("Enqueue", err) {
		k.stored.Add(1)
	}
	return nil // a call that failed is counted, and no reason to end
}

// settle waits until all jobs are done, and checks that none is lost or stored twice.
func (k *kpiCaller) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fleetWaitMax)
	defer cancel()
	for {
		queues, err := k.cluster.client.Queues(ctx)
		if err != nil {
			return err
		}
		var enqueued, completed uint64
		for _, q := range queues {
			enqueued, completed = enqueued+q.EnqueuedTotal, completed+q.CompletedTotal
		}
		unknown := uint64(len(k.failed)) // may be stored or not, up to three jobs each
		if stored := uint64(k.stored.Load()); enqueued < stored || enqueued > stored+3*unknown {
			return fmt.Errorf("%d jobs were acknowledged, and %d are stored", stored, enqueued)
		}
		if completed == enqueued {
			return nil
		}
		if err := pause(ctx, fleetPoll); err != nil {
			return fmt.Errorf("%d of %d jobs are done: %w", completed, enqueued, err)
		}
	}
}
