package sim

import (
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
)

const (
	// epochMillis is what the nodes' clocks say when a run begins.
	epochMillis = 1_750_000_000_000
	// healMax is how long a healthy cluster may take to end all jobs and agree.
	healMax = 150 * time.Second
	// healLook lies between two looks whether it has.
	healLook = 250 * time.Millisecond
	// tidyTime is how long the logs of a cluster at rest have to let go of what they need no more.
	tidyTime = 4 * maintainEvery
	// eventsMax bounds a run: more is an endless loop.
	eventsMax = 20_000_000
)

// Options say what to run.
type Options struct {
	Seed  uint64
	Trace io.Writer // takes a readable trace; nil: none
	Bug   Bug       // a deliberate one, which the run should find; 0: none
	// Nodes and Faults are those of the plan, instead of what the seed says; 0 and nil leave it that.
	Nodes  int
	Faults []Fault
	// HistoryOnly checks nothing but what clients were told: whether that is enough is tested too.
	HistoryOnly bool
}

// Result is what a run was.
type Result struct {
	Seed      uint64
	Plan      string
	Hash      uint64        // of the trace: the same for two runs of a seed
	Simulated time.Duration // virtual time
	Faults    [FaultCount]uint64
	Counts    Counts
	Err       error // nil, or the first thing that was wrong
}

// violation is what a check throws: the run ends with it. Checks sit deep in callbacks of the step machines, which must not
// go on with a state that is wrong.
type violation struct{ text string }

func (v *violation) Error() string { return v.text }

// world is one run.
type world struct {
	opts     Options
	plan     plan
	now      time.Duration
	schedule schedule
	trace    trace
	counts   Counts
	faults   [FaultCount]uint64

	faulting chance
	rot      rot

	diverging chance
	rumours   chance
	nodes     []*node
	net       network
	oracles   []*oracle        // by shard
	groups    []*group         // by shard
	joined    map[joinKey]bool // ids that learners were given and have not begun under
	clients   clients
	bug       bugs

	healing bool // the faults have stopped
	err     error
}

// Run runs one seed.
func Run(o Options) (res Result) {
	defer seedElections(o.Seed)()
	w := newWorld(o)
	defer func() {
		if p := recover(); p != nil {
			if v, ok := p.(*violation); ok {
				w.err = v
			} else {
				w.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}
		if w.err != nil {
			w.trace.printf("VIOLATION", "%v", w.err)
		}
		res = Result{
			Seed: o.Seed, Plan: w.plan.String(), Hash: w.trace.hash, Simulated: w.now,
			Faults: w.faults, Counts: w.counts, Err: w.err,
		}
	}()
	w.run()
	return res
}

func newWorld(o Options) *world {
	w := &world{opts: o, plan: newPlan(&o), faulting: newChance(o.Seed, forFaults), joined: make(map[joinKey]bool)}
	w.trace = trace{to: o.Trace, hash: o.Seed, now: &w.now}
	w.rot.chance = newChance(mix64(o.Seed, 1), forRot)
	w.rot.installer = newChance(mix64(o.Seed, 3), forRot)
	w.rot.brought = newChance(mix64(o.Seed, 4), forRot)
	w.diverging = newChance(mix64(o.Seed, 1), forDivergence)
	w.rumours = newChance(mix64(o.Seed, 1), forRumours)
	w.bug = newBugs(o)
	w.bug.needs(&w.plan)
	w.net = newNetwork(w)
	for s := range w.plan.shards {
		w.oracles = append(w.oracles, newOracle(w, shard.ID(s)))
		w.groups = append(w.groups, newGroup(w, shard.ID(s)))
	}
	for i := range w.plan.nodes {
		w.nodes = append(w.nodes, newNode(w, i))
	}
	return w
}

// fail ends the run: something is wrong with the program.
func (w *world) fail(format string, args ...any) { panic(&violation{fmt.Sprintf(format, args...)}) }

// after schedules a call.
func (w *world) after(d time.Duration, fn func()) {
	w.schedule.add(event{at: w.now + d, kind: evOther, fn: fn})
}

// run goes through the three parts of a run.
func (w *world) run() {
	w.trace.printf("plan", "%s", w.plan.String())
	for _, n := range w.nodes {
		n.start()
	}
	w.clients.start(w)
	w.nextFault()
	w.nextRumour()
	w.nextRot()
	w.nextDivergence()
	w.until(w.plan.faulty, nil)
	w.heal()
	w.comeToRest()
	if err := w.clients.history.Check(); err != nil {
		panic(&violation{err.Error()})
	}
	h := &w.clients.history
	w.counts.Steps, w.counts.Histories, w.counts.Undecided = h.Steps, uint64(h.Jobs()), h.Undecided
	if !w.counts.Judged() {
		w.fail("%d of %d histories were too dear to judge", h.Undecided, h.Jobs())
	}
}

// comeToRest is the third part: the cluster heals, and once more after a power cut of all nodes.
func (w *world) comeToRest() {
	for _, before := range []func(){func() {}, w.blackout} {
		before()
		begun := w.now
		w.until(begun+healMax, func() bool { return w.quiet() || w.now > begun+personTime && w.undecidable() })
		if w.undecidable() {
			w.counts.Undecidable++
			w.trace.printf("heal", "a group waits for a person")
			return
		}
		w.checkEnd()
	}
	w.until(w.now+tidyTime, nil)
	w.checkForgotten()
}

// until handles events up to a moment, or until done says so; it looks every healLook.
func (w *world) until(end time.Duration, done func() bool) {
	look := w.now + healLook
	for {
		e, ok := w.schedule.next()
		if !ok || e.at > end {
			if ok {
				w.schedule.add(e)
			}
			w.now = end
			return
		}
		w.now = e.at
		w.handle(&e)
		if w.counts.Events++; w.counts.Events > eventsMax {
			w.fail("more than %d events: something goes round in circles", eventsMax)
		}
		if done != nil && w.now >= look {
			if done() {
				return
			}
			look = w.now + healLook
		}
	}
}

// handle lets one event happen.
func (w *world) handle(e *event) {
	if e.kind == evOther {
		e.fn()
		return
	}
	if e.kind == evReply {
		w.clients.reply(e)
		return
	}
	n := w.nodes[e.node]
	if !n.up || (e.life != 0 && e.life != n.life) {
		if e.kind == evRequest {
			e.call.lost()
		}
		return
	}
	if n.pausedUntil > w.now { // a process that stands still gets everything later, in order
		e.at = n.pausedUntil
		w.schedule.add(*e)
		return
	}
	w.trace.mix(uint64(e.at), uint64(e.kind), uint64(e.node), uint64(e.shard))
	n.handle(e)
}
