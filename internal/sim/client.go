package sim

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
)

const (
	// callWait is how long a client waits for an answer before it tries another node.
	callWait = 2 * time.Second
	// fetchWait is how long a fetch may wait for jobs at the node.
	fetchWait = 3 * time.Second
	// beatEvery lies between two heartbeats of a worker.
	beatEvery = time.Second
)

// clients are all who use the cluster from outside.
type clients struct {
	w         *world
	chance    chance
	leaders   []int // by shard: who a client asks next
	producers []*producer
	workers   []*worker
	lastID    queue.WorkerID
	open      int // enqueues that were not answered yet
	running   int // jobs that workers have
}

func (c *clients) start(w *world) {
	c.w, c.chance = w, newChance(w.opts.Seed, forLoad)
	c.leaders = make([]int, w.plan.shards)
	for s := range w.plan.shards {
		for q := range w.plan.queues {
			configure := newCall(w, s)
			settings := queue.Settings{
				MaxAttempts: 6, Retry: queue.Retry{Kind: queue.RetryFixed, BaseMillis: 500}, PoisonLimit: 8, KeepEnded: 16,
			}
			if q == 1 {
				settings.TimeoutMillis = 4000
			}
			configure.items.Commit(queue.AppendConfigure(configure.items.Buf(), queue.QueueID(q+1), 1, &settings))
			c.insist(configure, nil)
		}
	}
	for i := range w.plan.producers {
		p := &producer{c: c, shard: i % w.plan.shards}
		binary.LittleEndian.PutUint64(p.session[:], c.chance.Uint64())
		p.session[15] = byte(i + 1)
		c.producers = append(c.producers, p)
		w.after(time.Second+c.chance.about(w.plan.thinkMean), p.act)
	}
	for i := range w.plan.workers + w.plan.shards {
		wk := &worker{c: c, shard: i % w.plan.shards, chance: newChance(w.opts.Seed, forWorkers+uint64(i)<<16), jobs: make(map[queue.Token]queue.Pos)}
		c.workers = append(c.workers, wk)
		wk.begin()
	}
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
	asked := k.node
	k.then = func(a answer) {
		if a.outcome == outcomeNotLeader && a.leader >= 0 {
			c.leaders[k.shard] = a.leader
		} else if a.outcome != outcomeDone && c.leaders[k.shard] == asked {
			c.leaders[k.shard] = c.chance.IntN(w.plan.nodes)
		}
		k.check()
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
				again.read = &read{call: &again}
			}
			c.insist(&again, then)
		})
	})
}

// producer enqueues jobs under a session, one command after the other, and reads now and then.
type producer struct {
	c        *clients
	shard    int
	session  queue.SessionID
	sequence uint64
}

func (p *producer) act() {
	c, w := p.c, p.c.w
	if w.healing {
		return
	}
	next := func(answer) { w.after(c.chance.about(w.plan.thinkMean), p.act) }
	k := newCall(w, p.shard)
	if c.chance.percent(25) {
		k.read = &read{call: k}
		if c.chance.percent(40) {
			k.node = c.chance.IntN(w.plan.nodes)
		}
		c.insist(k, next)
		return
	}
	p.sequence++
	jobs := 1 + c.chance.IntN(4)
	k.items.Commit(queue.AppendEnqueue(k.items.Buf(), p.session, p.sequence, jobs, c.chance.percent(30), 0))
	for range jobs {
		spec := queue.Spec{
			Queue: queue.QueueID(1 + c.chance.IntN(w.plan.queues)), Priority: uint8(c.chance.IntN(10)), Kind: "k",
			Payload: make([]byte, 8+c.chance.IntN(w.plan.payloadMax)),
		}
		binary.LittleEndian.PutUint64(spec.Payload, c.chance.Uint64())
		now := queue.Millis(epochMillis + w.now.Milliseconds())
		if c.chance.percent(15) {
			spec.RunAt = now + queue.Millis(c.chance.IntN(8000))
		}
		if c.chance.percent(5) {
			spec.ExpiresAt = now + 10_000 + queue.Millis(c.chance.IntN(10_000))
		}
		k.items.Commit(queue.AppendJob(k.items.Buf(), &spec))
	}
	c.open++
	c.insist(k, func(a answer) {
		c.open--
		p.enqueued(a)
		next(a)
	})
}

// enqueued checks that every job that was acknowledged is in the log.
func (p *producer) enqueued(a answer) {
	o := p.c.w.oracles[p.shard]
	for _, r := range a.results[min(1, len(a.results)):] {
		if (r.Code == queue.CodeOK || r.Code == queue.CodeDuplicate) && r.Pos != 0 && o.jobs[r.Pos] == nil {
			p.c.w.fail("job %d.%d of shard %d was acknowledged and is not in the log", r.Pos.Index(), r.Pos.Ordinal(), p.shard)
		}
	}
}

// worker fetches jobs and ends them: mostly well.
type worker struct {
	c        *clients
	shard    int
	chance   chance
	id       queue.WorkerID
	life     int
	fetching bool
	stalled  time.Duration
	jobs     map[queue.Token]queue.Pos
}

// begin starts a worker, or a new one in the place of one that died.
func (k *worker) begin() {
	k.c.lastID++
	k.id = k.c.lastID
	k.life++
	k.fetching = false
	k.c.running -= len(k.jobs)
	clear(k.jobs)
	k.beat(k.life)
}

// beat sends a heartbeat and looks for work.
func (k *worker) beat(life int) {
	w := k.c.w
	if k.life != life {
		return
	}
	w.after(beatEvery, func() { k.beat(life) })
	if w.now < k.stalled && !w.healing {
		return
	}
	b := newCall(w, k.shard)
	b.worker, b.beat = k.id, true
	for token := range k.jobs {
		b.held = append(b.held, token)
	}
	slices.Sort(b.held)
	k.c.ask(b, callWait, func(answer) {})
	k.fetch()
}

// room is how many jobs the worker takes at once.
func (k *worker) room() int {
	if k.c.w.healing {
		return 50
	}
	return k.c.w.plan.concurrency
}

func (k *worker) fetch() {
	w := k.c.w
	if k.fetching || len(k.jobs) >= k.room() {
		return
	}
	k.fetching = true
	f := newCall(w, k.shard)
	f.worker, f.fetch, f.until = k.id, true, w.now+fetchWait
	for q := range w.plan.queues {
		f.queues = append(f.queues, queue.QueueID(q+1))
	}
	f.items.Commit(queue.AppendFetch(f.items.Buf(), k.id, f.queues, k.room()-len(k.jobs), 0, 0))
	life := k.life
	k.c.ask(f, fetchWait+callWait, func(a answer) {
		if k.life != life {
			return
		}
		k.fetching = false
		for _, l := range a.leases {
			if holder := w.oracles[k.shard].holders[l.Token]; holder != k.id {
				w.fail("worker %d was handed job %d.%d, which worker %d holds", k.id, l.Pos.Index(), l.Pos.Ordinal(), holder)
			}
			k.jobs[l.Token] = l.Pos
			k.c.running++
			work := w.plan.workMean
			if w.healing {
				work /= 100 // a backlog of the faulty time is worked off
			}
			w.after(k.chance.about(work), func() { k.finish(life, l) })
		}
		if a.outcome == outcomeDone {
			w.after(k.chance.between(0, 20*time.Millisecond), func() {
				if k.life == life {
					k.fetch()
				}
			})
		}
	})
}

// finish ends a job, one way or the other.
func (k *worker) finish(life int, l queue.Lease) {
	w := k.c.w
	if k.life != life {
		return
	}
	if w.now < k.stalled && !w.healing { // it wakes up late, and does not know
		w.after(k.stalled-w.now, func() { k.finish(life, l) })
		return
	}
	delete(k.jobs, l.Token)
	k.c.running--
	end := newCall(w, k.shard)
	buf := end.items.Buf()
	bad := !w.healing && k.chance.percent(w.plan.badWorkers)
	way := k.chance.IntN(7)
	switch {
	case !bad:
		end.items.Commit(queue.AppendAck(buf, l.Pos, l.Token, "", nil))
	case way == 0:
		end.items.Commit(queue.AppendRelease(buf, l.Pos, l.Token))
	case way == 1:
		end.items.Commit(queue.AppendProgress(buf, l.Pos, l.Token, 50, "half"))
		end.items.Commit(queue.AppendExtend(end.items.Buf(), l.Pos, l.Token, 2000))
	case way == 2: // dies
		k.begin()
		return
	case way == 3:
		k.stalled = w.now + k.chance.between(time.Second, 12*time.Second)
		return
	case way == 4: // acks twice
		end.items.Commit(queue.AppendAck(buf, l.Pos, l.Token, "", []byte("r")))
		twice := newCall(w, k.shard)
		twice.items.Commit(queue.AppendAck(twice.items.Buf(), l.Pos, l.Token, "", []byte("r")))
		w.after(k.chance.about(time.Second), func() { k.c.ask(twice, callWait, func(answer) {}) })
	default:
		end.items.Commit(queue.AppendFail(buf, l.Pos, l.Token, &queue.Failure{Type: "t", Final: way == 6 && k.chance.percent(10)}))
	}
	k.c.insist(end, nil)
	k.fetch()
}
