package founding

import (
	"fmt"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
)

// Start is how a node was told to start.
type Start struct {
	Founders []Founder // --bootstrap; empty without
	Node     uint64    // --node; 0 without
	Join     string    // --join; empty without
	Peers    bool      // it listens to peers
	Shards   int       // --shards; 0 without
	// SelfAddress is where peers reach this node.
	SelfAddress string
}

// Directory is what a data directory has.
type Directory struct {
	Record   *Record // nil: none
	Identity bool    // it belongs to a node
	Cluster  uint64  // of that identity
	Node     uint64
	Shards   int // data shards that it has replicas of
}

// Way is what a start comes to.
type Way uint8

// The ways.
const (
	Alone  Way = iota // as a node that has no peers and wants none
	Found             // found, or go on founding: the Machine says when
	Come              // join the cluster, or go on with it
	Return            // start as the member that the record says
)

// StartError says that a start does not fit the data directory, and what to do.
type StartError struct{ Reason string }

func (e *StartError) Error() string { return e.Reason }

// Decide says what a start comes to. defaultShards is how many data shards a new cluster has when nobody says.
func Decide(s *Start, d *Directory, defaultShards int) (Way, *Record, error) {
	refuse := func(format string, args ...any) (Way, *Record, error) {
		return 0, nil, &StartError{fmt.Sprintf(format, args...)}
	}
	r := d.Record
	switch {
	case r != nil && r.State == Removed:
		return refuse("node %d was removed from cluster %016x, and its id is never used again. Its jobs are on the other nodes; to join anew, start with an empty data directory and --join", r.Node, r.Cluster)
	case r != nil && r.State != Born:
		return member(s, r)
	case d.Identity && len(s.Founders) > 1:
		return refuse("the data directory has the data of a node that was started alone, which founders do not have. Start it without --bootstrap, and the others with --join")
	case d.Identity && s.Join != "":
		return refuse("the data directory has the data of a node that was started alone, and joining would lose its jobs. Start it without --join and let others join it, or give an empty data directory")
	case len(s.Founders) > 0 && r == nil && d.Identity:
		return found(s, d, defaultShards)
	case len(s.Founders) > 0:
		return Found, r, nil
	case s.Join != "":
		return Come, r, nil
	case r != nil:
		return refuse("the data directory was begun with --bootstrap or --join: give that again, or an empty data directory")
	case !s.Peers:
		return Alone, nil, nil
	}
	return found(s, d, defaultShards)
}

// member checks a start against the record of a member.
func member(s *Start, r *Record) (Way, *Record, error) {
	refuse := func(format string, args ...any) (Way, *Record, error) {
		return 0, nil, &StartError{fmt.Sprintf(format, args...)}
	}
	switch {
	case s.Node != 0 && s.Node != r.Node:
		return refuse("the data directory belongs to node %d, and --node is %d: check the data directory", r.Node, s.Node)
	case s.Shards != 0 && s.Shards < r.Shards:
		return refuse("the cluster has %d data shards, and --shards is %d: it cannot shrink", r.Shards, s.Shards)
	case !s.Peers:
		return refuse("node %d is a member of cluster %016x: it needs --peer-listen, or the flags it was begun with", r.Node, r.Cluster)
	case r.State == Joined && len(s.Founders) > 0:
		return refuse("node %d joined the cluster, and did not found it: start it without --bootstrap", r.Node)
	case r.State == Founded && len(s.Founders) > 0 && names(sorted(s.Founders)) != names(founders(r)):
		return refuse("the cluster was founded with %s, and --bootstrap has %s. Nodes come with --join and go with beaver cluster remove; the list stays as it was",
			names(founders(r)), names(sorted(s.Founders)))
	}
	return Return, r, nil
}

// found is the start of a node that founds a cluster by itself, and keeps the data that it has.
func found(s *Start, d *Directory, defaultShards int) (Way, *Record, error) {
	r := &Record{State: Founded, Cluster: d.Cluster, Node: d.Node, Shards: d.Shards}
	if !d.Identity {
		r.Node, r.Shards = max(s.Node, 1), s.Shards
		if r.Shards == 0 {
			r.Shards = defaultShards
		}
	}
	switch {
	case s.Node != 0 && s.Node != r.Node:
		return 0, nil, &StartError{fmt.Sprintf("the data directory belongs to node %d, and --node is %d: check the data directory", r.Node, s.Node)}
	case s.Shards > r.Shards:
		r.Shards = s.Shards // it still is alone, so it may grow
	case s.Shards != 0 && s.Shards < r.Shards:
		return 0, nil, &StartError{fmt.Sprintf("the data directory has %d data shards, and --shards is %d: it cannot shrink", r.Shards, s.Shards)}
	}
	r.Members = []Member{{Node: r.Node, Address: s.SelfAddress}}
	return Found, r, nil
}

// Alone completes the record of a node that founds by itself with its nonce.
func (r *Record) Alone(nonce cluster.Nonce) *Record {
	c := *r
	c.Nonce = nonce
	c.Members = slices.Clone(r.Members)
	c.Members[0].Nonce = nonce
	if c.Cluster == 0 {
		c.Cluster = clusterID(c.Members, c.Shards)
	}
	return &c
}

func sorted(list []Founder) []Founder {
	return slices.SortedFunc(slices.Values(list), func(a, b Founder) int { return int(a.Node) - int(b.Node) })
}

func founders(r *Record) (list []Founder) {
	for _, m := range r.Members {
		list = append(list, Founder{m.Node, m.Address})
	}
	return sorted(list)
}
