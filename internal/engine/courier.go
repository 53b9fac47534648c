package engine

import (
	"encoding/binary"
	"log/slog"
	"sync"

	"github.com/beaver-raft/beaver/internal/queue"
)

// courier brings notices to the nodes that their workers are connected to. It is bounded and best effort: the next heartbeat tells
// again what is lost here.
type courier struct {
	engine *Engine

	mu      sync.Mutex
	waiting map[uint64][]addressed // REQUIRES: mu; by node
	sending map[uint64]bool        // REQUIRES: mu; nodes for which a goroutine runs
}

// addressed is a notice and the worker that it is for.
type addressed struct {
	worker WorkerID
	notice Notice
}

// push takes a notice for a worker that another node speaks for. It never blocks.
func (c *courier) push(node uint64, a addressed) {
	c.mu.Lock()
	if len(c.waiting[node]) >= courierMax {
		c.mu.Unlock()
		return
	}
	c.waiting[node] = append(c.waiting[node], a)
	start := !c.sending[node]
	c.sending[node] = true
	c.mu.Unlock()
	if start && !c.engine.spawn(func() { c.send(node) }) {
		c.take(node)
	}
}

// take takes what waits for a node; when nothing does, its goroutine is to end.
func (c *courier) take(node uint64) []addressed {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.waiting[node]
	delete(c.waiting, node)
	if len(all) == 0 {
		delete(c.sending, node)
	}
	return all
}

// send is the goroutine that brings notices to one node while there are any.
func (c *courier) send(node uint64) {
	for {
		all := c.take(node)
		if len(all) == 0 {
			return
		}
		if _, _, err := c.engine.call(c.engine.calls, node, callNotices, appendNotices([]byte{forwardVersion}, all)); err != nil {
			c.engine.opts.Logger.Debug("notices were lost; the workers' next heartbeats tell them", slog.Uint64("node", node), slog.Any("error", err))
		}
	}
}

// serveNotices passes notices of another node on to the workers that are connected here.
func (e *Engine) serveNotices(r *reader) ([]byte, *Error) {
	all := r.notices()
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded notices do not decode")
	}
	for _, a := range all {
		e.workers.notify(a.worker, a.notice)
	}
	return startAnswer(), nil
}

// appendNotices appends notices: their count v, and of each worker v, shard v, pos v, token v, cancel u8.
func appendNotices(dst []byte, all []addressed) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, a := range all {
		dst = binary.AppendUvarint(dst, uint64(a.worker))
		dst = binary.AppendUvarint(dst, uint64(a.notice.Lease.ID.Shard))
		dst = binary.AppendUvarint(dst, uint64(a.notice.Lease.ID.Pos))
		dst = binary.AppendUvarint(dst, uint64(a.notice.Lease.Token))
		cancel := byte(0)
		if a.notice.Cancel {
			cancel = 1
		}
		dst = append(dst, cancel)
	}
	return dst
}

func (r *reader) notices() []addressed {
	n := r.count(courierMax, 5)
	all := make([]addressed, 0, n)
	for range n {
		a := addressed{worker: WorkerID(r.uvarint())}
		a.notice.Lease.ID.Shard = uint16(r.upTo(1<<16 - 1))
		a.notice.Lease.ID.Pos, a.notice.Lease.Token = queue.Pos(r.uvarint()), Token(r.uvarint())
		cancel := r.u8()
		if cancel > 1 {
			r.fail()
		}
		a.notice.Cancel = cancel == 1
		all = append(all, a)
	}
	return all
}
