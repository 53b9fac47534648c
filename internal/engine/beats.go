package engine

import (
	"context"
	"encoding/binary"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// Who is silent is judged by the node that leads the catalog, and by no other. Each node tells it which workers it heard, several times
// in a worker's TTL, and is told what they shall do. A new leader gives everybody a full TTL first. One that lost the lead and
// does not know it yet can dismiss nobody: it asks the others whether it leads. Should two nodes dismiss the same worker after all,
// the second finds no lease of it, since ids of workers are never given twice, and changes nothing.

// pulse is the goroutine that nothing holds up: several times in a TTL it tells the node that judges which workers were heard here. It
// also finds out when the node itself stood still. Then nobody could reach it: the workers' silence is its own, and they get a full TTL.
func (e *Engine) pulse() {
	ticker := time.NewTicker(e.pulseInterval())
	defer ticker.Stop()
	term := uint64(0)
	for {
		if e.stoodStill() {
			for _, w := range e.workers.all() {
				w.touch()
			}
		}
		e.pulsed.Store(int64(e.workers.now()))
		lead, _ := e.host.LeadershipOf(catalogShard)
		if e.clustered() && !lead.Leading && lead.Leader != 0 {
			if term != lead.Term {
				e.workers.sayAgain()
			}
			term = lead.Term
			err := e.reportBeats(e.background, uint64(lead.Leader))
			if err == nil {
				err = e.reportSevered(e.background, uint64(lead.Leader))
			}
			if err != nil && e.background.Err() == nil {
				e.opts.Logger.Warn("the catalog's leader could not be told which workers live", slog.Uint64("node", uint64(lead.Leader)), slog.Any("error", err))
			}
			e.pulsed.Store(int64(e.workers.now())) // it waited for another node, and not for itself
		}
		select {
		case <-ticker.C:
		case <-e.hurry:
		case <-e.background.Done():
			return
		}
	}
}

// hurryPulse has the pulse come now: a worker came here, or its connection broke.
func (e *Engine) hurryPulse() {
	select {
	case e.hurry <- struct{}{}:
	default:
	}
}

func (e *Engine) pulseInterval() time.Duration { return e.opts.WorkerTTL / pulseShare }

// stoodStill reports whether the pulse missed its turn by much.
func (e *Engine) stoodStill() bool {
	return e.workers.now()-time.Duration(e.pulsed.Load()) > e.pulseInterval()+e.opts.WorkerTTL/2
}

// judging reports whether this node decides which workers are lost.
func (e *Engine) judging() bool {
	if e.stoodStill() {
		return false // as long as the pulse has not made up for it
	}
	return !e.clustered() || e.tookOver()
}

// tookOver reports whether this node leads the catalog, and has given everybody a full TTL since.
func (e *Engine) tookOver() bool {
	lead, _ := e.host.LeadershipOf(catalogShard)
	return lead.Leading && e.judges.Load() == lead.Term
}

// beat is a worker's sign of life on its way to the node that judges.
type beat struct {
	worker WorkerID
	silent time.Duration // since then
	wish   WorkerState   // as the node knows it
}

// reportBeats tells the node that leads the catalog which workers were heard since the last time.
func (e *Engine) reportBeats(ctx context.Context, leader uint64) error {
	var beats []beat
	var heard []*worker
	var when []int64 // as the beats say: a sign of life that comes meanwhile is reported the next time
	now := e.workers.now()
	for _, w := range e.workers.all() {
		at := w.heard.Load()
		if at == 0 || at == w.reported.Load() || w.isGone() {
			continue
		}
		heard, when = append(heard, w), append(when, at)
		beats = append(beats, beat{w.id, now - time.Duration(at), WorkerState(w.want.Load())})
	}
	if len(beats) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, e.pulseInterval())
	defer cancel()
	r, _, err := e.callLeader(ctx, catalogShard, leader, callBeats, appendBeats([]byte{forwardVersion}, beats))
	if err != nil {
		return err
	}
	wishes := r.beats()
	if !r.end() {
		return errForwardVersion(leader)
	}
	for i, w := range heard {
		w.reported.Store(when[i])
	}
	for _, b := range wishes {
		if w := e.workers.get(b.worker); w != nil {
			w.want.Store(uint32(b.wish))
		}
	}
	return nil
}

// serveBeats takes what another node heard, and answers what those workers shall do of which it does not know that yet.
func (e *Engine) serveBeats(from uint64, r *reader) ([]byte, *Error) {
	beats := r.beats()
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded signs of life do not decode")
	}
	if !e.tookOver() {
		return nil, errNotLeader()
	}
	var wishes []beat
	for _, b := range beats {
		w := e.workers.get(b.worker)
		if w == nil {
			continue // it registered a moment ago, and this replica has not applied it, or it is gone
		}
		w.signAt(e.workers.now()-b.silent, from)
		if !w.wished.Swap(true) {
			w.want.Store(uint32(b.wish)) // this node leads since a moment, and others know better
		}
		if wish := WorkerState(w.want.Load()); wish != b.wish {
			wishes = append(wishes, beat{worker: b.worker, wish: wish})
		}
	}
	return appendBeats(startAnswer(), wishes), nil
}

// appendBeats appends beats: their count v, and of each worker v, silent ms v, wish u8.
func appendBeats(dst []byte, beats []beat) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(beats)))
	for _, b := range beats {
		dst = binary.AppendUvarint(dst, uint64(b.worker))
		dst = binary.AppendUvarint(dst, uint64(max(0, b.silent.Milliseconds())))
		dst = append(dst, byte(b.wish))
	}
	return dst
}

func (r *reader) beats() []beat {
	n := r.count(cluster.WorkersMax, 3)
	beats := make([]beat, 0, n)
	for range n {
		b := beat{worker: WorkerID(r.uvarint()), silent: time.Duration(r.upTo(silentMillisMax)) * time.Millisecond, wish: WorkerState(r.u8())}
		if b.wish > WorkerStop {
			r.fail()
		}
		beats = append(beats, b)
	}
	return beats
}

// silentMillisMax bounds the silence that a beat may tell of: a year.
const silentMillisMax = 366 * 24 * 3600 * 1000

// sayAgain has what was said to one judge of late be said to the next one.
func (r *registry) sayAgain() {
	for _, w := range r.all() {
		if at := w.heard.Load(); at != 0 && r.now()-time.Duration(at) <= w.ttl {
			w.reported.Store(0)
			w.told.Store(0)
		}
	}
}

// takeOver has this node, which leads the catalog anew, give every worker a full TTL and believe the others what they shall do.
func (r *registry) takeOver() {
	for _, w := range r.all() {
		w.touch()
		w.unsever() // the nodes say again what they know
		w.wished.Store(false)
	}
}
