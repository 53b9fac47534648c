package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

type enqueueFlags struct {
	file, kind, contentType, runAt, expiresAt, retry string
	orderingKey, uniqueKey, uniqueUntil              string
	priority, maxAttempts                            int
	delay, timeout, uniqueFor                        time.Duration
	meta                                             map[string]string
	ids                                              bool
}

func newEnqueueCommand(a *app) *cobra.Command {
	var f enqueueFlags
	cmd := &cobra.Command{
		Use:   "enqueue QUEUE [PAYLOAD|-]",
		Short: "Store a job, or a file of jobs",
		Long: `Store a job and print its ID. When the command ends the job is on disk. The payload is an argument, or the standard input if
the argument is -. It is JSON if it looks like JSON; --content-type says otherwise.

With --unique-key the job is stored only if no other job with the key is held in the queue; else nothing is stored, and the ID printed is
that of the job that holds it, which the standard error says. The key is let go when the job has ended or is dead, or, with --unique-until
started, when a worker gets it for the first time; but with --unique-for not sooner than that after it was enqueued.

With --file each line of the file (- is the standard input) is a job in the API's JSON, for example:
  {"kind": "welcome", "payload": {"to": "ada@example.org"}, "delay": "30s"}
QUEUE and the flags are what a line does not say; QUEUE may be left out if all lines name theirs.`,
		Example: `  beaver enqueue mail '{"to": "ada@example.org"}' --kind welcome
  beaver enqueue reports --delay 1h --priority 0 --meta tenant=42
  beaver enqueue sync --unique-key account-42
  beaver enqueue reindex --unique-key shop --unique-until started
  beaver enqueue reminders --unique-key ada-monday --unique-for 24h
  pg_dump shop | beaver enqueue backups -
  beaver enqueue --file jobs.ndjson`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			job, err := f.job(cmd)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				job.Queue = args[0]
			}
			if f.file == "" {
				if err := a.payload(&job, args); err != nil {
					return err
				}
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error {
				if f.file != "" {
					return a.enqueueFile(cmd.Context(), c, &job, &f, args)
				}
				return a.enqueueOne(cmd.Context(), c, &job)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.file, "file", "", "file with a job on each line, or - for the standard input")
	flags.StringVar(&f.kind, "kind", "", "kind of the job")
	flags.StringVar(&f.contentType, "content-type", "", "content type of the payload")
	flags.IntVar(&f.priority, "priority", 5, "0 (first) to 9 (last)")
	flags.DurationVar(&f.delay, "delay", 0, "how long until the job is ready")
	flags.StringVar(&f.runAt, "run-at", "", "when the job is ready, as 2006-01-02T15:04:05Z")
	flags.StringVar(&f.expiresAt, "expires-at", "", "the job is not run after this, as 2006-01-02T15:04:05Z")
	flags.IntVar(&f.maxAttempts, "max-attempts", 0, "failures until the job is dead (default: the queue's)")
	flags.StringVar(&f.retry, "retry", "", retryFlagHelp+" (default: the queue's)")
	flags.DurationVar(&f.timeout, "timeout", 0, "of one attempt (default: the queue's)")
	flags.StringVar(&f.orderingKey, "ordering-key", "", "jobs of a queue with the same one go to the same partition, and stay in order")
	flags.StringVar(&f.uniqueKey, "unique-key", "", "store the job only if no other with this key is held in the queue (or with the same ordering key)")
	flags.StringVar(&f.uniqueUntil, "unique-until", "ended", "when the job lets go of its unique key: ended or started")
	flags.DurationVar(&f.uniqueFor, "unique-for", 0, "keep the unique key for so long at least, at most 720h")
	flags.StringToStringVar(&f.meta, "meta", nil, "metadata as key=value; may be repeated")
	flags.BoolVar(&f.ids, "ids", false, "with --file: print the ID of each job, with existing behind it where another held the unique key")
	takes(flags, "priority", "0 (first) to 9 (last)")
	takes(flags, "max-attempts", "1 to 1000")
	return a.clientFlags(cmd)
}

// job is what the flags say of a job.
func (f *enqueueFlags) job(cmd *cobra.Command) (beaver.Job, error) {
	job := beaver.Job{
		Kind: f.kind, ContentType: f.contentType, Delay: f.delay, MaxAttempts: f.maxAttempts, Timeout: f.timeout, OrderingKey: f.orderingKey,
		UniqueKey: f.uniqueKey, UniqueFor: f.uniqueFor, Metadata: f.meta,
	}
	if err := f.unique(cmd, &job); err != nil {
		return job, err
	}
	if f.runAt != "" && cmd.Flags().Changed("delay") {
		return job, usage("--delay and --run-at both say when the job is ready; give one of them")
	}
	if cmd.Flags().Changed("priority") {
		job.Priority = &f.priority
	}
	for _, t := range []struct {
		flag, text string
		to         *time.Time
	}{{"run-at", f.runAt, &job.RunAt}, {"expires-at", f.expiresAt, &job.ExpiresAt}} {
		if t.text == "" {
			continue
		}
		at, err := time.Parse(time.RFC3339, t.text)
		if err != nil {
			return job, usage("--%s is %q; write it like 2006-01-02T15:04:05Z", t.flag, t.text)
		}
		*t.to = at
	}
	if f.retry != "" {
		policy, err := parseRetry(f.retry)
		if err != nil {
			return job, err
		}
		job.Retry = policy
	}
	return job, nil
}

// unique says of the job when it lets go of its unique key, which the lines of a file may name.
func (f *enqueueFlags) unique(cmd *cobra.Command, job *beaver.Job) error {
	for _, flag := range []string{"unique-until", "unique-for"} {
		if cmd.Flags().Changed(flag) && f.uniqueKey == "" && f.file == "" {
			return usage("--%s is about a unique key, and the job has none; give --unique-key too", flag)
		}
	}
	if !cmd.Flags().Changed("unique-until") {
		return nil
	}
	job.UniqueUntil = uniqueUntil(f.uniqueUntil)
	if job.UniqueUntil != beaver.UniqueUntilEnded && job.UniqueUntil != beaver.UniqueUntilStarted {
		return usage("--unique-until is %q; use ended or started", f.uniqueUntil)
	}
	return nil
}

// uniqueUntil reads the short name, or that of the API.
func uniqueUntil(name string) beaver.UniqueUntil {
	return beaver.UniqueUntil(strings.ToLower(strings.TrimPrefix(name, "UNIQUE_UNTIL_")))
}

// payload reads the payload of the one job that the arguments name.
func (a *app) payload(job *beaver.Job, args []string) error {
	if len(args) == 0 {
		return usage("name the queue: beaver enqueue QUEUE [PAYLOAD]")
	}
	if len(args) == 1 {
		return nil
	}
	job.Payload = []byte(args[1])
	if args[1] == "-" {
		b, err := io.ReadAll(a.stdin)
		if err != nil {
			return fmt.Errorf("read the payload from the standard input: %w", err)
		}
		job.Payload = b
	}
	switch {
	case job.ContentType == "":
		job.ContentType = guessContentType(job.Payload)
	case job.ContentType == beaver.ContentTypeJSON && !json.Valid(job.Payload):
		return usage("the payload is not the JSON that --content-type says it is; mend it, or leave the flag out")
	}
	return nil
}

func (a *app) enqueueOne(ctx context.Context, c *beaver.Client, job *beaver.Job) error {
	var id beaver.JobID
	var existing []bool
	var err error
	if job.UniqueKey == "" {
		id, err = c.Enqueue(ctx, *job)
	} else {
		existing = make([]bool, 1)
		id, existing[0], err = c.EnqueueUnique(ctx, *job)
	}
	switch {
	case err != nil:
		return err
	case a.json():
		return a.printJSON(enqueuedJSON{IDs: []beaver.JobID{id}, Existing: existing})
	}
	if err := a.print("%s\n", id); err != nil {
		return err
	}
	if len(existing) > 0 && existing[0] {
		a.note("nothing was stored: this job holds the unique key\n")
	}
	return nil
}

// enqueuedJSON is the answer to an enqueue as in the API's JSON. Existing is there for jobs with a unique key.
type enqueuedJSON struct {
	IDs      []beaver.JobID `json:"ids"`
	Existing []bool         `json:"existing,omitempty"`
}

// guessContentType says JSON, text or bytes.
func guessContentType(b []byte) string {
	switch {
	case len(b) > 0 && json.Valid(b):
		return beaver.ContentTypeJSON
	case len(b) > 0 && isText(b):
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

func isText(b []byte) bool {
	s := string(b)
	return strings.ToValidUTF8(s, "") == s && !strings.ContainsRune(s, 0)
}

// fileJob is a line of a file of jobs: NewJob of the API.
type fileJob struct {
	Queue         string            `json:"queue"`
	Kind          string            `json:"kind"`
	Payload       json.RawMessage   `json:"payload"`
	PayloadBase64 []byte            `json:"payloadBase64"`
	ContentType   string            `json:"contentType"`
	Priority      *int              `json:"priority"`
	RunAt         instant           `json:"runAt"`
	Delay         duration          `json:"delay"`
	ExpiresAt     instant           `json:"expiresAt"`
	MaxAttempts   int               `json:"maxAttempts"`
	Retry         *retryJSON        `json:"retry"`
	Timeout       duration          `json:"timeout"`
	OrderingKey   string            `json:"orderingKey"`
	UniqueKey     string            `json:"uniqueKey"`
	UniqueUntil   string            `json:"uniqueUntil"`
	UniqueFor     duration          `json:"uniqueFor"`
	Metadata      map[string]string `json:"metadata"`
}

// job returns the line's job; what it leaves out comes from base.
func (l *fileJob) job(base *beaver.Job) (beaver.Job, error) {
	job := *base
	if l.Payload != nil && l.PayloadBase64 != nil {
		return job, fmt.Errorf("it has both payload and payloadBase64; give one of them")
	}
	if l.Payload != nil {
		job.Payload, job.ContentType = l.Payload, beaver.ContentTypeJSON
	}
	if l.PayloadBase64 != nil {
		job.Payload = l.PayloadBase64
	}
	setIf(&job.Queue, l.Queue)
	setIf(&job.Kind, l.Kind)
	setIf(&job.ContentType, l.ContentType)
	setIf(&job.Priority, l.Priority)
	setIf(&job.ExpiresAt, l.ExpiresAt.Time)
	setIf(&job.MaxAttempts, l.MaxAttempts)
	setIf(&job.Retry, l.Retry.policy())
	setIf(&job.Timeout, time.Duration(l.Timeout))
	setIf(&job.OrderingKey, l.OrderingKey)
	setIf(&job.UniqueKey, l.UniqueKey)
	setIf(&job.UniqueUntil, uniqueUntil(l.UniqueUntil))
	setIf(&job.UniqueFor, time.Duration(l.UniqueFor))
	if !l.RunAt.IsZero() || l.Delay != 0 {
		job.RunAt, job.Delay = l.RunAt.Time, time.Duration(l.Delay)
	}
	if l.Metadata != nil {
		job.Metadata = maps.Clone(base.Metadata)
		if job.Metadata == nil {
			job.Metadata = make(map[string]string, len(l.Metadata))
		}
		maps.Copy(job.Metadata, l.Metadata)
	}
	return job, nil
}

func setIf[T comparable](to *T, value T) {
	var zero T
	if value != zero {
		*to = value
	}
}
