package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
	"github.com/beaver-raft/beaver/internal/vfs"
)

var _ Transport = (*transport.Transport)(nil)

// door hands what a real transport brings to a host, which is made after it.
type door struct{ host atomic.Pointer[Host] }

func (d *door) Receive(from uint64, id uint16, messages []*raftpb.Message) {
	if h := d.host.Load(); h != nil {
		h.Receive(from, id, messages)
	}
}

func (d *door) ReceiveTransfer(from uint64, id uint16, kind uint8, data []byte) {
	if h := d.host.Load(); h != nil {
		h.ReceiveTransfer(from, id, kind, data)
	}
}

func (d *door) ServeCall(context.Context, uint64, uint8, []byte) ([]byte, error) {
	return nil, errors.New("there are no calls")
}

func (d *door) PeerUp(node uint64) {
	if h := d.host.Load(); h != nil {
		h.PeerUp(node)
	}
}

func (d *door) PeerDown(node uint64, cause error) {
	if h := d.host.Load(); h != nil {
		h.PeerDown(node, cause)
	}
}

func (d *door) PeerGone(node uint64) {
	if h := d.host.Load(); h != nil {
		h.PeerGone(node)
	}
}

// wired is nodes of one process that talk over TCP, on the real clock.
type wired struct {
	t       *testing.T
	changed chan struct{} // one element: something was applied, or a lead changed
	lines   map[uint64]net.Listener
	wires   map[uint64]*transport.Transport
	nodes   map[uint64]*node
	disks   map[uint64]*vfs.Sim
}

// until waits for a condition. The test's own time limit bounds it.
func (w *wired) until(so func() bool) {
	for !so() {
		<-w.changed
	}
}

func (w *wired) signal() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// noisy is a driver that says when something changed.
type noisy struct {
	*driver
	w *wired
}

func (n noisy) Settled() {
	n.driver.Settled()
	n.w.signal()
}

func (n noisy) Leadership(leading bool, term uint64) {
	n.driver.Leadership(leading, term)
	n.w.signal()
}

// open opens a node, with a transport of its own.
func (w *wired) open(id uint64, r Replica) {
	w.t.Helper()
	d := new(door)
	wire, err := transport.New(transport.Config{Cluster: 7, Node: id, Listener: w.lines[id], Security: transport.Insecure()}, d)
	if err != nil {
		w.t.Fatal(err)
	}
	w.wires[id] = wire
	r.Shard = groupShard
	w.nodes[id] = mustOpen(w.t, w.disks[id], nil, func(o *Options) {
		o.Node, o.Cluster, o.Shards, o.Replicas = id, 7, nil, []Replica{r}
		o.TickInterval = 20 * time.Millisecond
		o.Transport = wire
		o.NewMachine = func(id shard.ID) shard.StateMachine { return newDriver(id) }
		o.WAL.FileBytes, o.SnapshotBytes = 64<<10, 32<<10
		made := o.NewDriver
		o.NewDriver = func(s shard.ID, p Payloads) Driver {
			one := made(s, p).(*driver)
			one.node = id
			return noisy{one, w}
		}
	})
	d.host.Store(w.nodes[id].Host)
	for other, line := range w.lines {
		if other != id {
			if err := wire.SetPeer(other, line.Addr().String()); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// close closes a node and then its transport, which is how the last words get out.
func (w *wired) close(id uint64) {
	w.t.Helper()
	w.nodes[id].mustClose(w.t)
	if err := w.wires[id].Close(); err != nil {
		w.t.Error(err)
	}
	delete(w.nodes, id)
}

// listen gives a node an address, the one it had before if it had one.
func (w *wired) listen(id uint64) {
	w.t.Helper()
	address := "127.0.0.1:0"
	if line := w.lines[id]; line != nil {
		address = line.Addr().String()
	}
	line, err := new(net.ListenConfig).Listen(w.t.Context(), "tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.lines[id] = line
}

// leader waits until a node leads.
func (w *wired) leader() (id uint64) {
	w.until(func() bool {
		for n, o := range w.nodes {
			d := o.drivers[groupShard]
			d.mu.Lock()
			leads := d.leads
			d.mu.Unlock()
			if leads {
				id = n
				return true
			}
		}
		return false
	})
	return id
}

// add adds at whoever leads, until it works.
func (w *wired) add(key string) {
	for {
		if _, err := w.nodes[w.leader()].add(groupShard, key); err == nil {
			return
		}
	}
}

// agree waits until all nodes that are up have the same state.
func (w *wired) agree() {
	w.until(func() bool {
		prints := map[uint64]bool{}
		for _, n := range w.nodes {
			if err := n.StaleRead(w.t.Context(), groupShard, func() { prints[n.drivers[groupShard].print] = true }); err != nil {
				return false
			}
		}
		return len(prints) == 1
	})
}

// brought reports whether anyone has brought a snapshot to another.
func (w *wired) brought() bool {
	for _, n := range w.nodes {
		if s := n.Stats(); s.TransfersEnded > 0 && s.TransferBytes > 0 {
			return true
		}
	}
	return false
}

// TestGroupOverTCP runs a group with the real transport and the real clock: many callers, a node that comes back too late for the
// log and is brought a snapshot, and a leader that leaves.
func TestGroupOverTCP(t *testing.T) {
	t.Parallel()
	w := &wired{
		t: t, changed: make(chan struct{}, 1), lines: map[uint64]net.Listener{}, wires: map[uint64]*transport.Transport{},
		nodes: map[uint64]*node{}, disks: map[uint64]*vfs.Sim{},
	}
	for id := range uint64(3) {
		w.disks[id+1] = vfs.NewSim(id, vfs.SimOptions{})
		w.listen(id + 1)
	}
	for _, r := range founders(3) {
		w.open(uint64(r.Node()), Replica{ID: r, Founders: founders(3)})
	}
	leader := w.leader()
	var group sync.WaitGroup
	for caller := range 8 {
		group.Go(func() {
			for i := range 25 {
				if _, err := w.nodes[leader].add(groupShard, fmt.Sprint("k", caller, "|", i)); err != nil {
					return // The lead went elsewhere, as it may on a busy machine.
				}
			}
		})
	}
	group.Wait()
	w.add("k0")
	w.agree()

	late := leader%3 + 1
	w.close(late)
	pad := strings.Repeat("p", 2000)
	for i := range 150 {
		w.add(fmt.Sprint("fill", i%10, "|", pad))
	}
	w.listen(late)
	w.open(late, Replica{})
	w.add("k0")
	w.agree()
	for !w.brought() { // until the acknowledgement is there
		w.add("k0")
	}

	w.close(w.leader())
	w.add("k0")
	w.agree()
	for id := range w.nodes {
		w.close(id)
	}
}
