package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

const (
	kpiHeldJobs   = 16
	kpiWorkerDies = 5 // times
)

// newKPIHolderCommand makes a worker that begins jobs and never ends them, to be killed with them.
func newKPIHolderCommand() *cobra.Command {
	var addr string
	var queues []string
	var concurrency int
	cmd := &cobra.Command{
		Use:    "holder",
		Short:  "Begin jobs and never end them (used by beaver kpi)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			client, err := beaver.NewClient(beaver.Config{Addr: addr})
			if err != nil {
				return err
			}
			worker, err := beaver.NewWorker(client, beaver.WorkerConfig{
				Queues: queues, Concurrency: concurrency, Name: "holder", GracePeriod: -1,
				Handler: beaver.HandlerFunc(func(ctx context.Context, _ *beaver.LeasedJob) error {
					<-ctx.Done()
					return context.Cause(ctx)
				}),
			})
			if err != nil {
				return err
			}
			return worker.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&addr, "server", beaver.DefaultAddr, "URL of the server")
	cmd.Flags().StringSliceVar(&queues, "queues", nil, "queues of the jobs")
	cmd.Flags().IntVar(&concurrency, "concurrency", kpiHeldJobs, "jobs at once")
	return cmd
}

// kpiRebalance kills a worker that holds jobs of all shards, again and again, and waits until another one has begun all of them.
func kpiRebalance(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, err := r.cluster(ctx, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var took []time.Duration
	for range kpiWorkerDies {
		d, err := c.workerDies(ctx)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	note := fmt.Sprintf("%d times kill -9 of a worker with %d jobs, default TTL of 5 s", kpiWorkerDies, kpiHeldJobs)
	return []kpiFact{
		{Name: "worker killed → all its jobs run elsewhere, p50", Value: quantile(took, 0.5).Seconds(), Unit: "s", Note: note},
		kpiFact{Name: "worker killed → all its jobs run elsewhere, max", Value: slices.Max(took).Seconds(), Unit: "s", Note: note}.below(5),
	}, nil
}

// workerDies measures one death.
func (c *kpiCluster) workerDies(ctx context.Context) (time.Duration, error) {
	exe := c.fleet.nodes[1].exe
	holder := exec.Command(exe, "kpi", "holder", "--server", c.fleet.urls(), "--queues", strings.Join(c.queues, ","),
		"--concurrency", strconv.Itoa(kpiHeldJobs))
	holder.Stderr = c.run.log
	if err := holder.Start(); err != nil {
		return 0, fmt.Errorf("start a worker: %w", err)
	}
	kill := func() {
		_ = holder.Process.Kill() // an ended process is what we want
		_ = holder.Wait()         // it says "killed"
	}
	for i := range kpiHeldJobs {
		if err := c.store(ctx, c.queues[i%len(c.queues)]); err != nil {
			kill()
			return 0, err
		}
	}
	if err := c.awaitRunning(ctx, kpiHeldJobs); err != nil {
		kill()
		return 0, err
	}
	begun := make(chan struct{}, kpiHeldJobs)
	worker, err := beaver.NewWorker(c.client, beaver.WorkerConfig{
		Queues: c.queues, Concurrency: kpiHeldJobs, Name: "heir",
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
			begun <- struct{}{}
			return nil
		}),
	})
	if err != nil {
		kill()
		return 0, err
	}
	if err := worker.Start(ctx); err != nil {
		kill()
		return 0, err
	}
	died := time.Now()
	kill()
	for range kpiHeldJobs {
		select {
		case <-begun:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	took := time.Since(died)
	return took, worker.Stop(ctx)
}

// awaitRunning waits until so many jobs are running.
func (c *kpiCluster) awaitRunning(ctx context.Context, want uint64) error {
	ctx, cancel := context.WithTimeout(ctx, fleetWaitMax)
	defer cancel()
	for {
		queues, err := c.client.Queues(ctx)
		if err != nil {
			return err
		}
		var running uint64
		for _, q := range queues {
			running += q.Running
		}
		if running == want {
			return nil
		}
		if err := pause(ctx, fleetPoll); err != nil {
			return fmt.Errorf("%d of %d jobs are running: %w", running, want, err)
		}
	}
}
