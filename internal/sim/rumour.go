package sim

import "time"

// nextRumour schedules the next false rumour that a process has ended, if the plan has any.
func (w *world) nextRumour() {
	if w.plan.rumourMean == 0 {
		return
	}
	w.after(w.rumours.about(w.plan.rumourMean), func() {
		if !w.healing {
			w.tellOfEnd(pick(w.rumours, w.nodes))
			w.nextRumour()
		}
	})
}

// tellOfEnd tells some of the other nodes that a node's process has ended, each a while from now: the network notices that when a
// process dies and its machine lives. Whether it has ended, and whether it is back by then, is another matter.
func (w *world) tellOfEnd(of *node) {
	for _, n := range w.nodes {
		if n == of || w.rumours.percent(20) {
			continue
		}
		life := n.life
		w.after(w.rumours.about(20*time.Millisecond), func() {
			if n.up && n.life == life {
				n.hearOfEnd(of)
			}
		})
	}
}

// hearOfEnd takes the news of a process's end in.
func (n *node) hearOfEnd(of *node) {
	w := n.w
	w.counts.Rumours++
	w.trace.printf(n.name, "hears that the process of %s has ended", of.name)
	for _, m := range n.members {
		if m == nil || !n.up {
			continue
		}
		if err := m.rep.PeerGone(n.instant(), of.id); err != nil {
			n.failed(err)
			return
		}
		m.poke()
	}
}
