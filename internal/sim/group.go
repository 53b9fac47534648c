package sim

import (
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// group is what an operator knows of one shard's members: which replica a node is to run.
type group struct {
	w        *world
	id       shard.ID
	chance   chance
	ballots  ballots
	founders []shard.ReplicaID
	identity []shard.ReplicaID // by node; 0: none
	anew     []bool            // by node: what a replica before that one left is still there
	replace  int               // node whose member is to be replaced, or to rest; -1: none
	resting  bool              // it only rests: it is a learner
	until    time.Duration     // when it votes again
	lasts    time.Duration     // how long each rests
	asked    bool              // that it rest, and not seen to
	withheld time.Duration     // when a wrong leader was last kept from bringing a snapshot
}

func newGroup(w *world, id shard.ID) *group {
	g := &group{w: w, id: id, replace: -1, chance: newChance(mix64(w.opts.Seed, uint64(id)), forMembers), ballots: newBallots()}
	for i := range w.plan.nodes {
		g.founders = append(g.founders, shard.NewReplicaID(shard.NodeID(i+1), 0))
	}
	g.identity = slices.Clone(g.founders)
	g.anew = make([]bool, len(g.founders))
	return g
}

// settled reports whether no member is being replaced, or rests.
func (w *world) settled() bool {
	return !slices.ContainsFunc(w.groups, func(g *group) bool { return g.replace >= 0 })
}

// wipe takes a node's disk away, if that cannot cost a majority. Its members come back as new ones, after the old ones are out
// of their groups.
func (w *world) wipe(n *node) bool {
	if !w.settled() || !n.up || w.rotten() || w.wrong() {
		return false // Two disks lost at once may be a majority.
	}
	w.takeDisk(n)
	return true
}

// takeDisk ends a node without its disk, and has its members replaced.
func (w *world) takeDisk(n *node) {
	w.trace.printf(n.name, "loses its disk")
	n.spoiled = nil
	n.down(vfs.AllLost())
	n.disk = vfs.NewSim(n.chance.Uint64(), vfs.SimOptions{})
	n.bad, n.harmed, n.rotted = badSector{}, false, false
	if w.bug.is(BugReuseIdentity) {
		w.after(time.Second, n.start)
		return
	}
	for _, g := range w.groups {
		g.identity[n.index], g.anew[n.index] = 0, false
		g.replace, g.resting = n.index, false
		w.after(time.Second, g.operate)
	}
}

// rest makes learners of a node's members for a while, and then voters again.
func (w *world) rest(n *node, lasts time.Duration) bool {
	if !w.settled() || w.rotten() || w.wrong() {
		return false // Who lacks something neither votes nor leads: without another voter that may be a majority.
	}
	for _, g := range w.groups {
		g.replace, g.resting, g.asked, g.until, g.lasts = n.index, true, false, w.now+lasts, lasts
		w.after(100*time.Millisecond, g.operate)
	}
	return true
}

// stepRest takes the next step of letting a member rest. When it has rested it votes again, and half of the time in the place of
// another one, which rests then: two voters are changed at once, by joint consensus.
func (g *group) stepRest(leader *member, n *node) {
	members, id := leader.rep.Members(), g.identity[n.index]
	voter, over := slices.Contains(members.Voters, id), g.w.now >= g.until || g.w.healing
	changes := []shard.Change{{Kind: shard.Demote, Replica: id}}
	switch {
	case voter && over && !g.asked:
		if g.knows(leader, n, id) {
			g.w.trace.printf("operator", "shard %d: %v votes again", g.id, id)
			g.next(leader)
		}
		return
	case voter && leader.n == n: // who is to rest cannot lead
		_ = leader.rep.Transfer(g.identity[(n.index+1)%len(g.identity)]) // one that cannot is asked again
		leader.poke()
		return
	case voter:
		g.asked = true // It may be on its way for long, or be lost with a leader: it is over when it was seen.
	case over:
		g.asked, changes[0].Kind = false, shard.Promote
		if other := pick(g.chance, g.identity); other != leader.id && slices.Contains(members.Voters, other) && !g.w.healing && g.chance.percent(75) {
			changes = append(changes, shard.Change{Kind: shard.Demote, Replica: other})
		}
	default:
		g.asked = false
		return // It listens.
	}
	_, err := leader.rep.ChangeMembers(changes...)
	g.w.trace.printf("operator", "shard %d: change %v: %v", g.id, changes, err)
	if err == nil && len(changes) > 1 {
		g.w.counts.Joint++
	}
	leader.poke()
}

// next goes on with a member that rests still, if there is one: it gave its place to the one that votes now, or was forgotten when a node
// had to be replaced.
func (g *group) next(leader *member) {
	members := leader.rep.Members()
	g.replace = slices.IndexFunc(g.identity, func(r shard.ReplicaID) bool { return slices.Contains(members.Learners, r) })
	g.resting, g.asked, g.until = g.replace >= 0, false, g.w.now+g.lasts
}

// operate takes the next step of replacing a member, until it is done.
func (g *group) operate() {
	if g.replace < 0 {
		return
	}
	g.w.after(500*time.Millisecond, g.operate)
	switch leader, n := g.leader(), g.w.nodes[g.replace]; {
	case leader == nil:
	case g.resting:
		g.stepRest(leader, n)
	default:
		g.step(leader, n)
	}
}

// leader is the member that leads. One that was deposed and does not know is none: it would tell of members of long ago, and
// an operator that asked it for a read would get no answer.
func (g *group) leader() *member {
	for _, n := range g.w.nodes {
		if !n.up || n.members[g.id] == nil {
			continue
		}
		if m := n.members[g.id]; m.rep.Leading() && m.rep.Applied() >= g.w.oracles[g.id].high {
			return m
		}
	}
	return nil
}

// knows reports whether a new voter has heard itself that it is one. Before that, the loss of another may cost the majority of
// the voters that there were: the change is committed, and nobody is left who knows. It must know the same members as the
// leader, and the leader must have left the joint ones: a voter that heard nothing since it was made a learner takes itself for a
// voter still.
func (g *group) knows(leader *member, n *node, id shard.ReplicaID) bool {
	if !n.up || n.members[g.id] == nil {
		return false
	}
	m, l := n.members[g.id].rep.Members(), leader.rep.Members()
	return slices.Contains(m.Voters, id) && len(l.Outgoing) == 0 && len(m.Outgoing) == 0 &&
		slices.Equal(m.Voters, l.Voters) && slices.Equal(m.Learners, l.Learners)
}

func (g *group) step(leader *member, lost *node) {
	members := leader.rep.Members()
	id := g.identity[lost.index]
	change := shard.Change{Kind: shard.AddLearner, Replica: shard.NewReplicaID(lost.id, 0)}
	for _, r := range slices.Concat(members.Learners, members.LearnersNext, members.Voters) {
		switch voter := slices.Contains(members.Voters, r); {
		case r.Node() != lost.id:
			continue
		case r == id && voter:
			if g.knows(leader, lost, id) {
				g.w.trace.printf("operator", "shard %d: %v is a voter", g.id, r)
				g.next(leader)
			}
			return
		case r == id:
			change = shard.Change{Kind: shard.Promote, Replica: r}
		case voter:
			change = shard.Change{Kind: shard.Demote, Replica: r}
		case id == 0 && r.Birth() != 0 && r != g.founders[lost.index] && g.isNew(r):
			g.join(lost, r)
			return
		default:
			change = shard.Change{Kind: shard.Remove, Replica: r}
		}
	}
	made, err := leader.rep.ChangeMembers(change)
	g.w.trace.printf("operator", "shard %d: change %v of %v: %v", g.id, change.Kind, change.Replica, err)
	if err == nil && change.Kind == shard.AddLearner {
		g.joining(made[0].Replica)
	}
	leader.poke()
}

// joining remembers the id that a learner will have.
func (g *group) joining(r shard.ReplicaID) { g.w.joined[joinKey{g.id, r}] = true }

func (g *group) isNew(r shard.ReplicaID) bool { return g.w.joined[joinKey{g.id, r}] }

// join starts the node with its new member, once all groups know theirs.
func (g *group) join(lost *node, r shard.ReplicaID) {
	g.identity[lost.index] = r
	delete(g.w.joined, joinKey{g.id, r}) // if it is lost again, it is no new one
	if lost.up && !lost.dying {
		lost.succeed(g)
		return
	}
	for _, o := range g.w.groups {
		if o.identity[lost.index] == 0 {
			return
		}
	}
	lost.start()
}

type joinKey struct {
	shard shard.ID
	id    shard.ReplicaID
}
