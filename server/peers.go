package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/transport"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// Times of a cluster's membership.
const (
	askPauseMin = 50 * time.Millisecond // between two attempts to reach founders or a member
	askPauseMax = time.Second
	callWait    = 3 * time.Second // for a node's answer about membership
)

// peers is what makes a node one of several: the connections, the way into the cluster, and what is done about its nodes.
//
// Its goroutines are the *keeper*, which brings shards and nodes in line, and the *inquirer*, which asks at the start whether the node
// still is a member; close waits for both.
type peers struct {
	options   *peering
	dir       string
	fs        vfs.FS // of the count of runs
	version   string
	shards    int // that the node was started with; 0: nobody said
	logger    *slog.Logger
	waits     func(why string) // says why the node is not ready
	awaited   string           // of await: what was said last
	severed   atomic.Bool      // it was said that a node cannot be talked to as the nodes are configured
	transport *transport.Transport

	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	running sync.WaitGroup

	host   atomic.Pointer[host.Host]
	engine atomic.Pointer[engine.Engine]

	heard     hearing
	run       founding.Run // this one; never changes once it has begun
	knownRuns runs         // of the others
	fatal     func(error)  // must not go on

	mu      sync.Mutex
	founder *founding.Machine                 // REQUIRES: mu; nil unless the node founds with others
	record  *founding.Record                  // REQUIRES: mu; the membership, once there is one
	adopted map[shard.ID]shard.ReplicaID      // REQUIRES: mu; replicas that leaders told this node it has
	known   map[shard.NodeID]cluster.NodeInfo // of the keeper: as the transport was told last
	changed chan struct{}                     // has room for one: founder or adopted may have changed
	removed chan struct{}                     // closed when the node was removed from its cluster; then removal says so

	unfit      *founding.StartError // REQUIRES: mu; why the node must not go on: another run of it has begun
	superseded chan struct{}        // closed when unfit is set
	keeper     keeper
}

// openPeers opens the peer port and finds this node's cluster: the one that the data directory is of, or the one that it founds or
// joins now. It waits for the others, until ctx ends. Errors: *founding.StartError, *founding.RefusedError, those of files and
// network.
func (s *Server) openPeers(ctx context.Context) (p *peers, err error) {
	options, err := s.opts.interpret()
	if err != nil {
		return nil, err
	}
	dir := s.opts.DataDir
	way, record, err := s.decide(options)
	if err != nil {
		return nil, err
	}
	options.public = orElse(options.public, s.Addr())
	p = &peers{
		options: options, dir: dir, fs: s.opts.fs, version: s.opts.Version, shards: s.opts.Shards, logger: s.logger, waits: s.front.SetNotReady,
		adopted: make(map[shard.ID]shard.ReplicaID), known: make(map[shard.NodeID]cluster.NodeInfo),
		changed: make(chan struct{}, 1), removed: make(chan struct{}), superseded: make(chan struct{}), fatal: s.fatal,
	}
	p.keeper.init(p)
	if s.opts.listensElsewhere(options) {
		p.logger.Warn("the other nodes look for this one where its --bootstrap list has it: if it has moved, change the list, or give --advertise-peer",
			"list", options.own(), "listens", options.Listen)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	listener, err := net.Listen("tcp", options.Listen)
	if err != nil {
		advice := "choose an address of this machine with --peer-listen"
		if errors.Is(err, syscall.EADDRINUSE) {
			advice = "is another node running here? choose another address with --peer-listen"
		}
		return nil, fmt.Errorf("listen to peers on %s: %w; %s", options.Listen, err, advice)
	}
	node := options.Node
	if record != nil && record.Node != 0 {
		node = record.Node
	}
	p.transport, err = transport.New(transport.Config{
		Node: node, Listener: listener, Security: options.security, Logger: s.logger, Introduce: p.introduced,
		TransferRate: options.TransferRate,
		Era:          func() uint64 { return uint64(s.watch.Now()) },
	}, p)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	s.transport.Store(p.transport)
	s.cutEarlierPeers() // that nobody did until now
	if err := p.enter(ctx, way, record, s.opts.Shards); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return p, nil
}

// decide looks at the data directory and says how the node starts.
func (s *Server) decide(options *peering) (founding.Way, *founding.Record, error) {
	fsys, dir := vfs.OS(), s.opts.DataDir
	if err := fsys.MkdirAll(dir); err != nil {
		return 0, nil, fmt.Errorf("make data directory: %w; give a directory that this user may write to", err)
	}
	record, err := founding.Read(fsys, dir)
	if err != nil {
		return 0, nil, err
	}
	found := founding.Directory{Record: record, Shards: engine.DefaultShards}
	switch id, err := host.ReadIdentity(fsys, dir); {
	case err == nil:
		found.Identity, found.Cluster, found.Node = true, id.Cluster, id.Node
	case !isNotExist(err):
		return 0, nil, err
	}
	records, err := host.ReadRecords(fsys, dir)
	if err != nil {
		return 0, nil, err
	}
	for _, r := range records {
		found.Shards = max(found.Shards, int(r.Shard))
	}
	start := &founding.Start{Shards: s.opts.Shards}
	if options != nil {
		start.Founders, start.Node, start.Join, start.Peers = options.founders, options.Node, options.Join, true
		start.SelfAddress = options.Advertise
	}
	return founding.Decide(start, &found, engine.DefaultShards)
}

// enter finds the cluster and makes the node a peer of it.
func (p *peers) enter(ctx context.Context, way founding.Way, record *founding.Record, shards int) (err error) {
	switch {
	case way == founding.Found && record != nil && record.State == founding.Founded:
		var nonce cluster.Nonce
		_, _ = rand.Read(nonce[:]) // never fails
		record = record.Alone(nonce)
		err = founding.Write(vfs.OS(), p.dir, record)
	case way == founding.Found:
		record, err = p.found(ctx, record, shards)
	case way == founding.Come:
		record, err = p.join(ctx, record)
	}
	if err != nil {
		return err
	}
	members := p.members(record)
	if err := p.begin(ctx, way, record, members); err != nil {
		return err
	}
	if way == founding.Return && p.options.Join != "" {
		if err := p.recognised(ctx, record); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.record = record
	if record.State == founding.Founded && p.founder == nil && len(record.Members) > 1 {
		p.founder = founding.NewMachine(record, record.Node, p.founders(record), record.Shards)
	}
	p.mu.Unlock()
	if err := p.transport.Identify(record.Cluster, record.Node); err != nil {
		return err
	}
	for node, address := range members {
		if err := p.transport.SetPeer(node, address); err != nil {
			return err
		}
	}
	return nil
}

// members are the other nodes of a record, and where they are.
func (p *peers) members(record *founding.Record) map[uint64]string {
	members := make(map[uint64]string)
	for _, m := range record.Members {
		if m.Node != record.Node {
			members[m.Node] = m.Address
		}
	}
	for _, f := range p.options.founders { // the list may have been corrected since
		if members[f.Node] != "" {
			members[f.Node] = f.Address
		}
	}
	return members
}

// founders are those of a record, with the addresses that the node was started with.
func (p *peers) founders(record *founding.Record) (list []founding.Founder) {
	for _, m := range record.Members {
		list = append(list, founding.Founder{Node: m.Node, Address: m.Address})
	}
	return list
}

// born makes the record of a directory that has none durable, before anybody is told its nonce.
func (p *peers) born(record *founding.Record) (*founding.Record, error) {
	if record != nil {
		return record, nil
	}
	record = &founding.Record{State: founding.Born}
	_, _ = rand.Read(record.Nonce[:]) // never fails
	return record, founding.Write(vfs.OS(), p.dir, record)
}

// replicas are what the engine is to run. A node that joins waits until the leaders of all shards have told it who it is.
func (p *peers) replicas(ctx context.Context) ([]host.Replica, error) {
	records, err := host.ReadRecords(vfs.OS(), p.dir)
	if err != nil {
		return nil, err
	}
	record := p.membership()
	var founders []shard.ReplicaID
	if record.State == founding.Founded && !record.Ran {
		for _, m := range record.Members {
			founders = append(founders, shard.NewReplicaID(shard.NodeID(m.Node), 0))
		}
	}
	list := make([]host.Replica, shardsHere(record, records)+1)
	for before := 0; ; {
		missing := 0
		p.mu.Lock()
		for i := range list {
			id := shard.ID(i)
			r := host.Replica{Shard: id}
			if i <= record.Shards {
				r.Founders = founders
			}
			at := slices.IndexFunc(records, func(o host.Record) bool { return o.Shard == id })
			retired := at >= 0 && records[at].State == host.Retired
			switch {
			case at >= 0 && !retired:
			case retired && p.adopted[id].Birth() <= records[at].Replica.Birth(): // a crash came when it lost its place to another
				missing++
			case !retired && record.State == founding.Founded: // without founders it is refused: it was lost
				r.ID = shard.NewReplicaID(shard.NodeID(record.Node), 0)
			case p.adopted[id] != 0:
				r.ID, r.Join = p.adopted[id], true
			default:
				missing++
			}
			list[i] = r
		}
		p.mu.Unlock()
		if missing == 0 {
			return list, nil
		}
		if missing != before {
			p.logger.Info("waiting to be made a member of the shards", "node", record.Node, "missing", missing)
			p.waits(fmt.Sprintf("waiting to be made a member of %d of %d shards", missing, len(list)))
			before = missing
		}
		if err := p.rest(ctx, askPauseMax); err != nil {
			return nil, fmt.Errorf("waiting to be made a member of %d of %d shards: %w", missing, len(list), err)
		}
		if isRemoved(p.removed) {
			return nil, p.removal()
		}
		if record.State == founding.Founded {
			continue // it knows the others
		}
		if err := p.askAgain(ctx, record); err != nil {
			return nil, err
		}
	}
}

func isRemoved(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// askAgain asks for the place that this node has been given, to hear of nodes that came since: they may lead a shard.
func (p *peers) askAgain(ctx context.Context, record *founding.Record) error {
	info := p.info()
	request := founding.Message{Join: &founding.Join{
		Nonce: record.Nonce, Address: info.Peer, Public: info.Public, Zone: info.Zone, Version: info.Version,
	}}
	for _, address := range p.addresses() {
		answer, _, err := p.introduce(ctx, address, request)
		switch {
		case err != nil || answer.Later:
			continue
		case answer.Refused != "":
			return &founding.RefusedError{Reason: answer.Refused}
		case answer.Joined == nil || answer.Joined.Nonce != record.Nonce:
			continue
		}
		for _, m := range answer.Joined.Members {
			if err := p.transport.SetPeer(m.Node, m.Address); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

func (p *peers) membership() *founding.Record {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.record
}

// removal is the error of a node that was removed from its cluster.
func (p *peers) removal() error {
	r := p.membership()
	return fmt.Errorf("node %d was removed from cluster %016x; its jobs are on the other nodes. To join anew, start with an empty data directory and --join", r.Node, r.Cluster)
}

// remove records that the node was removed from its cluster, and tells whoever runs it.
func (p *peers) remove() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record == nil || isRemoved(p.removed) {
		return
	}
	gone := *p.record
	gone.State = founding.Removed
	if err := founding.Write(vfs.OS(), p.dir, &gone); err != nil {
		p.logger.Error("the removal of this node could not be recorded", "err", err)
	}
	close(p.removed)
	p.poke()
}

// configure makes the engine one of several.
func (p *peers) configure(ctx context.Context, o *engine.Options) (err error) {
	record := p.membership()
	o.Cluster, o.Node = record.Cluster, record.Node
	o.Transport, o.Forwarder = p.transport, p
	o.Hosted = func(h *host.Host) {
		p.ran()
		p.waits(waitingForLeaders)
		p.host.Store(h)
		p.start() // not later: who leads may be a node that only the catalog knows of, and the engine may wait for replicas to come
	}
	o.Serving = func(e *engine.Engine) { p.engine.Store(e) }
	o.Joined = p.awaitFounders
	o.Reached = func() bool { return p.heard.majority(p.transport.Stats().Peers, time.Now()) }
	o.Others = p.others
	o.Replicas, err = p.replicas(ctx)
	o.Shards = len(o.Replicas) - 1
	return err
}

// others are the ids of the other nodes, as far as this one knows them.
func (p *peers) others() (ids []uint64) {
	for _, s := range p.transport.Stats().Peers {
		ids = append(ids, s.Node)
	}
	return ids
}

// whileMember is a context that ends when the node is removed from its cluster, or another run of it has begun.
func (p *peers) whileMember(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the context
		select {
		case <-p.removed:
			cancel()
		case <-p.superseded:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// ran records that the node's replicas have run, before they hear of others.
func (p *peers) ran() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record.Ran || isRemoved(p.removed) {
		return
	}
	record := *p.record
	record.Ran = true
	if err := founding.Write(vfs.OS(), p.dir, &record); err != nil {
		p.logger.Error("it could not be recorded that the node has run", "err", err)
		return
	}
	p.record = &record
}

// halt ends the goroutines.
func (p *peers) halt() {
	p.cancel()
	p.running.Wait()
}

// close ends the goroutines and the connections.
func (p *peers) close() error {
	p.halt()
	if p.transport == nil {
		return nil
	}
	return p.transport.Close()
}

// poke says that something changed that openPeers may wait for.
func (p *peers) poke() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// adoption tells a node which replica of a shard it has.
type adoption struct {
	Shard   shard.ID        `json:"shard"`
	Replica shard.ReplicaID `json:"replica"`
}

// adopt takes what a shard's leader says. A replica that runs is left alone; one that lost what it promised gets its successor.
func (p *peers) adopt(a *adoption) (any, error) {
	if err := p.noteAdopted(a); err != nil {
		return nil, err
	}
	if h := p.host.Load(); h != nil {
		p.succeed(h, a.Shard, a.Replica)
	}
	return struct{}{}, nil
}

// noteAdopted keeps what a leader says for when the node starts its replicas.
func (p *peers) noteAdopted(a *adoption) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.record == nil || uint64(a.Replica.Node()) != p.record.Node || a.Shard > cluster.ShardsMax:
		return fmt.Errorf("replica %s of shard %d is not one of this node", a.Replica, a.Shard)
	case p.runs(a.Shard):
	case p.adopted[a.Shard] == 0 || a.Replica.Birth() > p.adopted[a.Shard].Birth():
		p.adopted[a.Shard] = a.Replica
		p.poke()
		p.keeper.wake()
	}
	return nil
}

// runs reports whether the node runs a replica of a shard.
func (p *peers) runs(id shard.ID) bool {
	h := p.host.Load()
	if h == nil {
		return false
	}
	_, runs := h.LeadershipOf(id)
	return runs
}
