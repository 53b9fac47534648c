package founding

import (
	"encoding/json"
	"fmt"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// messageVersion is that of the messages. A newer one may have more fields, which older programs pass over.
const messageVersion = 1

// Message is what nodes say by introductions: one of the fields.
type Message struct {
	Version int     `json:"version"`
	Hello   *Hello  `json:"hello,omitempty"`  // of a founder, and the answer to one
	Join    *Join   `json:"join,omitempty"`   // of a node that wants to join
	Joined  *Record `json:"joined,omitempty"` // the answer: its record
	Still   *Still  `json:"still,omitempty"`  // of a member that starts, and the answer when it still is one
	Run     *Run    `json:"run,omitempty"`    // of a member that starts or runs, and the answer
	Refused string  `json:"refused,omitempty"`
	// Later says that a refusal may pass: the other side cannot decide it just now.
	Later bool `json:"later,omitempty"`
}

// Join is what a node says of itself that wants to join.
type Join struct {
	Nonce   cluster.Nonce `json:"nonce"`
	Node    uint64        `json:"node,omitempty"` // the id that it must have; 0: any
	Address string        `json:"address"`        // where its peers reach it
	Public  string        `json:"public,omitempty"`
	Zone    string        `json:"zone,omitempty"`
	Version string        `json:"version,omitempty"`
}

// Still asks whether a node still is a member, and says where it is: it may have moved, and not hear of the others until they know.
type Still struct {
	Cluster uint64        `json:"cluster"`
	Node    uint64        `json:"node"`
	Nonce   cluster.Nonce `json:"nonce"`
	Address string        `json:"address"`
}

// Encode writes a message.
func (m Message) Encode() ([]byte, error) {
	m.Version = messageVersion
	return json.Marshal(m)
}

// DecodeMessage reads a message. What it says is not believed yet.
func DecodeMessage(b []byte) (*Message, error) {
	m := &Message{}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("an introduction that cannot be understood: %w", err)
	}
	if m.Version > messageVersion {
		return nil, fmt.Errorf("an introduction of version %d; this program knows version %d: use the same release everywhere", m.Version, messageVersion)
	}
	if r := m.Joined; r != nil && (r.State != Joined || !r.valid()) {
		return nil, fmt.Errorf("an answer to a join that is not whole")
	}
	return m, nil
}
