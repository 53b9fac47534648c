package engine

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// uniqueLoad sends jobs of few unique keys, works on them, and keeps account of who held which key when. Its clock counts what was begun
// and what was over: a job holds its key for certain from the end of its enqueue, or retry, to the begin of what ends it, and can hold it at
// most from the begin of the one to the end of the other.
type uniqueLoad struct {
	t    testing.TB
	c    *fleet
	name string
	seed uint64

	mu      sync.Mutex
	clock   int
	keys    map[JobID]string
	gained  map[JobID][]span // enqueues and retries of a job
	ended   map[JobID][]span // and what ended it, or made it dead
	unsure  map[JobID]bool   // whether a retry was one is not known
	dead    []JobID
	unknown map[string]bool // keys of which a job may be stored that nobody was told of
	named   []naming
}

// span is from when to when something was under way.
type span struct{ begin, end int }

// naming is an answer that names a job as the holder of a key.
type naming struct {
	key string
	id  JobID
	at  span
}

func newUniqueLoad(t testing.TB, c *fleet, name string, seed uint64) *uniqueLoad {
	return &uniqueLoad{
		t: t, c: c, name: name, seed: seed, keys: map[JobID]string{}, gained: map[JobID][]span{}, ended: map[JobID][]span{},
		unsure: map[JobID]bool{}, unknown: map[string]bool{},
	}
}

// tick is a moment after all before.
func (l *uniqueLoad) tick() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.clock++
	return l.clock
}

// locked notes something.
func (l *uniqueLoad) locked(note func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	note()
}

// round changes the queue under load, and then has it come to rest.
func (l *uniqueLoad) round(round int, change func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	var producers, others sync.WaitGroup
	for k := range 5 {
		producers.Go(func() { l.produce(round, k) })
	}
	for k := range 2 {
		others.Go(func() { l.work(ctx, rand.New(rand.NewPCG(l.seed, uint64(100+10*round+k)))) })
	}
	others.Go(func() { l.disturb(ctx, rand.New(rand.NewPCG(l.seed, uint64(200+round)))) })
	pauseFor(30 * time.Millisecond)
	for change(ctx) != nil {
		pauseFor(10 * time.Millisecond)
	}
	producers.Wait()
	l.c.await("nothing is left", func() bool {
		s, err := l.c.nodes[1].Queue(ctx, l.name)
		if err != nil || s.Info.Live() > s.Info.ByState[queue.StateDead] {
			return false
		}
		_, _, err = l.c.nodes[1].DiscardAllDead(ctx, l.name, "", BulkMax)
		return err == nil
	})
	stop()
	others.Wait()
}

// moves moves the queue to another shard.
func (l *uniqueLoad) moves(ctx context.Context) error {
	s, err := l.c.nodes[1].Queue(ctx, l.name)
	if err == nil && s.MovingFrom == 0 {
		_, err = l.c.nodes[1].MoveQueue(ctx, l.name, s.Shard%3+1)
	}
	return err
}

// partitions gives the queue so many partitions, at a node.
func (l *uniqueLoad) partitions(node uint64, count int) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := l.c.nodes[node].PartitionQueue(ctx, l.name, count, asIs)
		return err
	}
}

// produce is a producer: the first three have sessions, and repeat their requests.
func (l *uniqueLoad) produce(round, k int) {
	rng := rand.New(rand.NewPCG(l.seed, uint64(10*round+k)))
	node := func() *Engine { return l.c.nodes[uint64(1+rng.IntN(3))] }
	for n := range 25 {
		r := l.request(rng)
		begin := l.tick()
		if k >= 3 {
			out, err := node().Enqueue(context.Background(), r, nil)
			l.note(r, out, err, begin)
			pauseFor(time.Duration(rng.IntN(8)) * time.Millisecond)
			continue
		}
		session, seq := byte(1+k), uint64(25*round+n+1)
		was := send(l.t, node(), session, seq, r.Atomic, r.Jobs...)
		l.note(r, was, nil, begin)
		for range rng.IntN(3) {
			pauseFor(time.Duration(rng.IntN(10)) * time.Millisecond)
			for i, o := range send(l.t, node(), session, seq, r.Atomic, r.Jobs...) {
				if o.ID != was[i].ID || o.Existing != was[i].Existing || !o.Duplicate {
					l.t.Errorf("producer %d, request %d: job %d is %+v, was %+v", k, seq, i, o, was[i])
				}
			}
		}
		pauseFor(time.Duration(rng.IntN(8)) * time.Millisecond)
	}
}

// request is a request whose jobs have few keys; an atomic one has one key, since its jobs live on one shard.
func (l *uniqueLoad) request(rng *rand.Rand) *EnqueueRequest {
	r := &EnqueueRequest{Atomic: rng.IntN(4) == 0}
	for range 1 + rng.IntN(3) {
		j := uniqueJob(l.name, fmt.Sprint("key", rng.IntN(4)))
		if rng.IntN(3) == 0 {
			j.Spec.OrderingKey = "o"
		}
		if r.Atomic && len(r.Jobs) > 0 {
			j = r.Jobs[0]
		}
		r.Jobs = append(r.Jobs, j)
	}
	return r
}

// note notes the answers to a request.
func (l *uniqueLoad) note(r *EnqueueRequest, out []Enqueued, err error, begin int) {
	end := l.tick()
	l.locked(func() {
		for i := range r.Jobs {
			s := &r.Jobs[i].Spec
			key := s.OrderingKey + "/" + s.UniqueKey
			switch {
			case err != nil || out[i].Err != nil:
				l.unknown[key] = true
			case out[i].Existing:
				l.named = append(l.named, naming{key, out[i].ID, span{begin, end}})
			case l.keys[out[i].ID] != "": // two jobs of a request
				l.t.Errorf("%v is stored twice", out[i].ID)
			default:
				l.keys[out[i].ID] = key
				l.gained[out[i].ID] = []span{{begin, end}}
			}
		}
	})
}

// work fetches jobs and ends them, some with failures.
func (l *uniqueLoad) work(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		got, err := l.c.nodes[uint64(1+rng.IntN(3))].Fetch(ctx, &FetchRequest{Queues: []string{l.name}, Max: 2, Wait: time.Second})
		if err != nil {
			pauseFor(10 * time.Millisecond)
			continue
		}
		for _, j := range got {
			pauseFor(time.Duration(rng.IntN(20)) * time.Millisecond)
			o := Outcome{Kind: OutcomeAck, ID: j.ID, Token: j.Token}
			switch rng.IntN(6) {
			case 0:
				o.Kind, o.Failure = OutcomeFail, Failure{Message: "again", DelayMillis: 5}
			case 1:
				o.Kind, o.Failure = OutcomeFail, Failure{Message: "never", Final: true}
			case 2:
				o.Kind = OutcomeRelease
			}
			l.finish(l.c.nodes[uint64(1+rng.IntN(3))], o)
		}
	}
}

// finish ends an attempt, until it is known that it did.
func (l *uniqueLoad) finish(e *Engine, o Outcome) {
	begin := l.tick()
	for {
		ended, err := e.Finish(context.Background(), 0, []Outcome{o}, nil)
		if err == nil && ended[0].Err != nil && ended[0].Err.Code != CodeFailedPrecondition {
			err = ended[0].Err
		}
		if err != nil {
			pauseFor(10 * time.Millisecond)
			continue
		}
		break
	}
	if o.Kind == OutcomeRelease || o.Kind == OutcomeFail && !o.Failure.Final {
		return
	}
	end := l.tick()
	l.locked(func() {
		l.ended[o.ID] = append(l.ended[o.ID], span{begin, end})
		if o.Kind == OutcomeFail {
			l.dead = append(l.dead, o.ID)
		}
	})
}

// disturb moves leads, breaks connections, and retries dead jobs.
func (l *uniqueLoad) disturb(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		pauseFor(time.Duration(10+rng.IntN(40)) * time.Millisecond)
		switch rng.IntN(4) {
		case 0:
			id, to := shard.ID(1+rng.IntN(3)), shard.NodeID(1+rng.IntN(3))
			for _, e := range l.c.nodes {
				if lead, _ := e.host.LeadershipOf(id); lead.Leading {
					_ = e.host.TransferLead(ctx, id, to)
				}
			}
		case 1:
			l.c.net.hangUp()
		default:
			l.retry(ctx, l.c.nodes[uint64(1+rng.IntN(3))], rng)
		}
	}
}

// retry retries a dead job.
func (l *uniqueLoad) retry(ctx context.Context, e *Engine, rng *rand.Rand) {
	var id JobID
	l.locked(func() {
		if n := len(l.dead); n > 0 {
			k := rng.IntN(n)
			id, l.dead = l.dead[k], slices.Delete(l.dead, k, k+1)
		}
	})
	if id == (JobID{}) {
		return
	}
	begin := l.tick()
	ended, err := e.RetryDead(ctx, []JobID{id}, nil)
	end := l.tick()
	l.locked(func() {
		switch {
		case err != nil || ended[0].Err != nil && ended[0].Err.Code == CodeUnknownOutcome:
			l.unsure[id] = true
		case ended[0].Err == nil:
			l.gained[id] = append(l.gained[id], span{begin, end})
		}
	})
}

// check holds what was noted against what must be.
func (l *uniqueLoad) check() {
	l.t.Helper()
	type holding struct {
		id       JobID
		from, to int
	}
	certain := make(map[string][]holding)
	for id, key := range l.keys {
		for k, g := range l.gained[id] {
			to := math.MaxInt
			if k < len(l.ended[id]) {
				to = l.ended[id][k].begin
			}
			if from := g.end; from < to && !(l.unsure[id] && k > 0) {
				certain[key] = append(certain[key], holding{id, from, to})
			}
		}
	}
	held := 0
	for key, all := range certain {
		held += len(all)
		slices.SortFunc(all, func(a, b holding) int { return cmp.Compare(a.from, b.from) })
		for i := 1; i < len(all); i++ {
			if a, b := all[i-1], all[i]; b.from < a.to && a.id != b.id {
				l.t.Errorf("key %s is held by %v from %d to %d, and by %v from %d to %d", key, a.id, a.from, a.to, b.id, b.from, b.to)
			}
		}
	}
	for _, n := range l.named {
		switch key, ok := l.keys[n.id]; {
		case !ok && l.unknown[n.key]:
		case key != n.key:
			l.t.Errorf("%v was named for the key %s, and has %q", n.id, n.key, key)
		case !l.mayHold(n.id, n.at):
			l.t.Errorf("%v was named as a holder of %s from %d to %d: it held it %v, until %v", n.id, n.key, n.at.begin, n.at.end, l.gained[n.id], l.ended[n.id])
		}
	}
	l.t.Logf("%d jobs held keys %d times, and were named %d times", len(l.keys), held, len(l.named))
}

// mayHold reports whether a job can have held its key at some time of a span.
func (l *uniqueLoad) mayHold(id JobID, at span) bool {
	for k, g := range l.gained[id] {
		if g.begin < at.end && (l.unsure[id] || k >= len(l.ended[id]) || l.ended[id][k].end > at.begin) {
			return true
		}
	}
	return false
}
