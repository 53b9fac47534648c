package sim

import (
	"fmt"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

// quiet reports whether the cluster has healed: all nodes are up and agree, and every job has ended.
func (w *world) quiet() bool { return w.unrest() == "" }

// unrest says what is still to be waited for.
func (w *world) unrest() string {
	if w.clients.open > 0 || w.clients.running > 0 {
		return "clients wait for answers"
	}
	for _, g := range w.groups {
		if g.replace >= 0 {
			return "a member is being replaced"
		}
		leader := ""
		for _, n := range w.nodes {
			if !n.up || n.members[g.id] == nil {
				return n.name + " is down"
			}
			m := n.members[g.id]
			if m.leading {
				leader = m.name
			}
			if m.isWrong() {
				return m.name + " has a wrong state"
			}
			t := m.driver.machine.Totals()
			for _, s := range []queue.State{queue.StateScheduled, queue.StateReady, queue.StateRunning, queue.StateBackoff} {
				if t.ByState[s] > 0 {
					return m.name + " has jobs that did not end: " + m.unended(s)
				}
			}
			if w.rot.node != nil && m.lacks() != 0 {
				return fmt.Sprintf("%s lacks entry %d", m.name, m.lacks())
			}
			if m.rep.Applied() != w.nodes[0].members[g.id].rep.Applied() || m.rep.Applied() < w.oracles[g.id].acked {
				return m.name + " is not at the same index as the others"
			}
		}
		if leader == "" {
			return "a shard has no leader"
		}
	}
	return ""
}

// unended describes the first job in a state that it should have left.
func (m *member) unended(s queue.State) string {
	for _, q := range m.driver.machine.Queues() {
		if jobs, _ := m.driver.machine.List(q.Queue, s, queue.Cursor{}, 1); len(jobs) > 0 {
			j := jobs[0]
			return fmt.Sprintf("%d.%d in state %d since %d, worker %d, token %d", j.Pos.Index(), j.Pos.Ordinal(), s, j.StartedAt-epochMillis, j.Worker, j.Token)
		}
	}
	return ""
}

// checkEnd checks what must hold when the cluster has had the time to heal.
func (w *world) checkEnd() {
	if w.opts.HistoryOnly {
		return
	}
	if why := w.unrest(); why != "" {
		w.fail("not healed after %v without faults: %s", healMax, why)
	}
	for _, g := range w.groups {
		for _, n := range w.nodes {
			m := n.members[g.id]
			first := w.nodes[0].members[g.id]
			if m.driver.Fingerprint() != first.driver.Fingerprint() {
				w.fail("%s and %s differ at entry %d", m.name, first.name, m.rep.Applied())
			}
			if err := m.driver.machine.CheckInvariants(); err != nil {
				w.fail("%s: %v", m.name, err)
			}
			m.checkLive()
			m.replayed()
			m.bounded()
		}
	}
}

// checkLive reads every entry that the state refers to.
func (m *member) checkLive() {
	for it := m.driver.machine.Snapshot().Live().Iterator(); it.HasNext(); {
		index := it.Next()
		e, err := m.n.log.Read(m.group.id, index)
		if err != nil {
			m.n.w.fail("%s: entry %d is live and cannot be read: %v", m.name, index, err)
		}
		m.checkEntry(&e)
	}
}

// checkBrought looks whether the entries that a snapshot refers to which was brought are those that were applied elsewhere: what is here
// under their names may be of a branch that is dead. Those that are damaged may be so.
func (m *member) checkBrought() {
	if m.n.w.opts.HistoryOnly || m.isWrong() {
		return
	}
	for it := m.driver.machine.Snapshot().Live().Iterator(); it.HasNext(); {
		if e, err := m.n.log.Read(m.group.id, it.Next()); err == nil {
			m.checkEntry(&e)
		}
	}
}

// checkEntry holds an entry of the log against what was applied.
func (m *member) checkEntry(e *wal.Entry) {
	h, items, err := shard.DecodeBatch(reversion(e.Data, false), nil)
	if err != nil {
		m.n.w.fail("%s: entry %d is live and holds nothing: %v", m.name, e.Index, err)
	}
	if known, ok := m.n.w.oracles[m.group.id].facts[e.Index]; ok && known.entry != hashEntry(h, items) {
		m.n.w.fail("%s: entry %d is live, and another one than was applied", m.name, e.Index)
	}
}
