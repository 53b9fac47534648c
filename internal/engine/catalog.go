package engine

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// catalogShard is the shard of the catalog; data shards count from 1.
const catalogShard shard.ID = 0

// catalogPump drives the catalog's state machine. All methods but do run on the shard's goroutine.
type catalogPump struct {
	desk
	catalog *cluster.Catalog
	results []cluster.Result
	leading bool
	reach   reach
	follow  follower
	shards  int // as the follower was told
}

var _ host.Driver = (*catalogPump)(nil)

func newCatalogPump(node, firstSequence uint64, wake func(), follow follower) *catalogPump {
	return &catalogPump{
		desk:    desk{shard: catalogShard, node: node, wake: wake, last: firstSequence, closed: errNotLeader()},
		catalog: cluster.New(),
		follow:  follow,
	}
}

// Gather implements host.Driver.
func (p *catalogPump) Gather(b *shard.BatchBuilder, now int64) uint64 {
	if !p.leading {
		return 0
	}
	f := p.newFlight(now)
	p.collect()
	p.gather(b, f)
	if b.Items() == 0 {
		p.retire(f)
		return 0
	}
	return p.launch(f, b.Items())
}

// Apply implements shard.StateMachine.
func (p *catalogPump) Apply(index uint64, h shard.Header, items [][]byte) {
	p.results = p.catalog.Apply(index, queue.Millis(h.Stamp), items, p.results[:0])
	p.tell()
	p.tellShards()
	p.follow.nodesSeen(p.catalog)
	p.reach.to(index)
	if h.Proposer != p.node {
		return
	}
	f := p.land(h.Sequence)
	if f == nil {
		return
	}
	for _, r := range f.riders {
		r.call.stamp, r.call.index = h.Stamp, index
		r.call.catalog = append(r.call.catalog[:0], p.results[r.first:r.first+r.count]...)
		p.answer(r.call, nil)
	}
	p.retire(f)
}

// tell tells the follower what an entry changed.
func (p *catalogPump) tell() {
	queues := false
	for i := range p.results {
		r := &p.results[i]
		queues = queues || r.Queue.ID != 0
		if r.Worker == 0 {
			continue
		}
		if w, ok := p.catalog.Worker(r.Worker); ok {
			p.follow.workerCame(&w)
		} else {
			p.follow.workerWent(r.Worker)
		}
	}
	if queues {
		p.follow.queueChanged()
	}
}

// tellShards tells the follower that the cluster has more shards.
func (p *catalogPump) tellShards() {
	if n := p.catalog.Shards(); n > p.shards {
		p.shards = n
		p.follow.shardsGrew(n)
	}
}

// Dropped implements host.Driver.
func (p *catalogPump) Dropped(sequence uint64, unknown bool) {
	f := p.land(sequence)
	if f == nil {
		return
	}
	for _, r := range f.riders {
		if unknown {
			p.answer(r.call, errUnknownOutcome(nil))
		} else {
			p.answer(r.call, newError(CodeUnavailable, ReasonDropped, "the catalog could not take the request just now; nothing happened; try again"))
		}
	}
	p.retire(f)
}

// Stamp implements host.Driver.
func (p *catalogPump) Stamp() int64 { return int64(p.catalog.Now()) }

// Settled implements host.Driver.
func (p *catalogPump) Settled() {
	p.settle()
	if p.more() {
		p.wake()
	}
}

// Wakeup implements host.Driver: the catalog has no timers.
func (p *catalogPump) Wakeup() int64 { return 0 }

// Leadership implements host.Driver.
func (p *catalogPump) Leadership(leading bool, term uint64) {
	p.leading = leading
	if leading {
		p.follow.catalogLed(term)
		p.setClosed(nil)
	} else {
		p.setClosed(errNotLeader())
	}
}

// Verified implements host.Driver: nobody puts the catalog's fingerprint into its log.
func (p *catalogPump) Verified() host.Verification { return host.Verification{} }

// Doubted implements host.Driver.
func (p *catalogPump) Doubted(host.Doubt) {}

// abort is pump.abort's sibling.
func (p *catalogPump) abort() {
	for len(p.flights) > 0 {
		p.Dropped(p.flights[0].sequence, true)
	}
	p.setClosed(errStopping())
}

// Snapshot implements shard.StateMachine.
func (p *catalogPump) Snapshot() shard.Image { return p.catalog.Snapshot() }

// Fingerprint implements shard.StateMachine.
func (p *catalogPump) Fingerprint() uint64 { return p.catalog.Fingerprint() }

// Restore implements shard.StateMachine.
func (p *catalogPump) Restore(r io.Reader) error {
	c, err := cluster.Restore(r)
	if err != nil {
		return fmt.Errorf("restore the catalog: %w", err)
	}
	p.catalog = c
	p.tellShards()
	p.follow.nodesSeen(c)
	p.follow.catalogReplaced(c)
	p.reach.to(c.Applied())
	return nil
}

// propose sends one catalog command through the log and returns its result, when this node's replica has it too: who was told of a
// change sees it here. A refusal is an error.
func (p *catalogPump) propose(ctx context.Context, encode func(dst []byte) []byte) (cluster.Result, error) {
	r, index, err := p.send(ctx, p.newCall(), encode)
	if err != nil {
		return r, err
	}
	if err := p.reach.await(ctx, index); err != nil {
		return cluster.Result{}, errUnknownOutcome(err) // it is done, and does not show here
	}
	return r, nil
}

// proposeHere is propose on the node that leads the catalog: the command goes to no other.
func (p *catalogPump) proposeHere(ctx context.Context, encode func(dst []byte) []byte) (cluster.Result, uint64, error) {
	c := p.newCall()
	c.foreign = true
	return p.send(ctx, c, encode)
}

func (p *catalogPump) send(ctx context.Context, c *call, encode func(dst []byte) []byte) (cluster.Result, uint64, error) {
	c.urgent = true
	c.items.Add(encode)
	c.items.Version = cluster.BatchVersion(c.items.Item(0))
	if err := p.do(ctx, c); err != nil {
		return cluster.Result{}, 0, err
	}
	r, index := c.catalog[0], c.index
	c.free()
	if err := catalogRefusal(r); err != nil {
		return r, index, err
	}
	return r, index, nil
}

// reach tells how far this node's replica of the catalog has come. Any goroutine may call its methods.
type reach struct {
	mu      sync.Mutex
	index   uint64        // REQUIRES: mu
	further chan struct{} // REQUIRES: mu; closed when index grows; nil: nobody waits
}

// to says that the replica has applied an entry.
func (r *reach) to(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index = max(r.index, index)
	if r.further != nil {
		close(r.further)
		r.further = nil
	}
}

// next is closed when the replica has applied another entry.
func (r *reach) next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.further == nil {
		r.further = make(chan struct{})
	}
	return r.further
}

// await waits until the replica has applied an entry that is committed. It waits no longer than for a leader: a replica that is so
// far behind is cut off.
func (r *reach) await(ctx context.Context, index uint64) error {
	var timer *time.Timer
	for {
		r.mu.Lock()
		if r.index >= index {
			r.mu.Unlock()
			return nil
		}
		if r.further == nil {
			r.further = make(chan struct{})
		}
		further := r.further
		r.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(LeaderWaitMax)
			defer timer.Stop()
		}
		select {
		case <-further:
		case <-timer.C:
			return newError(CodeUnavailable, ReasonBehind, "this node is too far behind the cluster's catalog; ask another node")
		case <-ctx.Done():
			return contextError(ctx.Err())
		}
	}
}
