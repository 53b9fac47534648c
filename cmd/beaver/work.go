package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

const (
	// exitDead is the exit status with which a program makes its job dead at once.
	exitDead = 100
	// resultBytesMax is the most standard output that is kept as a result.
	resultBytesMax = 256 << 10
	// errorBytesMax is how much of the end of the standard error is kept as an error.
	errorBytesMax = 4 << 10
	// concurrencyMax bounds the programs of one worker: each is a process.
	concurrencyMax = 1000
)

type workFlags struct {
	concurrency      int
	grace, killAfter time.Duration
	name             string
	labels           []string
	quiet            bool
}

const workLong = `Run a program for each job of the queues. The payload is its standard input, and these variables tell about the job:

  BEAVER_JOB_ID, BEAVER_QUEUE, BEAVER_KIND, BEAVER_ATTEMPT (1 for the first), BEAVER_TOKEN, BEAVER_CONTENT_TYPE, BEAVER_ADDR,
  BEAVER_ORDERING_KEY and BEAVER_UNIQUE_KEY if it has one, and BEAVER_META_KEY for each key of the metadata, in capitals, with _
  for what is not a letter or a digit.

Exit status 0 completes the job; the standard output, up to 256 KiB, is its result. 100 makes it dead at once. Any other is a
failure that is retried later; the end of the standard error is the error.

A job that is cancelled, or not the worker's any more, has its program's process group terminated (SIGTERM), and killed after
--kill-after. SIGTERM or SIGINT to beaver work lets programs finish within --grace, and gives back the jobs of the rest.`

func newWorkCommand(a *app) *cobra.Command {
	var f workFlags
	cmd := &cobra.Command{
		Use:   "work [flags] QUEUE… -- PROGRAM [ARGUMENT…]",
		Short: "Make a worker of any program",
		Long:  workLong,
		Example: `  beaver work mail -- ./send-mail
  beaver work thumbnails --concurrency 4 -- sh -c 'convert - -resize 200 png:- | upload "$BEAVER_META_NAME"'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			if dash < 1 || dash == len(args) {
				return usage("give queues and, after --, a program: beaver work mail -- ./send-mail")
			}
			if f.concurrency < 1 || f.concurrency > concurrencyMax {
				return usage("--concurrency is %d; use 1 to %d", f.concurrency, concurrencyMax)
			}
			if f.grace < 0 || f.killAfter < 0 {
				return usage("--grace and --kill-after must not be negative")
			}
			return a.client(cmd.Context(), func(c *beaver.Client) error { return a.work(cmd.Context(), c, &f, args[:dash], args[dash:]) })
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&f.concurrency, "concurrency", 1, "programs that run at once")
	flags.DurationVar(&f.grace, "grace", 25*time.Second, "how long programs may go on when the worker stops")
	flags.DurationVar(&f.killAfter, "kill-after", 10*time.Second, "how long after SIGTERM a program is killed")
	takes(flags, "concurrency", fmt.Sprintf("1 to %d", concurrencyMax))
	flags.StringVar(&f.name, "name", "", "name of the worker for people (default: beaver)")
	flags.StringSliceVar(&f.labels, "label", nil, "label of the worker for people; may be repeated")
	flags.BoolVar(&f.quiet, "quiet", false, "do not print a line for each job")
	return a.clientFlags(cmd)
}

func (a *app) work(ctx context.Context, c *beaver.Client, f *workFlags, queues, program []string) error {
	path, err := exec.LookPath(program[0])
	if err != nil {
		return usage("the program cannot be run: %w", err)
	}
	runner := &programRunner{app: a, flags: f, path: path, args: program[1:], addr: c.Addr()}
	grace := f.grace
	if grace == 0 {
		grace = -1
	}
	w, err := beaver.NewWorker(c, beaver.WorkerConfig{
		Queues: queues, Handler: runner, Concurrency: f.concurrency, GracePeriod: grace, Name: f.name, Labels: f.labels,
		Version: buildInfo().Version,
	})
	if err != nil {
		return inFlags(err, "WorkerConfig.Queues: ", "")
	}
	a.note("working on %s with %s, %d at once\n", strings.Join(queues, ", "), program[0], f.concurrency)
	if err := w.Run(ctx); err != nil {
		return err
	}
	s := w.Stats()
	if a.json() {
		return a.printJSON(map[string]uint64{
			"completed": s.Completed, "failed": s.Failed, "released": s.Released, "stale": s.Stale, "unconfirmed": s.Unconfirmed,
		})
	}
	a.note("%d completed, %d failed, %d given back, %d refused as stale\n", s.Completed, s.Failed, s.Released, s.Stale)
	return nil
}

// programRunner does jobs by running a program.
type programRunner struct {
	app   *app
	flags *workFlags
	path  string
	args  []string
	addr  string
	mu    sync.Mutex // one line at a time
}

// Handle runs the program for a job.
func (p *programRunner) Handle(ctx context.Context, job *beaver.LeasedJob) error {
	begin := time.Now()
	out, errs := &head{max: resultBytesMax}, &tail{max: errorBytesMax}
	err := p.run(ctx, job, out, errs)
	took := time.Since(begin)
	if err == nil {
		err = p.keep(job, out)
	}
	if err != nil {
		p.say("job %s failed after %s: %s", job.ID, short(took), oneLine(err.Error(), 200))
		return err
	}
	p.say("job %s completed in %s: %s", job.ID, short(took), oneLine(out.String(), 200))
	return nil
}

func (p *programRunner) run(ctx context.Context, job *beaver.LeasedJob, out, errs io.Writer) error {
	cmd := exec.CommandContext(ctx, p.path, p.args...)
	cmd.Env = append(os.Environ(), p.environment(job)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(job.Payload), out, errs
	ownGroup(cmd)
	cmd.Cancel = func() error { return terminateGroup(cmd) }
	cmd.WaitDelay = p.flags.killAfter
	err := cmd.Run()
	if ctx.Err() != nil && cmd.Process != nil {
		killGroup(cmd) // What the program left behind.
	}
	if err == nil {
		return nil
	}
	message := strings.TrimSpace(fmt.Sprint(errs))
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	case !ok && cmd.ProcessState == nil:
		return fmt.Errorf("the program cannot be run: %w", err)
	case !ok && cmd.ProcessState.Success():
		return nil // It ended without reading all of the payload.
	}
	if message == "" {
		message = err.Error()
	}
	return &beaver.Failure{Type: err.Error(), Message: message, Final: ok && exit.ExitCode() == exitDead}
}

// environment is what a program learns of its job.
func (p *programRunner) environment(job *beaver.LeasedJob) []string {
	env := []string{
		"BEAVER_JOB_ID=" + string(job.ID), "BEAVER_QUEUE=" + job.Queue, "BEAVER_KIND=" + job.Kind,
		"BEAVER_ATTEMPT=" + strconv.Itoa(job.Attempt), "BEAVER_TOKEN=" + strconv.FormatUint(job.Token, 10),
		"BEAVER_CONTENT_TYPE=" + job.ContentType, "BEAVER_ADDR=" + p.addr,
	}
	if job.OrderingKey != "" && !strings.ContainsRune(job.OrderingKey, 0) {
		env = append(env, "BEAVER_ORDERING_KEY="+job.OrderingKey)
	}
	if job.UniqueKey != "" && !strings.ContainsRune(job.UniqueKey, 0) {
		env = append(env, "BEAVER_UNIQUE_KEY="+job.UniqueKey)
	}
	for k, v := range sorted(job.Metadata) {
		if !strings.ContainsRune(v, 0) {
			env = append(env, "BEAVER_META_"+environmentKey(k)+"="+v)
		}
	}
	return env
}

func environmentKey(key string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

// keep makes the program's output the job's result.
func (p *programRunner) keep(job *beaver.LeasedJob, out *head) error {
	b := out.Bytes()
	switch {
	case out.cut:
		p.app.note("beaver: job %s printed more than %s; it completes without a result\n", job.ID, byteSize(resultBytesMax))
		return nil
	case len(b) == 0:
		return nil
	case json.Valid(b):
		return job.SetResultBytes(beaver.ContentTypeJSON, bytes.TrimSpace(b))
	}
	return job.SetResultBytes(guessContentType(b), b)
}

func (p *programRunner) say(format string, args ...any) {
	if p.flags.quiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.app.note(format+"\n", args...)
}

// head keeps the beginning of what is written.
type head struct {
	bytes.Buffer
	max int
	cut bool
}

func (h *head) Write(b []byte) (int, error) {
	if room := h.max - h.Len(); len(b) > room {
		h.cut = true
		h.Buffer.Write(b[:room])
		return len(b), nil
	}
	return h.Buffer.Write(b)
}

// tail keeps the end of what is written.
type tail struct {
	kept []byte
	max  int
}

func (t *tail) Write(b []byte) (int, error) {
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - t.max; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(b), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.kept), "�") }
