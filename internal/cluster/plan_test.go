package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/beaver-raft/beaver/internal/shard"
)

// group is one shard's group that a script plans for; its leader carries out what it plans.
type group struct {
	nodes     []Node
	view      View
	preferred shard.NodeID
	down      []shard.NodeID
	lagging   []shard.NodeID
	index     uint64
}

func (g *group) refresh() {
	g.view.Last, g.view.Peers = 5000, nil
	m := &g.view.Members
	for _, r := range slices.Concat(m.Voters, m.Learners) {
		if r == g.view.Self {
			continue
		}
		p := shard.Peer{Replica: r, Learner: slices.Contains(m.Learners, r), Match: 5000, Active: !slices.Contains(g.down, r.Node())}
		if slices.Contains(g.lagging, r.Node()) {
			p.Match = 10
		}
		g.view.Peers = append(g.view.Peers, p)
	}
}

// do carries out a step and tells it.
func (g *group) do(s Step) string {
	var parts []string
	m := &g.view.Members
	drop := func(set []shard.ReplicaID, r shard.ReplicaID) []shard.ReplicaID {
		return slices.DeleteFunc(set, func(o shard.ReplicaID) bool { return o == r })
	}
	for _, c := range s.Changes {
		g.index += 10
		switch c.Kind {
		case shard.AddLearner:
			c.Replica = shard.NewReplicaID(c.Replica.Node(), g.index)
			m.Learners = append(m.Learners, c.Replica)
			parts = append(parts, fmt.Sprintf("add learner %s", c.Replica))
		case shard.Promote:
			m.Learners, m.Voters = drop(m.Learners, c.Replica), append(m.Voters, c.Replica)
			parts = append(parts, fmt.Sprintf("promote %s", c.Replica))
		case shard.Demote:
			m.Voters, m.Learners = drop(m.Voters, c.Replica), append(m.Learners, c.Replica)
			parts = append(parts, fmt.Sprintf("demote %s", c.Replica))
		case shard.Remove:
			m.Learners = drop(m.Learners, c.Replica)
			parts = append(parts, fmt.Sprintf("remove %s", c.Replica))
		}
	}
	if s.Transfer != 0 {
		parts = append(parts, fmt.Sprintf("lead to %d", s.Transfer))
		g.view.Self = onNode(m.Voters, s.Transfer)
	}
	for _, r := range s.Adopt {
		parts = append(parts, fmt.Sprintf("tell %s", r))
	}
	if s.Waiting != "" {
		parts = append(parts, "wait: "+s.Waiting)
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

func (g *group) set(fields []string) {
	g.nodes = nil
	for _, f := range fields { // 4=joining/2: node 4, which replaces node 2
		name, state, _ := strings.Cut(f, "=")
		state, old, _ := strings.Cut(state, "/")
		id, _ := strconv.Atoi(name)
		replaces, _ := strconv.Atoi(old)
		g.nodes = append(g.nodes, Node{
			ID: shard.NodeID(id), State: NodeState(slices.Index(nodeStates[:], state)), Replaces: shard.NodeID(replaces),
			Info: NodeInfo{Peer: fmt.Sprintf("host%d:7401", id)},
		})
	}
}

func ids[T ~uint64 | ~uint16](fields []string) (list []T) {
	for _, f := range fields {
		n, _ := strconv.Atoi(f)
		list = append(list, T(n))
	}
	return list
}

func (g *group) run(t *testing.T, d *datadriven.TestData) string {
	fields := strings.Fields(d.Input)
	switch d.Cmd {
	case "group": // voters, of which the first leads
		*g = group{view: View{Shard: 1, Members: shard.Members{Voters: ids[shard.ReplicaID](fields)}}}
		g.view.Self = g.view.Members.Voters[0]
		return ""
	case "shard":
		g.view.Shard = ids[shard.ID](fields)[0]
		return ""
	case "nodes":
		g.set(fields)
		return ""
	case "down":
		g.down = ids[shard.NodeID](fields)
		return ""
	case "lost":
		g.view.Lost = ids[shard.ReplicaID](fields)
		return ""
	case "lagging":
		g.lagging = ids[shard.NodeID](fields)
		return ""
	case "full":
		g.view.Full = ids[shard.NodeID](fields)
		return ""
	case "prefer":
		g.preferred = ids[shard.NodeID](fields)[0]
		return ""
	case "plan": // until nothing more is to be done
		var b strings.Builder
		for last := ""; ; {
			g.refresh()
			line := g.do(Plan(g.nodes, g.preferred, &g.view))
			if line == last || strings.Count(b.String(), "\n") > 30 {
				return b.String()
			}
			fmt.Fprintln(&b, line)
			last = line
		}
	case "moves":
		var b strings.Builder
		for _, m := range Moves(g.nodes, []shard.Members{g.view.Members}) {
			fmt.Fprintf(&b, "node %d from %s to %s\n", m.Node, m.From, m.To)
		}
		return b.String()
	case "wish":
		return g.wish(t, fields)
	}
	t.Fatalf("%s: no such command", d.Pos)
	return ""
}

func (g *group) wish(t *testing.T, fields []string) string {
	c := &Cluster{Nodes: g.nodes, Shards: 4, Reachable: func(id shard.NodeID) bool { return !slices.Contains(g.down, id) }}
	number := func(i int) shard.NodeID {
		if i >= len(fields) {
			return 0
		}
		return ids[shard.NodeID](fields[i : i+1])[0]
	}
	var m Move
	var err error
	switch fields[0] {
	case "remove":
		m, err = c.Remove(number(1))
	case "drain":
		m, err = c.Drain(number(1), len(fields) > 2)
	case "transfer":
		err = c.Transfer(shard.ID(number(1)), number(2))
	case "grow":
		total, err := c.Grow(int(number(1)), int(number(2)))
		if err != nil {
			return "refused: " + err.Error() + "\n"
		}
		return fmt.Sprintf("%d shards\n", total)
	case "expect":
		if node, ok := c.Expected(fields[1], number(2)); ok {
			return fmt.Sprintf("node %d is expected\n", node)
		}
		err = c.Expect(fields[1], number(2))
	default:
		t.Fatalf("no wish %q", fields[0])
	}
	if err != nil {
		return "refused: " + err.Error() + "\n"
	}
	if m.Node != 0 {
		return fmt.Sprintf("node %d from %s to %s\n", m.Node, m.From, m.To)
	}
	return "ok\n"
}

func TestPlans(t *testing.T) {
	datadriven.Walk(t, "testdata/plan", func(t *testing.T, path string) {
		g := &group{}
		datadriven.RunTest(t, path, g.run)
	})
}
