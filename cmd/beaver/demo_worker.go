package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

// newDemoWorkerCommand makes a demo worker that uses the Go SDK. It prints its totals as JSON when it ends.
func newDemoWorkerCommand() *cobra.Command {
	var d demoWorker
	cmd := &cobra.Command{
		Use:    "worker",
		Short:  "Do demo jobs with the Go SDK until told to stop",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			stats, err := d.run(ctx)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(stats)
		},
	}
	cmd.Flags().StringVar(&d.addr, "server", beaver.DefaultAddr, "URL of the server")
	cmd.Flags().StringVar(&d.root, "root", ".", "directory of the files")
	cmd.Flags().StringVar(&d.name, "name", "demo", "name of the worker")
	cmd.Flags().StringVar(&d.runs, "runs", "", "file in which every attempt leaves a line when it begins")
	cmd.Flags().StringSliceVar(&d.queues, "queues", []string{demoQueue}, "queues of the jobs")
	return cmd
}

// demoWorker is one worker, in its own process.
type demoWorker struct {
	addr, root, name, runs string
	queues                 []string
}

func (d *demoWorker) run(ctx context.Context) (stats beaver.WorkerStats, err error) {
	began := io.Discard
	if d.runs != "" {
		// Each line is one write, so that whoever kills the worker still finds it.
		f, err := os.OpenFile(d.runs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return stats, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		began = f
	}
	client, err := beaver.NewClient(beaver.Config{Addr: d.addr})
	if err != nil {
		return stats, err
	}
	mux := beaver.NewMux()
	beaver.HandleResult(mux, func(_ context.Context, job *beaver.JobOf[digestArgs]) (digestResult, error) {
		if _, err := fmt.Fprintf(began, "%s %s %d\n", job.ID, d.name, time.Now().UnixNano()); err != nil {
			return digestResult{}, err
		}
		return digest(d.root, job.Args.Path)
	})
	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{
		Queues: d.queues, Handler: mux, Concurrency: demoConcurrency(), Name: d.name, GracePeriod: 5 * time.Second,
	})
	if err != nil {
		return stats, err
	}
	runErr := worker.Run(ctx)
	closing, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return worker.Stats(), errors.Join(runErr, client.Close(closing))
}

// The demo's workers, by name.
const (
	demoKilled  = "demo-go-1"    // the Go SDK; killed with the server
	demoFrozen  = "demo-go-2"    // the Go SDK; frozen and thawed
	demoProgram = "demo-program" // `beaver work`, a process a job
)

// demoWorkers are the worker processes of a demo.
type demoWorkers struct {
	exe, addr, root string
	queues          []string
	runs            string // the file in which every attempt leaves a line; empty: none
	log             io.Writer

	killed, frozen, program *workerProcess
	stats                   []beaver.WorkerStats // of those that ended well
}

// workerProcess is one worker.
type workerProcess struct {
	cmd    *exec.Cmd
	stdout io.ReadCloser
}

// start starts the workers that use the Go SDK.
func (w *demoWorkers) start() (err error) {
	if w.killed, err = w.startSDK(demoKilled); err != nil {
		return err
	}
	w.frozen, err = w.startSDK(demoFrozen)
	return err
}

// startProgram starts the worker that runs a program for each job.
func (w *demoWorkers) startProgram() error {
	args := append([]string{"work"}, w.queues...)
	args = append(args, "--addr", w.addr, "--name", demoProgram, "--concurrency", "1", "--", w.exe, "demo", "digest", "--root", w.root)
	cmd := exec.Command(w.exe, args...)
	cmd.Stdout, cmd.Stderr = w.log, w.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start `beaver work`: %w", err)
	}
	w.program = &workerProcess{cmd: cmd}
	return nil
}

func (w *demoWorkers) startSDK(name string) (*workerProcess, error) {
	cmd := exec.Command(w.exe, "demo", "worker", "--server", w.addr, "--root", w.root, "--name", name,
		"--queues", strings.Join(w.queues, ","), "--runs", w.runs)
	cmd.Stderr = w.log
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start worker %s: %w", name, err)
	}
	return &workerProcess{cmd: cmd, stdout: stdout}, nil
}

// kill sends SIGKILL to one worker.
func (w *demoWorkers) kill() {
	_ = w.killed.cmd.Process.Kill() // an ended process is what we want
	_ = w.killed.cmd.Wait()         // it says "killed"
	w.killed = nil
}

// restart starts the killed worker again.
func (w *demoWorkers) restart() (err error) {
	w.killed, err = w.startSDK(demoKilled)
	return err
}

func (w *demoWorkers) freeze() error { return freeze(w.frozen.cmd.Process) }
func (w *demoWorkers) thaw() error   { return thaw(w.frozen.cmd.Process) }

// stop ends the workers gracefully and collects their totals.
func (w *demoWorkers) stop() error {
	for _, p := range []*workerProcess{w.killed, w.frozen} {
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop a worker: %w", err)
		}
		var stats beaver.WorkerStats
		if err := json.NewDecoder(p.stdout).Decode(&stats); err != nil {
			return fmt.Errorf("read the totals of a worker: %w", err)
		}
		if err := p.cmd.Wait(); err != nil {
			return fmt.Errorf("a worker failed: %w", err)
		}
		w.stats = append(w.stats, stats)
	}
	if w.program != nil {
		if err := w.program.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return fmt.Errorf("stop `beaver work`: %w", err)
		}
		if err := w.program.cmd.Wait(); err != nil {
			return fmt.Errorf("`beaver work` failed: %w", err)
		}
	}
	w.killed, w.frozen, w.program = nil, nil, nil
	return nil
}

// demoAttempt is one time that a job was begun.
type demoAttempt struct {
	worker string
	at     time.Time
}

// attempts reads who began each job, and when, in order.
func (w *demoWorkers) attempts() (map[beaver.JobID][]demoAttempt, error) {
	b, err := os.ReadFile(w.runs)
	if err != nil {
		return nil, err
	}
	began := make(map[beaver.JobID][]demoAttempt)
	for line := range strings.Lines(string(b)) {
		var id beaver.JobID
		var a demoAttempt
		var nanos int64
		if _, err := fmt.Sscan(line, &id, &a.worker, &nanos); err != nil {
			return nil, fmt.Errorf("the attempts of the workers: %w", err)
		}
		a.at = time.Unix(0, nanos)
		began[id] = append(began[id], a)
	}
	return began, nil
}

// staleRefused is how many outcomes were refused since their lease was lost.
func (w *demoWorkers) staleRefused() uint64 {
	var n uint64
	for _, s := range w.stats {
		n += s.Stale
	}
	return n
}

// abandon ends what still runs.
func (w *demoWorkers) abandon() {
	for _, p := range []*workerProcess{w.killed, w.frozen, w.program} {
		if p != nil {
			_ = p.cmd.Process.Kill() // the demo has failed already
			_ = p.cmd.Wait()
		}
	}
}
