package engine

import (
	"strings"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/shard"
)

// The nodes of a cluster are upgraded one after the other. One that is older than unique keys does not know what to make of an entry that has
// such a job: it stops there, though nothing is lost by it, until it is upgraded. So a node takes no job with a unique key while another one
// may be so old. Every release has known them, and so a cluster that goes from one release to the next refuses nothing.

// olderNode is a member that may not know unique keys, and which version it runs.
type olderNode struct {
	id      shard.NodeID
	version string
}

// nodesSeen implements follower. It is called with each state of the catalog, and what requests look at changes seldom.
func (e *Engine) nodesSeen(c *cluster.Catalog) {
	var found *olderNode
	for n := range c.Nodes() {
		if n.State.Holds() && uint64(n.ID) != e.opts.Node && mayBeOlder(n.Info.Version, e.opts.Version) {
			found = &olderNode{n.ID, n.Info.Version}
			break
		}
	}
	if before := e.older.Load(); before == nil && found == nil || before != nil && found != nil && *before == *found {
		return
	}
	e.older.Store(found)
}

// mayBeOlder reports whether a node that runs a version may be older than unique keys, as far as a node can tell that runs version own and knows
// them: it is neither a release nor the same build. A build that does not say what it was made of is taken for one that knows them, or
// the jobs would be refused for ever.
func mayBeOlder(version, own string) bool {
	release := strings.HasPrefix(version, "v") && !strings.Contains(version, "-") // v0.0.0-20260102030405-0123456789ab is no release
	return version != own && !release && version != "" && version != "devel"
}

func errOlderNode(n *olderNode) *Error {
	return newError(CodeFailedPrecondition, ReasonVersionsDiffer,
		"node %d runs version %s, which may be older than unique keys; jobs with one are taken when that node is upgraded, or removed if it is gone for good",
		n.id, n.version)
}
