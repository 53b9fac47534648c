package engine

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/shard"
)

// grow makes the catalog add a shard, whose replicas nobody runs yet.
func (c *fleet) grow() shard.ID {
	c.t.Helper()
	var nodes []cluster.Node
	for id := range c.nodes {
		nodes = append(nodes, cluster.Node{ID: shard.NodeID(id), Nonce: cluster.Nonce{byte(id)}, Info: cluster.NodeInfo{Peer: fmt.Sprintf("h%d:1", id)}})
	}
	slices.SortFunc(nodes, func(a, b cluster.Node) int { return int(a.ID) - int(b.ID) })
	for _, encode := range []func([]byte) []byte{
		func(dst []byte) []byte { return cluster.AppendFound(dst, nodes) },
		func(dst []byte) []byte { return cluster.AppendGrow(dst, c.shards, c.shards+1) },
	} {
		if code, err := c.nodes[1].ChangeCatalog(context.Background(), encode); err != nil || code != cluster.CodeOK {
			c.t.Fatalf("code %d, %v", code, err)
		}
	}
	return shard.ID(c.shards + 1)
}

// run runs a node's replica of a shard that came later.
func (c *fleet) run(node uint64, id shard.ID) {
	c.t.Helper()
	r := host.Replica{Shard: id, ID: shard.NewReplicaID(shard.NodeID(node), 0)}
	for n := range 3 {
		r.Founders = append(r.Founders, shard.NewReplicaID(shard.NodeID(n+1), 0))
	}
	if err := c.nodes[node].AddReplica(context.Background(), r); err != nil {
		c.t.Fatalf("node %d: %v", node, err)
	}
}

// TestShardIsAdded: while a new shard is on its way, everything else goes on, and no queue comes to it. A node that does not run its
// replica yet takes what is for the shard and has its leader do it. When the node has come to its replica, it has all there is, also
// after a crash.
func TestShardIsAdded(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		before := c.queueOn(2)
		id := c.grow()
		for node, e := range c.nodes {
			c.await(fmt.Sprintf("node %d knows of the shard", node), func() bool { return e.Shards() == int(id) })
			enqueue(t, e, jobs(before, 1)...)
		}
		for i := range 4 {
			s, err := c.nodes[1].UpdateQueue(ctx, fmt.Sprint("early", i), func(*Settings) {})
			if err != nil || shard.ID(s.Shard) == id {
				t.Fatalf("a queue on a shard that nobody runs: %+v, %v", s, err)
			}
		}
		c.run(1, id)
		c.run(2, id)
		c.run(2, id) // nothing more
		c.await("the shard has a leader", func() bool {
			l, _ := c.nodes[1].host.LeadershipOf(id)
			return l.Leader != 0
		})
		pauseFor(2 * loadsFresh)
		name := ""
		for i := range 8 {
			s, err := c.nodes[1].UpdateQueue(ctx, fmt.Sprint("late", i), func(*Settings) {})
			if err != nil {
				t.Fatal(err)
			}
			if shard.ID(s.Shard) == id {
				name = s.Name
			}
		}
		if name == "" {
			t.Fatal("no queue came to the new shard")
		}
		_, _, err := c.nodes[3].host.Payload(id, 1, 0)
		if err == nil {
			t.Fatal("node 3 has a replica already")
		}
		late := enqueue(t, c.nodes[2], jobs(name, 1)...)
		// Node 3 knows of nobody who leads the shard. Its callers wait for that, and get what is theirs as soon as it has its replica.
		type answer struct {
			detail JobDetail
			err    error
		}
		got := make(chan answer, 1)
		go func() {
			d, err := c.nodes[3].Job(ctx, late[0])
			got <- answer{d, err}
		}()
		pauseFor(100 * time.Millisecond)
		c.run(3, id)
		if a := <-got; a.err != nil || a.detail.QueueName != name {
			t.Fatalf("%+v, %v", a.detail, a.err)
		}
		fetched, err := c.nodes[3].Fetch(ctx, &FetchRequest{Queues: []string{name}, Max: 1, Wait: time.Second})
		if err != nil || len(fetched) != 1 || fetched[0].ID != late[0] {
			t.Fatalf("%+v, %v", fetched, err)
		}
		ack(t, c.nodes[3], fetched[0])

		c.shards++
		c.crash(3)
		c.open(3)
		enqueue(t, c.nodes[3], jobs(name, 1)...)
		if s, err := c.nodes[3].Queue(ctx, name); err != nil || shard.ID(s.Shard) != id || s.Info.Enqueued != 2 || s.Info.Completed != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
	})
}
