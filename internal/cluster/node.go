package cluster

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"iter"
	"net"
	"strconv"
	"strings"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Nonce is what a node draws at its birth, once for each data directory, so that one that lost its disk is not taken for the one it was.
type Nonce [16]byte

func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// MarshalText writes 32 hexadecimal digits.
func (n Nonce) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Nonce) UnmarshalText(text []byte) error {
	if hex.DecodedLen(len(text)) != len(n) {
		return fmt.Errorf("a nonce has %d hexadecimal digits, not %d", hex.EncodedLen(len(n)), len(text))
	}
	_, err := hex.Decode(n[:], text)
	return err
}

// NodeState is how a node stands in its cluster. It begins with Expected, Joining or, for founders, Active.
type NodeState uint8

// The states; the values are stored.
const (
	NodeExpected NodeState = 1 // it has an id and has not come yet
	NodeJoining  NodeState = 2 // it is being made a voter of every shard
	NodeActive   NodeState = 3
	NodeDraining NodeState = 4 // it votes, and leads nothing that another could
	NodeLeaving  NodeState = 5 // it is being taken out of every shard
	NodeRemoved  NodeState = 6 // for good: its id is never used again
)

var nodeStates = [...]string{"", "expected", "joining", "active", "draining", "leaving", "removed"}

func (s NodeState) String() string {
	if int(s) < len(nodeStates) && s > 0 {
		return nodeStates[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Holds reports whether a node in this state is to have a replica of every shard.
func (s NodeState) Holds() bool { return s >= NodeJoining && s <= NodeDraining }

// moves are the changes of state that a command may make.
var moves = map[NodeState][]NodeState{
	NodeExpected: {NodeRemoved},
	NodeJoining:  {NodeActive, NodeLeaving},
	NodeActive:   {NodeDraining, NodeLeaving},
	NodeDraining: {NodeActive, NodeLeaving},
	NodeLeaving:  {NodeRemoved},
}

// NodeInfo is what a node says of itself.
type NodeInfo struct {
	Peer    string // where its peers reach it
	Public  string // where clients reach it; empty: nowhere
	Zone    string
	Version string
}

// Node is a node's record. Records are immutable: a change makes a new one.
type Node struct {
	ID       shard.NodeID
	Nonce    Nonce // zero while it is expected
	State    NodeState
	Info     NodeInfo
	Replaces shard.NodeID // the node whose place it takes; 0: none
	Since    queue.Millis // when it came to its state
}

// Node finds a node by id.
func (c *Catalog) Node(id shard.NodeID) (Node, bool) {
	n, ok := c.nodes.Get(uint64(id))
	if !ok {
		return Node{}, false
	}
	return *n, true
}

// NodeByNonce finds a node by what it drew at its birth.
func (c *Catalog) NodeByNonce(nonce Nonce) (Node, bool) {
	for n := range c.Nodes() {
		if n.Nonce == nonce && nonce != (Nonce{}) {
			return *n, true
		}
	}
	return Node{}, false
}

// Nodes yields the nodes by id, and the last ones that were removed among them.
func (c *Catalog) Nodes() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		c.nodes.Scan(func(_ uint64, n *Node) bool { return yield(n) })
	}
}

// LastNode is the highest id that a node ever had.
func (c *Catalog) LastNode() shard.NodeID { return c.lastNode }

// Preferred is the node that an operator wants to lead a shard; 0: nobody said.
func (c *Catalog) Preferred(id shard.ID) shard.NodeID {
	n, _ := c.preferred.Get(uint64(id))
	return shard.NodeID(n)
}

// present counts the nodes that are not removed.
func (c *Catalog) present() (count int) {
	for n := range c.Nodes() {
		if n.State != NodeRemoved {
			count++
		}
	}
	return count
}

func (c *Catalog) putNode(n *Node) {
	old, replaced := c.nodes.Set(uint64(n.ID), n)
	if replaced {
		c.sum ^= old.hash()
	}
	c.sum ^= n.hash()
	c.lastNode = max(c.lastNode, n.ID)
	for c.nodes.Len() > NodeRecordsMax {
		c.forgetNode()
	}
}

// forgetNode forgets the removed node with the lowest id. NodesMax sees to it that there is one.
func (c *Catalog) forgetNode() {
	for n := range c.Nodes() {
		if n.State == NodeRemoved {
			c.nodes.Delete(uint64(n.ID))
			c.sum ^= n.hash()
			return
		}
	}
}

func (c *Catalog) putPreferred(id shard.ID, node shard.NodeID) {
	if old, ok := c.preferred.Set(uint64(id), uint64(node)); ok {
		c.sum ^= hashPreferred(uint64(id), old)
	}
	c.sum ^= hashPreferred(uint64(id), uint64(node))
}

func (c *Catalog) dropPreferred(id shard.ID) {
	if old, ok := c.preferred.Delete(uint64(id)); ok {
		c.sum ^= hashPreferred(uint64(id), old)
	}
}

func (n *Node) hash() uint64 { return hash(appendNode([]byte{'n'}, n)) }

func hashPreferred(id, node uint64) uint64 {
	return hash(binary.AppendUvarint(binary.AppendUvarint([]byte{'p'}, id), node))
}

func appendNode(dst []byte, n *Node) []byte {
	dst = binary.AppendUvarint(dst, uint64(n.ID))
	dst = append(dst, n.Nonce[:]...)
	dst = append(dst, byte(n.State))
	dst = binary.AppendUvarint(dst, uint64(n.Replaces))
	dst = binary.AppendUvarint(dst, uint64(n.Since))
	return appendNodeInfo(dst, &n.Info)
}

func appendNodeInfo(dst []byte, i *NodeInfo) []byte {
	dst = appendText(dst, i.Peer)
	dst = appendText(dst, i.Public)
	dst = appendText(dst, i.Zone)
	return appendText(dst, i.Version)
}

func (d *decoder) nodeID() shard.NodeID { return shard.NodeID(d.uint(shard.NodeMax)) }

func (d *decoder) nonce() (n Nonce) {
	copy(n[:], d.bytes(len(n)))
	return n
}

func (d *decoder) nodeInfo() NodeInfo {
	i := NodeInfo{Peer: d.text(AddressBytesMax), Public: d.text(AddressBytesMax), Zone: d.text(ZoneBytesMax), Version: d.text(NodeVersionBytesMax)}
	if !d.bad && i.Validate() != nil {
		d.fail()
	}
	return i
}

func (d *decoder) node() Node {
	n := Node{ID: d.nodeID(), Nonce: d.nonce(), State: NodeState(d.byte()), Replaces: d.nodeID(), Since: queue.Millis(d.uint(millisMax)), Info: d.nodeInfo()}
	if n.ID == 0 || n.State < NodeExpected || n.State > NodeRemoved || (n.Nonce == Nonce{}) && n.State != NodeExpected && n.State != NodeRemoved {
		d.fail()
	}
	return n
}

// Validate names the first field that breaks a limit, in a *FieldError.
func (i *NodeInfo) Validate() error {
	if err := ValidAddress(i.Peer); err != nil {
		return &FieldError{Field: "peer address", Problem: err.Error()}
	}
	if err := ValidAddress(i.Public); err != nil && i.Public != "" {
		return &FieldError{Field: "public address", Problem: err.Error()}
	}
	if err := ValidZone(i.Zone); err != nil {
		return &FieldError{Field: "zone", Problem: err.Error()}
	}
	if len(i.Version) > NodeVersionBytesMax {
		return tooLarge("version", "is %d bytes long; at most %d are kept", len(i.Version), NodeVersionBytesMax)
	}
	return nil
}

// ValidZone says why a text cannot say where a node is.
func ValidZone(zone string) error {
	if len(zone) > ZoneBytesMax || strings.ContainsFunc(zone, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return fmt.Errorf("is %.80q; want at most %d bytes without spaces", zone, ZoneBytesMax)
	}
	return nil
}

// ValidAddress says why an address is none that others could dial.
func ValidAddress(address string) error {
	if len(address) > AddressBytesMax {
		return fmt.Errorf("is %d bytes long; at most %d are possible", len(address), AddressBytesMax)
	}
	name, port, err := net.SplitHostPort(address)
	if err != nil || name == "" {
		return fmt.Errorf("is %q; want host:port", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("is %q; want a port from 1 to 65535", address)
	}
	return nil
}
