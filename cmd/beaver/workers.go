package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

func newWorkersCommand(a *app) *cobra.Command {
	list := &cobra.Command{
		Use: "list", Short: "List the workers that the server knows", Args: cobra.NoArgs, Example: "  beaver workers list",
		RunE: func(cmd *cobra.Command, _ []string) error { return a.listWorkers(cmd.Context()) },
	}
	cmd := group("workers", "List workers, and tell them to go quiet, to stop or to run again", a.clientFlags(list),
		newSignalCommand(a, "quiet", "Let a worker finish what runs and take no more", beaver.WorkerQuiet),
		newSignalCommand(a, "stop", "Let a worker stop: it finishes within its grace period, gives back the rest and ends", beaver.WorkerStop),
		newSignalCommand(a, "run", "Let a quiet worker take jobs again", beaver.WorkerRun))
	cmd.RunE = list.RunE
	cmd.Example = "  beaver workers\n  beaver workers quiet 7"
	return a.clientFlags(cmd)
}

func (a *app) listWorkers(ctx context.Context) error {
	return a.client(ctx, func(c *beaver.Client) error {
		workers, err := c.Workers(ctx)
		if err != nil {
			return err
		}
		if a.json() {
			out := make([]workerJSON, len(workers))
			for i, w := range workers {
				out[i] = workerOutput(w)
			}
			return a.printJSON(map[string]any{"workers": out})
		}
		rows := make([]string, len(workers))
		for i, w := range workers {
			node := ""
			if w.NodeID != 0 {
				node = strconv.FormatUint(w.NodeID, 10)
			}
			rows[i] = row(w.ID, w.Name, fmt.Sprintf("%s/%d", w.Host, w.PID), strings.Join(w.Queues, ","),
				fmt.Sprintf("%d/%d", w.Running, w.Concurrency), w.State, node, w.Version, a.ago(w.RegisteredAt), a.ago(w.LastSeenAt))
		}
		return a.table("ID\tNAME\tHOST/PID\tQUEUES\tRUNNING/SLOTS\tSTATE\tNODE\tVERSION\tREGISTERED\tSEEN", rows)
	})
}

func newSignalCommand(a *app, use, short string, state beaver.WorkerState) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: use + " ID", Short: short, Args: cobra.ExactArgs(1), Example: "  beaver workers " + use + " 7",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 64)
			if err != nil {
				return usage("%q is not a worker's id; beaver workers lists them", args[0])
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				if err := c.SignalWorker(cmd.Context(), id, state); err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(map[string]any{"workerId": id, "state": state})
				}
				return a.print("worker %d is told to %s\n", id, map[beaver.WorkerState]string{
					beaver.WorkerQuiet: "go quiet", beaver.WorkerStop: "stop", beaver.WorkerRun: "run",
				}[state])
			})
		},
	})
}
