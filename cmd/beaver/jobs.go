package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

func newJobsCommand(a *app) *cobra.Command {
	return group("jobs", "List, show, cancel and retry jobs",
		newJobsListCommand(a), newJobsGetCommand(a), newJobsCancelCommand(a), newJobsRetryCommand(a))
}

// liveStates are the states that jobs list shows unless told otherwise.
func liveStates() []beaver.JobState {
	return []beaver.JobState{
		beaver.StateRunning, beaver.StateReady, beaver.StateScheduled, beaver.StateBackoff, beaver.StateDead,
	}
}

func newJobsListCommand(a *app) *cobra.Command {
	var states []string
	var limit int
	var full bool
	cmd := &cobra.Command{
		Use:   "list QUEUE",
		Short: "List the jobs of a queue",
		Long: `List the jobs of a queue, by priority and age. Without --state: those that are running, ready, scheduled, in backoff or dead.
The other states are completed, cancelled, expired and discarded; such jobs are kept for a while only.`,
		Example: `  beaver jobs list mail
  beaver jobs list mail --state completed --limit 1000 --output json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usage("--limit is %d; use 1 or more", limit)
			}
			wanted := liveStates()
			if len(states) > 0 {
				wanted = wanted[:0]
				for _, s := range states {
					wanted = append(wanted, beaver.JobState(s))
				}
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				jobs, more, err := listJobs(cmd.Context(), c, args[0], wanted, limit, full || a.json())
				if err != nil {
					return err
				}
				return a.printJobs(jobs, more, limit)
			})
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "list only jobs in these states")
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most so many")
	cmd.Flags().BoolVar(&full, "full", false, "show payloads")
	return a.clientFlags(cmd)
}

// listJobs returns up to limit jobs, and whether there are more.
func listJobs(
	ctx context.Context, c *beaver.Client, queue string, states []beaver.JobState, limit int, full bool,
) (jobs []*beaver.JobInfo, more bool, err error) {
	for _, state := range states {
		for job, err := range c.Jobs(ctx, beaver.JobFilter{Queue: queue, State: state, Full: full, PageSize: min(limit, 1000)}) {
			if err != nil {
				return nil, false, err
			}
			if len(jobs) == limit {
				return jobs, true, nil
			}
			jobs = append(jobs, job)
		}
	}
	return jobs, false, nil
}

func (a *app) printJobs(jobs []*beaver.JobInfo, more bool, limit int) error {
	if a.json() {
		out := make([]jobJSON, len(jobs))
		for i, j := range jobs {
			out[i] = jobOutput(j)
		}
		return a.printJSON(map[string]any{"jobs": out})
	}
	rows := make([]string, len(jobs))
	for i, j := range jobs {
		rows[i] = row(j.ID, j.State, j.Kind, j.Priority, j.Attempt, a.ago(j.EnqueuedAt), oneLine(a.jobNote(j), cellMax))
	}
	if err := a.table("ID\tSTATE\tKIND\tPRIORITY\tATTEMPT\tENQUEUED\tNOTE", rows); err != nil {
		return err
	}
	if more {
		a.note("there are more than %d; see --limit\n", limit)
	}
	return nil
}

// jobNote is the most interesting thing about a job.
func (a *app) jobNote(j *beaver.JobInfo) string {
	switch {
	case j.CancelRequested:
		return "cancellation asked for"
	case j.State == beaver.StateRunning && j.ProgressPercent > 0:
		return fmt.Sprintf("%d %% %s", j.ProgressPercent, j.ProgressMessage)
	case j.State == beaver.StateRunning:
		return "began " + a.ago(j.StartedAt)
	case j.State == beaver.StateScheduled, j.State == beaver.StateBackoff:
		return "ready " + a.ago(j.RunAt)
	case len(j.Errors) > 0:
		return j.Errors[len(j.Errors)-1].Message
	case j.DeadReason != "":
		return j.DeadReason
	}
	return string(j.Payload)
}

func newJobsGetCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "get ID", Short: "Show a job with its payload, result and errors", Args: cobra.ExactArgs(1),
		Example: "  beaver jobs get 000g000000000g00\n  beaver jobs get 000g000000000g00 --output json | jq .result",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				job, err := c.Job(cmd.Context(), beaver.JobID(args[0]))
				if err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(jobOutput(job))
				}
				return a.printJob(job)
			})
		},
	})
}

func (a *app) printJob(j *beaver.JobInfo) error {
	var b strings.Builder
	field := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" && text != "0" && text != "0s" {
			fmt.Fprintf(&b, "%-13s %s\n", name+":", text)
		}
	}
	field("id", j.ID)
	field("queue", j.Queue)
	field("kind", j.Kind)
	field("state", j.State)
	field("dead because", j.DeadReason)
	fmt.Fprintf(&b, "%-13s %d\n", "priority:", j.Priority)
	field("attempt", j.Attempt)
	field("failures", j.Failures)
	field("crashes", j.Crashes)
	field("max attempts", j.MaxAttempts)
	field("timeout", j.Timeout)
	field("enqueued", a.ago(j.EnqueuedAt))
	field("ready", a.ago(j.RunAt))
	field("expires", a.ago(j.ExpiresAt))
	field("began", a.ago(j.StartedAt))
	field("deadline", a.ago(j.Deadline))
	field("ended", a.ago(j.EndedAt))
	field("worker", j.WorkerID)
	if j.CancelRequested {
		field("cancel", "asked for")
	}
	if j.ProgressPercent > 0 || j.ProgressMessage != "" {
		field("progress", oneLine(fmt.Sprintf("%d %% %s", j.ProgressPercent, j.ProgressMessage), 200))
	}
	if j.OrderingKey != "" {
		field("ordering key", oneLine(j.OrderingKey, 200))
	}
	if j.UniqueKey != "" {
		field("unique key", uniqueText(j))
	}
	for k, v := range sorted(j.Metadata) {
		field("metadata", oneLine(k+"="+v, 200))
	}
	field("payload", shown(j.ContentType, j.Payload))
	field("result", shown(j.ResultContentType, j.Result))
	for _, e := range j.Errors {
		field("error", fmt.Sprintf("%s: %s", a.ago(e.At), oneLine(e.Message, 500)))
		if e.Stack != "" {
			fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(strings.TrimSpace(e.Stack), "\n", "\n  "))
		}
	}
	return a.print("%s", b.String())
}

// uniqueText is a job's unique key, and when it lets go of it.
func uniqueText(j *beaver.JobInfo) string {
	text := oneLine(j.UniqueKey, 256) + ", until " + string(j.UniqueUntil)
	if j.UniqueFor > 0 {
		text += fmt.Sprintf(", for %v at least", j.UniqueFor)
	}
	return text
}

// shown is content for people: its text, or how much of what it is.
func shown(contentType string, b []byte) string {
	const most = 4 << 10
	switch {
	case len(b) == 0:
		return ""
	case !isText(b):
		return fmt.Sprintf("%s of %s", byteSize(len(b)), contentType)
	case len(b) > most:
		return oneLine(string(b), most) + fmt.Sprintf(" (%s in all)", byteSize(len(b)))
	}
	return strings.TrimRight(string(b), "\n")
}

func newJobsCancelCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "cancel ID…", Short: "Cancel waiting jobs, and ask the workers of running ones to stop", Args: cobra.MinimumNArgs(1),
		Example: "  beaver jobs cancel 000g000000000g00",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				return a.each(args, func(id beaver.JobID) (string, error) {
					state, err := c.Cancel(cmd.Context(), id)
					if state == beaver.StateRunning {
						return "its worker is asked to stop", err
					}
					return string(state), err
				})
			})
		},
	})
}

func newJobsRetryCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "retry ID…", Short: "Make dead jobs ready again", Args: cobra.MinimumNArgs(1),
		Example: "  beaver jobs retry 000g000000000g00\n  beaver dead retry --queue mail --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				return a.eachDead(cmd.Context(), c.RetryDead, args, "ready")
			})
		},
	})
}

// each does something to each job and prints what became of it. It goes on after errors and returns the first.
func (a *app) each(ids []string, f func(beaver.JobID) (string, error)) error {
	var first error
	states := make(map[string]string, len(ids))
	for _, id := range ids {
		state, err := f(beaver.JobID(id))
		if err != nil {
			if first == nil {
				first = fmt.Errorf("job %s: %w", id, err)
			}
			continue
		}
		states[id] = state
		if !a.json() {
			if err := a.print("%s %s\n", id, state); err != nil {
				return err
			}
		}
	}
	if a.json() {
		if err := a.printJSON(map[string]any{"states": states}); err != nil {
			return err
		}
	}
	return first
}
