package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestRepeatsAcrossQuickMoves: requests of sessions come for the first time, and again and again while clients may repeat them, at nodes that
// have heard of all changes of the queues' homes, or of none of the last few, and the homes change whenever they can. Each request is stored
// once, and all who ask are told the same.
func TestRepeatsAcrossQuickMoves(t *testing.T) {
	checkInBubbles(t, func(t *testing.T, rt *rapid.T) {
		m := newQuickMoves(t, rt)
		m.run(m.sendNew, m.drain)
	})
}

// checkInBubbles has rapid look for a case that fails, each of which has a bubble of its own. A failure leaves the bubble before rapid sees
// it, which then prints the seed and looks for a smaller case.
func checkInBubbles(t *testing.T, model func(t *testing.T, rt *rapid.T)) {
	rapid.Check(t, func(rt *rapid.T) {
		var failure any
		synctest.Test(t, func(t *testing.T) {
			defer func() { failure = recover() }()
			model(t, rt)
		})
		switch { // rapid tells failures by the line where they come from
		case rt.Failed():
			panic(failure)
		case failure != nil: // also rapid's own way to end a case that asks for too much
			panic(failure)
		}
	})
}

// quickMoves is the model: what was sent, and what was answered.
type quickMoves struct {
	t      *testing.T
	rt     *rapid.T
	disk   *vfs.Sim
	e      *Engine
	views  []*table // of the routes, oldest first
	sent   []*sentRequest
	stored map[string]uint64
	count  int // of requests so far
}

type sentRequest struct {
	jobs   []NewJob
	number int // of all requests of sessions, from 0; or sentOnce
	atomic bool
	at     time.Time
	answer []Enqueued // nil: it was refused as a whole
}

const (
	quickViews  = 6
	repeatsFor  = 10 * time.Minute
	quickQueues = "abc"
	sentOnce    = -1 // the number of requests without a session
)

func newQuickMoves(t *testing.T, rt *rapid.T) *quickMoves {
	m := &quickMoves{t: t, rt: rt, stored: make(map[string]uint64), disk: vfs.NewSim(1, vfs.SimOptions{})}
	m.open()
	for _, name := range quickQueues {
		if _, err := m.e.PartitionQueue(context.Background(), string(name), rapid.IntRange(1, 3).Draw(rt, "partitions"), asIs); err != nil {
			rt.Fatal(err)
		}
	}
	m.look() // all know of the queues
	return m
}

// run makes steps of which some send a new request and some work off jobs, and repeats all requests at the end.
func (m *quickMoves) run(send, work func()) {
	for range rapid.IntRange(1, 40).Draw(m.rt, "steps") {
		switch rapid.IntRange(0, 20).Draw(m.rt, "step") / 2 {
		case 10:
			m.restart()
		case 0, 1, 2:
			send()
		case 3, 4, 5:
			if len(m.sent) > 0 {
				m.repeat(m.sent[len(m.sent)-1-rapid.IntRange(0, min(len(m.sent)-1, 12)).Draw(m.rt, "back")])
			}
		case 6, 7:
			m.spreadOne()
		case 8:
			pauseFor(time.Duration(rapid.SampledFrom([]int{1, 30, 200, 600, 1000}).Draw(m.rt, "seconds")) * time.Second)
		default:
			work()
		}
	}
	for _, r := range m.sent {
		m.repeat(r)
	}
	for name, want := range m.stored {
		if s, err := m.e.Queue(context.Background(), name); err != nil || s.Info.Enqueued != want {
			m.rt.Fatalf("%d jobs of %s were sent: %+v, %v", want, name, s, err)
		}
	}
}

func (m *quickMoves) open() {
	m.e = open(m.t, m.disk, func(o *Options) { o.Shards = 3 })
}

// restart stops the node, or it crashes, and starts it again.
func (m *quickMoves) restart() {
	crashed := m.disk.CrashClone(vfs.AllLost())
	shut(m.t, m.e)
	if rapid.Bool().Draw(m.rt, "crash") {
		m.disk = crashed
	}
	m.open()
	m.views = nil
	m.look()
}

// spread changes a queue's homes, if they can change now: to others of the same number too, by way of a move.
func (m *quickMoves) spread(name string, count int) {
	_, err := m.e.PartitionQueue(context.Background(), name, count, asIs)
	if err == nil && count == 1 {
		_, err = m.e.MoveQueue(context.Background(), name, uint16(rapid.IntRange(1, 3).Draw(m.rt, "shard")))
	}
	if err != nil && asError(err).Reason != ReasonMoving {
		m.rt.Fatalf("%d partitions of %s: %v", count, name, err)
	}
	m.look()
}

// spreadOne changes the homes of one of the queues, if they can change now.
func (m *quickMoves) spreadOne() {
	m.spread(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(m.rt, "queue"), rapid.IntRange(1, 3).Draw(m.rt, "partitions"))
}

// look notes the newest routes, which a node has that has heard of everything.
func (m *quickMoves) look() {
	if _, err := m.e.relearn(context.Background()); err != nil {
		m.rt.Fatal(err)
	}
	m.views = append(m.views, m.e.routes.table())
	m.views = m.views[max(0, len(m.views)-quickViews):]
}

func (m *quickMoves) drain() {
	for {
		got := fetchJobs(m.t, m.e, 0, 100, "a", "b", "c")
		if len(got) == 0 {
			return
		}
		ack(m.t, m.e, got...)
	}
}

func (m *quickMoves) sendNew() {
	m.count++
	r := &sentRequest{at: time.Now(), number: m.count - 1, atomic: rapid.IntRange(0, 3).Draw(m.rt, "atomic") == 0}
	for i := range rapid.IntRange(1, 4).Draw(m.rt, "jobs") {
		j := NewJob{Queue: rapid.SampledFrom([]string{"a", "a", "b", "c"}).Draw(m.rt, "queue"), Spec: Spec{Priority: 5, Kind: "k", Payload: fmt.Append(nil, i)}}
		if !r.atomic {
			j.Spec.OrderingKey = rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(m.rt, "key")
		}
		r.jobs = append(r.jobs, j)
	}
	m.sent = append(m.sent, r)
	out, err := m.bring(r)
	switch {
	case err == nil:
	case r.atomic && asError(err).Code == CodeInvalidArgument: // they are apart
		m.sent = m.sent[:len(m.sent)-1]
		return
	default:
		m.rt.Fatalf("a new request: %v", err)
	}
	r.answer = slices.Clone(out)
	for i := range out {
		if out[i].Err != nil || out[i].Duplicate {
			m.rt.Fatalf("job %d of a new request: %+v", i, out[i])
		}
		m.stored[r.jobs[i].Queue]++
	}
}

// repeat sends a request again, if a client would still do so.
func (m *quickMoves) repeat(r *sentRequest) {
	if time.Since(r.at) > repeatsFor {
		return
	}
	out, err := m.bring(r)
	if err != nil {
		m.rt.Fatalf("a request again: %v", err)
	}
	for i := range out {
		if out[i].Err != nil || !out[i].Duplicate || out[i].ID != r.answer[i].ID || out[i].Existing != r.answer[i].Existing {
			m.rt.Fatalf("a request again: job %d is %+v, was %+v", i, out[i], r.answer[i])
		}
	}
}

// bring brings a request to a node that has heard of all changes of the queues' homes, or of none of the last few, or that has heard of those
// of one queue and not yet of those of another. While the request waits for a shard, the node may hear of the others, or homes change.
func (m *quickMoves) bring(r *sentRequest) ([]Enqueued, error) {
	m.e.routes.current.Store(m.behind())
	request := &EnqueueRequest{Atomic: r.atomic, Jobs: slices.Clone(r.jobs)}
	if k := r.number; k != sentOnce {
		request.Session, request.Sequence = SessionID{byte(1 + k/queue.SessionWindow)}, uint64(1+k%queue.SessionWindow)
	}
	out, err := m.e.Enqueue(m.meanwhile(), request, nil)
	if _, learnt := m.e.relearn(context.Background()); learnt != nil {
		m.rt.Fatal(learnt)
	}
	return out, err
}

// behind are the routes of a node that may not have heard of everything.
func (m *quickMoves) behind() *table {
	t := newRoutes().table()
	all := rapid.IntRange(0, len(m.views)-1).Draw(m.rt, "view")
	each := rapid.IntRange(0, 3).Draw(m.rt, "each queue's own view") == 0
	for _, name := range quickQueues {
		view := m.views[all]
		if each {
			view = m.views[rapid.IntRange(0, len(m.views)-1).Draw(m.rt, "view of "+string(name))]
		}
		rt := view.byName[string(name)]
		t.byName[rt.name] = rt
		for _, h := range rt.all {
			t.byID[h.id] = rt
		}
	}
	return t
}

// meanwhile is the context of a request during which something happens, at one of the times when it waits, or nothing.
func (m *quickMoves) meanwhile() context.Context {
	in := rapid.IntRange(-6, 10).Draw(m.rt, "something happens at wait")
	if in <= 0 {
		return context.Background()
	}
	return &eventful{Context: context.Background(), in: in, then: func() {
		if !rapid.Bool().Draw(m.rt, "homes change") {
			if _, err := m.e.relearn(context.Background()); err != nil {
				m.rt.Fatal(err)
			}
			return
		}
		m.spreadOne()
	}}
}

// eventful is a context that has something done when it is waited for the so manieth time.
type eventful struct {
	context.Context
	in   int
	then func()
}

func (c *eventful) Done() <-chan struct{} {
	if c.in--; c.in == 0 {
		c.then()
	}
	return c.Context.Done()
}
