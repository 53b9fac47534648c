package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
)

// AppendFound encodes: these nodes founded the cluster. It counts when no node is known yet. Their state and time are left out.
func AppendFound(dst []byte, nodes []Node) []byte {
	dst = append(dst, commandFound)
	dst = binary.AppendUvarint(dst, uint64(len(nodes)))
	for i := range nodes {
		dst = binary.AppendUvarint(dst, uint64(nodes[i].ID))
		dst = append(dst, nodes[i].Nonce[:]...)
		dst = appendNodeInfo(dst, &nodes[i].Info)
	}
	return dst
}

// AppendExpect encodes: a node will come that listens to its peers at an address; give it an id. replaces is the node whose place it
// will take, or 0. One that is expected there already is left as it is.
func AppendExpect(dst []byte, peer string, replaces shard.NodeID) []byte {
	dst = append(dst, commandExpect)
	dst = appendText(dst, peer)
	return binary.AppendUvarint(dst, uint64(replaces))
}

// AppendJoin encodes: a node came. It gets the id of the node that is expected at its address, else a new one; want is the one
// that it must have, or 0. One with its nonce is left as it is: it asked before.
func AppendJoin(dst []byte, nonce Nonce, want shard.NodeID, i *NodeInfo) []byte {
	dst = append(dst, commandJoin)
	dst = append(dst, nonce[:]...)
	dst = binary.AppendUvarint(dst, uint64(want))
	return appendNodeInfo(dst, i)
}

// AppendMoveNode encodes: a node that is in one state comes to another.
func AppendMoveNode(dst []byte, id shard.NodeID, from, to NodeState) []byte {
	dst = append(dst, commandMove)
	dst = binary.AppendUvarint(dst, uint64(id))
	return append(dst, byte(from), byte(to))
}

// AppendAnnounce encodes: a node says where it is.
func AppendAnnounce(dst []byte, id shard.NodeID, nonce Nonce, i *NodeInfo) []byte {
	dst = append(dst, commandAnnounce)
	dst = binary.AppendUvarint(dst, uint64(id))
	dst = append(dst, nonce[:]...)
	return appendNodeInfo(dst, i)
}

// AppendPrefer encodes: a node should lead a shard whenever it can; 0 leaves it to the cluster again.
func AppendPrefer(dst []byte, id shard.ID, node shard.NodeID) []byte {
	dst = append(dst, commandPrefer)
	dst = binary.AppendUvarint(dst, uint64(id))
	return binary.AppendUvarint(dst, uint64(node))
}

// applyNode carries out the commands of nodes and of shards.
func (c *Catalog) applyNode(kind byte, d *decoder) Result {
	switch kind {
	case commandFound:
		if nodes, ok := d.founders(); ok {
			return c.found(nodes)
		}
	case commandExpect:
		peer, replaces := d.text(AddressBytesMax), d.nodeID()
		if d.end() && ValidAddress(peer) == nil {
			return c.expect(peer, replaces)
		}
	case commandJoin:
		nonce, want, info := d.nonce(), d.nodeID(), d.nodeInfo()
		if d.end() && nonce != (Nonce{}) {
			return c.join(nonce, want, info)
		}
	case commandMove:
		id, from, to := d.nodeID(), NodeState(d.byte()), NodeState(d.byte())
		if d.end() && slices.Contains(moves[from], to) {
			return c.move(id, from, to)
		}
	case commandAnnounce:
		id, nonce, info := d.nodeID(), d.nonce(), d.nodeInfo()
		if d.end() {
			return c.announce(id, nonce, info)
		}
	case commandPrefer:
		id, node := shard.ID(d.uint(1<<16-1)), d.nodeID()
		if d.end() {
			return c.prefer(id, node)
		}
	case commandGrow:
		founded, shards := int(d.uint(ShardsMax)), int(d.uint(ShardsMax))
		if d.end() && founded > 0 {
			return c.grow(founded, shards)
		}
	}
	return Result{Code: CodeMalformed}
}

// founders takes the nodes of a founding; not ok when they could not have founded a cluster.
func (d *decoder) founders() (nodes []Node, ok bool) {
	for range d.uint(NodesMax) {
		n := Node{ID: d.nodeID(), Nonce: d.nonce(), State: NodeActive, Info: d.nodeInfo()}
		if n.ID == 0 || n.Nonce == (Nonce{}) || len(nodes) > 0 && n.ID <= nodes[len(nodes)-1].ID {
			return nil, false
		}
		nodes = append(nodes, n)
	}
	return nodes, d.end() && len(nodes) > 0
}

func (c *Catalog) found(nodes []Node) Result {
	if c.lastNode != 0 {
		return Result{Code: CodeExists}
	}
	for i := range nodes {
		nodes[i].Since = c.now
		c.putNode(&nodes[i])
	}
	return Result{Code: CodeOK}
}

func (c *Catalog) expect(peer string, replaces shard.NodeID) Result {
	if c.occupied(peer, 0, replaces) {
		return Result{Code: CodeExists}
	}
	for n := range c.Nodes() {
		if replaces != 0 && n.Replaces == replaces && n.State != NodeRemoved {
			return Result{Code: CodeExists}
		}
	}
	if old, ok := c.Node(replaces); replaces != 0 && (!ok || !old.State.Holds()) {
		return Result{Code: CodeNotFound}
	}
	if c.present() >= NodesMax || c.lastNode >= shard.NodeMax {
		return Result{Code: CodeLimit}
	}
	c.putNode(&Node{ID: c.lastNode + 1, State: NodeExpected, Info: NodeInfo{Peer: peer}, Replaces: replaces, Since: c.now})
	return Result{Code: CodeOK}
}

func (c *Catalog) join(nonce Nonce, want shard.NodeID, info NodeInfo) Result {
	if _, ok := c.NodeByNonce(nonce); ok {
		return Result{Code: CodeExists}
	}
	n := Node{Nonce: nonce, State: NodeJoining, Info: info, Since: c.now}
	for old := range c.Nodes() {
		if n.ID == 0 && old.State == NodeExpected && (old.ID == want || want == 0 && old.Info.Peer == info.Peer) {
			n.ID, n.Replaces = old.ID, old.Replaces
		}
	}
	if c.occupied(info.Peer, n.ID, n.Replaces) {
		return Result{Code: CodeExists}
	}
	switch {
	case n.ID != 0:
	case want != 0 && want <= c.lastNode:
		return Result{Code: CodeNotFound} // it is somebody else's, or was
	case c.present() >= NodesMax || c.lastNode >= shard.NodeMax:
		return Result{Code: CodeLimit}
	case want != 0:
		n.ID = want
	default:
		n.ID = c.lastNode + 1
	}
	c.putNode(&n)
	return Result{Code: CodeOK}
}

// occupied reports whether a node has a peer address, besides two.
func (c *Catalog) occupied(peer string, self, replaced shard.NodeID) bool {
	for n := range c.Nodes() {
		if n.Info.Peer == peer && n.State != NodeRemoved && n.ID != self && n.ID != replaced {
			return true
		}
	}
	return false
}

func (c *Catalog) move(id shard.NodeID, from, to NodeState) Result {
	n, ok := c.Node(id)
	switch {
	case !ok:
		return Result{Code: CodeNotFound}
	case n.State == to:
		return Result{Code: CodeOK}
	case n.State != from:
		return Result{Code: CodeExists}
	case to == NodeLeaving && !c.otherHolds(id):
		return Result{Code: CodeLimit} // the last one
	}
	n.State, n.Since = to, c.now
	c.putNode(&n)
	return Result{Code: CodeOK}
}

// otherHolds reports whether a node besides one is a full member.
func (c *Catalog) otherHolds(id shard.NodeID) bool {
	for n := range c.Nodes() {
		if n.ID != id && (n.State == NodeActive || n.State == NodeDraining) {
			return true
		}
	}
	return false
}

func (c *Catalog) announce(id shard.NodeID, nonce Nonce, info NodeInfo) Result {
	n, ok := c.Node(id)
	if !ok || n.Nonce != nonce || n.State == NodeRemoved {
		return Result{Code: CodeNotFound}
	}
	n.Info = info
	c.putNode(&n)
	return Result{Code: CodeOK}
}

func (c *Catalog) prefer(id shard.ID, node shard.NodeID) Result {
	if n, ok := c.Node(node); node != 0 && (!ok || !n.State.Holds()) {
		return Result{Code: CodeNotFound}
	}
	if node == 0 {
		c.dropPreferred(id)
	} else {
		c.putPreferred(id, node)
	}
	return Result{Code: CodeOK}
}
