package engine

import (
	"context"
	"fmt"
	"io"

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
}

var _ host.Driver = (*catalogPump)(nil)

func newCatalogPump(node, firstSequence uint64, wake func()) *catalogPump {
	return &catalogPump{
		desk:    desk{shard: catalogShard, node: node, wake: wake, last: firstSequence, closed: errNotLeader()},
		catalog: cluster.New(),
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
	if h.Proposer != p.node {
		return
	}
	f := p.land(h.Sequence)
	if f == nil {
		return
	}
	for _, r := range f.riders {
		r.call.stamp = h.Stamp
		r.call.catalog = append(r.call.catalog[:0], p.results[r.first:r.first+r.count]...)
		p.answer(r.call, nil)
	}
	p.retire(f)
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
func (p *catalogPump) Leadership(leading bool, _ uint64) {
	p.leading = leading
	if leading {
		p.setClosed(nil)
	} else {
		p.setClosed(errNotLeader())
	}
}

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
	return nil
}

// propose sends one catalog command through the log and returns its result. A refusal is an error.
func (p *catalogPump) propose(ctx context.Context, encode func(dst []byte) []byte) (cluster.Result, error) {
	c := p.newCall()
	c.urgent = true
	c.items.Add(encode)
	if err := p.do(ctx, c); err != nil {
		return cluster.Result{}, err
	}
	r := c.catalog[0]
	c.free()
	if err := catalogRefusal(r); err != nil {
		return r, err
	}
	return r, nil
}
