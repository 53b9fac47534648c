package founding

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// Hello is what a founder says of itself to another, and answers.
type Hello struct {
	Node     uint64        `json:"node"`
	Nonce    cluster.Nonce `json:"nonce"`
	Founders []Founder     `json:"founders"`
	Shards   int           `json:"shards"`
	// Record is the founding, once it is stored.
	Record *Record `json:"record,omitempty"`
}

// RefusedError says that the others will not have this directory's node. It is final.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return e.Reason }

// Machine is a founding as one founder sees it. Whoever turns it is one goroutine at a time.
type Machine struct {
	self     uint64
	nonce    cluster.Nonce
	founders []Founder // by node
	shards   int
	known    map[uint64]cluster.Nonce
	record   *Record // nil until all are known
	stored   bool
	refused  *RefusedError
}

// NewMachine begins a founding, or goes on after a restart. REQUIRES: own is durable and valid, and its node is one of the
// founders, whose number and ids are possible; a record that is Founded is one of these founders.
func NewMachine(own *Record, self uint64, founders []Founder, shards int) *Machine {
	m := &Machine{self: self, nonce: own.Nonce, founders: slices.Clone(founders), shards: shards, known: make(map[uint64]cluster.Nonce)}
	slices.SortFunc(m.founders, func(a, b Founder) int { return int(a.Node) - int(b.Node) })
	if own.State == Founded {
		m.record, m.stored = own, true
		return m
	}
	m.learn(self, own.Nonce)
	return m
}

// Hello is what to tell another founder now.
func (m *Machine) Hello() *Hello {
	h := &Hello{Node: m.self, Nonce: m.nonce, Founders: m.founders, Shards: m.shards}
	if m.stored {
		h.Record = m.record
	}
	return h
}

// Record is the founding, once it is decided; it is to be stored, and Stored to be called.
func (m *Machine) Record() *Record { return m.record }

// Stored says that the record is durable. From now on others are told.
func (m *Machine) Stored() { m.stored = true }

// Refused is why the others will not have this node, or nil.
func (m *Machine) Refused() error {
	if m.refused != nil && m.record == nil {
		return m.refused
	}
	return nil
}

// Missing are the founders that were not heard of yet; none when the founding is decided.
func (m *Machine) Missing() (missing []Founder) {
	if m.record != nil {
		return nil
	}
	for _, f := range m.founders {
		if _, ok := m.known[f.Node]; !ok {
			missing = append(missing, f)
		}
	}
	return missing
}

// Turned says that another founder will not have this node, for a reason.
func (m *Machine) Turned(reason string) {
	if m.record == nil {
		m.refused = &RefusedError{reason}
	}
}

// Meet takes what another node said of itself. It returns why that one is refused, or nothing.
func (m *Machine) Meet(h *Hello) (refusal string) {
	switch {
	case !slices.ContainsFunc(m.founders, func(f Founder) bool { return f.Node == h.Node }):
		return fmt.Sprintf("node %d is not in the --bootstrap list of node %d, which has %s: give all founders the same list", h.Node, m.self, names(m.founders))
	case h.Node == m.self && h.Nonce != m.nonce:
		return fmt.Sprintf("another node %d runs already: give each founder its own --node", h.Node)
	case h.Node == m.self:
		return "" // its own address, by the list
	case h.Shards != m.shards:
		return fmt.Sprintf("node %d was started with %d shards, and node %d with %d: give all founders the same --shards", m.self, m.shards, h.Node, h.Shards)
	case names(h.Founders) != names(m.founders):
		return fmt.Sprintf("node %d was started with %s in its --bootstrap list, and node %d with %s: give all founders the same list",
			m.self, names(m.founders), h.Node, names(h.Founders))
	case m.record != nil:
		return m.compare(h)
	case h.Record != nil:
		m.adopt(h.Record)
		return ""
	}
	m.learn(h.Node, h.Nonce)
	return ""
}

// compare holds what another node says against the founding.
func (m *Machine) compare(h *Hello) string {
	founder := m.record.member(h.Node)
	switch {
	case founder == nil || founder.Nonce != h.Nonce:
		return lost(m.record.Cluster, h.Node, addressOf(h.Founders, h.Node))
	case h.Record != nil && h.Record.Cluster != m.record.Cluster:
		return fmt.Sprintf("node %d is of cluster %016x, and node %d of cluster %016x: check the addresses and the data directories",
			h.Node, h.Record.Cluster, m.self, m.record.Cluster)
	}
	return ""
}

// lost is what a founder is told whose directory is not the one that founded.
func lost(id, node uint64, address string) string {
	return fmt.Sprintf("the cluster %016x was founded with another node %d: this data directory is not the one, so the node cannot come back as it was. Replace it: beaver cluster replace %d %s, and start it with --join instead of --bootstrap",
		id, node, node, address)
}

func addressOf(list []Founder, node uint64) string {
	for _, f := range list {
		if f.Node == node {
			return f.Address
		}
	}
	return "HOST:PORT"
}

// adopt takes a founding that another founder has stored.
func (m *Machine) adopt(r *Record) {
	founder := r.member(m.self)
	switch {
	case r.State != Founded || !r.valid() || r.Shards != m.shards || names(founders(r)) != names(m.founders) || r.Cluster != clusterID(r.Members, r.Shards):
		m.refused = &RefusedError{"another founder has a record of the founding that is damaged: check its data directory"}
	case founder == nil || founder.Nonce != m.nonce:
		m.refused = &RefusedError{lost(r.Cluster, m.self, addressOf(m.founders, m.self))}
	default:
		m.decide(r.Members)
	}
}

// learn knows a founder's nonce from now on, and decides when all are known.
func (m *Machine) learn(node uint64, nonce cluster.Nonce) {
	m.known[node] = nonce
	if len(m.known) < len(m.founders) {
		return
	}
	members := make([]Member, len(m.founders))
	for i, f := range m.founders {
		members[i] = Member{f.Node, f.Address, m.known[f.Node]}
	}
	m.decide(members)
}

func (m *Machine) decide(members []Member) {
	m.record = &Record{State: Founded, Nonce: m.nonce, Cluster: clusterID(members, m.shards), Node: m.self, Shards: m.shards, Members: members}
}

// clusterID is the id of the cluster that nodes founded: whoever founds with others founds another one.
func clusterID(members []Member, shards int) uint64 {
	h := sha256.New()
	b := binary.LittleEndian.AppendUint64([]byte("beaver cluster 1"), uint64(shards))
	for _, m := range members {
		b = binary.LittleEndian.AppendUint64(b, m.Node)
		b = append(b, m.Nonce[:]...)
	}
	_, _ = h.Write(b) // never fails
	return binary.LittleEndian.Uint64(h.Sum(nil)) | 1
}

// names are the nodes of a list, for people and for comparison.
func names(list []Founder) string {
	ids := make([]string, len(list))
	for i, f := range list {
		ids[i] = fmt.Sprint(f.Node)
	}
	switch n := len(ids); n {
	case 0:
		return "no nodes"
	case 1:
		return "node " + ids[0]
	default:
		return "nodes " + strings.Join(ids[:n-1], ", ") + " and " + ids[n-1]
	}
}
