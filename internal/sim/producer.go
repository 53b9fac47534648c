package sim

import (
	"encoding/binary"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// producer enqueues jobs, mostly under a session, one command after the other, and reads now and then.
type producer struct {
	c        *clients
	shard    int
	session  queue.SessionID
	sequence uint64
	keys     chance
}

func (p *producer) act() {
	c, w := p.c, p.c.w
	if w.healing {
		return
	}
	if c.chance.percent(25) {
		p.read()
		return
	}
	k := newCall(w, p.shard)
	jobs := 1 + c.chance.IntN(4)
	session := p.session
	if c.chance.percent(w.plan.giveUp) {
		session = queue.SessionID{}
	} else {
		p.sequence++
	}
	k.items.Commit(queue.AppendEnqueue(k.items.Buf(), session, p.sequence, jobs, c.chance.percent(30), uint32(c.chance.IntN(2))*7))
	made := make([]known, jobs)
	ops := make([]history.Operation, jobs)
	for i := range jobs {
		spec := p.spec()
		p.key(&spec)
		made[i] = known{label: c.history.NewLabel(), queue: spec.Queue, priority: spec.Priority}
		ops[i] = history.Operation{Kind: history.Enqueue, Call: w.now, Expires: spec.ExpiresAt != 0}
		binary.LittleEndian.PutUint64(spec.Payload, uint64(made[i].label))
		k.items.Commit(queue.AppendJob(k.items.Buf(), &spec))
		k.items.Version = max(k.items.Version, queue.BatchVersion(k.items.Item(k.items.Len()-1)))
	}
	c.open++
	done := func(a answer) {
		c.open--
		p.enqueued(a, made, ops)
		w.after(c.chance.about(w.plan.thinkMean), p.act)
	}
	// Without a session a repeat would be another job; and some give up though they have one.
	if session == (queue.SessionID{}) || c.chance.percent(w.plan.giveUp) {
		c.ask(k, callWait, done)
		return
	}
	c.insist(k, done)
}

// spec draws a job.
func (p *producer) spec() queue.Spec {
	c, w := p.c.chance, p.c.w
	spec := queue.Spec{
		Queue: queue.QueueID(1 + c.IntN(w.plan.queues)), Priority: uint8(c.IntN(queue.PriorityCount)), Kind: "k",
		Payload: make([]byte, 16+c.IntN(w.plan.payloadMax)),
	}
	binary.LittleEndian.PutUint64(spec.Payload[8:], c.Uint64())
	now := queue.Millis(epochMillis + w.now.Milliseconds())
	if c.percent(15) {
		spec.RunAt = now + queue.Millis(c.IntN(8000))
	}
	if c.percent(5) {
		spec.ExpiresAt = max(now, spec.RunAt) + 1 + queue.Millis(c.IntN(15_000))
	}
	if !c.percent(20) {
		return spec
	}
	// It has settings of its own.
	spec.EnqueuedAt, spec.ContentType = now, "application/json"
	spec.MaxAttempts = uint32(c.IntN(4))
	spec.Retry = retryPolicy(c)
	spec.TimeoutMillis = pick(c, []int64{-1, 0, 0, 1500, 4000})
	if c.percent(50) {
		spec.Metadata = []queue.KeyValue{{Key: "a", Value: "1"}, {Key: "trace", Value: "00-ab-cd-01"}}
	}
	return spec
}

// retryPolicy draws one; none waits so long that a run would not see the end.
func retryPolicy(c chance) queue.Retry {
	r := queue.Retry{Kind: queue.RetryKind(c.IntN(int(queue.RetryNever) + 1))}
	switch r.Kind {
	case queue.RetryExponential:
		r.BaseMillis, r.MaxMillis, r.JitterPercent = 100+c.Int64N(400), 3000, uint8(c.IntN(101))
	case queue.RetryFixed:
		r.BaseMillis, r.JitterPercent = c.Int64N(1500), uint8(c.IntN(50))
	case queue.RetryList:
		r.List = []int64{0, 1 + c.Int64N(500), c.Int64N(2000)}[:1+c.IntN(3)]
	case queue.RetryDefault, queue.RetryNever:
	}
	return r
}

// read looks at a job that somebody was told of, at who leads or at somebody who may not.
func (p *producer) read() {
	c, w := p.c, p.c.w
	k := newCall(w, p.shard)
	k.read = &read{call: k}
	if jobs := c.known[p.shard]; len(jobs) > 0 {
		k = c.get(p.shard, pick(c.chance, jobs), false)
	}
	if c.chance.percent(40) {
		k.node = c.chance.IntN(w.plan.nodes)
	}
	c.insist(k, func(answer) { w.after(c.chance.about(w.plan.thinkMean), p.act) })
}

// enqueued records what became of the jobs of one command, and checks that each that was acknowledged is in the log.
func (p *producer) enqueued(a answer, made []known, ops []history.Operation) {
	c := p.c
	for i := range made {
		op := &ops[i]
		op.Return = c.w.now
		switch a.outcome {
		case outcomeUnknown:
			op.Lose()
		case outcomeDone:
			r := a.results[1+i]
			op.Code, op.State = r.Code, r.State
			stored := r.Code == queue.CodeOK || r.Code == queue.CodeDuplicate
			if stored {
				op.Pos, made[i].pos = r.Pos, r.Pos
				c.learn(p.shard, made[i])
			}
			if o := c.w.oracles[p.shard]; (stored || r.Code == queue.CodeExists) && o.jobs[r.Pos] == nil && !c.w.opts.HistoryOnly {
				c.w.fail("job %d.%d of shard %d was acknowledged and is not in the log", r.Pos.Index(), r.Pos.Ordinal(), p.shard)
			}
		case outcomeNotLeader, outcomeUnavailable:
			continue
		}
		c.history.Add(made[i].label, *op)
	}
}
