package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// serverProcess is a `beaver server` of our own, run as its own process so that it can be killed for real.
type serverProcess struct {
	exe, dataDir, addr string
	args               []string
	log                io.Writer
	cmd                *exec.Cmd
	exited             chan struct{}
	exitErr            error // how the last process ended, once exited is closed
	said               *lastWords
}

// newServerProcess prepares a server on a free loopback port. Its log goes to log.
func newServerProcess(dataDir string, log io.Writer, args ...string) (*serverProcess, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	return newServerProcessAt(port, dataDir, log, args...)
}

// newServerProcessAt prepares a server on a loopback port.
func newServerProcessAt(port int, dataDir string, log io.Writer, args ...string) (*serverProcess, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find our own binary: %w", err)
	}
	return &serverProcess{exe: exe, dataDir: dataDir, addr: "127.0.0.1:" + strconv.Itoa(port), args: args, log: log}, nil
}

// freePort is a port on which nobody listens at the moment. The next call may return it again, unless somebody listens on it by then.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }() // nothing was sent
	return l.Addr().(*net.TCPAddr).Port, nil
}

// url is where clients reach the server.
func (p *serverProcess) url() string { return "http://" + p.addr }

// start runs the server and returns how long it took until it was ready.
func (p *serverProcess) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := p.launch(); err != nil {
		return 0, err
	}
	if err := p.awaitReady(ctx); err != nil {
		return 0, err
	}
	return time.Since(began), nil
}

// lastWords passes on what a process says, and keeps the end of it.
type lastWords struct {
	to   io.Writer
	tail []byte
}

const lastWordsBytes = 1 << 10

func (l *lastWords) Write(b []byte) (int, error) {
	l.tail = append(l.tail, b...)
	l.tail = slices.Clone(l.tail[max(0, len(l.tail)-lastWordsBytes):])
	return l.to.Write(b)
}

// line is the last line. REQUIRES: the process has ended.
func (l *lastWords) line() string {
	said := bytes.TrimSpace(l.tail)
	return string(said[bytes.LastIndexByte(said, '\n')+1:])
}

// launch runs the server, and does not wait for it.
func (p *serverProcess) launch() error {
	args := append([]string{"server", "--data-dir", p.dataDir, "--listen", p.addr}, p.args...)
	cmd := exec.Command(p.exe, args...)
	said := &lastWords{to: p.log}
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the server: %w", err)
	}
	exited := make(chan struct{})
	go func() {
		p.exitErr = cmd.Wait() // killed or stopped by us; an early end is reported by awaitReady
		close(exited)
	}()
	p.cmd, p.exited, p.said = cmd, exited, said
	return nil
}

func (p *serverProcess) awaitReady(ctx context.Context) error {
	client := &http.Client{Timeout: time.Second}
	poll := time.NewTicker(2 * time.Millisecond)
	defer poll.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close() // only the status matters
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the server to be ready: %w", context.Cause(ctx))
		case <-p.exited:
			return fmt.Errorf("the server ended before it was ready; it said: %s", p.said.line())
		case <-poll.C:
		}
	}
}

// kill sends SIGKILL and waits for the end.
func (p *serverProcess) kill() { p.signal(syscall.SIGKILL) }

// stop asks for a graceful end and waits for it.
func (p *serverProcess) stop() { p.signal(syscall.SIGTERM) }

func (p *serverProcess) signal(sig syscall.Signal) {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // an ended process is what we want
	<-p.exited
	p.cmd = nil
}

// pid is the server's process id, 0 when it does not run.
func (p *serverProcess) pid() int {
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// residentBytes is the server's resident set size, read from /proc; 0 where there is none.
func (p *serverProcess) residentBytes() int64 {
	if p.cmd == nil {
		return 0
	}
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0
	}
	defer func() { _ = f.Close() }() // only read
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// dirBytes adds up the sizes of the files below dir.
func dirBytes(dir string) int64 {
	var total int64
	_ = filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // a file may vanish while we look: it then has no size
		}
		if info, err := d.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}
