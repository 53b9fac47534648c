package engine

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// A worker whose process ends says nothing, but its machine does: the connection breaks. That is no proof, since connections of workers that
// live break as well, and those come back within a moment. So the node that had the connection tells the one that judges, and from then on
// the worker has a grace instead of what is left of its TTL. Whatever it says ends that, at whichever node; a word of it that came to
// another node since the break makes the break old news.

// WorkerLeft says that the stream of a worker to this node ended without a goodbye, and whether it was its connection that broke, and
// not this node that ended it. What the worker knew of when it came here counts no more: where it comes next, it says again what it holds, and
// what it is given there must not be taken for what got lost here.
func (e *Engine) WorkerLeft(id WorkerID, severed bool) {
	w := e.workers.get(id)
	if w == nil || w.isGone() {
		return
	}
	w.forgive()
	if !severed || !w.heardLately() {
		return // Whoever was silent on an open connection has its TTL, whatever became of the connection then.
	}
	w.sever(e.workers.now(), 0)
	e.hurryPulse()
}

// severedGrace is how long a worker has to come back.
func (e *Engine) severedGrace() time.Duration {
	return time.Duration(graceShare * float64(e.opts.WorkerTTL))
}

// met takes a sign of life of a worker that is connected here. When it has just come, the node that judges hears of it at once: it may
// have come from a node where its connection broke.
func (e *Engine) met(w *worker) {
	back := !w.heardLately() || w.severed.Load() != 0
	w.hear()
	if back {
		e.hurryPulse()
	}
}

// severance is a worker's connection that broke, on its way to the node that judges.
type severance struct {
	worker WorkerID
	silent time.Duration // since its last sign of life
	since  time.Duration // since the connection broke
}

// reportSevered tells the node that leads the catalog whose connections to this node broke, once. What it could not be told within a TTL
// is worth nothing any more.
func (e *Engine) reportSevered(ctx context.Context, leader uint64) error {
	var all []severance
	var workers []*worker
	now := e.workers.now()
	for _, w := range e.workers.all() {
		at := w.severed.Load()
		if at == 0 || at == w.told.Load() || w.isGone() || now-time.Duration(at) > e.opts.WorkerTTL {
			continue
		}
		workers = append(workers, w)
		all = append(all, severance{w.id, now - time.Duration(w.heard.Load()), now - time.Duration(at)})
	}
	if len(all) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.pulseInterval())
	defer cancel()
	r, _, err := e.callLeader(ctx, catalogShard, leader, callSevered, appendSevered([]byte{forwardVersion}, all))
	if err != nil {
		return err
	}
	if !r.end() {
		return errForwardVersion(leader)
	}
	for i, w := range workers {
		w.told.Store(int64(now - all[i].since))
	}
	return nil
}

// serveSevered takes which workers' connections to another node broke. What came to this node from elsewhere since stands.
func (e *Engine) serveSevered(from uint64, r *reader) ([]byte, *Error) {
	all := r.severed()
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded broken connections do not decode")
	}
	if !e.tookOver() {
		return nil, errNotLeader()
	}
	now := e.workers.now()
	for _, s := range all {
		if w := e.workers.get(s.worker); w != nil {
			w.signAt(now-s.silent, from)
			w.sever(now-s.since, from)
		}
	}
	return startAnswer(), nil
}

// appendSevered appends broken connections: their count v, and of each worker v, ms since its last sign of life v, ms since the break v.
func appendSevered(dst []byte, all []severance) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for _, s := range all {
		dst = binary.AppendUvarint(dst, uint64(s.worker))
		dst = binary.AppendUvarint(dst, uint64(max(0, s.silent.Milliseconds())))
		dst = binary.AppendUvarint(dst, uint64(max(0, s.since.Milliseconds())))
	}
	return dst
}

func (r *reader) severed() []severance {
	n := r.count(cluster.WorkersMax, 3)
	all := make([]severance, 0, n)
	for range n {
		all = append(all, severance{
			worker: WorkerID(r.uvarint()),
			silent: time.Duration(r.upTo(silentMillisMax)) * time.Millisecond,
			since:  time.Duration(r.upTo(silentMillisMax)) * time.Millisecond,
		})
	}
	return all
}
