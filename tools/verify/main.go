// Command verify runs everything that must hold before a change goes in, and ends with a table of what passed.
//
// Invariant: it exits 0 only when every step ran and passed. It changes no file. Steps run one after the other and all
// of them run, so that one look shows all that is wrong; what a tool prints is printed as it is.
//
//	go -C tools run ./verify              checks and tests
//	go -C tools run ./verify -tests=false checks only
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"time"
)

// A step is one command. It fails when the command does, or, for tools that report on standard output and exit 0, when
// mustBeSilent is set and the command prints.
type step struct {
	name         string
	dir          string
	env          []string
	args         []string
	mustBeSilent bool
	isTest       bool
	advice       string // what to do when it fails
}

// outcome is a step's line in the table.
type outcome struct {
	step   step
	err    error
	took   time.Duration
	counts counts
}

func main() {
	tests := flag.Bool("tests", true, "run the tests after the checks")
	verbose := flag.Bool("v", false, "name every test")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()

	steps := checks()
	if *tests {
		steps = append(steps, testSteps(ctx, *verbose)...)
	}
	outcomes := make([]outcome, 0, len(steps))
	for _, s := range steps {
		fmt.Printf("==> %s: %s\n", s.name, strings.Join(append(s.env, s.args...), " "))
		outcomes = append(outcomes, run(ctx, s))
	}
	if !report(os.Stdout, outcomes) {
		stop()
		os.Exit(1)
	}
}

// tool is the command line of a tool pinned in tools/go.mod, run at the root.
func tool(name string, args ...string) []string {
	return append([]string{"go", "tool", "-modfile=tools/go.mod", name}, args...)
}

func checks() []step {
	steps := []step{
		{name: "generated code", dir: ".", args: []string{"go", "run", "./protogen", "-check"}, advice: "make gen"},
		{name: "format", dir: "..", args: tool("golangci-lint", "fmt", "--diff"), advice: "make fmt"},
		{name: "vet", dir: "..", args: []string{"go", "vet", "./..."}},
		{name: "vet tools", dir: ".", args: []string{"go", "vet", "./..."}},
		{name: "lint", dir: "..", args: tool("golangci-lint", "run", "./..."), advice: "make lint"},
		{name: "lint tools", dir: ".", args: []string{"go", "tool", "golangci-lint", "run", "--config", "../.golangci.yml", "./..."}},
		{name: "dead code", dir: "..", args: tool("deadcode", "-test", "./..."), mustBeSilent: true, advice: "delete it, or call it"},
	}
	for _, system := range []string{"linux", "darwin", "windows"} {
		if system != runtime.GOOS {
			steps = append(steps, step{
				name: "vet " + system, dir: "..", args: []string{"go", "vet", "./..."}, // builds the tests too
				env: []string{"GOOS=" + system, "CGO_ENABLED=0"},
			})
		}
	}
	return steps
}

func testSteps(ctx context.Context, verbose bool) []step {
	args := []string{"go", "test", "-timeout=15m", "-shuffle=on"}
	name := "tests"
	if canRace(ctx) {
		name = "tests, race"
		args = append(args, "-race")
	} else {
		fmt.Println("no C compiler: the tests run without the race detector, with the dear assertions on")
		args = append(args, "-tags=invariants")
	}
	if verbose {
		args = append(args, "-v")
	}
	return []step{
		{name: name, dir: "..", args: append(args, "./..."), isTest: true},
		{name: "tests of tools", dir: ".", args: []string{"go", "test", "./..."}, isTest: true},
	}
}

// canRace reports whether -race links here: it wants cgo, and cgo a C compiler.
func canRace(ctx context.Context) bool {
	output, err := exec.CommandContext(ctx, "go", "env", "CGO_ENABLED", "CC").Output()
	fields := strings.Fields(string(output))
	if err != nil || len(fields) < 2 || fields[0] != "1" {
		return false
	}
	_, err = exec.LookPath(fields[1])
	return err == nil
}

func run(ctx context.Context, s step) outcome {
	result := outcome{step: s}
	command := exec.CommandContext(ctx, s.args[0], s.args[1:]...)
	command.Dir = s.dir
	command.Env = append(os.Environ(), s.env...)
	command.Stderr = os.Stderr
	command.Stdout = os.Stdout
	var printed byteCount
	if s.mustBeSilent {
		command.Stdout = io.MultiWriter(os.Stdout, &printed)
	}
	if s.isTest {
		command.Stdout = io.MultiWriter(os.Stdout, &result.counts)
	}
	start := time.Now()
	result.err = command.Run()
	result.took = time.Since(start)
	if result.err == nil && printed > 0 {
		result.err = fmt.Errorf("%s reported the above", s.name)
	}
	return result
}

func report(w io.Writer, outcomes []outcome) bool {
	passed := true
	fmt.Fprintln(w)
	for _, o := range outcomes {
		verdict, note := "ok", o.counts.String()
		if o.err != nil {
			verdict, passed = "FAIL", false
			if o.step.advice != "" {
				note = strings.TrimPrefix(note+"; to fix: "+o.step.advice, "; ")
			}
		}
		fmt.Fprintf(w, "%-4s  %-15s %6.1fs  %s\n", verdict, o.step.name, o.took.Seconds(), note)
	}
	if passed {
		fmt.Fprintln(w, "all passed")
	} else {
		fmt.Fprintln(w, "FAILED: see the steps marked above")
	}
	return passed
}

// byteCount counts what is written to it.
type byteCount int

func (c *byteCount) Write(p []byte) (int, error) {
	*c += byteCount(len(p))
	return len(p), nil
}

// counts reads the output of go test on its way to the terminal.
type counts struct {
	line                        []byte
	packages, failed, test, bad int
	skipped                     int
}

func (c *counts) Write(p []byte) (int, error) {
	for _, b := range p {
		if b != '\n' {
			c.line = append(c.line, b)
			continue
		}
		c.see(bytes.TrimLeft(c.line, " "))
		c.line = c.line[:0]
	}
	return len(p), nil
}

func (c *counts) see(line []byte) {
	for _, prefix := range []struct {
		text  string
		count *int
	}{
		{"ok  \t", &c.packages},
		{"FAIL\t", &c.failed},
		{"--- PASS:", &c.test},
		{"--- FAIL:", &c.bad},
		{"--- SKIP:", &c.skipped},
	} {
		if bytes.HasPrefix(line, []byte(prefix.text)) {
			*prefix.count++
		}
	}
}

func (c *counts) String() string {
	if c.packages+c.failed == 0 {
		return ""
	}
	text := fmt.Sprintf("%d packages passed, %d failed", c.packages, c.failed)
	if c.test+c.bad > 0 {
		text += fmt.Sprintf("; %d tests passed, %d failed, %d skipped", c.test, c.bad, c.skipped)
	}
	return text
}
