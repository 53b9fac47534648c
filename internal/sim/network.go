package sim

import (
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// network carries messages between nodes, and between nodes and the clients outside. It is best effort: what is sent may
// be late, twice, out of order or lost.
type network struct {
	w       *world
	chance  chance
	outside int // the clients' place beside the nodes
	blocked [][]bool
	last    [][]time.Duration // when the last message of a link arrives, for links in order
	calm    bool              // no loss and no repeats: the faults have stopped
}

func newNetwork(w *world) network {
	n := network{w: w, chance: newChance(w.opts.Seed, forNetwork), outside: w.plan.nodes}
	for range w.plan.nodes + 1 {
		n.blocked = append(n.blocked, make([]bool, w.plan.nodes+1))
		n.last = append(n.last, make([]time.Duration, w.plan.nodes+1))
	}
	return n
}

// heal removes all partitions.
func (n *network) heal() {
	for i := range n.blocked {
		clear(n.blocked[i])
	}
}

// send gives an event to the network. It arrives once, later, or several times, or never.
func (n *network) send(from, to int, e event) {
	if n.blocked[from][to] || (!n.calm && n.chance.permille(n.w.plan.lossPermille)) {
		if e.kind == evRequest {
			e.call.lost()
		}
		return
	}
	e.at = n.arrival(from, to)
	n.w.schedule.add(e)
	if !n.calm && n.chance.permille(n.w.plan.dupPermille) && e.kind != evRequest && e.kind != evReply {
		e.at = n.arrival(from, to)
		if e.msg != nil {
			e.msg = flatCopy(e.msg)
		}
		n.w.schedule.add(e)
	}
}

func (n *network) arrival(from, to int) time.Duration {
	p := &n.w.plan
	at := n.w.now + p.delayMin + time.Duration(n.chance.Int64N(int64(p.delaySpread)))
	if !n.calm && n.chance.permille(2) {
		at += n.chance.between(0, 2*time.Second) // a retransmission, or a long way round
	}
	if p.ordered {
		at = max(at, n.last[from][to])
		n.last[from][to] = at
	}
	return at
}

// flatCopy copies a message; the entries are shared, since nobody may change them.
func flatCopy(m *raftpb.Message) *raftpb.Message {
	return &raftpb.Message{
		Type: m.Type, To: m.To, From: m.From, Term: m.Term, LogTerm: m.LogTerm, Index: m.Index, Entries: m.Entries,
		Commit: m.Commit, Vote: m.Vote, Snapshot: m.Snapshot, Reject: m.Reject, RejectHint: m.RejectHint,
		Context: m.Context, Responses: m.Responses,
	}
}
