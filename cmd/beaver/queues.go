package main

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

func newQueuesCommand(a *app) *cobra.Command {
	return group("queues", "List, show, set, move, pause and resume queues",
		newQueuesListCommand(a), newQueuesGetCommand(a), newQueuesSetCommand(a), newQueuesMoveCommand(a),
		newQueuesPauseCommand(a, "pause", "Stop handing out jobs of a queue", (*beaver.Client).PauseQueue),
		newQueuesPauseCommand(a, "resume", "Hand out jobs of a paused queue again", (*beaver.Client).ResumeQueue))
}

func newQueuesListCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "list", Short: "List all queues with how many jobs are in each state", Args: cobra.NoArgs,
		Example: "  beaver queues list\n  beaver queues list --output json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				queues, err := c.Queues(cmd.Context())
				if err != nil {
					return err
				}
				return a.printQueues(queues)
			})
		},
	})
}

func (a *app) printQueues(queues []*beaver.QueueInfo) error {
	if a.json() {
		out := make([]queueJSON, len(queues))
		for i, q := range queues {
			out[i] = queueOutput(q)
		}
		return a.printJSON(map[string]any{"queues": out})
	}
	rows := make([]string, len(queues))
	for i, q := range queues {
		var notes []string
		if q.Settings.Paused != nil && *q.Settings.Paused {
			notes = append(notes, "paused")
		}
		if len(q.Shards) > 1 {
			notes = append(notes, fmt.Sprintf("%d partitions", len(q.Shards)))
		}
		if q.UniqueKeys > 0 {
			notes = append(notes, plural(q.UniqueKeys, "unique key"))
		}
		if q.MovingFrom != 0 {
			notes = append(notes, fmt.Sprintf("moves: %d left on %s; now on %s", q.LeftBehind, shardList(q.MovingFromShards), shardList(q.Shards)))
		}
		rows[i] = row(q.Name, q.Ready, q.Running, q.Scheduled, q.Backoff, q.Dead, q.CompletedTotal, a.ago(q.OldestReadyAt), strings.Join(notes, "; "))
	}
	return a.table("QUEUE\tREADY\tRUNNING\tSCHEDULED\tBACKOFF\tDEAD\tCOMPLETED\tOLDEST READY\tNOTE", rows)
}

func newQueuesGetCommand(a *app) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: "get QUEUE", Short: "Show a queue with its settings and totals", Args: cobra.ExactArgs(1),
		Example: "  beaver queues get mail",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				q, err := c.Queue(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return a.printQueue(q)
			})
		},
	})
}

func (a *app) printQueue(q *beaver.QueueInfo) error {
	if a.json() {
		return a.printJSON(queueOutput(q))
	}
	var b strings.Builder
	field := func(name string, value any) { fmt.Fprintf(&b, "%-14s %v\n", name+":", value) }
	field("queue", q.Name)
	if len(q.Shards) > 1 {
		field("partitions", fmt.Sprintf("%d, on %s", len(q.Shards), shardList(q.Shards)))
	} else {
		field("shard", q.Shard)
	}
	if q.MovingFrom != 0 {
		field("moves from", fmt.Sprintf("%s; %s left there", shardList(q.MovingFromShards), plural(q.LeftBehind, "job")))
	}
	field("scheduled", q.Scheduled)
	field("ready", q.Ready)
	field("running", q.Running)
	field("backoff", q.Backoff)
	field("dead", q.Dead)
	if !q.OldestReadyAt.IsZero() {
		field("oldest ready", a.ago(q.OldestReadyAt))
	}
	field("enqueued", fmt.Sprintf("%d in all", q.EnqueuedTotal))
	field("completed", fmt.Sprintf("%d in all", q.CompletedTotal))
	field("failed", fmt.Sprintf("%s in all, %d lost with their workers", plural(q.FailedTotal, "attempt"), q.CrashedTotal))
	field("died", fmt.Sprintf("%d in all; %d retried, %d discarded", q.DiedTotal, q.RetriedTotal, q.DiscardedTotal))
	field("cancelled", fmt.Sprintf("%d in all, %d expired", q.CancelledTotal, q.ExpiredTotal))
	if q.UniqueKeys+q.DeduplicatedTotal > 0 {
		field("unique keys", fmt.Sprintf("%d held; %s in all not stored, since another held the key", q.UniqueKeys, plural(q.DeduplicatedTotal, "job")))
	}
	s := q.Settings
	field("max attempts", number(s.MaxAttempts))
	field("retry", describeRetry(s.Retry))
	if s.Timeout != nil && *s.Timeout > 0 {
		field("timeout", *s.Timeout)
	} else {
		field("timeout", "none")
	}
	field("poison limit", number(s.PoisonLimit))
	field("keep ended", number(s.KeepEnded))
	field("depth max", number(s.DepthMax))
	field("paused", s.Paused != nil && *s.Paused)
	return a.print("%s", b.String())
}

// shardList names shards in a sentence.
func shardList(shards []int) string {
	if len(shards) == 1 {
		return fmt.Sprintf("shard %d", shards[0])
	}
	return "shards " + strings.Trim(strings.ReplaceAll(fmt.Sprint(shards), " ", ", "), "[]")
}

func number[T any](p *T) string {
	if p == nil {
		return "default"
	}
	return fmt.Sprint(*p)
}

func describeRetry(p *beaver.RetryPolicy) string {
	if p == nil {
		return "default"
	}
	text := ""
	switch p.Kind {
	case beaver.RetryExponential:
		text = fmt.Sprintf("exponential, %v to %v", p.Base, p.Max)
	case beaver.RetryFixed:
		text = fmt.Sprintf("fixed, %v", p.Base)
	case beaver.RetryList:
		text = fmt.Sprintf("list, %v", p.Delays)
	case beaver.RetryNever:
		return "never"
	}
	if p.JitterPercent != nil && *p.JitterPercent > 0 {
		text += fmt.Sprintf(", up to %d %% less", *p.JitterPercent)
	}
	return text
}

func newQueuesSetCommand(a *app) *cobra.Command {
	var maxAttempts, poisonLimit, keepEnded, partitions int
	var depthMax uint64
	var timeout time.Duration
	var retry string
	cmd := &cobra.Command{
		Use: "set QUEUE", Short: "Make a queue, or change its settings", Args: cobra.ExactArgs(1),
		Long: `Make a queue, or change the settings that are given. The others keep their values.

With --partitions the queue is on as many shards, for more jobs than one can take. Jobs with the same ordering key (beaver enqueue
--ordering-key) stay on one, and so in order; others do not. To change the number is to move the queue: jobs that are there finish where
they are and are handed out first, and the next change has to wait until beaver queues list shows that none is left.`,
		Example: "  beaver queues set mail --max-attempts 5 --retry fixed:30s\n  beaver queues set video --timeout 10m --depth-max 100000\n  beaver queues set events --partitions 4",
	}
	flags := cmd.Flags()
	flags.IntVar(&maxAttempts, "max-attempts", 25, "failures until a job is dead")
	flags.StringVar(&retry, "retry", "", retryFlagHelp)
	flags.DurationVar(&timeout, "timeout", 0, "of one attempt; 0 is none")
	flags.IntVar(&poisonLimit, "poison-limit", 5, "lost workers until a job is dead")
	flags.IntVar(&keepEnded, "keep-ended", 1000, "ended jobs kept for reading, of each partition")
	flags.Uint64Var(&depthMax, "depth-max", 100_000_000, "jobs not ended, of each partition; over it enqueues are refused")
	flags.IntVar(&partitions, "partitions", 1, "on how many shards the queue is, 1 to 64 and at most the number of data shards")
	takes(flags, "max-attempts", "1 to 1000")
	takes(flags, "keep-ended", "0 to 1000000")
	takes(flags, "partitions", "1 to 64")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var s beaver.QueueSettings
		given(cmd, "max-attempts", &s.MaxAttempts, &maxAttempts)
		given(cmd, "timeout", &s.Timeout, &timeout)
		given(cmd, "poison-limit", &s.PoisonLimit, &poisonLimit)
		given(cmd, "keep-ended", &s.KeepEnded, &keepEnded)
		given(cmd, "depth-max", &s.DepthMax, &depthMax)
		given(cmd, "partitions", &s.Partitions, &partitions)
		if retry != "" {
			policy, err := parseRetry(retry)
			if err != nil {
				return err
			}
			s.Retry = policy
		}
		return a.client(cmd.Context(), func(c *beaver.Client) error {
			q, err := c.ConfigureQueue(cmd.Context(), args[0], s)
			if err != nil {
				return err
			}
			return a.printQueue(q)
		})
	}
	return a.clientFlags(cmd)
}

func newQueuesMoveCommand(a *app) *cobra.Command {
	var to int
	cmd := a.clientFlags(&cobra.Command{
		Use: "move QUEUE --to SHARD", Short: "Give a queue another home", Args: cobra.ExactArgs(1),
		Long: `Give a queue another home, for instance a shard that has less to do. New jobs go there at once. Those that are in the old home finish there,
and are handed out first; no job is lost or repeated, and none changes its id. The move ends by itself, when nothing is left in
the old home, dead jobs included, and no client has sent it anything for a quarter of an hour; beaver queues list shows how far it is.

A queue of several partitions does not move to one shard: beaver queues set --partitions places it anew.`,
		Example: "  beaver queues move mail --to 3",
	})
	cmd.Flags().IntVar(&to, "to", 0, "the number of the shard, as beaver cluster status shows it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("to") {
			return usage("say with --to which data shard, by its number, as beaver cluster status shows it")
		}
		if to < 1 || to > 1<<16-1 {
			return usage("--to %d is no data shard; use its number, as beaver cluster status shows it", to)
		}
		return a.client(cmd.Context(), func(c *beaver.Client) error {
			q, err := c.MoveQueue(cmd.Context(), args[0], to)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(queueOutput(q))
			}
			if q.MovingFrom == 0 {
				return a.print("%s lives on shard %d\n", q.Name, q.Shard)
			}
			return a.print("%s moves from %s to shard %d; what is there is done first: %s\n", q.Name, shardList(q.MovingFromShards), q.Shard, plural(q.LeftBehind, "job"))
		})
	}
	return cmd
}

// given points to at value if the flag was given.
func given[T any](cmd *cobra.Command, flag string, to **T, value *T) {
	if cmd.Flags().Changed(flag) {
		*to = value
	}
}

func newQueuesPauseCommand(
	a *app, use, short string, f func(*beaver.Client, context.Context, string) error,
) *cobra.Command {
	return a.clientFlags(&cobra.Command{
		Use: use + " QUEUE", Short: short, Args: cobra.ExactArgs(1), Example: "  beaver queues " + use + " mail",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				if _, err := c.Queue(cmd.Context(), args[0]); err != nil {
					return err // A misspelt name must not make a queue.
				}
				if err := f(c, cmd.Context(), args[0]); err != nil {
					return err
				}
				if a.json() {
					return a.printJSON(map[string]any{"name": args[0], "paused": use == "pause"})
				}
				return a.print("%s %sd\n", args[0], use)
			})
		},
	})
}

// sorted iterates over a map in the order of its keys.
func sorted(m map[string]string) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}
