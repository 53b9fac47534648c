package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
)

// The calls between nodes about who belongs where; the engine's have lower numbers. Bodies and answers are JSON.
const (
	callsFrom   uint8 = 64
	callAdopt   uint8 = 64 // a node is told which replica of a shard it has
	callReport  uint8 = 65 // what a node's replicas know
	callWish    uint8 = 66 // an operator's wish, for the node that leads the catalog
	callJoin    uint8 = 67 // a node wants to join; for the same
	callRemoved uint8 = 68 // a node is told that it was removed
	callLost    uint8 = 69 // a node is asked whether a replica of it must never speak again
)

var _ transport.Handler = (*peers)(nil)

// Receive implements transport.Handler.
func (p *peers) Receive(from uint64, id uint16, messages []*raftpb.Message) {
	p.heard.note(from, time.Now())
	if h := p.host.Load(); h != nil {
		h.Receive(from, id, messages)
	}
}

// ReceiveTransfer implements transport.Handler.
func (p *peers) ReceiveTransfer(from uint64, id uint16, kind uint8, data []byte) {
	if h := p.host.Load(); h != nil {
		h.ReceiveTransfer(from, id, kind, data)
	}
}

// PeerUp implements transport.Handler.
func (p *peers) PeerUp(node uint64) {
	if h := p.host.Load(); h != nil {
		h.PeerUp(node)
		if p.severed.Swap(false) {
			p.waits(waitingForLeaders)
		}
	}
}

// waitingForLeaders is why a node is not ready whose replicas run.
const waitingForLeaders = "waiting for the cluster's shards to have leaders"

// PeerDown implements transport.Handler.
func (p *peers) PeerDown(node uint64, cause error) {
	if h := p.host.Load(); h != nil {
		h.PeerDown(node, cause)
		if lasting(cause) {
			p.severed.Store(true)
			p.waits(fmt.Sprintf("%s; there is no connection to node %d: %v", waitingForLeaders, node, cause))
		}
	}
}

// PeerGone implements transport.Handler.
func (p *peers) PeerGone(node uint64) {
	if h := p.host.Load(); h != nil {
		h.PeerGone(node)
	}
}

// errStarting answers the engine's calls before there is one: nothing has happened.
var errStarting = errors.New("the node is starting")

// ServeCall implements transport.Handler.
func (p *peers) ServeCall(ctx context.Context, from uint64, kind uint8, body []byte) ([]byte, error) {
	if kind < callsFrom {
		e := p.engine.Load()
		if e == nil {
			return nil, errStarting
		}
		return e.ServeCall(engine.WithEra(ctx, engine.Era(transport.EraOf(ctx))), from, kind, body)
	}
	switch kind {
	case callAdopt:
		return serveCall(body, func(in *adoption) (any, error) { return p.adopt(in) })
	case callReport:
		return serveCall(body, func(*struct{}) (any, error) { return p.report(ctx) })
	case callWish:
		return serveCall(body, func(in *wish) (any, error) { return p.grant(ctx, in), nil })
	case callJoin:
		return serveCall(body, func(in *founding.Join) (any, error) { return p.admit(ctx, in), nil })
	case callLost:
		return serveCall(body, func(in *adoption) (any, error) { return p.lost(in) })
	case callRemoved:
		p.remove()
		return []byte("{}"), nil
	}
	return nil, fmt.Errorf("a call of kind %d, which this version does not know", kind)
}

// serveCall decodes a call's body and encodes its answer.
func serveCall[In any](body []byte, f func(*In) (any, error)) ([]byte, error) {
	in := new(In)
	if err := json.Unmarshal(body, in); err != nil {
		return nil, err
	}
	out, err := f(in)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// ask makes a call about membership to another node.
func ask[Out any](ctx context.Context, p *peers, node shard.NodeID, kind uint8, in any) (*Out, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, err := p.transport.Call(ctx, uint64(node), kind, body)
	if err != nil {
		return nil, err
	}
	out := new(Out)
	return out, json.Unmarshal(answer, out)
}

// Call implements engine.Forwarder.
func (p *peers) Call(ctx context.Context, node uint64, kind uint8, body []byte) ([]byte, error) {
	return p.transport.Call(ctx, node, kind, body)
}

// Undelivered implements engine.Forwarder.
func (p *peers) Undelivered(err error) bool {
	if far, ok := errors.AsType[*transport.RemoteError](err); ok {
		return far.Text == errStarting.Error()
	}
	return p.transport.Undelivered(err)
}
