package sim

import (
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// keepEndedMax is the largest window of ended jobs that an operator sets.
const keepEndedMax = 40

// act is what an operator does to a shard.
type act uint8

const (
	actGet       act = iota
	actStale         // a get that any replica answers at once
	actList          // the jobs of a queue in a state
	actCancel        // a job
	actRetry         // a job that may be dead
	actDiscard       // a job that may be dead
	actBulk          // all dead jobs of a queue are retried or discarded
	actConfigure     // a queue gets other settings, and may be paused
	actCount
)

// operator is who looks after one shard: configures its queues, looks at jobs, cancels, and works off the dead.
type operator struct {
	c        *clients
	shard    int
	chance   chance
	versions []uint64 // of each queue's settings
	settings []queue.Settings
}

// begin makes the queues.
func (o *operator) begin() {
	w := o.c.w
	for q := range w.plan.queues {
		settings := queue.Settings{
			MaxAttempts: 6, Retry: queue.Retry{Kind: queue.RetryFixed, BaseMillis: 500}, PoisonLimit: 8, KeepEnded: 16,
		}
		if q == 1 {
			settings.TimeoutMillis = 4000
		}
		o.settings, o.versions = append(o.settings, settings), append(o.versions, 0)
		o.configure(q)
	}
	w.after(time.Second+o.chance.about(w.plan.operateMean), o.act)
}

// configure sends a queue's settings.
func (o *operator) configure(q int) {
	k := newCall(o.c.w, o.shard)
	o.versions[q]++
	k.items.Commit(queue.AppendConfigure(k.items.Buf(), queue.QueueID(q+1), o.versions[q], &o.settings[q]))
	o.c.insist(k, nil)
}

// heal lets all queues go on: a queue that is paused, or is full of what nobody works off, would never be empty.
func (o *operator) heal() {
	for q := range o.settings {
		o.settings[q].Paused = false
		o.configure(q)
	}
}

func (o *operator) act() {
	w := o.c.w
	if w.healing {
		return
	}
	w.after(o.chance.about(w.plan.operateMean), o.act)
	q := o.chance.IntN(w.plan.queues)
	what := act(o.chance.weighted(w.plan.acts))
	switch what {
	case actConfigure:
		o.reconfigure(q)
		return
	case actBulk:
		o.list(q, queue.StateDead, o.bulk)
		return
	case actList:
		o.list(q, queue.StateScheduled+queue.State(o.chance.IntN(int(queue.StateDiscarded))), nil)
		return
	case actGet, actStale, actCancel, actRetry, actDiscard:
	}
	jobs := o.c.known[o.shard]
	if len(jobs) == 0 {
		return
	}
	j := pick(o.chance, jobs)
	if what == actGet || what == actStale {
		k := o.c.get(o.shard, j, what == actStale)
		k.node = o.chance.IntN(w.plan.nodes)
		o.c.ask(k, callWait, func(answer) {})
		return
	}
	k := newCall(w, o.shard)
	o.change(k, what, j)
	o.send(k)
}

// change adds what is done to one job to a call.
func (o *operator) change(k *call, what act, j known) {
	buf, op := k.items.Buf(), history.Operation{Pos: j.pos}
	switch what {
	case actCancel:
		k.items.Commit(queue.AppendCancel(buf, j.pos, j.queue, j.priority))
		op.Kind = history.Cancel
	case actRetry:
		k.items.Commit(queue.AppendRetryDead(buf, j.pos))
		op.Kind = history.Retry
	default:
		k.items.Commit(queue.AppendDiscardDead(buf, j.pos))
		op.Kind = history.Discard
	}
	k.follow(j.label, op)
}

// send sends a call once, or until it is answered.
func (o *operator) send(k *call) {
	if o.chance.percent(50) {
		o.c.ask(k, callWait, func(answer) {})
		return
	}
	o.c.insist(k, nil)
}

// list reads the first jobs of a queue in a state; what a list shows of a job is a read of it.
func (o *operator) list(q int, st queue.State, then func([]queue.JobInfo)) {
	w := o.c.w
	k := newCall(w, o.shard)
	k.read = &read{call: k, queue: queue.QueueID(q + 1), state: st, limit: 1 + o.chance.IntN(20)}
	at := w.now
	o.c.ask(k, callWait, func(a answer) {
		for _, j := range a.jobs {
			if l, ok := o.c.labels[o.shard][j.Pos]; ok {
				op := history.Operation{Kind: history.Get, Call: at, Return: w.now, Pos: j.Pos}
				see(&op, a.jobs)
				o.c.history.Add(l, op)
			}
		}
		if then != nil && len(a.jobs) > 0 {
			then(a.jobs)
		}
	})
}

// bulk retries or discards what a list of the dead has shown, in one command.
func (o *operator) bulk(dead []queue.JobInfo) {
	what := pick(o.chance, []act{actRetry, actDiscard})
	k := newCall(o.c.w, o.shard)
	for _, j := range dead {
		// Who enqueued a job may not know yet, and then the history could not say whose it is.
		if l, ok := o.c.labels[o.shard][j.Pos]; ok {
			o.change(k, what, known{l, j.Pos, j.Queue, j.Priority})
		}
	}
	if k.items.Len() > 0 {
		o.send(k)
	}
}

// reconfigure draws other settings.
func (o *operator) reconfigure(q int) {
	c := o.chance
	o.settings[q] = queue.Settings{
		MaxAttempts: uint32(1 + c.IntN(6)), Retry: retryPolicy(c), PoisonLimit: uint32(2 + c.IntN(7)), KeepEnded: uint32(1 + c.IntN(keepEndedMax)),
		TimeoutMillis: pick(c, []int64{0, 0, 2000, 6000}), DepthMax: pick(c, []uint64{0, 0, 10, 100}), Paused: c.percent(30),
	}
	if o.settings[q].Retry.Kind == queue.RetryDefault {
		o.settings[q].Retry = queue.Retry{Kind: queue.RetryExponential, BaseMillis: 200, MaxMillis: 2000}
	}
	o.configure(q)
}
