package sim

import (
	"slices"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// nextFault schedules the next fault.
func (w *world) nextFault() {
	if len(w.plan.faults) == 0 {
		return
	}
	w.after(w.faulting.about(w.plan.faultMean), func() {
		if !w.healing {
			w.inject(pick(w.faulting, w.plan.faults))
			w.nextFault()
		}
	})
}

// victim is a node: half of the time one that leads.
func (w *world) victim() *node {
	n := pick(w.faulting, w.nodes)
	if w.faulting.percent(50) {
		for _, o := range w.nodes {
			if o.leads() {
				return o
			}
		}
	}
	return n
}

func (n *node) leads() bool {
	for _, m := range n.members {
		if m != nil && m.leading {
			return true
		}
	}
	return false
}

// inject lets one fault happen, and counts it if it did: a node that is down cannot be killed.
func (w *world) inject(f Fault) {
	c, n := w.faulting, w.victim()
	w.trace.mix(uint64(f), uint64(n.index), uint64(w.now))
	w.trace.printf("fault", "%v %s", f, n.name)
	lasts := c.between(200*time.Millisecond, 8*time.Second)
	if w.strike(f, n, lasts) {
		w.faults[f]++
	}
}

// strike brings a fault about that lasts so long, and reports whether anything came of it.
func (w *world) strike(f Fault, n *node, lasts time.Duration) (struck bool) {
	c := w.faulting
	struck = n.up
	switch f {
	case FaultKill:
		n.crash("is killed", vfs.Killed())
	case FaultPower:
		n.crash("loses power", vfs.Mixed(c.Uint64()))
	case FaultMidWrite:
		n.cutAfter = 1 + c.IntN(60)
	case FaultBlackout:
		struck = slices.ContainsFunc(w.nodes, func(n *node) bool { return n.up })
		w.blackout()
	case FaultDiskError:
		n.disk.FailAt(n.disk.Ops()+1+uint64(c.IntN(30)), syscall.EIO)
		if c.percent(50) { // what a failed sync lost shows after a power cut
			w.after(lasts/4, func() { n.crash("loses power after a disk error", vfs.Mixed(c.Uint64())) })
		}
	case FaultDiskSlow:
		n.slowUntil = w.now + lasts
	case FaultDiskFull:
		if u, err := n.disk.Usage("/"); err == nil && n.up {
			used := int64(u.Total - u.Free)
			n.disk.SetCapacity(used + c.Int64N(64<<10))
			w.after(lasts, func() { n.disk.SetCapacity(0) })
		}
	case FaultStop:
		struck = struck && !n.stopping
		n.stop(lasts)
	case FaultPause:
		n.pausedUntil = w.now + lasts
	case FaultClock:
		n.clockSkew = c.Int64N(20_000) - 10_000
	case FaultHandOver:
		struck = w.handOver(n)
	case FaultUpgrade:
		struck = struck && !n.newer && w.plan.upgrade != upgradeNone
		n.upgrade()
	case FaultWipe:
		return w.wipe(n)
	case FaultMembers:
		return w.rest(n, lasts)
	case FaultPartition, FaultDeaf, FaultIsolate:
		w.cut(f, n, lasts)
		return true
	case FaultBitRot, FaultRotSnapshot, FaultRotIndex, FaultLoseFile, FaultDiverge: // they have clocks of their own: see rot.go and diverge.go
	}
	return struck
}

// stop tells a node's process to end, and ends it when it has not done so in time.
func (n *node) stop(patience time.Duration) {
	if !n.up || n.stopping {
		return
	}
	life := n.life
	n.stopping = true
	n.w.after(patience, func() {
		if n.up && n.life == life {
			n.crash("is killed, since it does not stop", vfs.Killed())
		}
	})
	for _, m := range n.members {
		if m != nil && n.up {
			m.poke()
		}
	}
	n.stopped() // It may have no member that could tell.
}

// finish stops the member when it is told to and has nothing left to do.
func (m *member) finish() {
	n := m.n
	if !n.up || !n.stopping || n.members[m.group.id] != m || !m.rep.Finished(n.instant()) {
		return
	}
	n.w.trace.printf(m.name, "has stopped")
	m.rep.Stop(errGone)
	m.lost()
	n.members[m.group.id] = nil
	n.stopped()
}

// stopped ends the process when all its members have stopped.
func (n *node) stopped() {
	if n.up && !slices.ContainsFunc(n.members, func(m *member) bool { return m != nil }) {
		n.w.counts.Stops++
		n.crash("has stopped", vfs.Killed())
	}
}

// handOver tells the leaders on a node to hand over to any other, and reports whether one of them begins to.
func (w *world) handOver(n *node) (begun bool) {
	for _, m := range n.members {
		if m != nil && m.leading && n.up {
			heir := w.groups[m.group.id].identity[w.faulting.IntN(w.plan.nodes)] // an impossible one is refused
			begun = m.rep.Transfer(heir) == nil || begun
			m.poke()
		}
	}
	return begun
}

// cut takes links away for a while.
func (w *world) cut(f Fault, n *node, lasts time.Duration) {
	c := w.faulting
	switch f {
	case FaultPartition:
		w.partition(lasts, func(int) bool { return c.percent(50) })
	case FaultDeaf:
		to := c.IntN(w.plan.nodes + 1)
		w.net.blocked[n.index][to] = true
		w.after(lasts, func() { w.net.blocked[n.index][to] = false })
	default:
		w.partition(lasts, func(i int) bool { return i == n.index })
	}
}

// upgrade ends the process of a node that runs the older binary, and starts the newer one.
func (n *node) upgrade() {
	if n.newer = n.newer || n.w.plan.upgrade != upgradeNone; n.newer {
		n.crash("is upgraded", vfs.Killed())
	}
}

// partition cuts the nodes of one side off from the others for a while. Clients reach both sides.
func (w *world) partition(lasts time.Duration, side func(i int) bool) {
	sides := make([]bool, w.plan.nodes)
	for i := range sides {
		sides[i] = side(i)
	}
	w.net.heal()
	for i := range sides {
		for k := range sides {
			w.net.blocked[i][k] = sides[i] != sides[k]
		}
	}
	w.after(lasts, w.net.heal)
}

// blackout takes the power from all nodes at once.
func (w *world) blackout() {
	for _, n := range w.nodes {
		n.crash("loses power with all others", vfs.Mixed(n.chance.Uint64()))
	}
}

// heal ends all faults.
func (w *world) heal() {
	w.trace.printf("heal", "the faults stop")
	w.healing = true
	for _, o := range w.clients.operators {
		o.heal()
	}
	w.net.heal()
	w.net.calm = true
	latest := int64(0)
	for _, n := range w.nodes {
		latest = max(latest, n.wall()-epochMillis-w.now.Milliseconds())
	}
	for _, o := range w.oracles {
		latest = max(latest, o.clock-epochMillis-w.now.Milliseconds())
	}
	for _, n := range w.nodes {
		n.wallDrift = 0
		n.clockSkew, n.slowUntil, n.pausedUntil, n.cutAfter = latest, 0, 0, 0
		n.disk.SetCapacity(0)
	}
}
