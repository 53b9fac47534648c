package server

import (
	"context"
	"errors"
	"slices"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/shard"
)

// reasonCluster is the reason of a wish that is refused, and reasonNoNode of one about a node or a shard that does not exist.
const (
	reasonCluster = "CLUSTER_STATE"
	reasonNoNode  = "NO_SUCH_NODE"
)

// wish is what an operator wants of the cluster. What is granted is in the catalog, and the keepers see to it.
type wish struct {
	Kind    string       `json:"kind"` // add, remove, drain, transfer or grow
	Node    shard.NodeID `json:"node,omitempty"`
	Address string       `json:"address,omitempty"`
	Shard   shard.ID     `json:"shard,omitempty"`
	Undo    bool         `json:"undo,omitempty"`
	Count   int          `json:"count,omitempty"` // data shards more
	Have    int          `json:"have,omitempty"`  // data shards that the operator saw; 0: nobody looked
}

// The kinds of wishes.
const (
	wishAdd      = "add" // with Node: in the place of that one
	wishRemove   = "remove"
	wishDrain    = "drain"
	wishTransfer = "transfer"
	wishGrow     = "grow"
)

// granted is what came of a wish.
type granted struct {
	Node    shard.NodeID `json:"node,omitempty"`   // that was given an id
	Shards  int          `json:"shards,omitempty"` // data shards that the cluster shall have now
	Refused string       `json:"refused,omitempty"`
	Unknown bool         `json:"unknown,omitempty"` // it is about what does not exist
	Later   bool         `json:"later,omitempty"`   // nobody can decide it just now
}

// error makes an error of a refusal.
func (g *granted) error() error {
	switch {
	case g.Refused == "":
		return nil
	case g.Later:
		return &engine.Error{Code: engine.CodeUnavailable, Reason: engine.ReasonNotLeader, Message: g.Refused}
	case g.Unknown:
		return &engine.Error{Code: engine.CodeNotFound, Reason: reasonNoNode, Message: g.Refused}
	}
	return &engine.Error{Code: engine.CodeFailedPrecondition, Reason: reasonCluster, Message: g.Refused}
}

// wish has the node that leads the catalog decide.
func (p *peers) wish(ctx context.Context, w *wish) (*granted, error) {
	leader, here, err := p.catalogLeader()
	var g *granted
	switch {
	case err != nil:
		g = later(err)
	case here:
		g = p.grant(ctx, w)
	default:
		if g, err = ask[granted](ctx, p, leader, callWish, w); err != nil {
			g = later(err)
		}
	}
	return g, g.error()
}

func later(err error) *granted { return &granted{Refused: err.Error(), Later: true} }

// grant decides a wish, and makes it the cluster's.
func (p *peers) grant(ctx context.Context, w *wish) *granted {
	v := p.view(ctx, 0)
	e := p.engine.Load()
	if v == nil || e == nil {
		return later(errNoCatalogLeader)
	}
	nodes, _, err := p.catalogNodes(ctx)
	if err != nil {
		return later(err)
	}
	shards, founded := 0, false
	if err := e.ReadCatalog(ctx, func(c *cluster.Catalog) { shards, founded = p.shardCount(c), c.LastNode() != 0 }); err != nil {
		return later(err)
	}
	if !founded {
		p.keeper.wake() // it records the founders
		return later(errNotFounded)
	}
	reports := p.reports(ctx, nodes) // what was heard a second ago is not enough to decide on
	c := &cluster.Cluster{Nodes: nodes, Shards: shards, Reachable: func(id shard.NodeID) bool {
		return slices.ContainsFunc(reports, func(r *nodeReport) bool { return r != nil && r.Node == id })
	}}
	g := &granted{Node: w.Node}
	command, err := p.command(w, c, g)
	if err != nil {
		refused := &granted{Refused: err.Error()}
		if reason, ok := errors.AsType[*cluster.WishError](err); ok {
			refused.Unknown = reason.Unknown
		}
		return refused
	}
	if command == nil {
		return g // it is as wished
	}
	code, err := e.ChangeCatalog(ctx, command)
	switch {
	case err != nil:
		return later(err)
	case code == cluster.CodeExists && w.Kind == wishGrow:
		if g.Shards > shards { // Else it had come true before. Somebody else has just added shards: the next try finds out how many.
			return later(errors.New("the cluster changed at the same moment"))
		}
	case code != cluster.CodeOK:
		return &granted{Refused: "the cluster changed at the same moment; look at beaver cluster status and say it again"}
	}
	p.keeper.wake()
	if w.Kind == wishAdd {
		if nodes, _, err = p.catalogNodes(ctx); err != nil {
			return later(err)
		}
		for i := range nodes {
			if n := &nodes[i]; n.State == cluster.NodeExpected && n.Info.Peer == w.Address {
				g.Node = n.ID
			}
		}
	}
	return g
}

// command is what makes a wish the cluster's, nil if it is so already, or why it may not be. What it comes to goes to g.
func (p *peers) command(w *wish, c *cluster.Cluster, g *granted) (_ func([]byte) []byte, err error) {
	var m cluster.Move
	switch w.Kind {
	case wishAdd:
		if node, ok := c.Expected(w.Address, w.Node); ok {
			g.Node = node
			return nil, nil
		}
		return func(dst []byte) []byte { return cluster.AppendExpect(dst, w.Address, w.Node) }, c.Expect(w.Address, w.Node)
	case wishTransfer:
		return func(dst []byte) []byte { return cluster.AppendPrefer(dst, w.Shard, w.Node) }, c.Transfer(w.Shard, w.Node)
	case wishGrow:
		g.Shards, err = c.Grow(w.Count, w.Have)
		return func(dst []byte) []byte { return cluster.AppendGrow(dst, p.membership().Shards, g.Shards) }, err
	case wishRemove:
		m, err = c.Remove(w.Node)
	case wishDrain:
		m, err = c.Drain(w.Node, w.Undo)
	default:
		err = &cluster.WishError{Reason: "a wish of the kind " + w.Kind + ", which this version does not know"}
	}
	if m == (cluster.Move{}) {
		return nil, err
	}
	return func(dst []byte) []byte { return cluster.AppendMoveNode(dst, m.Node, m.From, m.To) }, err
}
