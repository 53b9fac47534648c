package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/freeport"
)

// buildBeaver builds the binary with its dear checks on, so that a server that recovers to a wrong state says so and ends. It
// leaves cgo as it is: most of the packages below were then compiled for the other tests already.
func buildBeaver(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "beaver")
	cmd := exec.Command("go", "build", "-tags", "invariants", "-o", bin, "github.com/beaver-raft/beaver/cmd/beaver")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the binary: %v\n%s", err, out)
	}
	return bin
}

// process is a server that is started and killed again and again on one data directory.
type process struct {
	bin, dataDir, addr, logPath string
	args, env                   []string
	command                     []string                       // instead of the server
	run                         func(start func() error) error // nil: start is called as it is
	cmd                         *exec.Cmd
	exited                      chan error
}

func newProcess(t *testing.T, bin string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{
		bin: bin, dataDir: filepath.Join(dir, "data"), logPath: filepath.Join(dir, "server.log"),
		addr: freeport.Address(t), args: args,
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the server log:\n%s", p.tail())
		}
		if p.cmd != nil {
			_ = p.signal(syscall.SIGKILL) // the test is over
		}
	})
	return p
}

func (p *process) url() string { return "http://" + p.addr }

// launch starts the process and does not wait.
func (p *process) launch() error {
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own copy
	args := append([]string{"server", "--data-dir", p.dataDir, "--listen", p.addr}, p.args...)
	if p.command != nil {
		args = p.command
	}
	cmd := exec.Command(p.bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.env...)
	start := cmd.Start
	if p.run != nil {
		start = func() error { return p.run(cmd.Start) }
	}
	if err := start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	p.cmd, p.exited = cmd, exited
	return nil
}

// awaitReady returns when the server answers that it is ready.
func (p *process) awaitReady(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if resp, err := client.Get(p.url() + "/readyz"); err == nil {
			_ = resp.Body.Close() // only the status counts
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-p.exited:
			p.cmd = nil
			return errors.Join(errors.New("the server ended before it was ready"), err)
		case <-poll.C:
		}
	}
}

// signal sends sig and waits for the end. A process that ended by itself before is an error: nothing may crash a server but
// the test.
func (p *process) signal(sig syscall.Signal) error {
	select {
	case err := <-p.exited:
		p.cmd = nil
		return fmt.Errorf("the server had ended by itself: %w", err)
	default:
	}
	if err := p.cmd.Process.Signal(sig); err != nil {
		return err
	}
	err := <-p.exited
	p.cmd = nil
	if sig == syscall.SIGTERM && err != nil {
		return fmt.Errorf("the server did not end cleanly on SIGTERM: %w", err)
	}
	return nil
}

// tail returns the end of the server's log, for failure messages.
func (p *process) tail() string {
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4096):])
}

// numberFromEnv is a number that whoever runs the tests may set.
func numberFromEnv(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q is not a number: %v", name, text, err)
	}
	return n
}
