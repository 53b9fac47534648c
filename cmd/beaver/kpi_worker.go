package main

import (
	"context"
	"errors"
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

// kpiRebalance has a worker fail that holds jobs of all shards, again and again, and waits until another one has begun all of them. A worker
// that is killed leaves a connection that breaks; one that is stopped leaves silence, as a machine that is lost does.
func kpiRebalance(ctx context.Context, r *kpiRun) ([]kpiFact, error) {
	c, err := r.cluster(ctx, false)
	if err != nil {
		return nil, err
	}
	defer c.close()
	facts, err := c.workersFail(ctx, "killed", "kill -9", (*os.Process).Kill)
	if err != nil || canFreeze() != nil {
		return facts, err
	}
	silent, err := c.workersFail(ctx, "stopped", "SIGSTOP", freeze)
	return append(facts, silent...), err
}

// workersFail measures some workers' failures of one kind.
func (c *kpiCluster) workersFail(ctx context.Context, what, how string, fail func(*os.Process) error) ([]kpiFact, error) {
	var took []time.Duration
	for range kpiWorkerDies {
		d, err := c.workerFails(ctx, fail)
		if err != nil {
			return nil, err
		}
		took = append(took, d)
	}
	note := fmt.Sprintf("%d times %s of a worker with %d jobs, default TTL of 5 s", kpiWorkerDies, how, kpiHeldJobs)
	name := fmt.Sprintf("worker %s → all its jobs run elsewhere", what)
	return []kpiFact{
		{Name: name + ", p50", Value: quantile(took, 0.5).Seconds(), Unit: "s", Note: note},
		kpiFact{Name: name + ", max", Value: slices.Max(took).Seconds(), Unit: "s", Note: note}.below(5),
	}, nil
}

// workerFails measures one failure.
func (c *kpiCluster) workerFails(ctx context.Context, fail func(*os.Process) error) (time.Duration, error) {
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
	failed := time.Now()
	err = fail(holder.Process)
	defer kill()
	if err != nil {
		return 0, errors.Join(fmt.Errorf("have a worker fail: %w", err), worker.Stop(ctx))
	}
	for range kpiHeldJobs {
		select {
		case <-begun:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	took := time.Since(failed)
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
