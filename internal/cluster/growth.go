package cluster

import (
	"encoding/binary"
	"slices"

	"github.com/beaver-raft/beaver/internal/shard"
)

// Growth is data shards that came after the cluster's founding. Growths are immutable and never forgotten: a node that was down
// finds here whose replicas found the groups, itself among them or not.
type Growth struct {
	First, Last shard.ID
	Founders    []shard.NodeID // ascending; the first voters
}

// Shards is how many data shards the cluster has since it grew; 0: it never did, and has as many as at its founding.
func (c *Catalog) Shards() int {
	if n := len(c.growths); n > 0 {
		return int(c.growths[n-1].Last)
	}
	return 0
}

// Growth finds the growth that a data shard came with.
func (c *Catalog) Growth(id shard.ID) (Growth, bool) {
	for _, g := range c.growths {
		if g.First <= id && id <= g.Last {
			return g, true
		}
	}
	return Growth{}, false
}

// AppendGrow encodes: the cluster shall have so many data shards. founded is how many it has had from its founding, which counts until
// it has grown once. A number that it has already changes nothing.
func AppendGrow(dst []byte, founded, shards int) []byte {
	dst = append(dst, commandGrow)
	dst = binary.AppendUvarint(dst, uint64(founded))
	return binary.AppendUvarint(dst, uint64(shards))
}

// grow adds data shards. Their groups are founded by the nodes that are full members at this place of the log, so that every node
// makes them of the same voters, whenever it gets to it; those that come are made members like those of any shard.
func (c *Catalog) grow(founded, shards int) Result {
	have := c.Shards()
	if have == 0 {
		have = founded
	}
	if shards <= have {
		return Result{Code: CodeExists}
	}
	g := Growth{First: shard.ID(have + 1), Last: shard.ID(shards)}
	for n := range c.Nodes() {
		if n.State == NodeActive || n.State == NodeDraining {
			g.Founders = append(g.Founders, n.ID)
		}
	}
	if len(g.Founders) == 0 {
		return Result{Code: CodeNotFound}
	}
	c.putGrowth(g)
	return Result{Code: CodeOK}
}

func (c *Catalog) putGrowth(g Growth) {
	c.growths = append(slices.Clip(c.growths), g) // images share the older ones
	c.sum ^= hash(appendGrowth([]byte{'g'}, &g))
}

func appendGrowth(dst []byte, g *Growth) []byte {
	dst = binary.AppendUvarint(dst, uint64(g.First))
	dst = binary.AppendUvarint(dst, uint64(g.Last))
	dst = binary.AppendUvarint(dst, uint64(len(g.Founders)))
	for _, n := range g.Founders {
		dst = binary.AppendUvarint(dst, uint64(n))
	}
	return dst
}

func (d *decoder) growth() Growth {
	g := Growth{First: shard.ID(d.uint(ShardsMax)), Last: shard.ID(d.uint(ShardsMax))}
	for range d.uint(NodesMax) {
		n := d.nodeID()
		if k := len(g.Founders); n == 0 || k > 0 && n <= g.Founders[k-1] {
			d.fail()
		}
		g.Founders = append(g.Founders, n)
	}
	if g.First < 2 || g.Last < g.First || len(g.Founders) == 0 {
		d.fail()
	}
	return g
}

// Grow says whether so many data shards may be added, and how many there are then. have is how many the operator saw, or 0. If those and as
// many more are there, the wish has come true already, which is as good: it may be said again when its answer was lost.
func (c *Cluster) Grow(count, have int) (int, error) {
	total := c.Shards + count
	switch {
	case have > 0 && count > 0 && c.Shards == have+count:
		return c.Shards, nil
	case count < 1:
		return 0, refuse("%d shards cannot be added; want 1 or more", count)
	case total > ShardsMax:
		return 0, refuse("the cluster has %s, and %d is the limit: %d more can be added", number(c.Shards, "data shard"), ShardsMax, ShardsMax-c.Shards)
	case have != 0 && have != c.Shards:
		return 0, refuse("the cluster has %s by now, not %d; look at beaver cluster status and say it again", number(c.Shards, "data shard"), have)
	}
	return total, nil
}
