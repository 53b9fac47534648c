package sim

import (
	"encoding/binary"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

const (
	// callWait is how long a client waits for an answer before it tries another node.
	callWait = 2 * time.Second
	// fetchWait is how long a fetch may wait for jobs at the node.
	fetchWait = 3 * time.Second
	// beatEvery lies between two heartbeats of a worker.
	beatEvery = time.Second
	// knownMax is how many of the jobs of a shard the clients remember for later calls.
	knownMax = 48
)

// clients are all who use the cluster from outside.
type clients struct {
	w         *world
	chance    chance
	history   history.Log
	leaders   []int // by shard: who a client asks next
	producers []*producer
	workers   []*worker
	operators []*operator // by shard
	known     [][]known   // by shard: jobs of late
	next      []int       // by shard: where the next one goes
	labels    []map[queue.Pos]history.Label
	lastID    queue.WorkerID
	open      int // enqueues that were not answered yet
	running   int // jobs that workers have
}

// known is a job that some client was told of.
type known struct {
	label    history.Label
	pos      queue.Pos
	queue    queue.QueueID
	priority uint8
}

func (c *clients) start(w *world) {
	c.w, c.chance = w, newChance(w.opts.Seed, forLoad)
	c.leaders = make([]int, w.plan.shards)
	c.known, c.next = make([][]known, w.plan.shards), make([]int, w.plan.shards)
	for s := range w.plan.shards {
		c.labels = append(c.labels, make(map[queue.Pos]history.Label))
		o := &operator{c: c, shard: s, chance: newChance(w.opts.Seed, forOperators+uint64(s)<<16)}
		c.operators = append(c.operators, o)
		o.begin()
	}
	for i := range w.plan.producers {
		p := &producer{c: c, shard: i % w.plan.shards, keys: newChance(w.opts.Seed, forKeys+uint64(i+1)<<16)}
		binary.LittleEndian.PutUint64(p.session[:], c.chance.Uint64())
		p.session[15] = byte(i + 1)
		c.producers = append(c.producers, p)
		w.after(time.Second+c.chance.about(w.plan.thinkMean), p.act)
	}
	for i := range w.plan.workers + w.plan.shards {
		wk := &worker{c: c, shard: i % w.plan.shards, chance: newChance(w.opts.Seed, forWorkers+uint64(i)<<16), jobs: make(map[queue.Token]granted)}
		wk.anonymous = wk.chance.percent(w.plan.anonymous)
		c.workers = append(c.workers, wk)
		wk.begin()
	}
}

// learn remembers a job of a shard.
func (c *clients) learn(shard int, k known) {
	c.labels[shard][k.pos] = k.label
	if len(c.known[shard]) < knownMax {
		c.known[shard] = append(c.known[shard], k)
		return
	}
	c.known[shard][c.next[shard]%knownMax] = k
	c.next[shard]++
}

// reply is told of an answer that arrives.
func (c *clients) reply(e *event) {
	c.w.trace.mix(uint64(e.at), uint64(e.call.answer.outcome), e.call.answer.index)
	if e.call.then != nil {
		then := e.call.then
		e.call.then = nil
		then(e.call.answer)
	}
}

// ask sends a call to whom the client takes for the leader, and calls then with the answer, or with outcomeUnknown when none
// comes in time.
func (c *clients) ask(k *call, wait time.Duration, then func(answer)) {
	w := c.w
	if k.node < 0 {
		k.node = c.leaders[k.shard]
	}
	to, at := k.node, w.now
	k.then = func(a answer) {
		if a.outcome == outcomeNotLeader && a.leader >= 0 {
			c.leaders[k.shard] = a.leader
		} else if a.outcome != outcomeDone && c.leaders[k.shard] == to {
			c.leaders[k.shard] = c.chance.IntN(w.plan.nodes)
		}
		k.check()
		record(&c.history, k, at, w.now, &a)
		then(a)
	}
	w.counts.Operations++
	w.net.send(w.net.outside, k.node, event{kind: evRequest, node: k.node, shard: k.shard, call: k})
	w.after(wait, func() {
		if k.then != nil {
			k.over = true
			timeout := k.then
			k.then = nil
			k.answer = answer{outcome: outcomeUnknown, leader: -1}
			timeout(k.answer)
		}
	})
}

// insist repeats a call until it is answered; floors stay those of the first try.
func (c *clients) insist(k *call, then func(answer)) {
	again := *k
	c.ask(k, callWait, func(a answer) {
		if a.outcome == outcomeDone {
			if then != nil {
				then(a)
			}
			return
		}
		c.w.counts.Retries++
		c.w.after(c.chance.between(20*time.Millisecond, 300*time.Millisecond), func() {
			again.taken, again.over, again.node = false, false, -1
			if again.read != nil {
				r := *again.read
				r.call = &again
				again.read = &r
			}
			c.insist(&again, then)
		})
	})
}

// get reads one job. stale: from any replica, which may be behind.
func (c *clients) get(shard int, j known, stale bool) *call {
	k := newCall(c.w, shard)
	k.read = &read{call: k, stale: stale, pos: j.pos, queue: j.queue, priority: j.priority}
	k.asked = append(k.asked, asked{label: j.label, op: history.Operation{Kind: history.Get, Pos: j.pos, Stale: stale}})
	return k
}
