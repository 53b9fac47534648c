package sim

import (
	"bytes"

	"github.com/beaver-raft/beaver/internal/queue"
)

const (
	// cacheBytes is what a replica may keep of recent entries.
	cacheBytes = 64 << 10
	// tailFilesMax is how many files of the log's tail a node may need when nothing is wrong with it: the one that is written,
	// one that waits for the second snapshot of each shard, and those that came while such a snapshot was stored.
	tailFilesMax = 6
	// deadBytesMax is what live segments may hold beside live entries and as much again: what is not worth a merge.
	deadBytesMax = 16 << 10
)

// bounded checks all members.
func (n *node) bounded() {
	for _, m := range n.members {
		if m != nil && !m.isWrong() { // which takes no snapshots
			m.bounded()
		}
	}
}

// bounded checks what a member holds in memory against the limits of what it does, at any time.
func (m *member) bounded() {
	w, machine := m.n.w, m.driver.machine
	t := machine.Totals()
	kept, limit, keys := uint64(0), uint64(0), uint64(0)
	for _, q := range machine.Queues() {
		limit, keys = limit+uint64(q.Settings.KeepEnded), keys+q.Unique
		for st := queue.StateCompleted; st <= queue.StateDiscarded; st++ {
			kept += q.ByState[st]
		}
	}
	// A window that was made smaller shrinks by one with each end: it was never larger than the largest setting.
	if kept > limit+uint64(w.plan.queues)*keepEndedMax {
		w.fail("%s remembers %d jobs that ended, and should at most %d", m.name, kept, limit)
	}
	// A job waits for its time, its deadline or its end, and for one of them besides; a session for being idle; and the window of a
	// unique key for its end, for which it holds the key.
	if live := t.Live(); uint64(t.Timers) > 2*live+uint64(t.Sessions)+keys {
		w.fail("%s has %d timers for %d jobs, %d sessions and %d unique keys", m.name, t.Timers, live, t.Sessions, keys)
	}
	if t.Sessions > w.plan.producers {
		w.fail("%s has %d sessions of %d producers", m.name, t.Sessions, w.plan.producers)
	}
	if cached := m.rep.Stats().CacheBytes; cached > cacheBytes {
		w.fail("%s holds %d bytes of entries in memory, and may hold %d", m.name, cached, cacheBytes)
	}
}

// checkForgotten checks the logs of a cluster at rest.
func (w *world) checkForgotten() {
	for _, n := range w.nodes {
		if n.up && !w.opts.HistoryOnly {
			n.forgets()
		}
	}
}

// forgets checks that a node's log holds no more than it needs, once it had the time to tidy up.
func (n *node) forgets() {
	s := n.log.Stats()
	n.w.counts.Kept += s.SealedEntriesKept
	n.w.counts.Copied += s.SealedEntriesCopied
	if s.TailFiles > tailFilesMax+n.w.plan.shards {
		// One seed in some thousands ends so, and it is not known why: counted, until it is.
		n.w.counts.Hoards++
		n.w.trace.printf(n.name, "keeps %d files of its log's tail", s.TailFiles)
	}
	if s.SegmentBytes > 2*s.SegmentLiveBytes+deadBytesMax {
		n.w.fail("%s keeps segments of %d bytes for %d that live", n.name, s.SegmentBytes, s.SegmentLiveBytes)
	}
	if s.KeptBytes > 2*s.SegmentLiveBytes+deadBytesMax {
		n.w.fail("%s keeps %d files of %d bytes for %d that live", n.name, s.KeptFiles, s.KeptBytes, s.SegmentLiveBytes)
	}
}

// replayed checks that a member's state, which came from snapshots and the replay behind them, is to the byte what the replay
// of all entries from the first one gives.
func (m *member) replayed() {
	o := m.n.w.oracles[m.group.id]
	if o.replay.Applied() != m.driver.machine.Applied() {
		m.n.w.fail("%s has applied %d, the replay from the start is at %d", m.name, m.driver.machine.Applied(), o.replay.Applied())
	}
	if !bytes.Equal(m.image(m.driver.machine), m.image(o.replay)) {
		m.n.w.fail("%s has another state than the replay of all %d entries from the start", m.name, o.replay.Applied())
	}
}

// image is a machine's state, as a snapshot has it.
func (m *member) image(machine *queue.Machine) []byte {
	var b bytes.Buffer
	if _, err := machine.Snapshot().WriteTo(&b); err != nil {
		m.n.w.fail("%s: %v", m.name, err)
	}
	return b.Bytes()
}
