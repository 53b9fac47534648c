package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// identityLine is how inspect begins.
var identityLine = regexp.MustCompile(`^node [0-9]+ of cluster [0-9a-f]{16}, format 1\n`)

// TestServerCommand starts a node from the command line, uses it, stops it, and inspects what it left.
func TestServerCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, in := io.Pipe()
	exited := make(chan int, 1)
	t.Setenv("BEAVER_DATA_DIR", dir)
	t.Setenv("BEAVER_LOG_LEVEL", "error")
	go func() {
		exited <- Run(ctx, []string{"server", "--listen", "127.0.0.1:0", "--shards", "1"}, strings.NewReader(""), in, os.Stderr)
		_ = in.Close()
	}()
	line := make([]byte, 1000)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	url := regexp.MustCompile(`http://[0-9.:]+`).FindString(string(line[:n]))
	if url == "" || !strings.Contains(string(line[:n]), dir) {
		t.Fatalf("the start line is %q", line[:n])
	}
	t.Setenv("BEAVER_ADDR", url)
	for _, args := range [][]string{{"enqueue", "q", "1"}, {"queues", "list"}, {"status"}, {"status", "-o", "json"}} {
		if got, status := runText(t, args...); status != exitOK || got == "" {
			t.Errorf("%v: exit status %d, %q", args, status, got)
		}
	}
	if got, status := runText(t, "status", "--ready"); status != exitOK || got != "" {
		t.Errorf("status --ready: exit status %d, %q", status, got)
	}
	stop()
	if status := <-exited; status != exitOK {
		t.Errorf("the server's exit status is %d", status)
	}
	if got, status := runText(t, "inspect", dir, "--entries"); status != exitOK || !strings.Contains(got, "tail-file") ||
		!strings.Contains(got, ".snapshot") || !strings.Contains(got, "entry") || !identityLine.MatchString(got) {
		t.Errorf("inspect: exit status %d, %s", status, got)
	}
	inspectNewer(t, dir)
	damageSnapshot(t, dir)
	if got, status := runText(t, "inspect", dir, "-o", "json"); status != exitFailure || !strings.Contains(got, `"damaged": 1`) {
		t.Errorf("inspect of a damaged directory: exit status %d, %s", status, got)
	}
	if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if got, status := runText(t, "inspect", dir); status != exitFailure || !strings.Contains(got, "2 places damaged") ||
		!strings.Contains(got, "is missing: restore it") || identityLine.MatchString(got) {
		t.Errorf("inspect without an identity: exit status %d, %s", status, got)
	}
	writeFile(t, filepath.Join(dir, identityFile), make([]byte, 48))
	if got, status := runText(t, "inspect", dir); status != exitFailure || !strings.Contains(got, "is no identity file") {
		t.Errorf("inspect of zeroes: exit status %d, %s", status, got)
	}
}

// inspectNewer makes each kind of file one of a newer version, one after another: that is not damage.
func inspectNewer(t *testing.T, dir string) {
	t.Helper()
	for _, file := range []struct {
		pattern     string
		checksummed int // bytes before the checksum of what has the version
	}{{identityFile, 44}, {"log/*/*.wal", 60}, {"snapshots/*/*.snapshot", 12}} {
		names, err := filepath.Glob(filepath.Join(dir, file.pattern))
		if err != nil || len(names) == 0 {
			t.Fatalf("no %s: %v", file.pattern, err)
		}
		old, err := os.ReadFile(names[0])
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(old)
		b[8] = 200
		binary.LittleEndian.PutUint32(b[file.checksummed:], crc32.Checksum(b[:file.checksummed], crc32.MakeTable(crc32.Castagnoli)))
		writeFile(t, names[0], b)
		got, status := runText(t, "inspect", dir)
		_, verdict, _ := strings.Cut(got, "\nbeaver: ")
		if want := "1 file written by a newer version of beaver: nothing is known to be damaged"; status != exitFailure || !strings.HasPrefix(verdict, want) {
			t.Errorf("inspect with a newer %s: exit status %d, %s", file.pattern, status, got)
		}
		if got, _ := runText(t, "inspect", dir, "-o", "json"); !strings.Contains(got, `"damaged": 0`) || !strings.Contains(got, `"newer": 1`) {
			t.Errorf("inspect with a newer %s: %s", file.pattern, got)
		}
		writeFile(t, names[0], old)
	}
}

func writeFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// damageSnapshot flips a bit of a snapshot.
func damageSnapshot(t *testing.T, dir string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "*.snapshot"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no snapshots: %v", err)
	}
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	writeFile(t, names[0], b)
}

func runText(t *testing.T, args ...string) (string, int) {
	t.Helper()
	var out bytes.Buffer
	status := Run(t.Context(), args, strings.NewReader(""), &out, &out)
	return out.String(), status
}

// TestHelp checks that every command can be read about.
func TestHelp(t *testing.T) {
	root := newRootCommand(&app{})
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || !cmd.HasSubCommands() && cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%s has no short text or no example", cmd.CommandPath())
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if got, status := runText(t, "--help"); status != exitOK || !strings.Contains(got, "Exit status") {
		t.Errorf("--help: %d, %s", status, got)
	}
	for _, ask := range []string{"version", "--version"} {
		if got, status := runText(t, ask); status != exitOK || !strings.HasPrefix(got, "beaver "+buildInfo().Version+" (go") {
			t.Errorf("%s: %d, %s", ask, status, got)
		}
	}
	if got, status := runText(t, "completion", "bash"); status != exitOK || !strings.Contains(got, "bash completion") {
		t.Errorf("completion: %d, %d bytes", status, len(got))
	}
}
