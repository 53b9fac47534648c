package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

func newDeadCommand(a *app) *cobra.Command {
	return group("dead", "List, retry and discard dead jobs", newDeadListCommand(a),
		newDeadEndCommand(a, deadEnd{
			use: "retry", short: "Make dead jobs ready again", question: "Retry %s of %s?", state: "ready",
			some: (*beaver.Client).RetryDead, all: (*beaver.Client).RetryAllDead,
		}),
		newDeadEndCommand(a, deadEnd{
			use: "discard", short: "Throw dead jobs away", question: "Throw away %s of %s?", state: "discarded",
			some: (*beaver.Client).DiscardDead, all: (*beaver.Client).DiscardAllDead,
		}))
}

func newDeadListCommand(a *app) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "list [QUEUE]", Short: "List dead jobs, of one queue or of all", Args: cobra.MaximumNArgs(1),
		Example: "  beaver dead list\n  beaver dead list mail --output json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usage("--limit is %d; use 1 or more", limit)
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				queues, err := deadQueues(cmd.Context(), c, args)
				if err != nil {
					return err
				}
				var jobs []*beaver.JobInfo
				more := false
				for _, q := range queues {
					got, rest, err := listJobs(cmd.Context(), c, q, []beaver.JobState{beaver.StateDead}, limit-len(jobs), true)
					if err != nil {
						return err
					}
					jobs, more = append(jobs, got...), more || rest
					if len(jobs) == limit {
						break
					}
				}
				return a.printDead(jobs, more, limit)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most so many")
	return a.clientFlags(cmd)
}

// deadQueues is the queue named, or all that have dead jobs.
func deadQueues(ctx context.Context, c *beaver.Client, named []string) ([]string, error) {
	if len(named) > 0 {
		return named, nil
	}
	queues, err := c.Queues(ctx)
	var names []string
	for _, q := range queues {
		if q.Dead > 0 {
			names = append(names, q.Name)
		}
	}
	return names, err
}

func (a *app) printDead(jobs []*beaver.JobInfo, more bool, limit int) error {
	if a.json() {
		return a.printJobs(jobs, more, limit)
	}
	rows := make([]string, len(jobs))
	for i, j := range jobs {
		message := ""
		if len(j.Errors) > 0 {
			message = j.Errors[len(j.Errors)-1].Message
		}
		rows[i] = row(j.ID, j.Queue, j.Kind, j.DeadReason, j.Attempt, a.ago(j.EndedAt), oneLine(message, cellMax))
	}
	if err := a.table("ID\tQUEUE\tKIND\tREASON\tATTEMPTS\tDIED\tLAST ERROR", rows); err != nil {
		return err
	}
	if more {
		a.note("there are more than %d; see --limit\n", limit)
	}
	return nil
}

// deadEnd is what can be done to dead jobs.
type deadEnd struct {
	use, short, question, state string
	some                        func(*beaver.Client, context.Context, ...beaver.JobID) ([]*beaver.Error, error)
	all                         func(*beaver.Client, context.Context, string) (int, error)
}

func newDeadEndCommand(a *app, end deadEnd) *cobra.Command {
	var queue string
	var all, yes bool
	cmd := &cobra.Command{
		Use: end.use + " [ID…]", Short: end.short + ": those named, or all of a queue",
		Example: fmt.Sprintf("  beaver dead %[1]s 000g000000000g00\n  beaver dead %[1]s --queue mail --all", end.use),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all != (queue != "") || all == (len(args) > 0) {
				return usage("name the jobs, or give --queue QUEUE --all")
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				if !all {
					some := func(ctx context.Context, ids ...beaver.JobID) ([]*beaver.Error, error) {
						return end.some(c, ctx, ids...)
					}
					return a.eachDead(cmd.Context(), some, args, end.state)
				}
				return a.allDead(cmd.Context(), c, queue, yes, &end)
			})
		},
	}
	cmd.Flags().StringVar(&queue, "queue", "", "with --all: the queue")
	cmd.Flags().BoolVar(&all, "all", false, "all dead jobs of --queue")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return a.clientFlags(cmd)
}

func (a *app) allDead(ctx context.Context, c *beaver.Client, queue string, yes bool, end *deadEnd) error {
	q, err := c.Queue(ctx, queue)
	if err != nil {
		return err
	}
	if q.Dead > 0 && !yes && !a.confirm(fmt.Sprintf(end.question, plural(q.Dead, "dead job"), queue)) {
		return statusError{fmt.Errorf("nothing was done; answer y, or give --yes"), exitFailure}
	}
	n, err := end.all(c, ctx, queue)
	if err != nil && n == 0 {
		return err
	}
	if a.json() {
		return errors.Join(a.printJSON(map[string]int{"count": n}), err)
	}
	return errors.Join(a.print("%s: %s\n", plural(n, "job"), end.state), err)
}

// confirm asks and returns whether the answer is yes.
func (a *app) confirm(question string) bool {
	a.note("%s [y/N] ", question)
	answer, _ := bufio.NewReader(a.stdin).ReadString('\n') // No answer is no.
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return true
	}
	return false
}

// eachDead does something to the dead jobs named.
func (a *app) eachDead(
	ctx context.Context, f func(context.Context, ...beaver.JobID) ([]*beaver.Error, error), args []string, state string,
) error {
	ids := make([]beaver.JobID, len(args))
	for i, id := range args {
		ids[i] = beaver.JobID(id)
	}
	errs, err := f(ctx, ids...)
	if err != nil {
		return err
	}
	i := -1
	return a.each(args, func(beaver.JobID) (string, error) {
		if i++; errs[i] != nil {
			return "", errs[i]
		}
		return state, nil
	})
}
