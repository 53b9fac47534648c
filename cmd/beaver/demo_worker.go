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
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beaver-raft/beaver"
)

// newDemoWorkerCommand makes a demo worker that uses the Go SDK. It prints its totals as JSON when it ends.
func newDemoWorkerCommand() *cobra.Command {
	var addr, root, name string
	cmd := &cobra.Command{
		Use:    "worker",
		Short:  "Do demo jobs with the Go SDK until told to stop",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			stats, err := runDemoWorker(ctx, addr, root, name)
			if err != nil {
				return err
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(stats)
		},
	}
	cmd.Flags().StringVar(&addr, "server", beaver.DefaultAddr, "URL of the server")
	cmd.Flags().StringVar(&root, "root", ".", "directory of the files")
	cmd.Flags().StringVar(&name, "name", "demo", "name of the worker")
	return cmd
}

func runDemoWorker(ctx context.Context, addr, root, name string) (beaver.WorkerStats, error) {
	client, err := beaver.NewClient(beaver.Config{Addr: addr})
	if err != nil {
		return beaver.WorkerStats{}, err
	}
	mux := beaver.NewMux()
	beaver.HandleResult(mux, func(_ context.Context, job *beaver.JobOf[digestArgs]) (digestResult, error) {
		return digest(root, job.Args.Path)
	})
	worker, err := beaver.NewWorker(client, beaver.WorkerConfig{
		Queues: []string{demoQueue}, Handler: mux, Concurrency: demoConcurrency(), Name: name, GracePeriod: 5 * time.Second,
	})
	if err != nil {
		return beaver.WorkerStats{}, err
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
	killed, frozen, program *workerProcess
	stats                   []beaver.WorkerStats // of those that ended well
}

// workerProcess is one worker.
type workerProcess struct {
	cmd    *exec.Cmd
	stdout io.ReadCloser
}

func (w *demoWorkers) killName() string   { return demoKilled }
func (w *demoWorkers) freezeName() string { return demoFrozen }

func (w *demoWorkers) start(server *serverProcess, root string, log io.Writer) (err error) {
	if w.killed, err = startSDKWorker(server, root, demoKilled, log); err != nil {
		return err
	}
	if w.frozen, err = startSDKWorker(server, root, demoFrozen, log); err != nil {
		return err
	}
	cmd := exec.Command(server.exe, "work", demoQueue, "--addr", server.url(), "--name", demoProgram, "--concurrency", "1",
		"--", server.exe, "demo", "digest", "--root", root)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start `beaver work`: %w", err)
	}
	w.program = &workerProcess{cmd: cmd}
	return nil
}

func startSDKWorker(server *serverProcess, root, name string, log io.Writer) (*workerProcess, error) {
	cmd := exec.Command(server.exe, "demo", "worker", "--server", server.url(), "--root", root, "--name", name)
	cmd.Stderr = log
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
func (w *demoWorkers) restart(server *serverProcess, root string, log io.Writer) (err error) {
	w.killed, err = startSDKWorker(server, root, demoKilled, log)
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
	if err := w.program.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop `beaver work`: %w", err)
	}
	if err := w.program.cmd.Wait(); err != nil {
		return fmt.Errorf("`beaver work` failed: %w", err)
	}
	w.killed, w.frozen, w.program = nil, nil, nil
	return nil
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
