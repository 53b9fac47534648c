// Command deploycheck tries what deploy/ ships against the real thing: a cluster of three nodes under load, scraped by Prometheus with
// the shipped configuration and alert rules.
//
// Invariant: it exits 0 only when promtool accepts the configuration and the rules, the dashboard fits Grafana's schema, every
// expression of every panel of the dashboard returns data, every vector that an alert compares with a bound returns data, no alert
// holds while all is well, and those of a lost node hold while one is lost. The files are used as they are; only targets.json, which
// lists the nodes, is another one.
//
// It needs Debian's prometheus, and installs it when it may. Everything listens on loopback.
//
//	make deploy-test
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// stepWait bounds one step, on a slow machine too: rates need two scrapes, which are ten seconds apart.
const stepWait = 3 * time.Minute

// The alerts whose expressions the check itself makes hold.
const (
	alertNodeDown   = "BeaverNodeDown"
	alertNoMargin   = "BeaverNoQuorumMargin"
	alertLeaderless = "BeaverShardWithoutLeader"
	alertSilent     = "BeaverNodeSilent"
	alertDeadGrow   = "BeaverDeadJobsGrow" // the load has jobs that fail
)

func main() {
	root := flag.String("root", "..", "root of the repository")
	bin := flag.String("bin", "../bin/beaver", "the binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, *root, *bin)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploycheck:", err)
		os.Exit(1)
	}
}

// check is one run.
type check struct {
	out       io.Writer
	prom      *prometheus
	cluster   *cluster
	wanted    []expression // each must return data
	condition map[string]string
}

// expression is what somebody looks at.
type expression struct{ whose, promQL string }

func run(ctx context.Context, out io.Writer, root, bin string) (err error) {
	if err := install(ctx, out); err != nil {
		return err
	}
	shipped := filepath.Join(root, "deploy", "prometheus")
	for _, args := range [][]string{
		{"check", "config", filepath.Join(shipped, "prometheus.yml")}, {"check", "rules", filepath.Join(shipped, "alerts.yml")},
	} {
		if text, err := exec.CommandContext(ctx, "promtool", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("promtool %v: %w\n%s", args, err, text)
		}
	}
	fmt.Fprintln(out, "promtool accepts the configuration and the rules")
	board := filepath.Join(root, "deploy", "grafana", "dashboard.json")
	if err := checkSchema(board); err != nil {
		return err
	}
	fmt.Fprintln(out, "the dashboard fits Grafana's schema")

	dir, err := os.MkdirTemp("", "beaver-deploy-")
	if err != nil {
		return err
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	c := &check{out: out, condition: make(map[string]string)}
	var all processes
	defer func() {
		all.end()
		if err != nil {
			err = fmt.Errorf("%w\nthe logs are in %s", err, dir)
			return
		}
		err = os.RemoveAll(dir)
	}()
	if c.cluster, err = startCluster(ctx, &all, dir, bin); err != nil {
		return err
	}
	if c.prom, err = startPrometheus(ctx, &all, dir, shipped, c.cluster.public); err != nil {
		return err
	}
	if err := c.collect(ctx, board); err != nil {
		return err
	}
	load, stopLoad := context.WithCancel(ctx)
	loaded := make(chan struct{})
	go func() {
		defer close(loaded)
		c.cluster.load(load)
	}()
	defer func() { stopLoad(); <-loaded }()
	return errors.Join(c.all(ctx), c.lose(ctx))
}

// collect finds all there is to ask.
func (c *check) collect(ctx context.Context, board string) error {
	panels, err := readDashboard(board)
	if err != nil {
		return err
	}
	alerts, err := c.prom.alerts(ctx)
	if err != nil {
		return err
	}
	c.wanted = slices.Clone(panels)
	for _, a := range alerts {
		c.condition[a.Name] = a.Query
		for _, v := range vectors(a.Query) {
			c.wanted = append(c.wanted, expression{"alert " + a.Name, v})
		}
		if a.Annotations["summary"] == "" || a.Annotations["runbook"] == "" {
			return fmt.Errorf("alert %s lacks a summary or a runbook", a.Name)
		}
	}
	for _, name := range []string{alertNodeDown, alertNoMargin, alertSilent, alertLeaderless, alertDeadGrow} {
		if c.condition[name] == "" {
			return fmt.Errorf("there is no alert %s", name)
		}
	}
	fmt.Fprintf(c.out, "%d expressions of panels, %d alerts with %d vectors\n", len(panels), len(alerts), len(c.wanted)-len(panels))
	return nil
}

// all waits until every expression has returned data, and only those alerts hold that should.
func (c *check) all(ctx context.Context) error {
	left := slices.Clone(c.wanted)
	var last error
	err := poll(ctx, func() (bool, error) {
		left = slices.DeleteFunc(left, func(e expression) bool {
			n, err := c.prom.samples(ctx, e.promQL)
			if err != nil {
				last = err
			}
			return err == nil && n > 0
		})
		return len(left) == 0, nil
	})
	for _, e := range left {
		err = errors.Join(err, fmt.Errorf("%s has no data: %s", e.whose, e.promQL))
	}
	if err != nil {
		return errors.Join(err, last)
	}
	fmt.Fprintln(c.out, "every one of them returns data")
	if err := c.until(ctx, map[string]bool{alertDeadGrow: true}); err != nil {
		return err
	}
	fmt.Fprintln(c.out, "no alert holds but that of dead jobs, which the load makes")
	return nil
}

// lose ends a node without warning, and starts it again.
func (c *check) lose(ctx context.Context) error {
	node := 2
	if err := c.cluster.kill(node); err != nil {
		return err
	}
	if err := c.until(ctx, map[string]bool{alertNodeDown: true, alertNoMargin: true, alertSilent: true, alertLeaderless: false}); err != nil {
		return fmt.Errorf("with a node lost: %w", err)
	}
	fmt.Fprintln(c.out, "with a node lost its alerts hold, and every shard has a leader")
	if err := c.cluster.start(node); err != nil {
		return err
	}
	if err := c.until(ctx, map[string]bool{alertNodeDown: false, alertNoMargin: false, alertSilent: false, alertLeaderless: false}); err != nil {
		return fmt.Errorf("with the node back: %w", err)
	}
	fmt.Fprintln(c.out, "with the node back they hold no longer")
	return nil
}

// until waits until alerts' conditions hold, or do not. When a condition that is to hold is that of dead jobs, all that are not
// named must not hold.
func (c *check) until(ctx context.Context, want map[string]bool) error {
	_, strict := want[alertDeadGrow]
	var wrong []string
	err := poll(ctx, func() (bool, error) {
		wrong = wrong[:0]
		for name, condition := range c.condition {
			holds, named := want[name]
			if !named && !strict {
				continue
			}
			n, err := c.prom.samples(ctx, condition)
			if err != nil {
				return false, err
			}
			if (n > 0) != holds {
				wrong = append(wrong, name)
			}
		}
		return len(wrong) == 0, nil
	})
	if err != nil && len(wrong) > 0 {
		return fmt.Errorf("%w: not as they should be: %v", err, wrong)
	}
	return err
}

// poll asks again and again until done, an error, or stepWait is over.
func poll(ctx context.Context, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stepWait, fmt.Errorf("not within %v", stepWait))
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
