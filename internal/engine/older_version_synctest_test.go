package engine

import (
	"context"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/shard"
)

func TestMayBeOlder(t *testing.T) {
	t.Parallel()
	const own, pseudo = "devel-0123456789ab", "v0.0.0-20260102030405-0123456789ab"
	for _, c := range []struct {
		version, own string
		want         bool
	}{
		{own, own, false},
		{"devel-ba9876543210", own, true},
		{"devel-ba9876543210", "v1.2.3", true},
		{"v1.2.3", own, false},
		{"v1.2.3", "v1.3.0", false},
		{"v1.3.0", "v1.2.3", false},
		{"v1.2.3+dirty", "v1.3.0", false},
		{pseudo, "v1.2.3", true},
		{pseudo, own, true},
		{pseudo, pseudo, false},
		{pseudo + "+dirty", pseudo, true},
		{"v1.3.0-rc.1", "v1.3.0", true},
		{"devel", own, false},
		{"", own, false},
		{own, "devel", true},
		{"somebody's", "v1.2.3", true},
	} {
		if got := mayBeOlder(c.version, c.own); got != c.want {
			t.Errorf("%q, seen by %q: %t", c.version, c.own, got)
		}
	}
}

// announce has the catalog know of a node that it runs a version.
func (c *fleet) announce(id uint64, version string) {
	c.t.Helper()
	info := cluster.NodeInfo{Peer: "127.0.0.1:1", Version: version}
	info.Peer += string(rune('0' + id))
	code, err := c.nodes[1].ChangeCatalog(context.Background(), func(dst []byte) []byte {
		return cluster.AppendAnnounce(dst, shard.NodeID(id), cluster.Nonce{byte(id)}, &info)
	})
	if err != nil || code != cluster.CodeOK {
		c.t.Fatalf("node %d: code %d, %v", id, code, err)
	}
}

// TestUniqueKeysWhileUpgrading: while a node may be too old for unique keys, jobs with one are refused and others are not, in a session, in an atomic
// request and in a queue that moves; once it is upgraded they are taken, also by a node that was started meanwhile.
func TestUniqueKeysWhileUpgrading(t *testing.T) {
	inCluster(t, func(t *testing.T, c *fleet) {
		ctx := context.Background()
		name := c.queueOn(2)
		var nodes []cluster.Node
		for id := range shard.NodeID(4) {
			nodes = append(nodes, cluster.Node{
				ID: id + 1, Nonce: cluster.Nonce{byte(id + 1)}, Info: cluster.NodeInfo{Peer: "127.0.0.1:1" + string(rune('1'+id)), Version: fleetVersion},
			})
		}
		if code, err := c.nodes[1].ChangeCatalog(ctx, func(dst []byte) []byte { return cluster.AppendFound(dst, nodes) }); err != nil || code != cluster.CodeOK {
			t.Fatal(code, err)
		}
		seen := func(old bool) {
			t.Helper()
			c.await("all nodes know the versions", func() bool {
				for _, e := range c.nodes {
					if old != (e.older.Load() != nil) && e.opts.Node != 2 {
						return false
					}
				}
				return true
			})
		}
		js := []NewJob{{Queue: name, Spec: Spec{Kind: "k"}}, uniqueJob(name, "a"), {Queue: name, Spec: Spec{Kind: "k"}}}
		ask := func(e *Engine, session byte, atomic bool, js ...NewJob) ([]Enqueued, error) {
			r := &EnqueueRequest{Session: SessionID{session}, Atomic: atomic, Jobs: append([]NewJob(nil), js...)}
			if session != 0 {
				r.Sequence = 1
			}
			return e.Enqueue(ctx, r, nil)
		}
		refused := func(e *Engine, session byte) {
			t.Helper()
			out, err := ask(e, session, false, js...)
			if err != nil || out[0].Err != nil || out[2].Err != nil || out[0].ID == (JobID{}) || out[2].ID == (JobID{}) {
				t.Fatalf("the others: %+v, %v", out, err)
			}
			wantError(t, out[1].Err, CodeFailedPrecondition, ReasonVersionsDiffer)
			if m := out[1].Err.Message; !strings.Contains(m, "node 2 runs version devel-before") {
				t.Errorf("it says %q", m)
			}
		}
		c.announce(2, "devel-before")
		seen(true)
		refused(c.nodes[1], 0)
		refused(c.nodes[3], 1)
		_, err := ask(c.nodes[3], 2, true, js...)
		wantError(t, err, CodeFailedPrecondition, ReasonVersionsDiffer)
		if _, err := c.nodes[1].MoveQueue(ctx, name, 3); err != nil {
			t.Fatal(err)
		}
		refused(c.nodes[1], 3)
		refused(c.nodes[3], 0)

		c.crash(3)
		c.open(3)
		seen(true)
		refused(c.nodes[3], 4)
		c.announce(2, fleetVersion)
		seen(false)
		for session, e := range map[byte]*Engine{5: c.nodes[1], 6: c.nodes[3]} {
			for i, o := range send(t, e, session, 1, false, js...) {
				if o.ID == (JobID{}) {
					t.Errorf("job %d: %+v", i, o)
				}
			}
		}

		// A node that has left, or is to come, is no reason.
		c.announce(4, "devel-before")
		seen(true)
		if code, err := c.nodes[1].ChangeCatalog(ctx, func(dst []byte) []byte {
			return cluster.AppendMoveNode(dst, 4, cluster.NodeActive, cluster.NodeLeaving)
		}); err != nil || code != cluster.CodeOK {
			t.Fatal(code, err)
		}
		seen(false)
	})
}
