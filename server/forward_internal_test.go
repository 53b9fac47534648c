package server

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

var _ engine.Forwarder = (*transport.Transport)(nil)

// TestForwardLimits: what the engine forwards is what the transport carries.
func TestForwardLimits(t *testing.T) {
	if engine.ForwardBytesMax != transport.CallBytesMax {
		t.Errorf("the engine forwards %d bytes, the transport carries %d", engine.ForwardBytesMax, transport.CallBytesMax)
	}
}

// peer is what of a node's engine takes what other nodes send.
type peer struct {
	host   atomic.Pointer[host.Host]
	engine atomic.Pointer[engine.Engine]
}

func (p *peer) Receive(from uint64, id uint16, messages []*raftpb.Message) {
	if h := p.host.Load(); h != nil {
		h.Receive(from, id, messages)
	}
}

func (p *peer) ReceiveTransfer(from uint64, id uint16, kind uint8, data []byte) {
	if h := p.host.Load(); h != nil {
		h.ReceiveTransfer(from, id, kind, data)
	}
}

func (p *peer) ServeCall(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
	e := p.engine.Load()
	if e == nil {
		return nil, fmt.Errorf("the node is starting")
	}
	return e.ServeCall(ctx, from, kind, body)
}

func (p *peer) PeerUp(uint64) {}

func (p *peer) PeerDown(node uint64, cause error) {
	if h := p.host.Load(); h != nil {
		h.PeerDown(node, cause)
	}
}

func (p *peer) PeerGone(node uint64) {
	if h := p.host.Load(); h != nil {
		h.PeerGone(node)
	}
}

// TestEnginesOverTheTransport: three engines that know each other by the real transport serve jobs on all nodes, also when one of
// them is gone.
func TestEnginesOverTheTransport(t *testing.T) {
	const nodes, shards = 3, 3
	var founders []shard.ReplicaID
	var listeners []net.Listener
	for i := range nodes {
		founders = append(founders, shard.NewReplicaID(shard.NodeID(i+1), 0))
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	engines, transports := make([]*engine.Engine, nodes), make([]*transport.Transport, nodes)
	var opening sync.WaitGroup
	for i := range nodes {
		id := uint64(i + 1)
		p := &peer{}
		tr, err := transport.New(transport.Config{Cluster: 7, Node: id, Listener: listeners[i]}, p)
		if err != nil {
			t.Fatal(err)
		}
		transports[i] = tr
		for j := range nodes {
			if j != i {
				if err := tr.SetPeer(uint64(j+1), listeners[j].Addr().String()); err != nil {
					t.Fatal(err)
				}
			}
		}
		var replicas []host.Replica
		for s := range shards + 1 {
			replicas = append(replicas, host.Replica{Shard: shard.ID(s), ID: founders[i], Founders: founders})
		}
		opening.Go(func() {
			e, err := engine.Open(t.Context(), engine.Options{
				FS: vfs.NewSim(id, vfs.SimOptions{}), Dir: "data", Node: id, Cluster: 7, Shards: shards, Replicas: replicas,
				WAL:       wal.Options{FileBytes: 1 << 20, BufferBytes: 16 << 20, ReserveBytes: 1},
				Transport: tr, Forwarder: tr, Hosted: p.host.Store, Serving: p.engine.Store,
				Fatal: func(err error) { t.Errorf("node %d: %v", id, err) },
			})
			if err != nil {
				t.Errorf("open node %d: %v", id, err)
				return
			}
			engines[i] = e
		})
	}
	opening.Wait()
	if t.Failed() {
		t.FailNow()
	}
	stop := func(i int) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := engines[i].Close(ctx); err != nil {
			t.Error(err)
		}
		if err := transports[i].Close(); err != nil {
			t.Error(err)
		}
	}
	names := []string{"a", "b", "c"}
	round := func(nodes ...int) {
		t.Helper()
		for _, i := range nodes {
			for j, name := range names {
				request := &engine.EnqueueRequest{Jobs: []engine.NewJob{{Queue: name, Spec: engine.Spec{Priority: 5, Kind: "k", Payload: []byte(name)}}}}
				out, err := engines[i].Enqueue(t.Context(), request, nil)
				if err != nil || out[0].Err != nil {
					t.Fatalf("node %d, queue %s: %+v, %v", i+1, name, out, err)
				}
				taker := engines[nodes[j%len(nodes)]]
				got, err := taker.Fetch(t.Context(), &engine.FetchRequest{Queues: names, Max: 1, Wait: 10 * time.Second})
				if err != nil || len(got) != 1 || got[0].ID != out[0].ID || string(got[0].Spec.Payload) != name {
					t.Fatalf("node %d, queue %s: fetched %+v, %v", i+1, name, got, err)
				}
				ended, err := taker.Finish(t.Context(), 0, []engine.Outcome{{Kind: engine.OutcomeAck, ID: got[0].ID, Token: got[0].Token}}, nil)
				if err != nil || ended[0].Err != nil {
					t.Fatalf("node %d, queue %s: %+v, %v", i+1, name, ended, err)
				}
			}
		}
	}
	round(0, 1, 2)
	stop(0)
	round(1, 2)
	stop(1)
	stop(2)
}
