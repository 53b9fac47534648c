package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
)

// DefaultPeerListen is where a node of a cluster listens to its peers when nobody says.
const DefaultPeerListen = "127.0.0.1:7401"

// Limits of PeerOptions.TransferRate.
const (
	TransferRateMin = transport.TransferRateMin
	TransferRateMax = transport.TransferRateMax
)

// PeerOptions make a node one of several. The zero value is a node that is alone, and stays so.
type PeerOptions struct {
	// Bootstrap is the list of the nodes that found a cluster together, "1=HOST:PORT,2=HOST:PORT,3=HOST:PORT": each one's id and
	// the address where its peers reach it. All founders have the same list, and Node says which of them this is.
	Bootstrap string

	// Join is the peer address of a member of the cluster that this node is to join; it begins with an empty data directory.
	Join string

	// Node is this node's id: one of Bootstrap's, or with Join the one that it must get. 0: with Join, whichever is free.
	Node uint64

	// Listen is the address for peers. Default: this node's address in Bootstrap, else "127.0.0.1:7401". A node that has no
	// Bootstrap and no Join and listens to peers is a cluster of one, which others may join.
	Listen string

	// Advertise is where peers reach this node. Default: its address in Bootstrap, else Listen.
	Advertise string

	// Zone says where the node is, for people.
	Zone string

	// TransferRate is how many bytes of snapshots this node sends to others a second, all together. Default 64 MiB.
	TransferRate int

	// SecretFile holds the cluster's secret, random bytes that all nodes share. Instead of it, CA, Cert and Key name PEM files:
	// the authority of the cluster's certificates, this node's certificate and its key. Without either, peers are reached on loopback
	// addresses only.
	SecretFile    string
	CA, Cert, Key string
}

// wanted reports whether the node is to have peers.
func (o *PeerOptions) wanted() bool { return o.Bootstrap != "" || o.Join != "" || o.Listen != "" }

// peering is the peer options as they are meant.
type peering struct {
	PeerOptions
	founders []founding.Founder
	security transport.Security
	public   string // where clients reach the node; empty: to be seen from the listener
}

// interpret fills in what is left out. The options are checked.
func (o *Options) interpret() (*peering, error) {
	p := &peering{PeerOptions: o.Peers, public: o.Advertise}
	p.founders, _ = parseFounders(p.Bootstrap)
	if len(p.founders) == 1 && p.Node == 0 {
		p.Node = p.founders[0].Node
	}
	if own := p.own(); own != "" {
		p.Listen, p.Advertise = orElse(p.Listen, own), orElse(p.Advertise, own)
	}
	p.Listen = orElse(p.Listen, DefaultPeerListen)
	p.Advertise = orElse(p.Advertise, p.Listen)
	p.security = transport.Insecure()
	switch {
	case p.SecretFile != "":
		secret, err := readSecret(p.SecretFile)
		if err != nil {
			return nil, err
		}
		p.security = transport.Secret(secret)
	case p.CA != "":
		for _, f := range []struct{ field, name string }{{"Peers.CA", p.CA}, {"Peers.Cert", p.Cert}, {"Peers.Key", p.Key}} {
			if _, err := os.ReadFile(f.name); err != nil {
				return nil, unreadable(f.field, f.name, err)
			}
		}
		p.security = transport.Files(p.CA, p.Cert, p.Key)
	}
	return p, nil
}

func orElse(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// own is this node's address in the list of founders, or nothing.
func (p *peering) own() string {
	for _, f := range p.founders {
		if f.Node == p.Node {
			return f.Address
		}
	}
	return ""
}

// readSecret reads the cluster's secret; one newline at its end is the editor's.
func readSecret(name string) ([]byte, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, unreadable("Peers.SecretFile", name, err)
	}
	b = []byte(strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r"))
	if len(b) < transport.SecretBytesMin || len(b) > transport.SecretBytesMax {
		return nil, &OptionError{"Peers.SecretFile", fmt.Sprintf(
			"%q, which holds %d bytes: want %d to %d random ones; openssl rand -hex 32 makes some", name, len(b), transport.SecretBytesMin, transport.SecretBytesMax)}
	}
	return b, nil
}

// unreadable says that the file which an option names cannot be read.
func unreadable(field, name string, err error) error {
	if at, ok := errors.AsType[*fs.PathError](err); ok {
		err = at.Err
	}
	return &OptionError{field, fmt.Sprintf("%q, which cannot be read: %v", name, err)}
}

// parseFounders reads a list like 1=HOST:PORT,2=HOST:PORT.
func parseFounders(list string) (founders []founding.Founder, problem string) {
	if list == "" {
		return nil, ""
	}
	const example = "write it like 1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401"
	for item := range strings.SplitSeq(list, ",") {
		name, address, ok := strings.Cut(strings.TrimSpace(item), "=")
		id, err := strconv.ParseUint(name, 10, 64)
		switch {
		case !ok || err != nil || id < 1 || id > shard.NodeMax:
			return nil, fmt.Sprintf("%q has no node id from 1 to %d; %s", item, shard.NodeMax, example)
		case cluster.ValidAddress(address) != nil:
			return nil, fmt.Sprintf("the address of node %d %v; %s", id, cluster.ValidAddress(address), example)
		}
		if host, _, _ := net.SplitHostPort(address); unspecified(host) {
			return nil, fmt.Sprintf("the address of node %d is %q, which no other node can dial; give that of its machine", id, address)
		}
		for _, f := range founders {
			if f.Node == id {
				return nil, fmt.Sprintf("node %d is there twice", id)
			}
			if f.Address == address {
				return nil, fmt.Sprintf("nodes %d and %d have one address", f.Node, id)
			}
		}
		founders = append(founders, founding.Founder{Node: id, Address: address})
	}
	if len(founders) > founding.FoundersMax {
		return nil, fmt.Sprintf("%d nodes are too many; at most %d are possible", len(founders), founding.FoundersMax)
	}
	return founders, ""
}

// validatePeers names every peer option that does not fit. The options have their defaults.
func (o *Options) validatePeers(check func(ok bool, field, format string, args ...any)) {
	p := &o.Peers
	if !p.wanted() {
		for _, f := range []struct{ field, value string }{
			{"Peers.Advertise", p.Advertise},
			{"Peers.Zone", p.Zone},
			{"Peers.SecretFile", p.SecretFile},
			{"Peers.CA", p.CA},
			{"Peers.Cert", p.Cert},
			{"Peers.Key", p.Key},
		} {
			check(f.value == "", f.field, "%q, but the node has no peers: give --bootstrap, --join or --peer-listen too", f.value)
		}
		check(p.TransferRate == 0, "Peers.TransferRate", "%d, but the node has no peers: give --bootstrap, --join or --peer-listen too", p.TransferRate)
		check(p.Node <= 1, "Peers.Node", "%d, but the node has no peers: give --bootstrap or --join too", p.Node)
		return
	}
	founders, problem := parseFounders(p.Bootstrap)
	check(problem == "", "Peers.Bootstrap", "%q: %s", p.Bootstrap, problem)
	check(p.Bootstrap == "" || p.Join == "", "Peers.Join", "%q, and there is a --bootstrap list: a node either founds its cluster or joins one", p.Join)
	if p.Join != "" {
		err := cluster.ValidAddress(p.Join)
		check(err == nil, "Peers.Join", "the peer address of a member; it %v", err)
		own := o.meant()
		check(p.Join != own.Listen && p.Join != own.Advertise, "Peers.Join",
			"%q, which is where this node itself listens: give the peer address of a member, or give this node another --peer-listen", p.Join)
	}
	check(p.TransferRate == 0 || p.TransferRate >= TransferRateMin && p.TransferRate <= TransferRateMax,
		"Peers.TransferRate", "%d bytes a second: want %d (1 MiB) to %d (1 GiB)", p.TransferRate, TransferRateMin, TransferRateMax)
	check(p.Node <= shard.NodeMax, "Peers.Node", "%d: want 1 to %d", p.Node, shard.NodeMax)
	if len(founders) > 0 {
		check(p.Node != 0 || len(founders) == 1, "Peers.Node", "missing: say which node of the --bootstrap list this one is")
		listed := slices.ContainsFunc(founders, func(f founding.Founder) bool { return f.Node == p.Node })
		check(listed || p.Node == 0, "Peers.Node", "%d, which is not in the --bootstrap list: say which of its nodes this one is", p.Node)
	}
	// What the catalog does not take of this node would keep it out of the cluster for ever.
	err := cluster.ValidZone(p.Zone)
	check(err == nil, "Peers.Zone", "no name of a zone: it %v", err)
	if o.Advertise != "" {
		err = cluster.ValidAddress(o.Advertise)
		check(err == nil, "Advertise", "an address that clients cannot dial: it %v", err)
	}
	check(len(o.Version) <= cluster.NodeVersionBytesMax, "Version", "%d bytes long: want at most %d", len(o.Version), cluster.NodeVersionBytesMax)
	if problem == "" {
		o.validateAddresses(check)
	}
	o.validateSecurity(check)
}

// validateAddresses checks where the node listens to peers, and where it says that it does.
func (o *Options) validateAddresses(check func(ok bool, field, format string, args ...any)) {
	p := o.meant()
	if o.Listen != listenNowhere && o.Advertise == "" {
		name, _, err := net.SplitHostPort(o.Listen)
		check(err != nil || !unspecified(name), "Advertise", "missing: clients cannot dial %s; say by which address they reach this node", o.Listen)
	}
	name, port, err := net.SplitHostPort(p.Listen)
	check(err == nil, "Peers.Listen", "%q: want host:port, for example %q", p.Listen, DefaultPeerListen)
	if err != nil {
		return
	}
	check(p.Listen != o.Listen || port == "0", "Peers.Listen", "%q, and so is --listen: clients and peers have a port each", p.Listen)
	if p.Advertise == p.Listen {
		check(!unspecified(name), "Peers.Advertise", "missing: peers cannot dial %s; say by which address they reach this node", p.Listen)
		check(port != "0", "Peers.Listen", "%q: want a port from 1 to 65535, which peers can dial", p.Listen)
		return
	}
	err = cluster.ValidAddress(p.Advertise)
	check(err == nil, "Peers.Advertise", "an address that peers cannot dial: it %v", err)
	if err != nil {
		return
	}
	reached, _, _ := net.SplitHostPort(p.Advertise)
	check(!unspecified(reached), "Peers.Advertise", "%q, which no peer can dial; give the address of this machine", p.Advertise)
	check(!loopback(reached) || loopback(name) || !o.others(p), "Peers.Advertise",
		"%q, which the peers would look for on their own machines; give the address of this one", p.Advertise)
}

// listensElsewhere reports whether the node listens to peers on another port than where the list of founders has it, though nothing says that
// this leads there: so it is when a founder has moved, and its list has not been changed.
func (o *Options) listensElsewhere(p *peering) bool {
	_, port, _ := net.SplitHostPort(p.Listen)
	_, listed, err := net.SplitHostPort(p.own())
	return o.Peers.Advertise == "" && err == nil && port != listed
}

// meant is the peer options with what follows from the list, without reading files.
func (o *Options) meant() *peering {
	c := *o
	c.Peers.SecretFile, c.Peers.CA = "", ""
	p, _ := c.interpret()
	return p
}

// others reports whether a founder is on another machine.
func (o *Options) others(p *peering) bool {
	return p.Join != "" || slices.ContainsFunc(p.founders, func(f founding.Founder) bool {
		name, _, _ := net.SplitHostPort(f.Address)
		return !loopback(name)
	})
}

// validateSecurity checks that there is one way to know peers, and that it is whole.
func (o *Options) validateSecurity(check func(ok bool, field, format string, args ...any)) {
	p := &o.Peers
	files := 0
	for _, f := range []string{p.CA, p.Cert, p.Key} {
		if f != "" {
			files++
		}
	}
	check(files == 0 || files == 3, "Peers.CA", "%q, --peer-cert %q and --peer-key %q: give all three, or none", p.CA, p.Cert, p.Key)
	check(files == 0 || p.Join == "" || p.Node != 0, "Peers.Node", "missing: with certificates a node joins under the id that its certificate names, and beaver cluster add says which it gets")
	check(files == 0 || p.SecretFile == "", "Peers.SecretFile", "%q, and there are certificates: peers are known by one or the other", p.SecretFile)
	if files == 0 && p.SecretFile == "" {
		name, _, err := net.SplitHostPort(o.meant().Listen)
		check(err != nil || loopback(name), "Peers.Listen",
			"%q, which other machines reach: give --cluster-secret-file, or --peer-ca with --peer-cert and --peer-key", o.meant().Listen)
	}
}

func unspecified(name string) bool {
	ip := net.ParseIP(name)
	return name == "" || ip != nil && ip.IsUnspecified()
}

func loopback(name string) bool {
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
