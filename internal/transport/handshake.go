package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The dialler sends a hello and waits for the answer, which says that it may go on or why not. Magic and version lie first in
// all versions, so that another version can be refused by name.
//
//	hello
//	┌───────────────────┬─────────────┬────────────┬───────┬─────────────┬──────────┬────────┐
//	│ "BVRPEER\n" 8 B   │ version u32 │ purpose u8 │ 0 u24 │ cluster u64 │ from u64 │ to u64 │
//	└───────────────────┴─────────────┴────────────┴───────┴─────────────┴──────────┴────────┘
//	welcome
//	┌───────────────────┬─────────────┬────────────┬───────┬─────────────┬──────────┐
//	│ "BVRPEER\n" 8 B   │ version u32 │ verdict u8 │ 0 u24 │ cluster u64 │ node u64 │
//	└───────────────────┴─────────────┴────────────┴───────┴─────────────┴──────────┘
const (
	magic           = "BVRPEER\n"
	protocolVersion = 1
	helloBytes      = 40
	welcomeBytes    = 32
)

// verdict is what the node that was dialled says to a hello.
type verdict uint8

const (
	accepted verdict = iota
	otherVersion
	otherCluster
	otherNode
	stranger
	ownNode
	unknownPurpose
	otherCertificate
	dialledSecure // and the dialler has no security; said without TLS
	diallerSecure // and the dialled has none
)

// What a handshake can find. All are wrapped in a *HandshakeError.
var (
	// ErrNoPeer: what is on the other side does not speak this protocol at all.
	ErrNoPeer = errors.New("the other side is no beaver node's peer port")
	// ErrOtherVersion: the nodes' binaries speak different versions of the protocol.
	ErrOtherVersion = errors.New("the protocol versions differ: bring both nodes to the same release")
	// ErrOtherCluster: the nodes are of different clusters.
	ErrOtherCluster = errors.New("the nodes are of different clusters: check the peer's address and the data directories")
	// ErrOtherNode: behind the address is a node that was not meant.
	ErrOtherNode = errors.New("behind the address is another node than the one that was dialled: check the peer's address")
	// ErrStranger: the dialler is no member that the dialled node knows of.
	ErrStranger = errors.New("the dialling node is not a member of the cluster, as far as the dialled node knows")
	// ErrOwnNode: a node dialled itself, or there are two nodes with one id.
	ErrOwnNode = errors.New("both sides have the same node id: the address is the node's own, or two nodes run under one id")
	// ErrUnknownPurpose: a connection for something that this version does not have.
	ErrUnknownPurpose = errors.New("the connection's purpose is unknown")
	// ErrOtherCertificate: the certificate is good, but names another node than the one that shows it.
	ErrOtherCertificate = errors.New("the certificate does not name the node that shows it")
)

// errorOf maps a verdict to its error; nil for accepted.
func (v verdict) error() error {
	switch v {
	case accepted:
		return nil
	case otherVersion:
		return ErrOtherVersion
	case otherCluster:
		return ErrOtherCluster
	case otherNode:
		return ErrOtherNode
	case stranger:
		return ErrStranger
	case ownNode:
		return ErrOwnNode
	case unknownPurpose:
		return ErrUnknownPurpose
	case otherCertificate:
		return ErrOtherCertificate
	case dialledSecure:
		return errBareHere
	case diallerSecure:
		return errBareThere
	default:
		return ErrNoPeer
	}
}

// HandshakeError says why two nodes do not talk. Cause is one of the errors above, or what TLS or the network says.
type HandshakeError struct {
	Address string // of the other side
	Dialled bool   // this node dialled; else it was dialled
	// What the other side said of itself, as far as it came; 0 if it did not. It is not verified.
	Version       uint32
	Cluster, Node uint64
	Cause         error
}

func (e *HandshakeError) Error() string {
	said := ""
	if e.Version != 0 && e.Cluster != 0 {
		said = fmt.Sprintf(" (protocol %d, cluster %016x, node %d)", e.Version, e.Cluster, e.Node)
	}
	if e.Dialled {
		return fmt.Sprintf("handshake with %s%s: %v", e.Address, said, e.Cause)
	}
	return fmt.Sprintf("handshake of %s%s: %v", e.Address, said, e.Cause)
}

func (e *HandshakeError) Unwrap() error { return e.Cause }

// hello is what the dialler says of itself.
type hello struct {
	version  uint32
	purpose  purpose
	cluster  uint64
	from, to uint64
}

func (h hello) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint32(b, h.version)
	b = append(b, byte(h.purpose), 0, 0, 0)
	b = le.AppendUint64(b, h.cluster)
	b = le.AppendUint64(b, h.from)
	return le.AppendUint64(b, h.to)
}

// decodeHello takes whatever has the magic: what is in it is for the judge.
func decodeHello(b []byte) (hello, error) {
	if len(b) != helloBytes || !bytes.HasPrefix(b, []byte(magic)) {
		return hello{}, ErrNoPeer
	}
	le := binary.LittleEndian
	h := hello{version: le.Uint32(b[8:]), purpose: purpose(b[12]), cluster: le.Uint64(b[16:]), from: le.Uint64(b[24:]), to: le.Uint64(b[32:])}
	if b[13]|b[14]|b[15] != 0 {
		h.purpose = purposeEnd
	}
	return h, nil
}

// judge says whether a node takes the connection of another that says h. knows tells whether a node is a peer, and names whether the
// dialler's certificate names a node.
func (h hello) judge(cluster, node uint64, knows, names func(node uint64) bool) verdict {
	switch {
	case h.version != protocolVersion:
		return otherVersion
	case h.cluster != cluster:
		return otherCluster
	case !names(h.from):
		return otherCertificate
	case h.from == node:
		return ownNode
	case h.to != node:
		return otherNode
	case !knows(h.from):
		return stranger
	case h.purpose == 0 || h.purpose >= purposeEnd:
		return unknownPurpose
	default:
		return accepted
	}
}

// welcome is what the dialled node answers.
type welcome struct {
	version uint32
	verdict verdict
	cluster uint64
	node    uint64
}

func (w welcome) append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, magic...)
	b = le.AppendUint32(b, w.version)
	b = append(b, byte(w.verdict), 0, 0, 0)
	b = le.AppendUint64(b, w.cluster)
	return le.AppendUint64(b, w.node)
}

func decodeWelcome(b []byte) (welcome, error) {
	if len(b) != welcomeBytes || !bytes.HasPrefix(b, []byte(magic)) {
		return welcome{}, ErrNoPeer
	}
	le := binary.LittleEndian
	return welcome{version: le.Uint32(b[8:]), verdict: verdict(b[12]), cluster: le.Uint64(b[16:]), node: le.Uint64(b[24:])}, nil
}

// check is the dialler's judgement of a welcome: it believes a refusal, and an acceptance only of whom it meant.
func (w welcome) check(h hello) error {
	switch {
	case w.version != h.version:
		return ErrOtherVersion
	case w.verdict != accepted:
		return w.verdict.error()
	case w.cluster != h.cluster:
		return ErrOtherCluster
	case w.node != h.to:
		return ErrOtherNode
	default:
		return nil
	}
}

// greet is the dialler's side of the handshake.
func greet(rw io.ReadWriter, h hello) (welcome, error) {
	if _, err := rw.Write(h.append(nil)); err != nil {
		return welcome{}, err
	}
	b := make([]byte, welcomeBytes)
	if _, err := io.ReadFull(rw, b); err != nil {
		return welcome{}, explained(err) // with TLS 1.3 it is now that the other side refuses a certificate
	}
	w, err := decodeWelcome(b)
	if err != nil {
		return welcome{}, err
	}
	return w, w.check(h)
}

// receive is the other side: it answers with judge's verdict.
func receive(rw io.ReadWriter, cluster, node uint64, judge func(hello) verdict) (hello, error) {
	b := make([]byte, helloBytes)
	if _, err := io.ReadFull(rw, b); err != nil {
		return hello{}, err
	}
	h, err := decodeHello(b)
	if err != nil {
		return hello{}, err // it would not understand an answer
	}
	v := judge(h)
	if _, err := rw.Write(welcome{protocolVersion, v, cluster, node}.append(nil)); err != nil && v == accepted {
		return h, err
	}
	return h, v.error()
}
