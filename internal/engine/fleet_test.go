package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

var (
	errCutOff = errors.New("cut off: nothing was sent")
	errHungUp = errors.New("the connection broke")
)

// callLeg is what goes one way between two nodes: nodes also call each other by themselves, and a test means its own calls.
type callLeg struct {
	from, to uint64
	kind     uint8
}

// network carries messages and calls between the engines of one process, unless a node is cut off.
type network struct {
	mu      sync.Mutex
	hosts   map[uint64]*host.Host     // guarded by mu
	engines map[uint64]*Engine        // guarded by mu
	cut     map[uint64]bool           // guarded by mu
	alone   map[uint64]bool           // guarded by mu; is told that it reaches too few others
	mute    map[uint64]bool           // guarded by mu; what is sent there gets lost, and no connection breaks
	broken  chan struct{}             // guarded by mu; closed when calls under way lose their connections
	calls   map[uint8]int             // guarded by mu; made, by kind
	lose    map[callLeg]int           // guarded by mu; of how many calls on a leg the answers get lost
	late    map[callLeg]time.Duration // guarded by mu; for how long the answers on a leg are under way
	early   map[uint64]bool           // guarded by mu; of a version that has no heartbeats
}

// wire is the network as one node sees it: host.Transport and Forwarder.
type wire struct {
	net  *network
	from uint64
}

func (n *network) link(from, to uint64) (*host.Host, *Engine, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut[from] || n.cut[to] || n.hosts[from] == nil {
		return nil, nil, nil
	}
	return n.hosts[to], n.engines[to], n.broken
}

// hangUp breaks all connections that calls are under way on.
func (n *network) hangUp() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.broken)
	n.broken = make(chan struct{})
}

func (n *network) cutOff(node uint64, cut bool) {
	n.mu.Lock()
	n.cut[node] = cut
	n.mu.Unlock()
	n.hangUp()
}

// delay has the answers on a leg be under way for a while.
func (n *network) delay(leg callLeg, late time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.late[leg] = late
}

func (n *network) isMute(from, to uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mute[from] || n.mute[to]
}

func (w wire) Send(to uint64, id uint16, messages []*raftpb.Message) bool {
	h, _, _ := w.net.link(w.from, to)
	if h == nil || w.net.isMute(w.from, to) {
		return h != nil
	}
	var copies []*raftpb.Message
	for _, m := range messages {
		c := &raftpb.Message{
			Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Commit: m.Commit,
			Vote: m.Vote, Reject: m.Reject, RejectHint: m.RejectHint, Context: m.Context,
		}
		for _, e := range m.Entries {
			c.Entries = append(c.Entries, &raftpb.Entry{Term: e.Term, Index: e.Index, Type: e.Type, Data: slices.Clone(e.Data)})
		}
		copies = append(copies, c)
	}
	h.Receive(w.from, id, copies)
	return true
}

func (w wire) TransfersWait(uint64, uint16) bool { return false }

func (w wire) SendTransfer(to uint64, id uint16, kind uint8, data []byte) bool {
	h, _, _ := w.net.link(w.from, to)
	if h == nil {
		return false
	}
	h.ReceiveTransfer(w.from, id, kind, slices.Clone(data))
	return true
}

// Call implements Forwarder.
func (w wire) Call(ctx context.Context, node uint64, kind uint8, body []byte) ([]byte, error) {
	_, e, broken := w.net.link(w.from, node)
	if e == nil {
		return nil, errCutOff
	}
	w.net.mu.Lock()
	if kind == callHeartbeat && w.net.early[w.from] {
		w.net.mu.Unlock()
		return nil, errCutOff
	}
	if kind == callHeartbeat && w.net.early[node] {
		kind = callKinds
	}
	w.net.calls[kind]++
	lost := w.net.lose[callLeg{w.from, node, kind}] > 0
	if lost {
		w.net.lose[callLeg{w.from, node, kind}]--
	}
	late := w.net.late[callLeg{w.from, node, kind}]
	w.net.mu.Unlock()
	type result struct {
		answer []byte
		err    error
	}
	done := make(chan result, 1)
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	body = slices.Clone(body)
	go func() {
		if w.net.isMute(w.from, node) {
			return
		}
		answer, err := e.ServeCall(serving, w.from, kind, body)
		done <- result{answer, err}
	}()
	select {
	case r := <-done:
		cancel()
		if late > 0 { // most calls take no time, and need no timer
			pauseFor(late)
		}
		if lost {
			return nil, errHungUp
		}
		if h, _, _ := w.net.link(w.from, node); h == nil {
			return nil, errHungUp
		}
		return r.answer, r.err
	case <-broken:
		cancel()
		return nil, errHungUp
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
}

// Undelivered implements Forwarder.
func (wire) Undelivered(err error) bool { return errors.Is(err, errCutOff) }

// fleetVersion is what each of them says that it runs.
const fleetVersion = "devel-now"

// fleet is engines of one process with a network and a disk each.
type fleet struct {
	t      testing.TB
	shards int
	net    *network
	nodes  map[uint64]*Engine
	disks  map[uint64]*vfs.Sim
}

// found opens a cluster of three nodes, in which node i leads shard i and node 1 the catalog.
func found(t testing.TB) *fleet {
	t.Helper()
	c := &fleet{
		t: t, shards: 3, nodes: map[uint64]*Engine{}, disks: map[uint64]*vfs.Sim{},
		net: &network{
			hosts: map[uint64]*host.Host{}, engines: map[uint64]*Engine{}, cut: map[uint64]bool{}, alone: map[uint64]bool{}, mute: map[uint64]bool{}, broken: make(chan struct{}),
			calls: map[uint8]int{}, lose: map[callLeg]int{}, late: map[callLeg]time.Duration{}, early: map[uint64]bool{},
		},
	}
	ids := []uint64{1, 2, 3}
	c.open(ids...)
	for i := range c.shards + 1 {
		c.lead(shard.ID(i), uint64(max(i, 1)))
	}
	return c
}

// open opens nodes side by side: none serves before most are there.
func (c *fleet) open(ids ...uint64) {
	c.t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, id := range ids {
		if c.disks[id] == nil {
			c.disks[id] = vfs.NewSim(id, vfs.SimOptions{})
		}
		disk := c.disks[id]
		all.Go(func() {
			e, err := Open(context.Background(), c.options(id, disk))
			if err != nil {
				c.t.Errorf("open node %d: %v", id, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			c.nodes[id] = e
		})
	}
	all.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

func (c *fleet) options(id uint64, disk vfs.FS) Options {
	var replicas []host.Replica
	for s := range c.shards + 1 {
		var founders []shard.ReplicaID
		for n := range 3 {
			founders = append(founders, shard.NewReplicaID(shard.NodeID(n+1), 0))
		}
		replicas = append(replicas, host.Replica{Shard: shard.ID(s), ID: shard.NewReplicaID(shard.NodeID(id), 0), Founders: founders})
	}
	return Options{
		FS: disk, Dir: "data", Node: id, Version: fleetVersion, Cluster: 7, Shards: c.shards, Replicas: replicas, WAL: smallLog,
		Transport: wire{c.net, id}, Forwarder: wire{c.net, id},
		Hosted: func(h *host.Host) {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			c.net.hosts[id] = h
		},
		Reached: func() bool {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			return !c.net.alone[id]
		},
		Others: func() []uint64 {
			return slices.DeleteFunc([]uint64{1, 2, 3}, func(n uint64) bool { return n == id })
		},
		Serving: func(e *Engine) {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			c.net.engines[id] = e
		},
		Logger: slog.New(slog.NewTextHandler(testWriter{c.t}, &slog.HandlerOptions{Level: slog.LevelError})),
		Fatal:  func(err error) { c.t.Errorf("node %d: the log failed: %v", id, err) },
	}
}

// crash ends a node with what that leaves on its disk.
func (c *fleet) crash(id uint64) {
	c.net.mu.Lock()
	delete(c.net.hosts, id)
	delete(c.net.engines, id)
	c.net.mu.Unlock()
	c.net.hangUp()
	c.disks[id] = c.disks[id].CrashClone(vfs.AllLost())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = c.nodes[id].Close(ctx)
	delete(c.nodes, id)
}

// close closes all nodes.
func (c *fleet) close() {
	c.net.hangUp()
	for _, e := range c.nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := e.Close(ctx); err != nil {
			c.t.Errorf("close: %v", err)
		}
		cancel()
	}
}

// await waits until something is so.
func (c *fleet) await(what string, so func() bool) {
	c.t.Helper()
	for range 6000 {
		if so() {
			return
		}
		pauseFor(10 * time.Millisecond)
	}
	for id, e := range c.nodes {
		c.t.Logf("node %d: %+v", id, e.host.Stats().Shards)
	}
	c.t.Fatalf("in a minute it does not come to this: %s", what)
}

// pauseFor waits; under synctest it takes no time.
func pauseFor(d time.Duration) { <-time.After(d) }

// leader waits until one node leads a shard and all know it.
func (c *fleet) leader(id shard.ID) (node uint64) {
	c.t.Helper()
	c.await(fmt.Sprintf("shard %d has a leader", id), func() bool {
		node = 0
		for n, e := range c.nodes {
			if l, _ := e.host.LeadershipOf(id); l.Leading && !c.net.cut[n] {
				node = n
			}
		}
		for n, e := range c.nodes {
			if l, _ := e.host.LeadershipOf(id); uint64(l.Leader) != node && !c.net.cut[n] {
				return false
			}
		}
		return node != 0
	})
	return node
}

// lead has a node lead a shard.
func (c *fleet) lead(id shard.ID, node uint64) {
	c.t.Helper()
	c.await(fmt.Sprintf("node %d leads shard %d", node, id), func() bool {
		at := c.leader(id)
		if at == node {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = c.nodes[at].host.TransferLead(ctx, id, shard.NodeID(node))
		return false
	})
}

// queueOn makes a queue whose home is a shard and returns its name.
func (c *fleet) queueOn(id shard.ID) string {
	c.t.Helper()
	for i := range 50 {
		name := fmt.Sprintf("q%d-%d", id, i)
		s, err := c.nodes[1].UpdateQueue(context.Background(), name, func(*Settings) {})
		if err != nil {
			c.t.Fatalf("make queue %s: %v", name, err)
		}
		if shard.ID(s.Shard) == id {
			return name
		}
	}
	c.t.Fatalf("no queue comes to shard %d", id)
	return ""
}
