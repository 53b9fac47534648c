package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// processes are all that were started, to be ended.
type processes struct {
	mu  sync.Mutex
	all []*process
}

// process is one of them. Its output is in a file of its name.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it ended
}

func (ps *processes) start(dir, name, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own copy
	p := &process{cmd: exec.Command(program, args...), gone: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.gone)
		_ = p.cmd.Wait() // it is ended by us, or missed by those who ask it
	}()
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.all = append(ps.all, p)
	return p, nil
}

// kill ends a process at once and waits for that.
func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	<-p.gone
	return err
}

func (ps *processes) end() {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.all {
		_ = p.kill() // it may have ended already
	}
}

// freeAddress is an address that nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// awaitOK waits until a URL answers 200.
func awaitOK(ctx context.Context, address string) error {
	client := http.Client{Timeout: time.Second}
	err := poll(ctx, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return false, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return false, nil //nolint:nilerror // it does not listen yet
		}
		return resp.StatusCode == http.StatusOK, resp.Body.Close()
	})
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", address, err)
	}
	return nil
}

// cluster is three nodes, 1 to 3, and workers.
type cluster struct {
	processes *processes
	dir, bin  string
	public    []string // by node, from 0
	list      string   // for --bootstrap
	nodes     [3]*process
}

// startCluster founds a cluster and starts workers for two queues: one whose jobs end well, and one whose jobs become dead.
func startCluster(ctx context.Context, all *processes, dir, bin string) (*cluster, error) {
	c := &cluster{processes: all, dir: dir, bin: bin}
	var peers []string
	for i := range c.nodes {
		public, err := freeAddress()
		if err != nil {
			return nil, err
		}
		peer, err := freeAddress()
		if err != nil {
			return nil, err
		}
		c.public, peers = append(c.public, public), append(peers, fmt.Sprintf("%d=%s", i+1, peer))
	}
	c.list = strings.Join(peers, ",")
	for i := range c.nodes {
		if err := c.start(i + 1); err != nil {
			return nil, err
		}
	}
	for i := range c.nodes {
		if err := c.ready(ctx, i+1); err != nil {
			return nil, err
		}
	}
	for _, w := range []struct{ queue, program string }{{"mail", "exit 0"}, {"broken", "exit 100"}} {
		_, err := all.start(dir, "worker-"+w.queue, bin, "work", "--addr", "http://"+c.public[0], "--quiet", w.queue, "--", "sh", "-c", w.program)
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// start starts a node. Snapshots come often, so that there are some soon.
func (c *cluster) start(node int) (err error) {
	c.nodes[node-1], err = c.processes.start(c.dir, fmt.Sprintf("node-%d", node), c.bin, "server",
		"--data-dir", filepath.Join(c.dir, fmt.Sprintf("data-%d", node)), "--listen", c.public[node-1],
		"--node", fmt.Sprint(node), "--bootstrap", c.list, "--snapshot-bytes", "4096")
	return err
}

// ready waits until a node says by the command of the container's health check that it is.
func (c *cluster) ready(ctx context.Context, node int) error {
	return poll(ctx, func() (bool, error) {
		err := exec.CommandContext(ctx, c.bin, "status", "--ready", "--addr", "http://"+c.public[node-1]).Run()
		if _, notYet := errors.AsType[*exec.ExitError](err); notYet {
			return false, nil
		}
		return err == nil, err
	})
}

func (c *cluster) kill(node int) error { return c.nodes[node-1].kill() }

// load stores jobs by way of one node after the other until ctx ends. A node that is down takes none.
func (c *cluster) load(ctx context.Context) {
	client := http.Client{Timeout: 5 * time.Second}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		body := `{"queue": "mail", "payload": {"to": "ada@example.org"}}`
		if i%10 == 0 {
			body = `{"queue": "broken", "payload": "no hope"}`
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost,
			"http://"+c.public[i%len(c.public)]+"/beaver.v1.JobService/Enqueue", strings.NewReader(body))
		if err != nil {
			continue
		}
		req.Header.Set("Content-Type", "application/json")
		if resp, err := client.Do(req); err == nil {
			_ = resp.Body.Close() // whether jobs are stored is seen in Prometheus
		}
	}
}
