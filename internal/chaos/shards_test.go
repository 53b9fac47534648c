package chaos

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

// TestShardsUnderLoad: a cluster gets shards and queues move to them under load, while nodes are killed half way. No call fails, and each
// job is stored and done once.
func TestShardsUnderLoad(t *testing.T) {
	f := newFleet(t)
	flags := f.bootstrap()
	f.until(1, "all are active", func(i *beaver.ClusterInfo) bool { return len(i.Nodes) == 3 && whole(i, 3) })
	var all []string
	for node := 1; node <= 3; node++ {
		all = append(all, f.nodes[node].url())
	}
	r := &roller{f: f, ids: map[beaver.JobID]bool{}, done: map[int64]int{}}
	c, err := beaver.NewClient(beaver.Config{Addr: strings.Join(all, ",")})
	if err != nil {
		t.Fatal(err)
	}
	w := r.worker(c)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { r.produce(f.ctx, c) })
	}
	began := time.Now()
	phase := func(what string) {
		t.Logf("%s: %v, %d jobs so far", what, time.Since(began).Round(time.Millisecond), r.next.Load())
		began = time.Now()
	}
	kill := func(node int) {
		f.signal(node, syscall.SIGKILL)
		f.start(node, flags(node)...)
		f.ready(node)
	}
	work := func(node int) {
		more := r.next.Load() + 200
		f.until(node, "jobs go on", func(*beaver.ClusterInfo) bool { return r.next.Load() > more })
	}
	work(1)
	f.mustRun(1, "cluster", "add-shards", "2")
	phase("shards are added")
	kill(3)
	phase("a node is killed and back")
	f.until(3, "all nodes have the new shards", func(i *beaver.ClusterInfo) bool {
		for _, s := range i.Shards {
			if s.LeaderNodeID == 0 || len(s.Members) != 3 {
				return false
			}
			for _, m := range s.Members {
				if m.Role != "leader" && m.Role != "follower" || m.AppliedIndex == 0 {
					return false
				}
			}
		}
		return len(i.Shards) == 7
	})
	phase("all nodes have them")
	for q, node := range []int{2, 1, 3, 2} {
		to := 5 + q%2
		f.mustRun(node, "queues", "move", fmt.Sprintf("q%d", q), "--to", fmt.Sprint(to))
		phase("a queue moves")
		work(node)
		phase("jobs go on")
		if q == 1 {
			kill(2)
			phase("a node is killed and back")
		}
	}
	r.stop.Store(true)
	group.Wait()
	phase("load ends")
	r.settle(c)
	phase("all jobs are done")
	for q := range 4 {
		name, to := fmt.Sprintf("q%d", q), 5+q%2
		for node := 1; node <= 3; node++ {
			info, err := f.client(node).Queue(f.ctx, name)
			if err != nil || info.Shard != to || info.MovingFrom == 0 || info.LeftBehind != 0 {
				t.Errorf("node %d says of %s: %+v, %v", node, name, info, err)
			}
		}
	}
	if err := w.Stop(f.ctx); err != nil {
		t.Error(err)
	}
	if err := c.Close(f.ctx); err != nil {
		t.Error(err)
	}
	t.Logf("%d calls, %d jobs; %d calls failed", r.calls.Load(), len(r.ids), len(r.failed))
}
