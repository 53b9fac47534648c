package cluster

import (
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
)

// View is what the leader of a shard knows of its group.
type View struct {
	Shard   shard.ID
	Self    shard.ReplicaID // the leader
	Last    uint64          // the last index of its log
	Members shard.Members
	Peers   []shard.Peer
	Lost    []shard.ReplicaID // members that may have lost what they promised, and never speak again
	Full    []shard.NodeID    // nodes whose disks are full, as far as they told
}

// HasLost reports whether a replica is known to have lost what it promised.
func (v *View) HasLost(r shard.ReplicaID) bool { return slices.Contains(v.Lost, r) }

// Step is what a shard's leader does next to bring its group in line with the catalog. It is one of the first three, or nothing; where the
// lead is to be handed over, Adopt says what to do if that is not possible now. Any step may be made twice, and by whoever leads next.
type Step struct {
	Changes  []shard.Change    // propose them together
	Transfer shard.NodeID      // hand the lead over
	Adopt    []shard.ReplicaID // tell the nodes of these learners which replicas they have
	Balance  bool              // the lead is handed over only so that all nodes have their share
	Waiting  string            // what has to happen first, for people
}

// Plan says what a shard's leader should do next. preferred is the node that an operator wants to lead it, or 0.
//
// A node comes as a learner, and votes when it has caught up; it goes as a learner too. Where one takes the place of another, the voter
// is exchanged in one change, so that a node that is down does not count twice. A leader hands over before it is taken out. One whose
// disk is full refuses new jobs, so it leads nothing that a node with room could.
func Plan(nodes []Node, preferred shard.NodeID, v *View) Step {
	p := &plan{nodes: nodes, view: v}
	if len(v.Members.Outgoing) > 0 {
		return Step{Waiting: "a change of members is under way"}
	}
	for _, next := range []func() (Step, bool){p.removeLost, p.removeLearner, p.promote, p.leave, p.add} {
		if s, ok := next(); ok {
			return s
		}
	}
	if s, ok := p.moveLead(preferred); ok {
		s.Waiting, s.Adopt = p.waiting, p.adopt().Adopt
		return s
	}
	return p.adopt()
}

type plan struct {
	nodes   []Node
	view    *View
	waiting string // what holds up a step; others may go on, and may be what it waits for
}

func (p *plan) node(id shard.NodeID) *Node {
	for i := range p.nodes {
		if p.nodes[i].ID == id {
			return &p.nodes[i]
		}
	}
	return nil
}

// successor is the node that takes the place of another and is here already; 0 when there is none.
func (p *plan) successor(id shard.NodeID) shard.NodeID {
	for i := range p.nodes {
		if n := &p.nodes[i]; n.Replaces == id && id != 0 && (n.State == NodeJoining || n.State == NodeActive) {
			return n.ID
		}
	}
	return 0
}

// wanted reports whether a node is to have a replica.
func (p *plan) wanted(id shard.NodeID) bool {
	n := p.node(id)
	return n != nil && n.State.Holds()
}

func (p *plan) voter(id shard.NodeID) shard.ReplicaID { return onNode(p.view.Members.Voters, id) }

func onNode(replicas []shard.ReplicaID, id shard.NodeID) shard.ReplicaID {
	for _, r := range replicas {
		if r.Node() == id {
			return r
		}
	}
	return 0
}

// reachable reports whether a member was heard of lately.
func (p *plan) reachable(r shard.ReplicaID) bool {
	return r == p.view.Self || slices.ContainsFunc(p.view.Peers, func(q shard.Peer) bool { return q.Replica == r && q.Active })
}

// close reports whether a member holds nearly all of the log.
func (p *plan) close(r shard.ReplicaID) bool {
	return r == p.view.Self || slices.ContainsFunc(p.view.Peers, func(q shard.Peer) bool {
		return q.Replica == r && q.Active && q.Snapshot == 0 && q.Match+shard.PromoteLagMax >= p.view.Last
	})
}

// removeLearner takes out a learner whose node is not wanted, or has its successor here.
func (p *plan) removeLearner() (Step, bool) {
	for _, r := range p.view.Members.Learners {
		heir := p.successor(r.Node())
		if !p.wanted(r.Node()) || heir != 0 && p.voter(heir) != 0 {
			return Step{Changes: []shard.Change{{Kind: shard.Remove, Replica: r}}}, true
		}
	}
	return Step{}, false
}

// removeLost takes out a member that never speaks again, unless the group would lose its quorum. Its node comes again, under another id.
func (p *plan) removeLost() (Step, bool) {
	for _, r := range p.view.Members.Learners {
		if p.view.HasLost(r) {
			return Step{Changes: []shard.Change{{Kind: shard.Remove, Replica: r}}}, true
		}
	}
	for _, r := range p.view.Members.Voters {
		if p.view.HasLost(r) && p.spared(r) {
			return Step{Changes: []shard.Change{{Kind: shard.Demote, Replica: r}}}, true
		}
	}
	return Step{}, false
}

// spared reports whether most of the voters besides one can be reached; else it says so.
func (p *plan) spared(r shard.ReplicaID) bool {
	rest, reached := 0, 0
	for _, o := range p.view.Members.Voters {
		if o != r {
			rest++
			if p.reachable(o) {
				reached++
			}
		}
	}
	if reached <= rest/2 {
		p.waiting = fmt.Sprintf("without node %d only %d of %d voters can be reached", r.Node(), reached, rest)
		return false
	}
	return true
}

// promote makes a learner a voter, in the place of the one that it replaces.
func (p *plan) promote() (Step, bool) {
	for _, r := range p.view.Members.Learners {
		if !p.close(r) || p.successor(r.Node()) != 0 {
			continue
		}
		changes := []shard.Change{{Kind: shard.Promote, Replica: r}}
		if old := p.voter(p.node(r.Node()).Replaces); old != 0 {
			if old == p.view.Self {
				if s, ok := p.handOver(r.Node()); ok {
					return s, true
				}
				continue
			}
			changes = append(changes, shard.Change{Kind: shard.Demote, Replica: old})
		}
		return Step{Changes: changes}, true
	}
	return Step{}, false
}

// leave takes the vote from a node that is not wanted, unless the group would lose its quorum.
func (p *plan) leave() (Step, bool) {
	for _, r := range p.view.Members.Voters {
		heir := p.successor(r.Node())
		if p.wanted(r.Node()) && (heir == 0 || p.voter(heir) == 0) {
			continue
		}
		if !p.spared(r) {
			continue
		}
		if r == p.view.Self {
			return p.handOver(r.Node())
		}
		return Step{Changes: []shard.Change{{Kind: shard.Demote, Replica: r}}}, true
	}
	return Step{}, false
}

// handOver gives the lead to the best voter besides this node and another.
func (p *plan) handOver(besides shard.NodeID) (Step, bool) {
	if heir := p.heir(besides); heir != 0 {
		return Step{Transfer: heir}, true
	}
	p.waiting = "no other voter can take the lead yet"
	return Step{}, false
}

// heir is a voter that could lead: of those that are not draining one with room on its disk, if there is such a one, and then the one that
// holds the most.
func (p *plan) heir(besides shard.NodeID) shard.NodeID {
	var best shard.NodeID
	var match uint64
	for _, q := range p.view.Peers {
		id := q.Replica.Node()
		if q.Learner || !p.close(q.Replica) || id == besides || !p.mayLead(id) {
			continue
		}
		if best == 0 || p.full(best) && !p.full(id) || p.full(best) == p.full(id) && q.Match > match {
			best, match = id, q.Match
		}
	}
	return best
}

// full reports whether a node told that its disk is full.
func (p *plan) full(id shard.NodeID) bool { return slices.Contains(p.view.Full, id) }

// mayLead reports whether a node is one that should lead.
func (p *plan) mayLead(id shard.NodeID) bool {
	n := p.node(id)
	return n != nil && (n.State == NodeActive || n.State == NodeJoining) && p.successor(id) == 0
}

// add makes a node a learner that has nothing of the shard yet.
func (p *plan) add() (Step, bool) {
	for i := range p.nodes {
		n := &p.nodes[i]
		m := &p.view.Members
		if !n.State.Holds() || p.successor(n.ID) != 0 || p.voter(n.ID) != 0 || onNode(m.Learners, n.ID) != 0 {
			continue
		}
		return Step{Changes: []shard.Change{{Kind: shard.AddLearner, Replica: shard.NewReplicaID(n.ID, 0)}}}, true
	}
	return Step{}, false
}

// moveLead moves the lead off a node that should not have it, and to the one that should.
func (p *plan) moveLead(preferred shard.NodeID) (Step, bool) {
	self := p.view.Self.Node()
	if !p.mayLead(self) {
		if heir := p.heir(self); heir != 0 {
			return Step{Transfer: heir}, true
		}
	}
	balance := !p.mayLead(preferred) || p.voter(preferred) == 0 || p.full(preferred)
	if balance {
		preferred = p.share()
	}
	if preferred != 0 && preferred != self && p.close(p.voter(preferred)) {
		return Step{Transfer: preferred, Balance: balance && !p.full(self)}, true
	}
	if heir := p.heir(self); p.full(self) && heir != 0 && !p.full(heir) {
		return Step{Transfer: heir}, true
	}
	return Step{}, false
}

// share is the node whose share of the leads the shard is: the voters that may lead take turns, those with room on their disks if there
// are any. 0 when there is none.
func (p *plan) share() shard.NodeID {
	var able []shard.NodeID
	for _, r := range p.view.Members.Voters {
		if p.mayLead(r.Node()) {
			able = append(able, r.Node())
		}
	}
	if roomy := slices.DeleteFunc(slices.Clone(able), p.full); len(roomy) > 0 {
		able = roomy
	}
	if len(able) == 0 {
		return 0
	}
	slices.Sort(able)
	return able[int(p.view.Shard)%len(able)]
}

// adopt tells learners that do not answer who they are: their nodes may not know yet.
func (p *plan) adopt() (s Step) {
	s.Waiting = p.waiting
	for _, r := range p.view.Members.Learners {
		// A new member counts as heard of for a while.
		if !p.reachable(r) || slices.ContainsFunc(p.view.Peers, func(q shard.Peer) bool { return q.Replica == r && q.Match == 0 }) {
			s.Adopt = append(s.Adopt, r)
		}
		if s.Waiting == "" {
			s.Waiting = fmt.Sprintf("node %d is catching up", r.Node())
		}
	}
	return s
}

// Move is a change of a node's state.
type Move struct {
	Node     shard.NodeID
	From, To NodeState
}

// Moves says which nodes may come to another state, given the members of all shards as their leaders told. It is for whoever leads the
// catalog, and each may be made twice.
func Moves(nodes []Node, members []shard.Members) (moves []Move) {
	p := &plan{nodes: nodes}
	for i := range nodes {
		n := &nodes[i]
		everywhere, anywhere := len(members) > 0, false
		for j := range members {
			m := &members[j]
			everywhere = everywhere && len(m.Outgoing) == 0 && onNode(m.Voters, n.ID) != 0
			anywhere = anywhere || onNode(m.Voters, n.ID)|onNode(m.Outgoing, n.ID)|onNode(m.Learners, n.ID) != 0
		}
		heir := p.node(p.successor(n.ID))
		switch {
		case n.State == NodeJoining && everywhere:
			moves = append(moves, Move{n.ID, NodeJoining, NodeActive})
		case n.State.Holds() && heir != nil && heir.State == NodeActive:
			moves = append(moves, Move{n.ID, n.State, NodeLeaving})
		case n.State == NodeLeaving && !anywhere && len(members) > 0:
			moves = append(moves, Move{n.ID, NodeLeaving, NodeRemoved})
		}
	}
	return moves
}
