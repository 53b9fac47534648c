package sim

import (
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

type outcome uint8

const (
	outcomeDone outcome = iota
	outcomeNotLeader
	outcomeUnavailable // certainly nothing happened
	outcomeUnknown
)

// answer is what a node says to a call.
type answer struct {
	outcome outcome
	leader  int    // of outcomeNotLeader: index of the node, or -1
	index   uint64 // of the entry, or at which was read
	results []queue.Result
	leases  []granted
	jobs    []queue.JobInfo // of a read
}

// granted is a job that a fetch got, with what its payload says.
type granted struct {
	queue.Lease
	label history.Label
}

// call is one request of a client, on its way to a node and back.
type call struct {
	w      *world
	shard  int
	node   int
	items  shard.Items
	taken  bool // it is in an entry
	over   bool
	then   func(a answer) // at the client; nil: nobody waits
	answer answer
	asked  []asked
	floor  uint64 // the highest index that anybody was told when it was made: it must see that

	worker queue.WorkerID
	beat   bool
	held   []queue.Token
	fetch  bool
	queues []queue.QueueID
	until  time.Duration
	read   *read
}

// follow has the history follow the item that was committed last.
func (c *call) follow(l history.Label, o history.Operation) {
	c.asked = append(c.asked, asked{label: l, item: c.items.Len() - 1, op: o})
}

// read is a read of some jobs: of one by its position, or of the first of a queue in a state.
type read struct {
	call  *call
	at    *member
	stale bool // from any replica at once, without asking whether it is behind

	pos      queue.Pos // 0: list
	queue    queue.QueueID
	priority uint8
	state    queue.State
	limit    int
}

// Finish implements replica.Read.
func (r *read) Finish(err error) {
	if err != nil {
		r.at.refuse(r.call)
		return
	}
	r.serve(r.at)
}

// Abandoned implements replica.Read.
func (r *read) Abandoned() bool { return r.call.over }

func (r *read) serve(m *member) {
	if m.driver.unheard(r.call) {
		return
	}
	a := answer{outcome: outcomeDone, index: m.driver.machine.Applied()}
	switch {
	case r.pos != 0:
		if info, ok := m.driver.machine.Job(r.pos, r.queue, r.priority); ok {
			a.jobs = append(a.jobs, info)
		}
	case r.limit > 0:
		a.jobs, _ = m.driver.machine.List(r.queue, r.state, queue.Cursor{}, r.limit)
	}
	r.call.reply(a)
}

func newCall(w *world, id int) *call {
	return &call{w: w, shard: id, node: -1, floor: w.oracles[id].acked}
}

// reply sends the answer back. The first answer counts.
func (c *call) reply(a answer) {
	if c.over || c.then == nil {
		return
	}
	c.over = true
	c.answer = a
	c.w.net.send(c.node, c.w.net.outside, event{kind: evReply, call: c})
}

// lost does nothing: a client whose answer does not come goes by its own clock.
func (c *call) lost() { c.over = true }

// check holds an answer against what others were told before, and records it.
func (c *call) check() {
	a, o := &c.answer, c.w.oracles[c.shard]
	if a.outcome != outcomeDone || a.index == 0 || c.w.opts.HistoryOnly {
		return
	}
	if a.index > o.high {
		c.w.fail("a client was answered from entry %d of shard %d, and only %d were ever applied", a.index, c.shard, o.high)
	}
	switch {
	case c.read != nil:
		c.w.counts.Reads++
		if a.index < c.floor && !c.read.stale {
			c.w.fail("a read of shard %d saw entry %d; entry %d was acknowledged before it was asked for", c.shard, a.index, c.floor)
		}
	case a.index <= c.floor:
		c.w.fail("an operation on shard %d took effect at entry %d, before entry %d, which was acknowledged before it was asked for", c.shard, a.index, c.floor)
	}
	o.acked = max(o.acked, a.index)
}
