package chaos

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/freeport"
)

// clusterWait bounds what a cluster may take for one step of a test, on a slow machine too.
const clusterWait = time.Minute

// fleet is several processes that are one cluster.
type fleet struct {
	t     *testing.T
	bin   string
	ctx   context.Context
	nodes map[int]*process
	peers map[int]string // where they listen to each other
}

func newFleet(t *testing.T) *fleet {
	return &fleet{t: t, bin: buildBeaver(t), ctx: t.Context(), nodes: map[int]*process{}, peers: map[int]string{}}
}

func (f *fleet) start(node int, args ...string) {
	f.t.Helper()
	if f.nodes[node] == nil {
		f.nodes[node] = newProcess(f.t, f.bin)
	}
	f.nodes[node].args = args
	if err := f.nodes[node].launch(); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) ready(nodes ...int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, clusterWait)
	defer cancel()
	for _, node := range nodes {
		if err := f.nodes[node].awaitReady(ctx); err != nil {
			f.t.Fatalf("node %d: %v\n%s", node, err, f.nodes[node].tail())
		}
	}
}

// client is one that asks a certain node, and no other.
func (f *fleet) client(node int) *beaver.Client {
	f.t.Helper()
	c, err := beaver.NewClient(beaver.Config{Addr: f.nodes[node].url(), OnlyAddr: true, RetryFor: 10 * time.Second})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close(context.Background()) }) // it may have no server any more
	return c
}

// enqueue stores jobs by way of a node, spread over queues, which are spread over shards.
func (f *fleet) enqueue(node, count int) {
	f.t.Helper()
	c := f.client(node)
	for i := range count {
		ctx, cancel := context.WithTimeout(f.ctx, clusterWait)
		_, err := c.Enqueue(ctx, beaver.Job{Queue: fmt.Sprintf("q%d", i%8), Payload: []byte(fmt.Sprint(i))})
		cancel()
		if err != nil {
			f.t.Fatalf("job %d by way of node %d: %v", i, node, err)
		}
	}
}

// until asks a node for the cluster until a condition holds.
func (f *fleet) until(node int, what string, condition func(*beaver.ClusterInfo) bool) *beaver.ClusterInfo {
	f.t.Helper()
	c := f.client(node)
	ctx, cancel := context.WithTimeout(f.ctx, clusterWait)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := c.Cluster(ctx)
		if err == nil && condition(info) {
			return info
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			f.t.Fatalf("it does not come that %s: %+v, %v", what, info, err)
		}
	}
}

// waiting counts the jobs that wait, as a node tells.
func (f *fleet) waiting(node int) (count uint64) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, clusterWait)
	defer cancel()
	queues, err := f.client(node).Queues(ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, q := range queues {
		count += q.Ready
	}
	return count
}

// wants checks how many jobs wait, as each of some nodes tells.
func (f *fleet) wants(count uint64, nodes ...int) {
	f.t.Helper()
	for _, node := range nodes {
		if got := f.waiting(node); got != count {
			f.t.Fatalf("node %d tells of %d jobs, want %d", node, got, count)
		}
	}
}

// run runs a command of the binary against a node.
func (f *fleet) run(node int, args ...string) (string, error) {
	cmd := exec.Command(f.bin, args...)
	cmd.Env = append(os.Environ(), "BEAVER_ADDR="+f.nodes[node].url())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (f *fleet) mustRun(node int, args ...string) string {
	f.t.Helper()
	out, err := f.run(node, args...)
	if err != nil {
		f.t.Fatalf("beaver %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// ended waits for a process that ends by itself, and returns its log's end.
func (f *fleet) ended(node int, wantOK bool) string {
	f.t.Helper()
	p := f.nodes[node]
	select {
	case err := <-p.exited:
		p.cmd = nil
		if (err == nil) != wantOK {
			f.t.Fatalf("node %d ended with %v\n%s", node, err, p.tail())
		}
	case <-time.After(clusterWait):
		f.t.Fatalf("node %d does not end\n%s", node, p.tail())
	}
	return p.tail()
}

func (f *fleet) signal(node int, sig syscall.Signal) {
	f.t.Helper()
	if err := f.nodes[node].signal(sig); err != nil {
		f.t.Fatalf("node %d: %v\n%s", node, err, f.nodes[node].tail())
	}
}

// bootstrap founds a cluster of three.
func (f *fleet) bootstrap() (flags func(node int) []string) {
	var list []string
	for node := 1; node <= 3; node++ {
		f.peers[node] = freeport.Address(f.t)
		list = append(list, fmt.Sprintf("%d=%s", node, f.peers[node]))
	}
	flags = func(node int) []string {
		return []string{"--node", fmt.Sprint(node), "--bootstrap", strings.Join(list, ",")}
	}
	for node := 1; node <= 3; node++ {
		f.start(node, flags(node)...)
	}
	f.ready(1, 2, 3)
	return flags
}

// whole reports whether each shard has a leader and so many voters that have applied all there is.
func whole(info *beaver.ClusterInfo, voters int) bool {
	for _, s := range info.Shards {
		if s.LeaderNodeID == 0 || len(s.Members) != voters {
			return false
		}
		for _, m := range s.Members {
			if m.Role != "leader" && m.Role != "follower" || m.AppliedIndex != s.Members[0].LastIndex || m.LastIndex != m.AppliedIndex {
				return false
			}
		}
	}
	return len(info.Shards) > 0
}

func states(info *beaver.ClusterInfo) map[uint64]string {
	m := make(map[uint64]string)
	for _, n := range info.Nodes {
		m[n.ID] = n.State
	}
	return m
}

// agree checks that nodes have the same state of each shard.
func (f *fleet) agree(nodes ...int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, clusterWait)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		type state struct {
			applied     uint64
			fingerprint string
		}
		all := make(map[int]map[state]bool)
		for _, node := range nodes {
			s, err := f.client(node).Status(ctx)
			if err != nil {
				f.t.Fatal(err)
			}
			for _, sh := range s.Shards {
				if all[sh.ID] == nil {
					all[sh.ID] = make(map[state]bool)
				}
				all[sh.ID][state{sh.AppliedIndex, sh.Fingerprint}] = true
			}
		}
		different := 0
		for _, states := range all {
			different += len(states) - 1
		}
		if different == 0 {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			f.t.Fatalf("the nodes do not agree: %v", all)
		}
	}
}

// TestCluster: three processes found a cluster, lose a leader, take it back, refuse one whose disk was lost, and replace it.
func TestCluster(t *testing.T) {
	f := newFleet(t)
	flags := f.bootstrap()
	f.enqueue(1, 40)
	info := f.until(2, "all are active, and the leads are shared out", func(i *beaver.ClusterInfo) bool {
		leaders := make(map[uint64]bool)
		for _, s := range i.Shards {
			leaders[s.LeaderNodeID] = true
		}
		return len(leaders) == 3 && len(i.Nodes) == 3 && whole(i, 3)
	})
	lost := int(info.Shards[1].LeaderNodeID)
	others := []int{lost%3 + 1, (lost+1)%3 + 1}
	began := time.Now()
	f.signal(lost, syscall.SIGKILL)
	f.enqueue(others[0], 40)
	t.Logf("40 jobs were stored within %v of the end of a leader", time.Since(began).Round(time.Millisecond))
	f.wants(80, others...)

	f.start(lost, flags(lost)...)
	f.ready(lost)
	f.enqueue(lost, 8)
	f.until(others[0], "the node that came back has all there is", func(i *beaver.ClusterInfo) bool { return whole(i, 3) })
	f.agree(1, 2, 3)

	// Its disk is lost. Under its old name it is refused, and a new node takes its place.
	f.signal(lost, syscall.SIGKILL)
	if err := os.RemoveAll(f.nodes[lost].dataDir); err != nil {
		t.Fatal(err)
	}
	f.start(lost, flags(lost)...)
	if log := f.ended(lost, false); !strings.Contains(log, "was founded with another node") || !strings.Contains(log, "beaver cluster replace") {
		t.Fatalf("a founder that lost its disk says\n%s", log)
	}
	if out, err := f.run(others[0], "cluster", "remove", fmt.Sprint(others[1])); err == nil || !strings.Contains(out, "lose its quorum") {
		t.Fatalf("a node was removed whose removal would cost the quorum: %v\n%s", err, out)
	}
	f.mustRun(others[0], "cluster", "replace", fmt.Sprint(lost), f.peers[lost])
	f.nodes[4] = newProcess(t, f.bin)
	f.start(4, "--join", f.peers[others[0]], "--peer-listen", f.peers[lost])
	f.ready(4)
	f.until(others[1], "node 4 is in the place of the lost one", func(i *beaver.ClusterInfo) bool {
		s := states(i)
		return s[4] == "active" && s[uint64(lost)] == "removed" && whole(i, 3)
	})
	members := append(others, 4)
	f.enqueue(4, 8)
	f.wants(96, members...)
	f.until(4, "all have all there is", func(i *beaver.ClusterInfo) bool { return whole(i, 3) })
	f.agree(members...)

	// One that is told to stop hands over; the others need no election timeout, and it ends well.
	f.mustRun(4, "cluster", "drain", fmt.Sprint(others[0]))
	f.until(4, "the drained node leads nothing", func(i *beaver.ClusterInfo) bool {
		for _, s := range i.Shards {
			if s.LeaderNodeID == uint64(others[0]) || s.LeaderNodeID == 0 {
				return false
			}
		}
		return true
	})
	f.mustRun(4, "cluster", "drain", "--undo", fmt.Sprint(others[0]))
	f.mustRun(4, "cluster", "transfer", "2", fmt.Sprint(others[0]))
	f.until(4, "shard 2 is led by who was wished", func(i *beaver.ClusterInfo) bool { return i.Shards[2].LeaderNodeID == uint64(others[0]) })
	f.signal(others[0], syscall.SIGTERM)
	f.enqueue(4, 8)
	f.wants(104, 4, others[1])
	for _, node := range []int{4, others[1]} {
		if err := f.nodes[node].cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	f.ended(4, true)
	f.ended(others[1], true)
}

// TestGrowAndShrink: a node that was alone keeps its jobs when others join it, and they are still there when it is gone itself.
func TestGrowAndShrink(t *testing.T) {
	f := newFleet(t)
	f.start(1)
	f.ready(1)
	f.enqueue(1, 40)
	f.signal(1, syscall.SIGTERM)

	for node := 1; node <= 3; node++ {
		f.peers[node] = freeport.Address(t)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start(1, "--peer-listen", f.peers[1], "--cluster-secret-file", secret, "--zone", "a")
	f.ready(1)
	f.wants(40, 1)
	for node := 2; node <= 3; node++ {
		f.start(node, "--join", f.peers[1], "--peer-listen", f.peers[node], "--cluster-secret-file", secret)
		f.ready(node)
		f.enqueue(node, 8)
	}
	f.until(1, "three nodes are active", func(i *beaver.ClusterInfo) bool {
		s := states(i)
		return s[1] == "active" && s[2] == "active" && s[3] == "active" && whole(i, 3)
	})
	f.wants(56, 1, 2, 3)
	f.until(1, "the catalog has been left alone", func(i *beaver.ClusterInfo) bool { return i.Shards[0].Members[0].AppliedIndex < 100 })
	f.agree(1, 2, 3)

	// A stranger that lacks the secret gets nowhere.
	f.nodes[9] = newProcess(t, f.bin)
	f.start(9, "--join", f.peers[1], "--peer-listen", freeport.Address(t))
	if log := f.ended(9, false); !strings.Contains(log, "the other node has a secret or certificates, and this one has neither") {
		t.Fatalf("a stranger says\n%s", log)
	}

	for _, gone := range []int{3, 1} {
		f.mustRun(2, "cluster", "remove", fmt.Sprint(gone))
		if log := f.ended(gone, true); !strings.Contains(log, "was removed from its cluster") {
			t.Fatalf("a node that was removed says\n%s", log)
		}
		f.start(gone, "--peer-listen", f.peers[gone], "--cluster-secret-file", secret)
		if log := f.ended(gone, false); !strings.Contains(log, "never used again") {
			t.Fatalf("a node that was removed before says\n%s", log)
		}
	}
	f.until(2, "node 2 is alone", func(i *beaver.ClusterInfo) bool {
		s := states(i)
		return s[1] == "removed" && s[2] == "active" && s[3] == "removed" && whole(i, 1)
	})
	f.enqueue(2, 8)
	f.wants(64, 2)
	f.signal(2, syscall.SIGKILL)
	f.start(2, "--peer-listen", f.peers[2], "--cluster-secret-file", secret)
	f.ready(2)
	f.wants(64, 2)
	f.signal(2, syscall.SIGTERM)
}
