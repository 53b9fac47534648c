package sim

import (
	"time"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
)

// A state diverges when a replica makes something else of an entry than all others. One does at a time, in a group of three or more,
// and none while a disk is lost or lacks something: a majority is always right. Until it is healed, the member is wrong:
//
//   - Nobody compares it, and what it is the first to apply is checked when another applies it.
//   - What it answers clients is not told them: to them the answer is lost. That is the window between two fingerprints, in which a
//     wrong leader answers; package replica says what it is. When its state is in doubt it must answer nothing, and that is checked.
//   - What it brings others as a leader is lost: it would make them wrong too, and no vote could tell. So when one voter is wrong and
//     leads, and another lags so far behind that it needs a snapshot, the third has nobody to agree with, and the group waits for a
//     person (package replica says so). The run ends there, and is counted. No plan has this fault by itself: it goes with faults that
//     seldom let a voter lag.

// personTime is how long a group must have been undecided when the faults have stopped: a voter may still come that can tell.
const personTime = 20 * time.Second

// nextDivergence schedules the next divergence, if the plan has any.
func (w *world) nextDivergence() {
	if w.plan.divergeMean == 0 {
		return
	}
	w.after(w.diverging.about(w.plan.divergeMean), func() {
		if !w.healing {
			w.diverge()
			w.nextDivergence()
		}
	})
}

// diverge has a member go wrong with one of the next entries, if all others are well.
func (w *world) diverge() {
	g, n := pick(w.diverging, w.groups), pick(w.diverging, w.nodes)
	for _, o := range w.groups {
		if o.replace >= 0 {
			return
		}
	}
	if w.wrong() || w.rotten() || !n.up || n.members[g.id] == nil {
		return
	}
	n.members[g.id].driver.strays = true
}

// wrong reports whether the state of a member is, or is about to be; when the faults have stopped none goes wrong any more.
func (w *world) wrong() bool {
	for _, n := range w.nodes {
		for s := range w.groups {
			if n.wrong[s] || n.up && n.members[s] != nil && n.members[s].driver.strays && !w.healing {
				return true
			}
		}
	}
	return false
}

func (m *member) isWrong() bool { return m.n.wrong[m.group.id] }

// stray is what a machine that goes wrong makes of an entry: its last item is lost.
func (d *driver) stray(index uint64, items [][]byte) [][]byte {
	if last := items[len(items)-1][0]; !d.strays || last == typeVerify || d.m.n.w.healing {
		return items
	}
	w := d.m.n.w
	d.strays = false
	d.m.n.wrong[d.m.group.id] = true
	w.faults[FaultDiverge]++
	w.trace.mix(uint64(d.m.n.index), index)
	w.trace.printf(d.m.name, "goes wrong at %d", index)
	items = append([][]byte(nil), items...)
	items[len(items)-1] = queue.AppendTick(nil)
	return items
}

// righted looks whether a wrong member's state is that of the others again: it was rebuilt, or what it had lost matters no more.
func (o *oracle) righted(m *member, index, fingerprint uint64) {
	known, ok := o.facts[index]
	switch {
	case !m.isWrong():
	case !ok:
		m.driver.early[index] = fingerprint // It is the first to apply this.
	case known.fingerprint == fingerprint:
		m.n.wrong[m.group.id], m.n.rightFrom[m.group.id] = false, index
		clear(m.driver.early)
		o.w.trace.printf(m.name, "is right again at %d", index)
	}
}

// relapses makes a member wrong again that was, and begins anew from a snapshot of that time: what was lost may matter no more, and a
// state from before that is still another one.
func (o *oracle) relapses(m *member, index, fingerprint uint64) {
	known, ok := o.facts[index]
	if ok && !m.isWrong() && index < m.n.rightFrom[m.group.id] && known.fingerprint != fingerprint {
		m.n.wrong[m.group.id] = true
		o.w.trace.printf(m.name, "is wrong again at %d", index)
	}
}

// rightedBefore does the same as righted when the first of the others applies an entry.
func (o *oracle) rightedBefore(index, fingerprint uint64) {
	for _, n := range o.w.nodes {
		if !n.up || n.members[o.shard] == nil {
			continue
		}
		if early, ok := n.members[o.shard].driver.early[index]; ok && early == fingerprint {
			o.righted(n.members[o.shard], index, fingerprint)
		}
	}
}

// unheard keeps what a wrong member would answer from its client.
func (d *driver) unheard(c *call) bool {
	m := d.m
	if m.rep != nil && m.rep.Doubt().Trust != replica.Trusted && m.rep.Doubt().Judged {
		m.n.w.fail("%s answers a client, and its state is in doubt", m.name)
	}
	if !m.isWrong() {
		return false
	}
	c.reply(answer{outcome: outcomeUnknown})
	return true
}

// verifyHealing reports whether the leader should have its fingerprint compared though nothing else happens: when the load has ended,
// nothing else shows that a state is wrong.
func (d *driver) verifyHealing() bool {
	w := d.m.n.w
	return w.healing && w.wrong() && d.machine.Applied() > d.verified
}

// withhold loses what a wrong leader would bring to another member.
func (m *member) withhold(wish shard.SnapshotWish) bool {
	if !m.isWrong() {
		return false
	}
	m.group.withheld = m.n.w.now
	m.n.w.after(100*time.Millisecond, func() {
		if m.n.up && m.n.members[m.group.id] == m {
			if err := m.rep.SnapshotSent(wish.To, false); err != nil {
				m.n.failed(err)
				return
			}
			m.poke()
		}
	})
	return true
}

// undecidable reports whether a group waits for a person: its leader is wrong, a voter suspects itself for it, and one that could tell
// waits for a snapshot.
func (w *world) undecidable() bool {
	for _, g := range w.groups {
		if g.withheld == 0 || w.now > g.withheld+time.Second {
			continue
		}
		for _, n := range w.nodes {
			if n.up && n.members[g.id] != nil && n.members[g.id].rep.Doubt().Trust == replica.Suspect {
				return true
			}
		}
	}
	return false
}
