package engine

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// farFetch is a fetch that another node carries out for a caller here: on shards that it leads, and no others.
type farFetch struct {
	id     uint64 // of the asking node: names the fetch when it is stopped
	worker WorkerID
	max    int
	wait   time.Duration
	lease  time.Duration
	legs   []farLeg
}

// farLeg is the fetch's queues on one shard.
type farLeg struct {
	shard  shard.ID
	queues []queue.QueueID
}

// farJobOverhead is what a job of an answer needs at most besides its spec.
const farJobOverhead = 9 * binary.MaxVarintLen64

// farJobRoom is about what one without metadata takes besides its payload.
const farJobRoom = 128

// appendFarFetch appends a fetch: id v, worker v, max v, wait ms v, lease ms v, shards v, each as shard v, queues v × (queue v).
func appendFarFetch(dst []byte, f *farFetch) []byte {
	dst = binary.AppendUvarint(dst, f.id)
	dst = binary.AppendUvarint(dst, uint64(f.worker))
	dst = binary.AppendUvarint(dst, uint64(f.max))
	dst = binary.AppendUvarint(dst, uint64(max(0, f.wait.Milliseconds())))
	dst = binary.AppendUvarint(dst, uint64(f.lease.Milliseconds()))
	dst = binary.AppendUvarint(dst, uint64(len(f.legs)))
	for _, l := range f.legs {
		dst = binary.AppendUvarint(dst, uint64(l.shard))
		dst = binary.AppendUvarint(dst, uint64(len(l.queues)))
		for _, q := range l.queues {
			dst = binary.AppendUvarint(dst, uint64(q))
		}
	}
	return dst
}

func (r *reader) farFetch() farFetch {
	f := farFetch{id: r.uvarint(), worker: WorkerID(r.uvarint()), max: int(r.upTo(queue.FetchMax))}
	f.wait = time.Duration(r.upTo(queue.WaitMillisMax)) * time.Millisecond
	f.lease = time.Duration(r.upTo(queue.LeaseMillisMax)) * time.Millisecond
	total := 0
	for range r.count(farLegsMax, 3) {
		l := farLeg{shard: shard.ID(r.upTo(1<<16 - 1))}
		for range r.count(queue.FetchQueuesMax, 1) {
			l.queues = append(l.queues, queue.QueueID(r.upTo(1<<32-1)))
		}
		if total += len(l.queues); len(l.queues) == 0 || total > farQueuesMax {
			r.fail()
		}
		f.legs = append(f.legs, l)
	}
	if f.max < 1 || len(f.legs) == 0 || f.worker != 0 && f.lease != 0 {
		r.fail()
	}
	return f
}

// appendFarJobs appends the jobs that a fetch leased: their count v, and of each shard v, pos v, token v, attempt v, failures v, crashes v,
// deadline ms v, spec b.
func appendFarJobs(dst []byte, jobs []FetchedJob) []byte {
	size := binary.MaxVarintLen64
	for i := range jobs {
		size += len(jobs[i].Spec.Payload) + farJobRoom
	}
	dst = slices.Grow(dst, size) // grown step by step it would be copied several times over
	dst = binary.AppendUvarint(dst, uint64(len(jobs)))
	var spec []byte
	for i := range jobs {
		j := &jobs[i]
		dst = binary.AppendUvarint(dst, uint64(j.ID.Shard))
		dst = binary.AppendUvarint(dst, uint64(j.ID.Pos))
		dst = binary.AppendUvarint(dst, uint64(j.Token))
		dst = binary.AppendUvarint(dst, uint64(j.Attempt))
		dst = binary.AppendUvarint(dst, uint64(j.Failures))
		dst = binary.AppendUvarint(dst, uint64(j.Crashes))
		deadline := int64(0)
		if !j.Deadline.IsZero() {
			deadline = j.Deadline.UnixMilli()
		}
		dst = binary.AppendUvarint(dst, uint64(deadline))
		spec = queue.AppendJob(spec[:0], &j.Spec)
		dst = appendBytes(dst, spec)
	}
	return dst
}

func (r *reader) farJobs() []FetchedJob {
	n := r.count(queue.FetchMax, 8)
	jobs := make([]FetchedJob, 0, n)
	for range n {
		j := FetchedJob{ID: JobID{Shard: uint16(r.upTo(1<<16 - 1))}}
		j.ID.Pos, j.Token = queue.Pos(r.uvarint()), Token(r.uvarint())
		j.Attempt, j.Failures, j.Crashes = uint32(r.upTo(1<<32-1)), uint32(r.upTo(1<<32-1)), uint32(r.upTo(1<<32-1))
		j.Deadline = unixMilli(int64(r.upTo(1 << 62)))
		var err error
		if j.Spec, err = queue.DecodeSpec(r.bytes(queue.CommandBytesMax)); err != nil || r.bad {
			r.fail()
			return nil
		}
		jobs = append(jobs, j)
	}
	return jobs
}

// visitors are the fetches that other nodes have here, to stop them by name. A stop may overtake its fetch, and then waits for that: the
// worker's next fetch may wait for the answer.
type visitors struct {
	mu    sync.Mutex
	all   map[visitor]context.CancelFunc // REQUIRES: mu
	early [earlyStopsMax]visitor         // REQUIRES: mu; stopped while they were not here: they are on their way, or have gone
	next  int                            // REQUIRES: mu; where the next one goes in early
}

// visitor names a fetch of another node.
type visitor struct{ node, id uint64 }

func (v *visitors) come(name visitor, stop context.CancelFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if slices.Contains(v.early[:], name) {
		stop()
	}
	v.all[name] = stop
}

func (v *visitors) leave(name visitor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.all, name)
}

func (v *visitors) stop(name visitor) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if stop := v.all[name]; stop != nil {
		stop()
		return
	}
	v.early[v.next] = name
	v.next = (v.next + 1) % len(v.early)
}

// serveFetch carries out a fetch of another node. It ends early when it is stopped: with what it was granted until then, so that the other
// node knows. When the connection is lost, that is taken back.
func (e *Engine) serveFetch(ctx context.Context, from uint64, r *reader) ([]byte, *Error) {
	f := r.farFetch()
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded fetch does not decode")
	}
	request := FetchRequest{Worker: f.worker, Max: f.max, Wait: f.wait, Lease: f.lease, afar: true}
	legs := make([]leg, 0, len(f.legs))
	for _, l := range f.legs {
		p := e.pump(l.shard)
		if p == nil {
			return nil, errNoShard(l.shard)
		}
		legs = append(legs, leg{pump: p, queues: l.queues})
	}
	var w *worker // this replica of the catalog may be late: a worker that is not known here is the other node's business
	if f.worker != 0 {
		if w = e.workers.get(f.worker); w.isGone() {
			return nil, errWorkerLost()
		}
		e.workers.seenBy(f.worker, from)
	}
	wanted, stop := context.WithCancel(ctx)
	defer stop()
	name := visitor{from, f.id}
	e.visitors.come(name, stop)
	defer e.visitors.leave(name)
	jobs, err := e.fetchHere(ctx, wanted.Done(), &request, legs, w, f.wait)
	if err != nil && ctx.Err() == nil {
		return nil, asError(err)
	}
	return appendFarJobs(startAnswer(), jobs), nil
}

// serveStopFetch stops a fetch that another node has here. Its answer goes out as ever.
func (e *Engine) serveStopFetch(from uint64, r *reader) ([]byte, *Error) {
	id := r.uvarint()
	if !r.end() {
		return nil, newError(CodeInvalidArgument, ReasonMalformed, "the forwarded stop does not decode")
	}
	e.visitors.stop(visitor{from, id})
	return startAnswer(), nil
}

// fetchHere fetches on shards that this node leads. When stop is closed it ends, with what it was granted until then.
func (e *Engine) fetchHere(ctx context.Context, stop <-chan struct{}, r *FetchRequest, legs []leg, w *worker, wait time.Duration) ([]FetchedJob, error) {
	var ft *fetch
	var err error
	if wait <= 0 {
		ft, _, err = e.fetchOnce(ctx, stop, r, legs, w)
	} else {
		ft, _, err = e.fetchParked(ctx, r, legs, w, wait, stop)
	}
	if err != nil {
		return nil, err
	}
	if ft == nil || len(ft.leases) == 0 {
		ft.free()
		return nil, nil
	}
	return e.unpack(ctx, ft, w)
}

// fetchThere has another node fetch. The call outlives ctx: an answer that nobody reads would leave leases with nobody, so a fetch that
// is not wanted any more is stopped, and its answer is waited for. It may have been granted something before.
func (e *Engine) fetchThere(ctx context.Context, node uint64, r *FetchRequest, legs []leg, wait time.Duration) ([]FetchedJob, error) {
	f := farFetch{id: e.fetches.Add(1), worker: r.Worker, max: r.Max, wait: wait}
	if r.Worker == 0 {
		if f.lease = r.Lease; f.lease == 0 {
			f.lease = AnonymousLeaseDefault
		}
	}
	for _, l := range legs {
		f.legs = append(f.legs, farLeg{l.pump.shard, l.queues})
	}
	if err := e.usher.park(node); err != nil {
		return nil, err
	}
	defer e.usher.unpark(node)
	call, cancel := context.WithCancel(e.calls)
	defer cancel()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		e.stopFetch(call, node, f.id)
	})
	defer func() {
		if cancel(); !stop() {
			<-stopped
		}
	}()
	defer e.usher.leave(e.usher.enter(legs[0].pump.shard, node, cancel))
	answer, _, err := e.callFor(call, max(0, wait)+fetchCallGrace, node, callFetch, appendFarFetch([]byte{forwardVersion}, &f))
	if err != nil {
		return nil, err
	}
	jobs := answer.farJobs()
	if !answer.end() {
		return nil, errForwardVersion(node)
	}
	for i := range jobs {
		if rt := e.routes.byID(jobs[i].Spec.Queue); rt != nil {
			jobs[i].QueueName = rt.name
		}
	}
	return jobs, nil
}

// stopFetch stops a fetch at another node, again and again until ctx ends with it: a stop may get lost.
func (e *Engine) stopFetch(ctx context.Context, node, id uint64) {
	body := binary.AppendUvarint([]byte{forwardVersion}, id)
	for pause := stopPauseMin; ctx.Err() == nil; pause = min(2*pause, stopPauseMax) {
		_, _, _ = e.call(ctx, node, callStopFetch, body) // if it does not get there, the next one does, or the fetch fails
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}
