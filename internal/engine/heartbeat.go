package engine

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Nodes tell each other several times in NodeTTL that they live, and how loaded they are. It is soft state, for people and metrics: who leads,
// and who stores what, is Raft's business. Each tells all others and not the one that leads the catalog: a cluster without a leader is when
// somebody looks, and the nodes of a cluster are few.

// Hearing is whether a node's heartbeats are heard.
type Hearing uint8

// The hearings.
const (
	HearingUnknown Hearing = iota // the node tells nothing of itself, as earlier versions do not, or there was no time for it yet
	HearingHeard
	HearingSilent // nothing was heard of it for NodeTTL
)

// String is how the API names it.
func (h Hearing) String() string {
	switch h {
	case HearingHeard:
		return "heard"
	case HearingSilent:
		return "silent"
	case HearingUnknown:
	}
	return "unknown"
}

// NodeHeard is what this node has heard of a node.
type NodeHeard struct {
	Hearing Hearing
	Ever    bool          // something was heard since this node started
	Ago     time.Duration // since then
	Load    *NodeLoad     // as it told last; nil: it has told nothing
}

// heartbeats are what was heard of the other nodes. Times are since the engine's start.
type heartbeats struct {
	mu     sync.Mutex
	since  time.Duration         // REQUIRES: mu; from when on others could be heard: the start, or when this node stood still last
	turned time.Duration         // REQUIRES: mu; when the herald came last
	nodes  map[uint64]*heartbeat // REQUIRES: mu
}

// heartbeat is one other node's.
type heartbeat struct {
	at      time.Duration // when something was heard last; 0: never
	load    *NodeLoad
	telling bool // a call to it is under way
}

// node is what is known of a node. REQUIRES: h.mu.
func (h *heartbeats) node(id uint64) *heartbeat {
	b := h.nodes[id]
	if b == nil {
		if h.nodes == nil {
			h.nodes = make(map[uint64]*heartbeat)
		}
		b = &heartbeat{}
		h.nodes[id] = b
	}
	return b
}

// hear takes what a node told; nil: it lives, and tells nothing of itself.
func (h *heartbeats) hear(id uint64, now time.Duration, load *NodeLoad) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.node(id)
	b.at, b.load = max(1, now), load // 0 means never
}

// turn begins the herald's turn: it forgets nodes that are none any more, and returns those to be told now. When this node stood still it could
// hear nobody, and gives all of them a full TTL.
func (h *heartbeats) turn(now time.Duration, others []uint64) (idle []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now-h.turned > NodeTTL/2 {
		h.since = now
	}
	h.turned = now
	for id := range h.nodes {
		if !slices.Contains(others, id) {
			delete(h.nodes, id)
		}
	}
	for _, id := range others {
		if b := h.node(id); !b.telling {
			b.telling = true
			idle = append(idle, id)
		}
	}
	return idle
}

func (h *heartbeats) told(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.nodes[id]; b != nil {
		b.telling = false
	}
}

// of tells what is known of a node.
func (h *heartbeats) of(id uint64, now time.Duration) NodeHeard {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.nodes[id]
	if b == nil {
		b = &heartbeat{}
	}
	heard := NodeHeard{Ever: b.at != 0, Load: b.load}
	if heard.Ever {
		heard.Ago = max(0, now-b.at)
	}
	stoodStill := now-h.turned > NodeTTL/2 // and the herald has not come round to it
	switch {
	case now-max(b.at, h.since) > NodeTTL && !stoodStill:
		heard.Hearing = HearingSilent
	case b.load != nil:
		heard.Hearing = HearingHeard
	}
	return heard
}

// Heard tells what this node has heard of a node, which may be itself.
func (e *Engine) Heard(node uint64) NodeHeard {
	if node == e.opts.Node {
		load := e.Load()
		return NodeHeard{Hearing: HearingHeard, Ever: true, Load: &load}
	}
	return e.heartbeats.of(node, time.Since(e.started))
}

// herald is the goroutine that takes samples of what this node does, and tells the others. Its pauses are drawn: nodes that started together
// shall not all speak at once.
func (e *Engine) herald() {
	for {
		e.takeSample()
		if e.opts.Others != nil {
			e.tellOthers(e.opts.Others())
		}
		pause := heartbeatInterval - heartbeatJitter + rand.N(2*heartbeatJitter)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-e.background.Done():
			timer.Stop()
			return
		}
	}
}

// tellOthers tells each of the other nodes, side by side: one that does not answer takes its time, and not that of the others.
func (e *Engine) tellOthers(others []uint64) {
	idle := e.heartbeats.turn(time.Since(e.started), others)
	if len(idle) == 0 {
		return
	}
	body, err := json.Marshal(e.Load())
	if err != nil {
		body = []byte("{}") // that it lives can be told all the same
	}
	body = append([]byte{forwardVersion}, body...)
	for _, node := range idle {
		if !e.spawn(func() { e.tell(node, body) }) {
			return
		}
	}
}

// tell tells one node.
func (e *Engine) tell(node uint64, body []byte) {
	defer e.heartbeats.told(node)
	ctx, cancel := context.WithTimeout(e.background, heartbeatInterval)
	defer cancel()
	_, untouched, err := e.call(ctx, node, callHeartbeat, body)
	if err != nil && !untouched && asError(err).Reason == ReasonUnreachable {
		e.heartbeats.hear(node, time.Since(e.started), nil) // It answered that it does not know this call: an earlier version, which lives.
	}
}

// serveHeartbeat takes what another node tells of itself.
func (e *Engine) serveHeartbeat(from uint64, r *reader) ([]byte, *Error) {
	load := &NodeLoad{}
	if len(r.b) > heartbeatBytesMax || json.Unmarshal(r.b, load) != nil {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the heartbeat does not decode")
	}
	e.heartbeats.hear(from, time.Since(e.started), load)
	return startAnswer(), nil
}
