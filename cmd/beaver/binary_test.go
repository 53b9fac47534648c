package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/freeport"
)

// beTheBinary makes the test's own binary run as beaver, in a process of its own, without another build.
const beTheBinary = "BEAVER_TEST_AS_BINARY"

func TestMain(m *testing.M) {
	if os.Getenv(beTheBinary) != "" {
		main()
	}
	os.Exit(m.Run())
}

// running is a process of the binary. What it prints is kept.
type running struct {
	t   *testing.T
	cmd *exec.Cmd

	mu     sync.Mutex
	output bytes.Buffer  // REQUIRES: mu
	more   chan struct{} // signalled when there is more of it
	ended  chan struct{}
}

// Write implements io.Writer.
func (b *running) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.output.Write(p)
	select {
	case b.more <- struct{}{}:
	default:
	}
	return n, err
}

func (b *running) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.output.String()
}

// launch starts the binary in the background. It is killed when the test is over, and a test that failed shows what it has said: what
// holds up one node is often told by another.
func launch(t *testing.T, args ...string) *running {
	t.Helper()
	b := &running{t: t, cmd: exec.Command(os.Args[0], args...), more: make(chan struct{}, 1), ended: make(chan struct{})}
	b.cmd.Env = append(os.Environ(), beTheBinary+"=1")
	b.cmd.Stdout, b.cmd.Stderr = b, b
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // its exit status is looked at by ProcessState
		close(b.ended)
	}()
	t.Cleanup(func() {
		_ = b.cmd.Process.Kill() // it may have ended
		<-b.ended
		if t.Failed() {
			t.Logf("beaver %s\n%s", strings.Join(args, " "), b.text())
		}
	})
	return b
}

// says waits until the process has printed a text.
func (b *running) says(text string) {
	b.t.Helper()
	limit := time.NewTimer(30 * time.Second)
	defer limit.Stop()
	for !strings.Contains(b.text(), text) {
		select {
		case <-b.more:
		case <-b.ended:
			if !strings.Contains(b.text(), text) {
				b.t.Fatalf("it ended and did not say %q:\n%s", text, b.text())
			}
		case <-limit.C:
			b.t.Fatalf("it does not say %q:\n%s", text, b.text())
		}
	}
}

// ends waits for the process to end by itself, and returns its exit status.
func (b *running) ends() int {
	b.t.Helper()
	select {
	case <-b.ended:
	case <-time.After(30 * time.Second):
		b.t.Fatalf("it does not end:\n%s", b.text())
	}
	return b.cmd.ProcessState.ExitCode()
}

// stop ends the process by SIGTERM, which must be a good end.
func (b *running) stop() {
	b.t.Helper()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Fatal(err)
	}
	if status := b.ends(); status != exitOK {
		b.t.Errorf("SIGTERM ends it with %d:\n%s", status, b.text())
	}
}

// run runs the binary to its end.
func run(t *testing.T, args ...string) (text string, status int) {
	t.Helper()
	b := launch(t, args...)
	status = b.ends()
	return b.text(), status
}

// station is what one node is started with.
type station struct {
	dir, public, peer string
	secret            string // file
}

func newStation(t *testing.T, secret string) *station {
	return &station{dir: filepath.Join(t.TempDir(), "data"), public: freeport.Address(t), peer: freeport.Address(t), secret: secret}
}

func (s *station) args(more ...string) []string {
	args := []string{"server", "--data-dir", s.dir, "--listen", s.public, "--peer-listen", s.peer, "--shards", "1", "--log-level", "warn"}
	if s.secret != "" {
		args = append(args, "--cluster-secret-file", s.secret)
	}
	return append(args, more...)
}

// secretFile makes a secret.
func secretFile(t *testing.T, seed string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	writeFile(t, name, fmt.Appendf(nil, "%s\n", strings.Repeat(seed, 40)))
	return name
}
