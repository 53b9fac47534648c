package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/shard"
)

// Times of the keeper.
const (
	keepInterval = 200 * time.Millisecond // between two looks at the shards that this node leads
	stepWait     = 3 * time.Second        // for one step
	settleTime   = 3 * time.Second        // that a lead lasts before it is shared out
	retryPause   = 2 * time.Second        // after a step that failed
	handPauseMax = time.Minute            // between two tries to hand a lead to the same node
	fullFresh    = time.Second            // how old it may be what nodes told of their disks when a lead is handed over
	fullKnown    = 5 * time.Second        // for how long a node counts as full that told so
)

// keeper brings the groups of the shards that this node leads in line with the catalog, tells the catalog where this node is, and, when
// it leads the catalog, sees who has come and who has gone. It keeps nothing that another could not find out: whoever leads next
// goes on.
type keeper struct {
	p      *peers
	signal chan struct{}
	leads  map[shard.ID]*lead // of this node, by its goroutine alone

	nodes     []cluster.Node // as of the last look
	preferred map[shard.ID]shard.NodeID
	last      shard.NodeID
	shards    int // data shards
	growths   map[shard.ID]cluster.Growth

	growAgain time.Time // a replica of a new shard could not be run: not before

	surveyed time.Time                  // when all nodes were asked about their disks
	full     map[shard.NodeID]time.Time // when they told that their disks are full
}

// lead is one shard that this node leads.
type lead struct {
	term  uint64
	since time.Time
	pause time.Time // nothing is done before
	said  string
	heir  shard.NodeID      // whom the lead could not be handed to
	wait  time.Duration     // after the last try
	again time.Time         // it is not tried before
	asked time.Time         // nobody is asked before whether it lost what it promised
	lost  []shard.ReplicaID // who did
}

func (k *keeper) init(p *peers) {
	k.p, k.signal, k.leads = p, make(chan struct{}, 1), make(map[shard.ID]*lead)
}

// wake has the keeper look at once.
func (k *keeper) wake() {
	select {
	case k.signal <- struct{}{}:
	default:
	}
}

// run is the keeper's goroutine.
func (k *keeper) run() {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	for {
		k.turn()
		select {
		case <-ticker.C:
		case <-k.signal:
		case <-k.p.ctx.Done():
			return
		}
	}
}

// turn looks at everything once.
func (k *keeper) turn() {
	ctx, cancel := context.WithTimeout(k.p.ctx, stepWait)
	defer cancel()
	if err := k.look(ctx); err != nil {
		return // the node stops, or is overloaded
	}
	k.follow()
	k.announce(ctx)
	k.grow(ctx)
	for id := range shard.ID(k.shards + 1) {
		k.keep(ctx, id)
	}
	if l, _ := k.p.host.Load().LeadershipOf(0); l.Leading {
		k.settle(ctx)
	}
}

// look reads the catalog.
func (k *keeper) look(ctx context.Context) error {
	return k.p.engine.Load().ReadCatalog(ctx, func(c *cluster.Catalog) {
		k.nodes, k.preferred, k.last = k.nodes[:0], make(map[shard.ID]shard.NodeID), c.LastNode()
		for n := range c.Nodes() {
			k.nodes = append(k.nodes, *n)
		}
		k.shards, k.growths = k.p.shardCount(c), make(map[shard.ID]cluster.Growth)
		for id := range shard.ID(k.shards + 1) {
			k.preferred[id] = c.Preferred(id)
			if g, ok := c.Growth(id); ok {
				k.growths[id] = g
			}
		}
	})
}

// follow tells the transport of nodes that came, moved or went.
func (k *keeper) follow() {
	p, self := k.p, shard.NodeID(k.p.membership().Node)
	p.knownRuns.prune(k.removed)
	for i := range k.nodes {
		n := &k.nodes[i]
		before, known := p.known[n.ID]
		switch {
		case n.ID == self:
			if n.State == cluster.NodeRemoved {
				p.remove()
			}
		case n.State == cluster.NodeRemoved || n.State == cluster.NodeExpected:
			if known {
				p.transport.RemovePeer(uint64(n.ID))
				delete(p.known, n.ID)
			}
		case !known && k.configured(n.ID):
			p.known[n.ID] = n.Info // the transport has what the node was started with, until the node itself says something new
		case !known || before.Peer != n.Info.Peer:
			if err := p.transport.SetPeer(uint64(n.ID), n.Info.Peer); err != nil {
				p.logger.Error("a node cannot be made a peer", "node", n.ID, "err", err)
				continue
			}
			p.known[n.ID] = n.Info
		}
	}
}

// removed reports whether a node was removed from the cluster, also when the catalog has forgotten it since. One that has just come, and that
// this node's copy of the catalog does not know yet, was not.
func (k *keeper) removed(node uint64) bool {
	at := slices.IndexFunc(k.nodes, func(n cluster.Node) bool { return uint64(n.ID) == node })
	if at < 0 {
		return node <= uint64(k.last)
	}
	return k.nodes[at].State == cluster.NodeRemoved
}

// configured reports whether the node was started with another address of a founder than the one that founded: somebody corrected
// it, and the catalog may not be reachable by the old one.
func (k *keeper) configured(id shard.NodeID) bool {
	for _, f := range k.p.options.founders {
		for _, m := range k.p.membership().Members {
			if f.Node == uint64(id) && m.Node == f.Node {
				return f.Address != m.Address
			}
		}
	}
	return false
}

// announce tells the catalog what is new about this node.
func (k *keeper) announce(ctx context.Context) {
	p, record := k.p, k.p.membership()
	if k.last == 0 {
		k.foundNodes(ctx, record)
		return
	}
	info := p.info()
	for i := range k.nodes {
		if n := &k.nodes[i]; uint64(n.ID) == record.Node && n.State != cluster.NodeRemoved && n.Info != info {
			code, err := p.engine.Load().ChangeCatalog(ctx, func(dst []byte) []byte {
				return cluster.AppendAnnounce(dst, n.ID, record.Nonce, &info)
			})
			if err != nil || code != cluster.CodeOK {
				p.logger.Debug("the catalog was not told where this node is", "code", code, "err", err)
			}
		}
	}
}

// foundNodes records the founders in a new catalog, which its first leader does.
func (k *keeper) foundNodes(ctx context.Context, record *founding.Record) {
	if l, _ := k.p.host.Load().LeadershipOf(0); !l.Leading || record.State != founding.Founded {
		return
	}
	var nodes []cluster.Node
	for _, m := range record.Members {
		info := cluster.NodeInfo{Peer: m.Address, Version: k.p.version}
		if m.Node == record.Node {
			info = k.p.info()
		}
		nodes = append(nodes, cluster.Node{ID: shard.NodeID(m.Node), Nonce: m.Nonce, Info: info})
	}
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return int(a.ID) - int(b.ID) })
	code, err := k.p.engine.Load().ChangeCatalog(ctx, func(dst []byte) []byte { return cluster.AppendFound(dst, nodes) })
	if err != nil || code == cluster.CodeMalformed {
		k.p.logger.Warn("the founders were not recorded", "code", code, "err", err)
	}
}

// mayHand says whether the lead may be handed to a node. Commands wait for as long as that takes, and when the other does not take it they have
// waited in vain: as when its disk stands still, or it does not trust its state. Nobody says so, so it is tried less and less often.
func (l *lead) mayHand(now time.Time, heir shard.NodeID) bool {
	return heir != l.heir || !now.Before(l.again)
}

// stayed notes that the lead was not taken.
func (l *lead) stayed(now time.Time, heir shard.NodeID) {
	if l.wait = min(2*l.wait, handPauseMax); heir != l.heir {
		l.wait = retryPause
	}
	l.heir, l.again = heir, now.Add(l.wait)
}

// view is what this node knows of a shard that it leads; nil when it does not.
func (p *peers) view(ctx context.Context, id shard.ID) *cluster.View {
	h := p.host.Load()
	l, ok := h.LeadershipOf(id)
	if !ok || !l.Leading {
		return nil
	}
	members, known, err := h.Members(ctx, id)
	if err != nil {
		return nil
	}
	// Raft hears of a node that is gone only after an election timeout; the connection tells at once.
	for i := range known {
		q := &known[i]
		q.Active = q.Active && p.connected(q.Replica.Node())
	}
	v := &cluster.View{Shard: id, Members: members, Peers: known}
	for _, s := range h.Stats().Shards {
		if s.ID == id {
			v.Self, v.Last = s.Replica, s.Last
		}
	}
	return v
}

// connected reports whether messages to a node have a connection.
func (p *peers) connected(node shard.NodeID) bool {
	for _, s := range p.transport.Stats().Peers {
		if s.Node == uint64(node) {
			return s.Messages.Connected
		}
	}
	return false
}

// keep makes the next step of one shard's group, if this node leads it.
func (k *keeper) keep(ctx context.Context, id shard.ID) {
	l, _ := k.p.host.Load().LeadershipOf(id)
	if !l.Leading || len(k.nodes) == 0 {
		delete(k.leads, id)
		return
	}
	now := time.Now()
	mine := k.leads[id]
	if mine == nil || mine.term != l.Term {
		mine = &lead{term: l.Term, since: now}
		k.leads[id] = mine
	}
	if now.Before(mine.pause) {
		return
	}
	v := k.p.view(ctx, id)
	if v == nil {
		return
	}
	k.askLost(ctx, mine, v)
	v.Full = k.filled(now)
	step := cluster.Plan(k.nodes, k.preferred[id], v)
	if step.Transfer != 0 && now.Sub(k.surveyed) > fullFresh && mine.mayHand(now, step.Transfer) {
		k.survey(ctx)
		v.Full = k.filled(now)
		step = cluster.Plan(k.nodes, k.preferred[id], v)
	}
	if step.Balance && now.Sub(mine.since) < settleTime || !mine.mayHand(now, step.Transfer) {
		step.Transfer = 0
	}
	if step.Waiting != "" && step.Waiting != mine.said {
		k.p.logger.Info("a change of a shard's members waits", "shard", id, "for", step.Waiting)
	}
	mine.said = step.Waiting
	if err := k.step(ctx, id, &step); err != nil {
		now = time.Now()
		if mine.pause = now.Add(retryPause); step.Transfer != 0 {
			mine.stayed(now, step.Transfer)
		}
		if !errors.Is(err, shard.ErrNotCaughtUp) && !errors.Is(err, shard.ErrChangePending) && k.p.ctx.Err() == nil {
			k.p.logger.Info("a step of a shard's members failed, and is tried again", "shard", id, "err", err)
		}
	}
}

// filled are the nodes whose disks are full, as far as is known. What others told is soon forgotten: then a hand-over to them is
// planned again, and before it is made they are asked again.
func (k *keeper) filled(now time.Time) (full []shard.NodeID) {
	self := shard.NodeID(k.p.membership().Node)
	if k.p.host.Load().Full() {
		full = append(full, self)
	}
	for id, told := range k.full {
		if id != self && now.Sub(told) < fullKnown {
			full = append(full, id)
		}
	}
	return full
}

// survey asks all nodes whether their disks are full. One that does not answer is not known to be.
func (k *keeper) survey(ctx context.Context) {
	k.full = make(map[shard.NodeID]time.Time)
	for _, r := range k.p.reports(ctx, k.nodes) {
		if r != nil && r.Full {
			k.full[r.Node] = time.Now()
		}
	}
	k.surveyed = time.Now()
}

// changeNames are how a change of a member is logged.
var changeNames = map[shard.ChangeKind]string{
	shard.AddLearner: "new learner", shard.Promote: "votes", shard.Demote: "votes no more", shard.Remove: "gone",
}

// step carries out one step.
func (k *keeper) step(ctx context.Context, id shard.ID, s *cluster.Step) error {
	h := k.p.host.Load()
	switch {
	case len(s.Changes) > 0:
		made, err := h.ChangeMembers(ctx, id, s.Changes...)
		if err != nil {
			return err
		}
		for _, c := range made {
			k.p.logger.Info("changed a shard's members", "shard", id, "change", changeNames[c.Kind], "replica", c.Replica.String())
			if c.Kind == shard.AddLearner {
				k.adopt(ctx, id, c.Replica)
			}
		}
		k.wake()
	case s.Transfer != 0:
		k.p.logger.Info("handing over a shard", "shard", id, "node", s.Transfer)
		return h.TransferLead(ctx, id, s.Transfer)
	}
	for _, r := range s.Adopt {
		k.adopt(ctx, id, r)
	}
	return nil
}

// adopt tells a node which replica it has. One that does not hear it is told again.
func (k *keeper) adopt(ctx context.Context, id shard.ID, r shard.ReplicaID) {
	if _, err := ask[struct{}](ctx, k.p, r.Node(), callAdopt, &adoption{id, r}); err != nil {
		k.p.logger.Debug("a node was not told of its replica", "shard", id, "node", r.Node(), "err", err)
	}
}

// settle sees which nodes have come everywhere, or gone from everywhere. REQUIRES: this node leads the catalog.
func (k *keeper) settle(ctx context.Context) {
	k.dropWishes(ctx)
	changing := slices.ContainsFunc(k.nodes, func(n cluster.Node) bool {
		return n.State == cluster.NodeJoining || n.State == cluster.NodeLeaving || n.Replaces != 0 && n.State == cluster.NodeActive
	})
	if !changing {
		return
	}
	members := k.p.allMembers(ctx, k.nodes, k.shards+1)
	for _, m := range cluster.Moves(k.nodes, members) {
		code, err := k.p.engine.Load().ChangeCatalog(ctx, func(dst []byte) []byte { return cluster.AppendMoveNode(dst, m.Node, m.From, m.To) })
		if err != nil || code != cluster.CodeOK {
			k.p.logger.Info("a node did not come to its next state", "node", m.Node, "code", code, "err", err)
			continue
		}
		k.p.logger.Info("a node came to its next state", "node", m.Node, "from", m.From.String(), "to", m.To.String())
		if m.To == cluster.NodeRemoved {
			if _, err := ask[struct{}](ctx, k.p, m.Node, callRemoved, struct{}{}); err != nil {
				k.p.logger.Debug("a node was not told that it was removed", "node", m.Node, "err", err)
			}
		}
		k.wake()
	}
}

// dropWishes takes back that a node should lead a shard which has gone for good.
func (k *keeper) dropWishes(ctx context.Context) {
	for id, node := range k.preferred {
		gone := func(n cluster.Node) bool { return n.ID == node && !n.State.Holds() }
		if node == 0 || !slices.ContainsFunc(k.nodes, gone) {
			continue
		}
		if _, err := k.p.engine.Load().ChangeCatalog(ctx, func(dst []byte) []byte { return cluster.AppendPrefer(dst, id, 0) }); err == nil {
			k.p.logger.Info("a shard is led by whoever's turn it is, since the node that was to lead it left", "shard", id, "node", node)
		}
	}
}

// allMembers are the members of all shards as their leaders tell; nothing when one has no leader that could be asked.
func (p *peers) allMembers(ctx context.Context, nodes []cluster.Node, shards int) []shard.Members {
	members := make([]shard.Members, shards)
	told := make([]bool, shards)
	for _, r := range p.reports(ctx, nodes) {
		if r == nil {
			continue
		}
		for i := range r.Shards {
			if s := &r.Shards[i]; s.Members != nil && int(s.Shard) < shards {
				members[s.Shard], told[s.Shard] = *s.Members, true
			}
		}
	}
	if slices.Contains(told, false) {
		return nil
	}
	return members
}

// start begins to keep the cluster. REQUIRES: host and engine are known.
func (p *peers) start() {
	p.running.Go(p.keeper.run)
}
