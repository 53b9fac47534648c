package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Enqueue stores jobs and appends one answer per job, in order, to dst. An error concerns the whole request; what is
// wrong with one job is in its answer, unless the request is atomic. Queues that do not exist are made.
//
// Spec.Queue is set, and Spec.EnqueuedAt when it is zero; nothing of the request is retained after Enqueue returns.
func (e *Engine) Enqueue(ctx context.Context, r *EnqueueRequest, dst []Enqueued) ([]Enqueued, error) {
	var p PendingEnqueue
	e.BeginEnqueue(ctx, r, dst, &p)
	return p.Wait(ctx)
}

// PendingEnqueue is an Enqueue on its way. It may be used again once Wait has returned.
type PendingEnqueue struct {
	engine  *Engine
	request *EnqueueRequest
	start   time.Time
	now     queue.Millis
	dst     []Enqueued // with room for the answers behind answers
	answers int
	turn    uint64           // which partition jobs go to that no key binds to one
	view    *table           // where its queues live; see lookAgain
	unmade  map[string]error // why some of them could not be made
	first   *route           // nil: nothing is on its way
	at      berth            // where its jobs go
	homes   []berth          // where each job goes, when that is to several berths
	legs    []enqueueLeg     // the commands to these
	moving  bool             // jobs of a session, or with unique keys, are of queues that move, or those of an atomic request are apart: Wait finds out where they go
	older   *olderNode       // for which those with unique keys are refused
	good    []bool           // which jobs went to shards, once a queue is known to move; the others were refused before
	sent    []berth          // where each job went that was sent once more, since its queue moves
	call    *call
	header  bool
	err     error
}

// BeginEnqueue does the first half of Enqueue: it hands the jobs in and does not wait for them to be stored. p.Wait must
// follow, and the request is p's until it returns. A caller with many requests under way begins them on one goroutine
// and waits for them on another. It waits only for a queue to be made that does not exist.
func (e *Engine) BeginEnqueue(ctx context.Context, r *EnqueueRequest, dst []Enqueued, p *PendingEnqueue) {
	*p = PendingEnqueue{engine: e, request: r, start: time.Now(), dst: dst, answers: len(dst)}
	if p.err = checkEnqueue(r); p.err != nil {
		return
	}
	if r.received = e.opts.Watch.Reading(p.start); r.Era != 0 && e.opts.Watch.Era(r.received) != r.Era {
		p.err = ErrStoodStill()
		return
	}
	full := e.host.Full()
	if full && !e.clustered() {
		p.err = errDiskFull()
		return
	}
	p.now, p.turn = queue.Millis(e.opts.Clock.NowMillis()), e.turnOf(r)
	p.dst = append(dst, make([]Enqueued, len(r.Jobs))...)
	p.err = p.routeJobs(ctx)
	if full && p.err == nil && p.leadsAny() {
		p.err = errDiskFull() // a leader elsewhere looks at its own disk
	}
	switch {
	case p.err != nil, p.first == nil, p.moving:
	case p.homes != nil:
		p.legs, p.err = beginSeveral(r, p.out(), p.now, p.homes)
	default:
		p.begin()
	}
}

// begin hands the jobs to the one shard that all go to.
func (p *PendingEnqueue) begin() {
	c := p.at.pump.newCall()
	if p.header, p.err = encodeJobs(c, p.at, p.request, p.out(), p.now, nil); p.err != nil {
		c.free()
		return
	}
	if p.err = p.at.pump.submit(c); p.err == nil {
		p.call = c
	}
}

// leadsAny reports whether this node leads the shard of one of the jobs that are not refused yet.
func (p *PendingEnqueue) leadsAny() bool {
	if p.homes == nil {
		return p.first != nil && p.engine.leads(p.at.pump.shard)
	}
	return slices.ContainsFunc(p.homes, func(to berth) bool { return to.pump != nil && p.engine.leads(to.pump.shard) })
}

func (p *PendingEnqueue) out() []Enqueued { return p.dst[p.answers:] }

// Ready reports whether Wait would return at once, unless the queue has just moved.
func (p *PendingEnqueue) Ready() bool {
	waits := func(l enqueueLeg) bool { return l.err == nil && len(l.call.done) == 0 }
	return !p.moving && (p.call == nil || len(p.call.done) > 0) && !slices.ContainsFunc(p.legs, waits)
}

// Wait waits until the jobs are stored and returns what Enqueue does.
func (p *PendingEnqueue) Wait(ctx context.Context) ([]Enqueued, error) {
	out, err := p.await(ctx)
	p.view, p.unmade = nil, nil // whoever keeps p for the next request would keep a table of all queues that is out of date
	return out, err
}

func (p *PendingEnqueue) await(ctx context.Context) ([]Enqueued, error) {
	switch {
	case p.err != nil:
		return p.dst[:p.answers], p.err
	case p.first == nil: // every job is refused already
		return p.dst, nil
	case p.moving:
		p.err = p.enqueueMoving(ctx, false)
	case p.homes != nil:
		p.err = waitSeveral(ctx, p.request, p.out(), p.homes, p.legs)
	default:
		p.err = p.waitOne(ctx)
	}
	p.heedMoves(ctx)
	if p.followMoves(ctx) {
		p.heedMoves(ctx)
	}
	if p.err != nil {
		return p.dst[:p.answers], p.ofWhole(asError(p.err))
	}
	if p.first.meters != nil {
		p.first.meters.enqueue.addMany(time.Since(p.start), uint64(len(p.request.Jobs)))
	}
	return p.dst, nil
}

// waitOne waits for the answer of the one shard where all the jobs live.
func (p *PendingEnqueue) waitOne(ctx context.Context) error {
	c, out, shardID := p.call, p.out(), p.at.pump.shard
	if err := p.at.pump.wait(ctx, c); err != nil {
		return err
	}
	results, repeated := c.results, false
	if p.header {
		if err := refusal(results[0]); err != nil {
			err = culprit(p.request, results[1:], err)
			c.free()
			return err
		}
		if p.request.Atomic && results[0].Code == queue.CodeDuplicate && slices.ContainsFunc(results[1:], refused) {
			err := culprit(p.request, results[1:], refusal(queue.Result{Code: queue.CodeAborted}))
			c.free()
			return err
		}
		results, repeated = results[1:], results[0].Code == queue.CodeDuplicate
	}
	for i := range out {
		if out[i].Err != nil {
			continue
		}
		out[i] = enqueued(shardID, results[0], repeated)
		results = results[1:]
	}
	c.free()
	return nil
}

func refused(r queue.Result) bool { return refusal(r) != nil }

func checkEnqueue(r *EnqueueRequest) error {
	switch {
	case len(r.Jobs) == 0:
		return invalid("jobs", "is empty; give 1 to %d jobs", queue.EnqueueJobsMax)
	case len(r.Jobs) > queue.EnqueueJobsMax:
		return tooLarge("jobs", "has %d items; at most %d fit one request", len(r.Jobs), queue.EnqueueJobsMax)
	case r.Session != SessionID{} && r.Sequence == 0:
		return invalid("sequence", "is 0; a session counts its requests from 1")
	case r.Session == SessionID{} && r.Sequence != 0:
		return invalid("session", "is missing, but sequence is given; give both or neither")
	}
	return nil
}

// routeJobs checks each job and finds where it goes, making queues as needed. The first route is nil when every job is refused. A
// refused job has its error in out.
func (p *PendingEnqueue) routeJobs(ctx context.Context) error {
	r, out, now := p.request, p.out(), p.now
	session := r.Session != SessionID{}
	if err := p.makeQueues(ctx); err != nil {
		return err
	}
	p.older = p.engine.older.Load()
	var last *route
	for i := range r.Jobs {
		j := &r.Jobs[i]
		if j.Err != nil {
			if out[i].Err = j.Err; r.Atomic {
				return jobError(r, i, j.Err)
			}
			continue
		}
		if last == nil || last.name != j.Queue {
			rt := p.view.byName[j.Queue]
			if rt == nil {
				if out[i].Err = asError(p.unmade[j.Queue]); r.Atomic || !ofOneJob(out[i].Err) {
					return jobError(r, i, out[i].Err)
				}
				continue
			}
			last = rt
		}
		to := last.homes[partitionOf(len(last.homes), &j.Spec, p.turn)]
		j.Spec.Queue, j.hint = to.id, JobID{}
		if j.Spec.EnqueuedAt == 0 {
			j.Spec.EnqueuedAt = now
		}
		err := checkJob(&j.Spec, now, !session)
		if err == nil && p.tooNew(&j.Spec) {
			err = errOlderNode(p.older)
		}
		if err != nil {
			if out[i].Err = err; r.Atomic {
				return jobError(r, i, err)
			}
			continue
		}
		p.assign(i, last, last.berth(to))
		p.moving = p.moving || session && last.moving() || last.needsAsking(&j.Spec)
	}
	if r.Atomic && !p.moving && !p.together(nil) {
		p.moving = true // as far as this node has heard they are apart: Wait makes sure of it
	}
	return nil
}

// berth is a shard, and whose answers it remembers for a session's request there: those of all jobs of the request that go there or,
// of a queue that has come from other homes, those of that queue's alone. So a request that brought its jobs to one shard, and whose
// repeat brings them to two, or the other way round, is still the same one on each.
type berth struct {
	pump *pump
	own  uint64 // the id that the queue has there; 0: all; from ownWhole: see together
}

// berth is where the jobs go that go to one of the queue's homes.
func (rt *route) berth(h home) berth {
	if rt.moves > 0 {
		return berth{h.pump, uint64(h.id)}
	}
	return berth{h.pump, 0}
}

// formerBerth is where those went that went to one of the queue's homes before its last so many moves.
func (rt *route) formerBerth(h home, ago int) berth {
	if rt.moves > uint64(ago) {
		return berth{h.pump, uint64(h.id)}
	}
	return berth{h.pump, 0}
}

// assign says where a job goes. The jobs before it went to one berth, unless homes says otherwise.
func (p *PendingEnqueue) assign(i int, rt *route, to berth) {
	if p.first == nil {
		p.first, p.at = rt, to
	}
	if p.homes == nil && to != p.at {
		p.homes = make([]berth, len(p.request.Jobs))
		for k := range i {
			if p.out()[k].Err == nil {
				p.homes[k] = p.at
			}
		}
	}
	if p.homes != nil {
		p.homes[i] = to
	}
}

func errAtomicApart() *Error {
	return invalid("atomic",
		"is set, but the jobs live on different shards; an atomic request keeps to queues of one shard (see the queue's shards), and to one ordering key, or one unique key, in a queue of several partitions")
}

// ofOneJob tells a queue's or a shard's refusal, which concerns its own jobs, from what may be over soon: then the whole request may be
// repeated. A shard that has stopped since its state is in doubt is not back soon.
func ofOneJob(err *Error) bool {
	return err.Code == CodeInvalidArgument || err.Code == CodeResourceExhausted || err.Code == CodeDataLoss
}

// ofWhole is the error of a request of which there are no answers. When a part of it is or may be stored, nobody must take that for
// the refusal of all: then it has to be repeated, as after an error that is over soon, or the jobs looked for, as some errors say.
func (p *PendingEnqueue) ofWhole(err *Error) *Error {
	switch err.Code {
	case CodeResourceExhausted, CodeDataLoss, CodeDeadlineExceeded, CodeCancelled:
	default:
		return err
	}
	mayBe := func(o Enqueued) bool {
		return o.Err == nil && o.ID != JobID{} || o.Err != nil && o.Err.Code == CodeUnknownOutcome
	}
	if !slices.ContainsFunc(p.out(), mayBe) {
		return err
	}
	unknown := errUnknownOutcome(err)
	unknown.Message = "a part of the request is or may be stored, and the rest is not: " + err.Message + "; repeat it with the same session and sequence number"
	return unknown
}

// makeQueues starts the making of all missing queues at once, so that many new names cost one wait. Then the request has a view of the routes
// in which its queues are, but for those of which unmade says why not.
func (p *PendingEnqueue) makeQueues(ctx context.Context) error {
	e, jobs := p.engine, p.request.Jobs
	p.view = e.routes.table()
	missing := func(i int) bool { return jobs[i].Err == nil && p.view.byName[jobs[i].Queue] == nil }
	var started []*creation
	last, all := "", true
	for i := range jobs {
		name := jobs[i].Queue
		if !all && name == last || !missing(i) { // no name is missing too
			continue
		}
		last, all = name, false
		c, err := e.startCreation(name)
		if err == nil {
			started = append(started, c)
		} // else it is tried once more, when the others are made
	}
	if all {
		return nil
	}
	for _, c := range started {
		select {
		case <-c.done:
		case <-ctx.Done():
			return contextError(ctx.Err())
		}
	}
	p.view, p.unmade = e.routes.table(), make(map[string]error)
	for i := range jobs {
		if name := jobs[i].Queue; missing(i) && p.unmade[name] == nil {
			_, p.unmade[name] = e.ensureQueue(ctx, name)
			p.view = e.routes.table()
		}
	}
	return nil
}

// checkJob names the first field of a job that breaks a limit. In a session the machine alone judges what depends on the
// clock: a repeat must carry the same jobs as the first time, to get each one's answer.
func checkJob(s *Spec, now queue.Millis, clock bool) *Error {
	if err := s.Validate(); err != nil {
		return fieldError(err)
	}
	if clock && s.ExpiresAt != 0 && s.ExpiresAt <= now {
		return invalid("expires_at", "lies in the past; the job would never run")
	}
	return nil
}

// tooNew reports whether a job has what a node of the cluster may be too old for.
func (p *PendingEnqueue) tooNew(s *Spec) bool { return p.older != nil && s.UniqueKey != "" }

// jobError says which job of a request made all of it fail.
func jobError(r *EnqueueRequest, i int, err *Error) *Error {
	if len(r.Jobs) == 1 || err.Field == "" {
		return err
	}
	located := *err
	located.Field = fmt.Sprintf("jobs[%d].%s", i, err.Field)
	located.Message = fmt.Sprintf("jobs[%d]: %s", i, err.Message)
	return &located
}

// culprit is the error of the first job that made an atomic request fail; whole when it was none of them.
func culprit(r *EnqueueRequest, results []queue.Result, whole *Error) *Error {
	for i, res := range results {
		if err := refusal(res); err != nil && res.Code != queue.CodeAborted && res.Code != queue.CodeSessionTooOld && res.Code != queue.CodeRepeatDiffers {
			return jobError(r, i, err)
		}
	}
	return whole
}

// encodeJobs encodes the jobs of a request that go to a berth: as homes says or, when that is nil, those that have no error yet. It reports
// whether a header item leads them: jobs without session and atomicity are commands of their own.
func encodeJobs(c *call, to berth, r *EnqueueRequest, out []Enqueued, now queue.Millis, homes []berth) (header bool, err error) {
	mine := func(i int) bool {
		if homes != nil {
			return homes[i] == to
		}
		return out[i].Err == nil
	}
	c.received = r.received
	header = r.Atomic || r.Session != SessionID{}
	if header {
		count, shape := 0, shapeSeed
		for i := range r.Jobs {
			if mine(i) {
				count++
				shape = shape.with(i, r.Jobs[i].Spec.Queue)
			}
		}
		c.items.Commit(queue.AppendEnqueue(c.items.Buf(), to.session(r.Session), r.Sequence, count, r.Atomic, shape.sum()))
	}
	for i := range r.Jobs {
		if !mine(i) {
			continue
		}
		s := &r.Jobs[i].Spec
		if c.items.Commit(queue.AppendHintedJob(c.items.Buf(), s, r.Jobs[i].hint)); s.UniqueKey != "" {
			c.items.Version = max(c.items.Version, queue.BatchVersion(c.items.Item(c.items.Len()-1)))
		}
		if c.items.Size() > shard.CommandBytesMax {
			return header, tooLarge("jobs", "are together over %d MiB; send them in several requests", shard.CommandBytesMax>>20)
		}
		if s.RunAt <= now {
			c.addReady(s.Queue)
		}
	}
	return header, nil
}

// jobShape hashes which jobs of a request go to a shard, and to which queues. The repeat of a request brings the same to it,
// unless jobs that were refused before they got there are good now, or the other way round.
type jobShape uint64

const shapeSeed jobShape = 14695981039346656037

func (h jobShape) with(i int, q queue.QueueID) jobShape {
	return (h ^ jobShape(i)<<32 ^ jobShape(q)) * 0x9e3779b97f4a7c15
}

// sum is never 0, which stands for no shape.
func (h jobShape) sum() uint32 { return uint32(h>>32) | 1 }

// enqueued is the answer to one job; repeated: a session got it before.
func enqueued(id shard.ID, r queue.Result, repeated bool) Enqueued {
	if err := refusal(r); err != nil {
		return Enqueued{Err: err}
	}
	if r.Code == queue.CodeExists {
		return Enqueued{ID: JobID{Shard: r.Shard, Pos: r.Pos}, Duplicate: repeated, Existing: true}
	}
	return Enqueued{ID: JobID{Shard: uint16(id), Pos: r.Pos}, Duplicate: r.Code == queue.CodeDuplicate}
}

// enqueueSeveral stores those jobs of a request that have a home, one command for each berth, side by side. What one
// shard refuses is in its jobs' answers. What one does not answer fails a session's whole request: its repeat does the
// rest, and gets the answers of what is done. Without a session it is in its jobs' answers.
func enqueueSeveral(ctx context.Context, r *EnqueueRequest, out []Enqueued, now queue.Millis, homes []berth) error {
	legs, err := beginSeveral(r, out, now, homes)
	if err != nil {
		return err
	}
	return waitSeveral(ctx, r, out, homes, legs)
}

// enqueueLeg is the command with those jobs of a request that go to one berth.
type enqueueLeg struct {
	berth
	call   *call
	header bool
	err    error
}

// beginSeveral hands the jobs in.
func beginSeveral(r *EnqueueRequest, out []Enqueued, now queue.Millis, homes []berth) ([]enqueueLeg, error) {
	var legs []enqueueLeg
	for i, to := range homes {
		if to.pump == nil || i > 0 && to == homes[i-1] || slices.ContainsFunc(legs, func(l enqueueLeg) bool { return l.berth == to }) {
			continue
		}
		c := to.pump.newCall()
		header, err := encodeJobs(c, to, r, out, now, homes)
		if err != nil {
			return nil, err // nothing was submitted yet
		}
		legs = append(legs, enqueueLeg{berth: to, call: c, header: header})
	}
	for i := range legs {
		legs[i].err = legs[i].pump.submit(legs[i].call)
	}
	return legs, nil
}

// waitSeveral waits for what beginSeveral handed in.
func waitSeveral(ctx context.Context, r *EnqueueRequest, out []Enqueued, homes []berth, legs []enqueueLeg) error {
	for i := range legs {
		l := &legs[i]
		if l.err == nil {
			l.err = l.pump.wait(ctx, l.call)
		}
		var results []queue.Result
		repeated := false
		if l.err == nil {
			results = l.call.results
			if l.header {
				results, repeated = results[1:], results[0].Code == queue.CodeDuplicate
			}
		}
		for j := range out {
			switch {
			case homes[j] != l.berth:
			case l.err != nil:
				out[j].Err = asError(l.err)
			default:
				out[j] = enqueued(l.pump.shard, results[0], repeated)
				results = results[1:]
			}
		}
		if l.err == nil {
			l.call.free()
		}
	}
	if r.Session == (SessionID{}) {
		return nil
	}
	for i := range legs {
		if err := legs[i].err; err != nil && !ofOneJob(asError(err)) {
			return err
		}
	}
	return nil
}

// asError returns err as an *Error.
func asError(err error) *Error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	return hostError(err)
}
