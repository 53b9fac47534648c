package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	fleetNodes   = 3
	fleetShards  = 4
	fleetPoll    = 20 * time.Millisecond
	fleetWaitMax = time.Minute // for one condition
	// fleetLagMax is how many entries a member may be behind and count as caught up: under load none is ever at the end.
	fleetLagMax = 64
)

// fleet is several servers of our own, each a process, that are one cluster on this machine.
type fleet struct {
	dir     string
	log     io.Writer
	args    []string     // of every server
	network *peerNetwork // nil: the nodes reach each other without relays
	nodes   map[uint64]*fleetNode
	ports   map[int]bool // that were given to them: nobody may listen there yet
}

// fleetNode is one of them.
type fleetNode struct {
	*serverProcess
	id         uint64
	peerListen string
	peer       string         // where the others reach it
	relay      *relay         // nil: they reach it without one
	client     *beaver.Client // asks this node and no other
}

// newFleet founds a cluster of fleetNodes below dir. With relays its nodes can be cut off from each other.
func newFleet(ctx context.Context, dir string, log io.Writer, relays bool, args ...string) (_ *fleet, err error) {
	f := &fleet{dir: dir, log: log, args: args, nodes: make(map[uint64]*fleetNode), ports: make(map[int]bool)}
	defer func() {
		if err != nil {
			f.close()
		}
	}()
	if relays {
		f.network = newPeerNetwork()
	}
	var list []string
	for id := uint64(1); id <= fleetNodes; id++ {
		n, err := f.add(id)
		if err != nil {
			return nil, err
		}
		list = append(list, fmt.Sprintf("%d=%s", id, n.peer))
	}
	for id, n := range f.nodes {
		n.args = slices.Concat(args, []string{
			"--shards", strconv.Itoa(fleetShards), "--node", strconv.FormatUint(id, 10), "--bootstrap", strings.Join(list, ","), "--peer-listen", n.peerListen,
		})
		if err := n.launch(); err != nil {
			return nil, err
		}
	}
	for _, n := range f.nodes {
		if err := n.awaitReady(ctx); err != nil {
			return nil, fmt.Errorf("node %d: %w", n.id, err)
		}
	}
	_, err = f.until(ctx, 1, "the nodes share the leads", func(info *beaver.ClusterInfo) bool {
		return len(leaders(info)) == fleetNodes && wholeCluster(info)
	})
	return f, err
}

// add prepares a node.
func (f *fleet) add(id uint64) (*fleetNode, error) {
	var ports [3]int // for clients, for peers, and where the relay takes what is for peers
	for i := range ports {
		var err error
		if ports[i], err = f.port(); err != nil {
			return nil, err
		}
	}
	server, err := newServerProcessAt(ports[0], filepath.Join(f.dir, fmt.Sprintf("node-%d", id)), f.log)
	if err != nil {
		return nil, err
	}
	n := &fleetNode{serverProcess: server, id: id, peerListen: "127.0.0.1:" + strconv.Itoa(ports[1])}
	n.peer = n.peerListen
	if f.network != nil {
		n.relay = f.network.relay(id, ports[2], n.peerListen)
		n.peer = n.relay.address
	}
	if n.client, err = beaver.NewClient(beaver.Config{Addr: n.url(), OnlyAddr: true, RetryFor: 10 * time.Second}); err != nil {
		return nil, err
	}
	f.nodes[id] = n
	return n, nil
}

// port is a free one that no node was given.
func (f *fleet) port() (int, error) {
	for {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if !f.ports[port] {
			f.ports[port] = true
			return port, nil
		}
	}
}

// join starts a new node in the place of another, whose data is lost, and waits until it serves. It returns the new node.
func (f *fleet) join(ctx context.Context, replaced uint64) (*fleetNode, error) {
	var member *fleetNode
	for id, n := range f.nodes {
		if id != replaced {
			member = n
		}
	}
	next := uint64(len(f.nodes)) + 1
	n, err := f.add(next)
	if err != nil {
		return nil, err
	}
	given, err := member.client.AddNode(ctx, n.peer, replaced)
	if err != nil {
		return nil, fmt.Errorf("replace node %d: %w", replaced, err)
	}
	if given != next {
		return nil, fmt.Errorf("the cluster gave the id %d; the relay was made for %d", given, next)
	}
	n.args = slices.Concat(f.args, []string{"--join", member.peer, "--peer-listen", n.peerListen, "--advertise-peer", n.peer})
	if err := n.launch(); err != nil {
		return nil, err
	}
	return n, n.awaitReady(ctx)
}

// urls are the addresses of all nodes for a client.
func (f *fleet) urls() string {
	var list []string
	for _, id := range f.running() {
		list = append(list, f.nodes[id].url())
	}
	return strings.Join(list, ",")
}

// running are the ids of the nodes that have a process, in order.
func (f *fleet) running() []uint64 {
	var ids []uint64
	for id, n := range f.nodes {
		if n.pid() != 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// other is a node that runs and is not the one named.
func (f *fleet) other(than uint64) *fleetNode {
	for _, id := range f.running() {
		if id != than {
			return f.nodes[id]
		}
	}
	return nil
}

// until asks a node for the cluster until a condition holds.
func (f *fleet) until(ctx context.Context, node uint64, what string, holds func(*beaver.ClusterInfo) bool) (*beaver.ClusterInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, fleetWaitMax)
	defer cancel()
	for {
		info, err := f.nodes[node].client.Cluster(ctx)
		if err == nil && holds(info) {
			return info, nil
		}
		if pauseErr := pause(ctx, fleetPoll); pauseErr != nil {
			return nil, errors.Join(fmt.Errorf("wait until %s: %w", what, pauseErr), err)
		}
	}
}

// whole waits until no member of any shard is missing or behind.
func (f *fleet) whole(ctx context.Context, node uint64) (*beaver.ClusterInfo, error) {
	return f.until(ctx, node, "every node has all jobs", wholeCluster)
}

// wholeCluster reports whether every shard has a leader and as many voters as founders, none of them missing or behind.
func wholeCluster(info *beaver.ClusterInfo) bool {
	for _, s := range info.Shards {
		if s.LeaderNodeID == 0 || len(s.Members) != fleetNodes {
			return false
		}
		var last uint64
		for _, m := range s.Members {
			if m.Role == "leader" {
				last = m.MatchIndex
			}
		}
		for _, m := range s.Members {
			voter := m.Role == "leader" || m.Role == "follower"
			if !voter || !m.Reachable || m.MatchIndex+fleetLagMax < last || m.AppliedIndex+fleetLagMax < last {
				return false
			}
		}
	}
	return len(info.Shards) > 0
}

// leaders are the nodes that lead shards, with the shards.
func leaders(info *beaver.ClusterInfo) map[uint64][]int {
	led := make(map[uint64][]int)
	for _, s := range info.Shards {
		if s.LeaderNodeID != 0 {
			led[s.LeaderNodeID] = append(led[s.LeaderNodeID], s.ID)
		}
	}
	return led
}

// close kills what still runs: whoever wants a graceful end stops the nodes before.
func (f *fleet) close() {
	for _, n := range f.nodes {
		n.kill()
		if n.client != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_ = n.client.Close(ctx) // its node is gone
			cancel()
		}
	}
	if f.network != nil {
		f.network.close()
	}
}

// stopAll stops all nodes gracefully and at once; it returns an error if one did not end well.
func (f *fleet) stopAll() error {
	var errs []error
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, id := range f.running() {
		n := f.nodes[id]
		group.Go(func() {
			n.stop()
			mu.Lock()
			defer mu.Unlock()
			if n.exitErr != nil {
				errs = append(errs, fmt.Errorf("node %d did not stop well: %w", id, n.exitErr))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// The relay of a node takes connections as long as the node's process would.

func (n *fleetNode) launch() error {
	if n.relay != nil {
		if err := n.relay.open(); err != nil {
			return err
		}
	}
	return n.serverProcess.launch()
}

func (n *fleetNode) start(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := n.launch(); err != nil {
		return 0, err
	}
	err := n.awaitReady(ctx)
	return time.Since(began), err
}

func (n *fleetNode) kill() {
	if n.relay != nil {
		n.relay.shut() // before: who loses a connection looks at once whether somebody listens
	}
	n.serverProcess.kill()
}

func (n *fleetNode) stop() {
	n.serverProcess.stop()
	if n.relay != nil {
		n.relay.shut()
	}
}

// wipe deletes the data of a node that does not run.
func (n *fleetNode) wipe() error { return os.RemoveAll(n.dataDir) }

// servesAgain measures how long it takes from an event until each of some queues stores a job: store stores one, by a client that
// repeats what nobody answered, and the slowest queue counts.
func servesAgain(ctx context.Context, event time.Time, queues []string, store func(ctx context.Context, queue string) error) (time.Duration, error) {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		worst time.Duration
		errs  []error
	)
	for _, queue := range queues {
		group.Go(func() {
			err := store(ctx, queue)
			took := time.Since(event)
			mu.Lock()
			defer mu.Unlock()
			worst = max(worst, took)
			if err != nil {
				errs = append(errs, fmt.Errorf("store a job in %s: %w", queue, err))
			}
		})
	}
	group.Wait()
	return worst, errors.Join(errs...)
}
