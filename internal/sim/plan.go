package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault is a kind of fault.
type Fault uint8

// The kinds of faults. A plan has some of them: with all at once, many states are never reached.
const (
	FaultKill        Fault = iota // a process ends: what it wrote is still there
	FaultPower                    // a node loses power: un-synced data is lost, torn or kept
	FaultMidWrite                 // the same, in the middle of whatever the disk is doing some calls from now
	FaultBlackout                 // all nodes lose power at once
	FaultDiskError                // a write or sync fails
	FaultDiskSlow                 // syncs take long for a while
	FaultDiskFull                 // no room for a while
	FaultPartition                // two groups of nodes do not hear each other
	FaultDeaf                     // one node's messages get lost one way
	FaultIsolate                  // a leader is alone for a while
	FaultPause                    // a process stands still for a while
	FaultClock                    // a wall clock jumps
	FaultHandOver                 // a leader is told to hand over
	FaultWipe                     // a node loses its disk, and comes back as a new member
	FaultMembers                  // a voter is made a learner for a while
	FaultUpgrade                  // a node is given the newer binary
	FaultBitRot                   // bits flip on a node's disk
	FaultRotSnapshot              // the same in a stored snapshot
	FaultRotIndex                 // the same in what tells a segment's entries apart
	FaultLoseFile                 // a file of a node's log is gone at its next start
	FaultDiverge                  // a replica makes something else of an entry than the others
	FaultStop                     // a process is told to end: it hands over, stores its snapshots, and goes
	faultCount
)

// FaultCount is how many kinds of faults there are.
const FaultCount = int(faultCount)

func (f Fault) String() string {
	return [...]string{
		"kill", "power-cut", "mid-write", "blackout", "disk-error", "disk-slow", "disk-full", "partition", "deaf",
		"isolate", "pause", "clock", "hand-over", "wipe", "members", "upgrade", "bit-rot", "rot-snapshot", "rot-index",
		"lose-file", "diverge", "stop",
	}[f]
}

// Faults returns all kinds of faults.
func Faults() []Fault {
	var all []Fault
	for f := range faultCount {
		all = append(all, f)
	}
	return all
}

// plan is what a seed decides before anything happens.
type plan struct {
	nodes  int
	shards int
	queues int // of each shard

	faulty      time.Duration // how long faults come
	faultMean   time.Duration // between two
	faults      []Fault       // those that there are
	rotMean     time.Duration // between two times that a disk damages something; 0: none does
	divergeMean time.Duration // between two states that go wrong; 0: none does

	delayMin, delaySpread time.Duration // of a message
	lossPermille          int
	dupPermille           int
	ordered               bool // messages of a link stay in order

	syncMin, syncSpread time.Duration // of a flush
	tick                time.Duration
	electionTicks       int
	turnDelay           time.Duration // between something that happens and the turn for it
	snapshotBytes       int64
	fileBytes           int64
	keepAbove           int // percent of a log file that must be live for it to be kept in place
	verifyEntries       uint64
	uncommitted         int64 // bytes of proposals that are not committed, over which Raft drops others; 0: the default, which nothing here reaches

	producers   int
	thinkMean   time.Duration // of a producer
	payloadMax  int
	workers     int
	concurrency int
	workMean    time.Duration
	badWorkers  int // percent of jobs that a worker does not just finish
	ways        []int
	anonymous   int  // percent of workers that do not register
	keyed       bool // some jobs have unique keys
	giveUp      int  // percent of enqueues without a session, or given up when no answer comes
	operateMean time.Duration
	driftMax    int64 // of a node's clocks, in millionths
	upgrade     upgrade
	// damagePermille is how often a node takes a payload for damaged that it is to hand out.
	damagePermille int
	acts           []int
	rumours        bool          // nodes hear when another's process has ended
	rumourMean     time.Duration // between two false rumours of that; 0: there are none
}

// newPlan draws the plan of a seed, but for what the options decide.
func newPlan(o *Options) plan {
	c := newChance(o.Seed, forPlan)
	p := plan{
		nodes:  pick(c, []int{1, 3, 3, 3, 3, 5}),
		shards: pick(c, []int{1, 1, 2}),
		queues: 1 + c.IntN(3),

		faulty:    c.between(10*time.Second, 90*time.Second),
		faultMean: c.between(time.Second, 12*time.Second),

		delayMin:     c.between(50*time.Microsecond, 2*time.Millisecond),
		delaySpread:  pick(c, []time.Duration{100 * time.Microsecond, 2 * time.Millisecond, 2 * time.Millisecond, 30 * time.Millisecond}),
		lossPermille: pick(c, []int{0, 0, 5, 50}),
		dupPermille:  pick(c, []int{0, 0, 5, 50}),
		ordered:      c.percent(50),

		syncMin:       c.between(50*time.Microsecond, 4*time.Millisecond),
		syncSpread:    c.between(0, 4*time.Millisecond),
		tick:          100 * time.Millisecond,
		electionTicks: pick(c, []int{10, 10, 4}),
		turnDelay:     pick(c, []time.Duration{0, 0, 50 * time.Microsecond, time.Millisecond}),
		snapshotBytes: pick(c, []int64{4 << 10, 16 << 10, 64 << 10, 256 << 10}),
		fileBytes:     pick(c, []int64{16 << 10, 32 << 10, 128 << 10}),
		verifyEntries: pick(c, []uint64{4, 16, 64}),

		producers:   1 + c.IntN(4),
		thinkMean:   c.between(100*time.Millisecond, 2*time.Second),
		payloadMax:  pick(c, []int{40, 40, 400, 3000}),
		workers:     1 + c.IntN(4),
		concurrency: 1 + c.IntN(6),
		workMean:    c.between(5*time.Millisecond, time.Second),
		badWorkers:  pick(c, []int{0, 10, 30, 60}),
	}
	if o.Nodes > 0 {
		p.nodes = o.Nodes
	}
	for f := range FaultBitRot {
		if drawn := c.percent(40); (drawn && o.Faults == nil || slices.Contains(o.Faults, f)) && p.possible(f) {
			p.faults = append(p.faults, f)
		}
	}
	p.anonymous = pick(c, []int{0, 0, 20, 100})
	p.giveUp = pick(c, []int{0, 0, 10})
	p.damagePermille = pick(c, []int{0, 0, 3, 30})
	p.operateMean = c.between(200*time.Millisecond, 5*time.Second)
	p.driftMax = pick(c, []int64{0, 0, 200, 200, 20_000, 100_000})
	if c.percent(50) && slices.Contains(p.faults, FaultUpgrade) {
		p.upgrade = upgradeCareless
	} else if slices.Contains(p.faults, FaultUpgrade) {
		p.upgrade = upgradeCareful
	}
	p.ways = weights(c, int(wayCount))
	p.acts = weights(c, int(actCount))
	r := newChance(mix64(o.Seed, 2), forRot)
	if drawn := r.percent(30); (drawn && o.Faults == nil || slices.Contains(o.Faults, FaultBitRot)) && p.nodes > 1 {
		p.rotMean = r.between(500*time.Millisecond, 5*time.Second)
	}
	v := newChance(o.Seed, forDivergence)
	if slices.Contains(o.Faults, FaultDiverge) && p.nodes > 2 && !o.HistoryOnly { // never drawn: see diverge.go
		p.divergeMean = v.between(time.Second, 10*time.Second)
	}
	u := newChance(mix64(o.Seed, 2), forRumours)
	if p.rumours = u.percent(50) && p.nodes > 1; p.rumours && u.percent(40) {
		p.rumourMean = u.between(500*time.Millisecond, 10*time.Second)
	}
	if drawn := newChance(o.Seed, forStops).percent(30); drawn && o.Faults == nil || slices.Contains(o.Faults, FaultStop) {
		p.faults = append(p.faults, FaultStop)
	}
	if b := newChance(o.Seed, forUncommitted); b.percent(30) {
		p.uncommitted = pick(b, []int64{1, 512, 4 << 10})
	}
	p.keepAbove = pick(newChance(o.Seed, forKept), []int{5, 25, 75, 100})
	p.keyed = newChance(o.Seed, forKeys).percent(35)
	return p
}

// weights draws how often each of some things is done: some much, some not at all.
func weights(c chance, n int) []int {
	w := make([]int, n)
	for i := range w {
		w[i] = pick(c, []int{0, 1, 1, 4})
	}
	w[c.IntN(n)]++
	return w
}

// possible tells whether a fault means anything to a cluster of this size.
func (p *plan) possible(f Fault) bool {
	switch f {
	case FaultPartition, FaultDeaf, FaultIsolate, FaultHandOver, FaultWipe, FaultMembers:
		return p.nodes > 1
	default:
		return true
	}
}

func (p *plan) String() string {
	names := make([]string, len(p.faults))
	for i, f := range p.faults {
		names[i] = f.String()
	}
	if p.rotMean > 0 {
		names = append(names, fmt.Sprintf("%v about every %v", FaultBitRot, p.rotMean.Round(time.Millisecond)))
	}
	if p.divergeMean > 0 {
		names = append(names, fmt.Sprintf("%v about every %v", FaultDiverge, p.divergeMean.Round(time.Millisecond)))
	}
	return fmt.Sprintf(
		"%d nodes, %d shards of %d queues; faults for %v, about every %v: %s; messages %v + %v, %d‰ lost, %d‰ twice; "+
			"syncs %v + %v; snapshots every %d KiB, files of %d KiB, kept above %d %%, %d bytes uncommitted; %d producers every %v, payloads to %d bytes; "+
			"%d workers of %d jobs of %v, %d %% bad in ways %v, %d %% anonymous; operators every %v do %v; clocks off by %d ppm, upgrade %d; rumours %v, false ones about every %v; keys %v",
		p.nodes, p.shards, p.queues, p.faulty.Round(time.Second), p.faultMean.Round(time.Millisecond), strings.Join(names, " "),
		p.delayMin.Round(time.Microsecond), p.delaySpread, p.lossPermille, p.dupPermille,
		p.syncMin.Round(time.Microsecond), p.syncSpread.Round(time.Microsecond), p.snapshotBytes>>10, p.fileBytes>>10, p.keepAbove, p.uncommitted,
		p.producers, p.thinkMean.Round(time.Millisecond), p.payloadMax, p.workers, p.concurrency,
		p.workMean.Round(time.Millisecond), p.badWorkers, p.ways, p.anonymous, p.operateMean.Round(time.Millisecond), p.acts, p.driftMax, p.upgrade, p.rumours,
		p.rumourMean.Round(time.Millisecond), p.keyed)
}
