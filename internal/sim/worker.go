package sim

import (
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
)

// way is how a worker ends an attempt that it does not just finish.
type way uint8

const (
	wayRelease way = iota
	wayExtend      // goes on, and says so
	wayDie         // and a new worker comes
	wayStall       // stands still, and does not know
	wayTwice       // acks, and acks again
	wayFail
	wayFinal   // fails for good
	wayDelay   // fails, and says when to try again
	wayGoodbye // leaves, and says so
	wayForget  // never speaks of the job again
	wayCount
)

// worker fetches jobs and ends them: mostly well.
type worker struct {
	c         *clients
	shard     int
	chance    chance
	anonymous bool // it does not register: its leases last as long as it says
	id        queue.WorkerID
	life      int
	fetching  bool
	stalled   time.Duration
	jobs      map[queue.Token]granted
}

// begin starts a worker, or a new one in the place of one that died.
func (k *worker) begin() {
	if !k.anonymous {
		k.c.lastID++
		k.id = k.c.lastID
	}
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
	if !k.anonymous {
		b := newCall(w, k.shard)
		b.worker, b.beat = k.id, true
		for token := range k.jobs {
			b.held = append(b.held, token)
		}
		slices.Sort(b.held)
		k.c.ask(b, callWait, func(answer) {})
	}
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
	bytes, lease := 0, int64(0)
	if k.chance.percent(20) {
		bytes = queue.SmallJobBytes * (1 + k.chance.IntN(4))
	}
	if k.anonymous {
		lease = 1000 + k.chance.Int64N(9000)
	}
	at := w.now
	f.items.Commit(queue.AppendFetch(f.items.Buf(), k.id, f.queues, k.room()-len(k.jobs), bytes, lease))
	life := k.life
	k.c.ask(f, fetchWait+callWait, func(a answer) {
		if k.life != life {
			return
		}
		k.fetching = false
		for _, l := range a.leases {
			k.take(l, at)
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

// take takes a job that a fetch, asked for at a moment, has brought.
func (k *worker) take(l granted, at time.Duration) {
	w := k.c.w
	if holder := w.oracles[k.shard].holders[l.Token]; holder != k.id && !w.opts.HistoryOnly {
		w.fail("worker %d was handed job %d.%d, which worker %d holds", k.id, l.Pos.Index(), l.Pos.Ordinal(), holder)
	}
	k.c.history.Add(l.label, history.Operation{
		Kind: history.Lease, Call: at, Return: w.now, Pos: l.Pos, Token: l.Token, Attempt: l.Attempt,
	})
	k.c.learn(k.shard, known{l.label, l.Pos, l.Queue, l.Priority})
	if _, has := k.jobs[l.Token]; !has {
		k.c.running++
	}
	k.jobs[l.Token] = l
	work, life := w.plan.workMean, k.life
	if w.healing {
		work /= 100 // a backlog of the faulty time is worked off
	}
	w.after(k.chance.about(work), func() { k.finish(life, l) })
}

// finish ends a job, one way or the other.
func (k *worker) finish(life int, l granted) {
	w := k.c.w
	if _, has := k.jobs[l.Token]; k.life != life || !has {
		return
	}
	if w.now < k.stalled && !w.healing { // it wakes up late, and does not know
		w.after(k.stalled-w.now, func() { k.finish(life, l) })
		return
	}
	if !w.healing && k.chance.percent(w.plan.badWorkers) {
		k.misbehave(l, way(k.chance.weighted(w.plan.ways)))
		return
	}
	k.drop(l)
	end := newCall(w, k.shard)
	end.items.Commit(queue.AppendAck(end.items.Buf(), l.Pos, l.Token, "", nil))
	end.follow(l.label, l.does(history.Ack))
	k.c.insist(end, nil)
	k.fetch()
}

// drop forgets a job.
func (k *worker) drop(l granted) {
	delete(k.jobs, l.Token)
	k.c.running--
}

// does is an operation of who holds the lease.
func (l *granted) does(kind history.Kind) history.Operation {
	return history.Operation{Kind: kind, Pos: l.Pos, Token: l.Token}
}

// misbehave ends an attempt in another way than well, or not at all.
func (k *worker) misbehave(l granted, how way) {
	w := k.c.w
	end := newCall(w, k.shard)
	buf := end.items.Buf()
	failure := queue.Failure{Type: "t", Message: "it failed", Stack: "main.go:1"}
	switch how {
	case wayExtend:
		end.items.Commit(queue.AppendProgress(buf, l.Pos, l.Token, uint8(k.chance.IntN(101)), "on it"))
		end.follow(l.label, l.does(history.Progress))
		end.items.Commit(queue.AppendExtend(end.items.Buf(), l.Pos, l.Token, 2000))
		end.follow(l.label, l.does(history.Extend))
		k.c.ask(end, callWait, func(answer) {})
		life := k.life
		w.after(k.chance.about(w.plan.workMean), func() { k.finish(life, l) })
		return
	case wayDie:
		k.begin()
		return
	case wayGoodbye:
		if !k.anonymous {
			end.items.Commit(queue.AppendWorkerGone(buf, k.id))
			k.c.insist(end, nil)
		}
		k.begin()
		return
	case wayStall:
		k.stalled = w.now + k.chance.between(time.Second, 12*time.Second)
		life := k.life
		if k.chance.percent(50) { // it finishes the job late
			w.after(k.stalled-w.now, func() { k.finish(life, l) })
			return
		}
		k.drop(l)
		return
	case wayForget:
		k.drop(l)
		return
	case wayRelease:
		end.items.Commit(queue.AppendRelease(buf, l.Pos, l.Token))
		end.follow(l.label, l.does(history.Release))
	case wayTwice:
		end.items.Commit(queue.AppendAck(buf, l.Pos, l.Token, "text/plain", []byte("r")))
		end.follow(l.label, l.does(history.Ack))
		twice := newCall(w, k.shard)
		twice.items.Commit(queue.AppendAck(twice.items.Buf(), l.Pos, l.Token, "text/plain", []byte("r")))
		twice.follow(l.label, l.does(history.Ack))
		w.after(k.chance.about(time.Second), func() { k.c.ask(twice, callWait, func(answer) {}) })
	default:
		failure.Final = how == wayFinal
		if how == wayDelay {
			failure.DelayMillis = 1 + k.chance.Int64N(3000)
		}
		end.items.Commit(queue.AppendFail(buf, l.Pos, l.Token, &failure))
		end.follow(l.label, l.does(history.Fail))
	}
	k.drop(l)
	k.c.insist(end, nil)
	k.fetch()
}
