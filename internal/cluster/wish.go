package cluster

import (
	"fmt"
	"slices"
	"strings"

	"github.com/beaver-raft/beaver/internal/shard"
)

// WishError says why an operator's wish is refused. Its text says what to do.
type WishError struct {
	Unknown bool // a node or a shard that does not exist
	Reason  string
}

func (e *WishError) Error() string { return e.Reason }

func refuse(format string, args ...any) error {
	return &WishError{Reason: fmt.Sprintf(format, args...)}
}

// Cluster is the nodes, and which of them can be reached, when an operator wishes to change something.
type Cluster struct {
	Nodes     []Node
	Reachable func(shard.NodeID) bool
	Shards    int // data shards
}

func (c *Cluster) find(id shard.NodeID) (*Node, error) {
	var names []string
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.ID == id && n.State != NodeRemoved {
			return n, nil
		}
		if n.ID == id {
			return nil, &WishError{true, fmt.Sprintf("node %d was removed, and its id is never used again", id)}
		}
		if n.State != NodeRemoved {
			names = append(names, fmt.Sprint(n.ID))
		}
	}
	return nil, &WishError{true, fmt.Sprintf("there is no node %d; the nodes are %s", id, strings.Join(names, ", "))}
}

// Remove says what makes a node leave. The zero Move: it is leaving already.
func (c *Cluster) Remove(id shard.NodeID) (Move, error) {
	n, err := c.find(id)
	if err != nil {
		return Move{}, err
	}
	switch n.State {
	case NodeExpected:
		return Move{id, NodeExpected, NodeRemoved}, nil
	case NodeLeaving:
		return Move{}, nil
	default:
	}
	rest, reached := c.without(id)
	switch {
	case rest == 0:
		return Move{}, refuse("node %d is the only full member: without it there is no cluster; add another node first", id)
	case reached <= rest/2:
		return Move{}, refuse("without node %d the cluster would have %s, of which %d can be reached: it would lose its quorum; bring the others back first, or replace them: beaver cluster replace NODE HOST:PORT",
			id, number(rest, "node"), reached)
	}
	return Move{id, n.State, NodeLeaving}, nil
}

// without counts the full members besides one, and those of them that can be reached.
func (c *Cluster) without(id shard.NodeID) (rest, reached int) {
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.ID != id && (n.State == NodeActive || n.State == NodeDraining) {
			rest++
			if c.Reachable(n.ID) {
				reached++
			}
		}
	}
	return rest, reached
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Drain says what makes a node drain, or with undo what ends that. The zero Move: it is as wished.
func (c *Cluster) Drain(id shard.NodeID, undo bool) (Move, error) {
	n, err := c.find(id)
	if err != nil {
		return Move{}, err
	}
	switch {
	case undo && n.State == NodeDraining:
		return Move{id, NodeDraining, NodeActive}, nil
	case undo && n.State == NodeActive, !undo && n.State == NodeDraining:
		return Move{}, nil
	case undo:
		return Move{}, refuse("node %d is %s, not draining", id, n.State)
	case n.State != NodeActive:
		return Move{}, refuse("node %d is %s; only an active node can be drained", id, n.State)
	}
	others := slices.ContainsFunc(c.Nodes, func(o Node) bool { return o.ID != id && o.State == NodeActive && c.Reachable(o.ID) })
	if !others {
		return Move{}, refuse("no other active node can be reached that could lead in the place of node %d", id)
	}
	return Move{id, NodeActive, NodeDraining}, nil
}

// Transfer says whether a node may be made the leader of a shard; 0 takes such a wish back.
func (c *Cluster) Transfer(id shard.ID, to shard.NodeID) error {
	if int(id) > c.Shards {
		return &WishError{true, fmt.Sprintf("there is no shard %d; shards are 0 to %d", id, c.Shards)}
	}
	if to == 0 {
		return nil
	}
	n, err := c.find(to)
	switch {
	case err != nil:
		return err
	case n.State != NodeActive:
		return refuse("node %d is %s; only an active node can take the lead", to, n.State)
	case !c.Reachable(to):
		return refuse("node %d cannot be reached", to)
	}
	return nil
}

// Expected returns the node that is expected at an address, in the place of another unless that is 0: the wish has come true before.
func (c *Cluster) Expected(peer string, replaces shard.NodeID) (shard.NodeID, bool) {
	for i := range c.Nodes {
		if n := &c.Nodes[i]; n.State == NodeExpected && n.Info.Peer == peer && n.Replaces == replaces {
			return n.ID, true
		}
	}
	return 0, false
}

// Expect says whether a node may be expected at an address, in the place of another unless that is 0.
func (c *Cluster) Expect(peer string, replaces shard.NodeID) error {
	if err := ValidAddress(peer); err != nil {
		return refuse("the address of the new node %v", err)
	}
	if replaces != 0 {
		old, err := c.find(replaces)
		if err != nil {
			return err
		}
		if !old.State.Holds() {
			return refuse("node %d is %s; only a member can be replaced", replaces, old.State)
		}
	}
	present := 0
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.State == NodeRemoved {
			continue
		}
		present++
		switch {
		case replaces != 0 && n.Replaces == replaces:
			return refuse("node %d takes the place of node %d already; start it, or take it back: beaver cluster remove %d", n.ID, replaces, n.ID)
		case n.Info.Peer == peer && n.State == NodeExpected:
			return refuse("node %d is expected at %s already; start it, or take it back: beaver cluster remove %d", n.ID, peer, n.ID)
		case n.Info.Peer == peer && n.ID != replaces:
			return refuse("node %d has the address %s already; if it lost its disk, say beaver cluster replace %d %s", n.ID, peer, n.ID, peer)
		}
	}
	if present >= NodesMax {
		return refuse("the cluster has %d nodes, which is the limit; remove one first", present)
	}
	return nil
}
