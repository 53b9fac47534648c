package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
	"github.com/beaver-raft/beaver/internal/vfs"
)

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// found founds the cluster together with the other founders. It returns when the record is stored.
func (p *peers) found(ctx context.Context, record *founding.Record, shards int) (*founding.Record, error) {
	record, err := p.born(record)
	if err != nil {
		return nil, err
	}
	if shards == 0 {
		shards = engine.DefaultShards
	}
	p.mu.Lock()
	p.founder = founding.NewMachine(record, p.options.Node, p.options.founders, shards)
	p.mu.Unlock()
	if n := len(p.options.founders); n%2 == 0 {
		p.logger.Warn("a cluster of an even number of nodes withstands no more failures than one with a node less",
			slog.Int("nodes", n), slog.Int("may_fail", (n-1)/2))
	}
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		record, missing, err := p.decided()
		if record != nil || err != nil {
			return record, err
		}
		troubles := make(map[uint64]error)
		for _, f := range missing {
			troubles[f.Node] = p.greet(ctx, f)
		}
		if record, missing, err = p.decided(); record != nil || err != nil {
			return record, err
		}
		why := fmt.Sprintf("waiting for node %d at %s, which founds the cluster too", missing[0].Node, missing[0].Address)
		if err := troubles[missing[0].Node]; lasting(err) {
			why += fmt.Sprintf(": %v", err)
		}
		p.await(why)
		if err := p.rest(ctx, pause); err != nil {
			return nil, fmt.Errorf("waiting for node %d, which founds the cluster too: %w", missing[0].Node, err)
		}
	}
}

// await says what the node waits for, to who asks whether it is ready, and once to who reads its log.
func (p *peers) await(why string) {
	p.waits(why)
	if why != p.awaited {
		p.awaited = why
		p.logger.Warn("not ready", slog.String("why", why))
	}
}

// rest waits for a while, or until somebody has said something.
func (p *peers) rest(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.changed:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// decided stores the founding when it is decided, and says who is missing when it is not.
func (p *peers) decided() (record *founding.Record, missing []founding.Founder, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.founder
	if err := m.Refused(); err != nil {
		return nil, nil, err
	}
	if record = m.Record(); record == nil {
		return nil, m.Missing(), nil
	}
	if err := founding.Write(vfs.OS(), p.dir, record); err != nil {
		return nil, nil, err
	}
	m.Stored()
	return record, nil, nil
}

// lasting reports whether nodes do not talk for a reason that does not pass by itself, as it does when one of them is not there yet.
func lasting(err error) bool {
	return errors.Is(err, transport.ErrSecurity) || errors.Is(err, transport.ErrOtherVersion) || errors.Is(err, transport.ErrNoPeer)
}

// greet introduces this node to another founder. Its error is why that could not be asked.
func (p *peers) greet(ctx context.Context, f founding.Founder) error {
	p.mu.Lock()
	hello := founding.Message{Hello: p.founder.Hello()}
	p.mu.Unlock()
	answer, by, err := p.introduce(ctx, f.Address, hello)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.logger.Debug("a founder could not be asked", "node", f.Node, "err", err)
	case answer.Refused != "" && !answer.Later:
		p.founder.Turned(answer.Refused)
	case answer.Hello != nil && by.Names(answer.Hello.Node):
		if refusal := p.founder.Meet(answer.Hello); refusal != "" {
			p.logger.Warn("a founder does not fit", "node", f.Node, "err", refusal)
		}
	}
	return err
}

// introduce says something to whoever listens at an address, and returns the answer.
func (p *peers) introduce(ctx context.Context, address string, m founding.Message) (*founding.Message, transport.Introduced, error) {
	body, err := m.Encode()
	if err != nil {
		return nil, transport.Introduced{}, err
	}
	answer, by, err := p.transport.Introduce(ctx, address, body)
	if err != nil {
		return nil, by, err
	}
	got, err := founding.DecodeMessage(answer)
	return got, by, err
}

// introduced answers a node that introduces itself.
func (p *peers) introduced(ctx context.Context, from transport.Introduced, body []byte) ([]byte, error) {
	m, err := founding.DecodeMessage(body)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Hello != nil:
		return p.meet(from, m.Hello).Encode()
	case m.Join != nil:
		if m.Join.Node != 0 && !from.Names(m.Join.Node) {
			return founding.Message{Refused: fmt.Sprintf("the certificate does not name node %d", m.Join.Node)}.Encode()
		}
		return p.admitAnywhere(ctx, m.Join).Encode()
	case m.Still != nil:
		if !from.Names(m.Still.Node) {
			return founding.Message{Refused: fmt.Sprintf("the certificate does not name node %d", m.Still.Node)}.Encode()
		}
		return p.still(ctx, m.Still).Encode()
	case m.Run != nil:
		if !from.Names(m.Run.Node) {
			return founding.Message{Refused: fmt.Sprintf("the certificate does not name node %d", m.Run.Node), Later: true}.Encode()
		}
		return p.mayRun(ctx, m.Run).Encode()
	}
	return nil, errors.New("an introduction that asks for nothing")
}

// meet answers a founder.
func (p *peers) meet(from transport.Introduced, h *founding.Hello) founding.Message {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !from.Names(h.Node):
		return founding.Message{Refused: fmt.Sprintf("the certificate does not name node %d", h.Node)}
	case p.founder == nil && p.record != nil:
		return founding.Message{Refused: fmt.Sprintf("node %d is a member of cluster %016x, and founds no other: start with --join instead of --bootstrap", p.record.Node, p.record.Cluster)}
	case p.founder == nil:
		return founding.Message{Refused: "this node is starting", Later: true}
	}
	refusal := p.founder.Meet(h)
	p.poke()
	return founding.Message{Hello: p.founder.Hello(), Refused: refusal}
}

// info is what this node says of itself.
func (p *peers) info() cluster.NodeInfo {
	return cluster.NodeInfo{Peer: p.options.Advertise, Public: p.options.public, Zone: p.options.Zone, Version: p.version}
}

// join asks a member for a place in its cluster, until it gets one. It returns when the record is stored.
func (p *peers) join(ctx context.Context, record *founding.Record) (*founding.Record, error) {
	record, err := p.born(record)
	if err != nil {
		return nil, err
	}
	info := p.info()
	request := founding.Message{Join: &founding.Join{
		Nonce: record.Nonce, Node: p.options.Node, Address: info.Peer, Public: info.Public, Zone: info.Zone, Version: info.Version,
	}}
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		answer, _, err := p.introduce(ctx, p.options.Join, request)
		switch {
		case errors.Is(err, transport.ErrSecurity), errors.Is(err, transport.ErrOtherVersion):
			return nil, fmt.Errorf("join by way of %s: %w", p.options.Join, err)
		case err != nil:
			p.await(fmt.Sprintf("the member at %s cannot be asked for a place in its cluster: %v", p.options.Join, err))
		case answer.Refused != "" && !answer.Later:
			return nil, &founding.RefusedError{Reason: answer.Refused}
		case answer.Refused != "":
			p.await("the cluster cannot take this node yet: " + answer.Refused)
		case answer.Joined != nil && answer.Joined.Nonce == record.Nonce:
			return answer.Joined, founding.Write(vfs.OS(), p.dir, answer.Joined)
		}
		if err := p.rest(ctx, pause); err != nil {
			return nil, fmt.Errorf("waiting for a place in the cluster of %s: %w", p.options.Join, err)
		}
	}
}

// recognised asks the node of --join whether it knows this one, which has a cluster already: the data directory may be another cluster's. No
// answer is no objection, since the node that it once joined by may be gone.
func (p *peers) recognised(ctx context.Context, r *founding.Record) error {
	ctx, cancel := context.WithTimeout(ctx, callWait)
	defer cancel()
	answer, _, err := p.introduce(ctx, p.options.Join, founding.Message{Still: &founding.Still{
		Cluster: r.Cluster, Node: r.Node, Nonce: r.Nonce, Address: p.info().Peer,
	}})
	if err != nil || answer.Still != nil || answer.Refused == "" || answer.Later {
		return nil
	}
	return &founding.StartError{Reason: fmt.Sprintf(
		"the node at %s, which --join names, says: %s. Check the data directory; to join that cluster, give an empty one", p.options.Join, answer.Refused)}
}

// admitAnywhere has the node that leads the catalog admit a newcomer.
func (p *peers) admitAnywhere(ctx context.Context, j *founding.Join) founding.Message {
	leader, here, err := p.catalogLeader()
	switch {
	case err != nil:
		return founding.Message{Refused: err.Error(), Later: true}
	case here:
		return p.admit(ctx, j)
	}
	answer, err := ask[founding.Message](ctx, p, leader, callJoin, j)
	if err != nil {
		return founding.Message{Refused: err.Error(), Later: true}
	}
	return *answer
}

// errNoCatalogLeader says that the cluster cannot decide anything now.
var errNoCatalogLeader = errors.New("no node leads the catalog at the moment; try again")

// errNotFounded says that the catalog is so new that its first leader has not recorded the founders yet. Who came now would be the only node
// that the catalog knows, and the founders would be strangers in their own cluster.
var errNotFounded = errors.New("the cluster is being founded; try again")

// catalogLeader is the node that leads the catalog, as far as this one knows.
func (p *peers) catalogLeader() (node shard.NodeID, here bool, err error) {
	h := p.host.Load()
	if h == nil || p.engine.Load() == nil {
		return 0, false, errNoCatalogLeader
	}
	l, _ := h.LeadershipOf(0)
	if l.Leader == 0 {
		return 0, false, errNoCatalogLeader
	}
	return l.Leader, l.Leading, nil
}

// admit gives a newcomer a place. REQUIRES: this node leads the catalog, else it is refused for now.
func (p *peers) admit(ctx context.Context, j *founding.Join) founding.Message {
	later := func(err error) founding.Message { return founding.Message{Refused: err.Error(), Later: true} }
	e := p.engine.Load()
	if e == nil {
		return later(errNoCatalogLeader)
	}
	info := cluster.NodeInfo{Peer: j.Address, Public: j.Public, Zone: j.Zone, Version: j.Version}
	if err := info.Validate(); err != nil {
		return founding.Message{Refused: "the node's " + err.Error()}
	}
	node, nodes, shards, err := p.newcomer(ctx, e, j.Nonce)
	var code cluster.Code
	if err == nil && node == nil {
		code, err = e.ChangeCatalog(ctx, func(dst []byte) []byte {
			return cluster.AppendJoin(dst, j.Nonce, shard.NodeID(j.Node), &info)
		})
		if err == nil {
			p.keeper.wake()
			node, nodes, shards, err = p.newcomer(ctx, e, j.Nonce)
		}
	}
	if err != nil {
		return later(err)
	}
	switch {
	case node != nil && (node.State == cluster.NodeRemoved || node.State == cluster.NodeLeaving):
		return founding.Message{Refused: fmt.Sprintf("node %d was removed, and its id is never used again: start with an empty data directory", node.ID)}
	case node != nil:
		return founding.Message{Joined: p.ticket(node, nodes, shards)}
	case code == cluster.CodeLimit:
		return founding.Message{Refused: fmt.Sprintf("the cluster has %d nodes, which is the limit", cluster.NodesMax)}
	case code == cluster.CodeNotFound:
		return founding.Message{Refused: fmt.Sprintf("the id %d is taken, or was before: give another --node, or none", j.Node)}
	case code == cluster.CodeExists:
		if why := occupied(nodes, j.Address); why != "" {
			return founding.Message{Refused: why}
		}
	}
	return later(errNoCatalogLeader)
}

// occupied says which node has an address, and what whoever wants to join from there should do; nothing when none has it.
func occupied(nodes []cluster.Node, address string) string {
	for i := range nodes {
		switch n := &nodes[i]; {
		case n.Info.Peer != address || n.State == cluster.NodeRemoved:
		case n.State == cluster.NodeExpected:
			return fmt.Sprintf("node %d is expected at %s: give --node %d, or none", n.ID, address, n.ID)
		default:
			return fmt.Sprintf("node %d has the address %s. If it lost its disk, replace it first: beaver cluster replace %d %s", n.ID, address, n.ID, address)
		}
	}
	return ""
}

// newcomer finds a node by its nonce, nil when there is none, all others, and how many data shards there are. A catalog that does not know the
// founders yet takes nobody: errNotFounded. Once it knows them it always does, so what is proposed after this comes behind them.
func (p *peers) newcomer(ctx context.Context, e *engine.Engine, nonce cluster.Nonce) (node *cluster.Node, nodes []cluster.Node, shards int, err error) {
	founded := false
	err = e.ReadCatalog(ctx, func(c *cluster.Catalog) {
		founded = c.LastNode() != 0
		if n, ok := c.NodeByNonce(nonce); ok {
			node = &n
		}
		for n := range c.Nodes() {
			nodes = append(nodes, *n)
		}
		shards = p.shardCount(c)
	})
	if err == nil && !founded {
		p.keeper.wake() // it records them
		err = errNotFounded
	}
	return node, nodes, shards, err
}

// ticket is the record of a node that joins.
func (p *peers) ticket(node *cluster.Node, nodes []cluster.Node, shards int) *founding.Record {
	own := p.membership()
	r := &founding.Record{State: founding.Joined, Nonce: node.Nonce, Cluster: own.Cluster, Node: uint64(node.ID), Shards: shards}
	for i := range nodes {
		if n := &nodes[i]; n.State.Holds() && n.ID != node.ID {
			r.Members = append(r.Members, founding.Member{Node: uint64(n.ID), Address: n.Info.Peer, Nonce: n.Nonce})
		}
	}
	return r
}

// awaitFounders waits until the catalog of a new cluster names its founders, which its first leader sees to: who is told that the cluster is
// ready may ask at once who is in it. Where the catalog names nodes already, it waits for nothing. REQUIRES: this node's copy of the catalog has
// all that was committed before the node started.
func (p *peers) awaitFounders(ctx context.Context, e *engine.Engine) error {
	if p.membership().State != founding.Founded {
		return nil
	}
	p.waits("waiting for the cluster's founders to be recorded")
	p.keeper.wake() // it may be the one to record them
	founded := func(c *cluster.Catalog) bool { return c.LastNode() != 0 }
	if err := e.AwaitCatalog(ctx, founded); err != nil {
		return fmt.Errorf("waiting for the cluster's founders to be recorded: %w", err)
	}
	return nil
}

// inquireInterval is between two questions whether this node still is a member.
const inquireInterval = 10 * time.Second

// inquire asks the other nodes from time to time whether this one still is a member, and tells them where it is. Nobody else could
// tell a node that was removed while it was down, and one that moved hears nothing of its groups before the others know.
func (p *peers) inquire() {
	for pause := askPauseMin; ; pause = min(2*pause, askPauseMax) {
		answered := p.inquireOnce()
		if isRemoved(p.removed) {
			return
		}
		if answered {
			pause = inquireInterval
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// inquireOnce asks all, and reports whether anybody knew, or there is nobody to ask.
func (p *peers) inquireOnce() (answered bool) {
	own, info := p.membership(), p.info()
	request := founding.Message{Still: &founding.Still{
		Cluster: own.Cluster, Node: own.Node, Nonce: own.Nonce, Address: info.Peer,
	}}
	addresses := p.addresses()
	for _, address := range addresses {
		answer, _, err := p.introduce(p.ctx, address, request)
		if err == nil {
			p.tellRun(address)
		}
		switch {
		case err != nil:
		case answer.Still == nil && answer.Refused != "" && !answer.Later:
			p.logger.Warn("a node does not know this one", "addr", address, "err", answer.Refused)
		case answer.Still != nil && answer.Refused != "":
			p.remove()
			return true
		case answer.Still != nil:
			answered = true
		}
	}
	return answered || len(addresses) == 0
}

// addresses are where the other nodes are, as far as this one knows.
func (p *peers) addresses() (list []string) {
	for _, s := range p.transport.Stats().Peers {
		list = append(list, s.Address)
	}
	return list
}

// still says whether a node still is a member, as far as this one knows.
func (p *peers) still(ctx context.Context, s *founding.Still) founding.Message {
	own := p.membership()
	e := p.engine.Load()
	if own == nil || e == nil {
		return founding.Message{Refused: "this node is starting", Later: true}
	}
	if own.Cluster != s.Cluster {
		return founding.Message{Refused: fmt.Sprintf("this is cluster %016x, and node %d is of cluster %016x", own.Cluster, s.Node, s.Cluster)}
	}
	var node cluster.Node
	var known bool
	var last shard.NodeID
	if err := e.ReadCatalog(ctx, func(c *cluster.Catalog) {
		node, known = c.Node(shard.NodeID(s.Node))
		last = c.LastNode()
	}); err != nil {
		return founding.Message{Refused: err.Error(), Later: true}
	}
	switch {
	case known && node.State == cluster.NodeRemoved, !known && shard.NodeID(s.Node) <= last:
		return founding.Message{Still: s, Refused: fmt.Sprintf("node %d was removed from the cluster", s.Node)}
	case known && node.Nonce != s.Nonce && node.State != cluster.NodeExpected:
		return founding.Message{Refused: fmt.Sprintf("the cluster knows another node %d", s.Node)}
	case !known:
		return founding.Message{Refused: "this node does not know it yet", Later: true}
	}
	// The catalog is told by the node itself; but that may take its vote, and so this node's messages to it.
	if cluster.ValidAddress(s.Address) == nil && s.Node != own.Node {
		if err := p.transport.SetPeer(s.Node, s.Address); err != nil {
			return founding.Message{Refused: err.Error(), Later: true}
		}
	}
	return founding.Message{Still: s}
}
