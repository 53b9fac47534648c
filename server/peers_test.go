package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/freeport"
)

// TestPeerOptions: each wrong combination is refused by the field that is at fault, with what to do.
func TestPeerOptions(t *testing.T) {
	dir := t.TempDir()
	short := filepath.Join(dir, "short")
	if err := os.WriteFile(short, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const three = "1=10.0.0.1:7401,2=10.0.0.2:7401,3=10.0.0.3:7401"
	const local = "1=127.0.0.1:7401,2=127.0.0.1:7411,3=127.0.0.1:7421"
	for name, c := range map[string]struct {
		peers PeerOptions
		field string // empty: it is right
		want  string
	}{
		"alone":                 {PeerOptions{}, "", ""},
		"local founders":        {PeerOptions{Bootstrap: local, Node: 2}, "", ""},
		"founders with secret":  {PeerOptions{Bootstrap: three, Node: 3, SecretFile: "s"}, "", ""},
		"joins":                 {PeerOptions{Join: "127.0.0.1:7401", Listen: "127.0.0.1:7411"}, "", ""},
		"one founder":           {PeerOptions{Bootstrap: "7=127.0.0.1:7401"}, "", ""},
		"nat":                   {PeerOptions{Join: "10.0.0.1:7401", Listen: "0.0.0.0:7401", Advertise: "10.0.0.9:7401", SecretFile: "s"}, "", ""},
		"zone without peers":    {PeerOptions{Zone: "a"}, "Peers.Zone", "no peers"},
		"node without peers":    {PeerOptions{Node: 2}, "Peers.Node", "no peers"},
		"secret without peers":  {PeerOptions{SecretFile: "s"}, "Peers.SecretFile", "no peers"},
		"both":                  {PeerOptions{Bootstrap: local, Node: 1, Join: "127.0.0.1:7401"}, "Peers.Join", "either founds"},
		"not in the list":       {PeerOptions{Bootstrap: local, Node: 4}, "Peers.Node", "not in the --bootstrap list"},
		"which one":             {PeerOptions{Bootstrap: local}, "Peers.Node", "which node of the --bootstrap list"},
		"itself":                {PeerOptions{Join: "127.0.0.1:7401"}, "Peers.Join", "this node itself"},
		"no ids":                {PeerOptions{Bootstrap: "10.0.0.1:7401", Node: 1}, "Peers.Bootstrap", "no node id"},
		"twice":                 {PeerOptions{Bootstrap: "1=a:1,1=b:1", Node: 1}, "Peers.Bootstrap", "twice"},
		"one address":           {PeerOptions{Bootstrap: "1=a:1,2=a:1", Node: 1}, "Peers.Bootstrap", "one address"},
		"no port":               {PeerOptions{Bootstrap: "1=a,2=b:1", Node: 1}, "Peers.Bootstrap", "host:port"},
		"too many":              {PeerOptions{Bootstrap: manyFounders(founding.FoundersMax + 1), Node: 1}, "Peers.Bootstrap", "too many"},
		"join nowhere":          {PeerOptions{Join: "somewhere"}, "Peers.Join", "host:port"},
		"open to all":           {PeerOptions{Bootstrap: three, Node: 1}, "Peers.Listen", "--cluster-secret-file"},
		"half a pair":           {PeerOptions{Bootstrap: local, Node: 1, CA: "ca.pem", Cert: "cert.pem"}, "Peers.CA", "all three"},
		"certificate of whom":   {PeerOptions{Join: "127.0.0.1:7411", CA: "a", Cert: "b", Key: "c"}, "Peers.Node", "its certificate names"},
		"secret and files":      {PeerOptions{Bootstrap: local, Node: 1, CA: "a", Cert: "b", Key: "c", SecretFile: "s"}, "Peers.SecretFile", "one or the other"},
		"listens everywhere":    {PeerOptions{Join: "10.0.0.1:7401", Listen: "0.0.0.0:7401", SecretFile: "s"}, "Peers.Advertise", "cannot dial"},
		"advertises everywhere": {PeerOptions{Join: "10.0.0.1:7401", Listen: "10.0.0.2:7401", Advertise: "0.0.0.0:7401", SecretFile: "s"}, "Peers.Advertise", "no peer can dial"},
		"advertises loopback":   {PeerOptions{Join: "10.0.0.1:7401", Listen: "10.0.0.2:7401", Advertise: "127.0.0.1:7401", SecretFile: "s"}, "Peers.Advertise", "their own machines"},
		"longest zone":          {PeerOptions{Bootstrap: "1=127.0.0.1:7401", Zone: strings.Repeat("z", cluster.ZoneBytesMax)}, "", ""},
		"zone too long":         {PeerOptions{Bootstrap: "1=127.0.0.1:7401", Zone: strings.Repeat("z", cluster.ZoneBytesMax+1)}, "Peers.Zone", "at most 64 bytes"},
		"zone with a space":     {PeerOptions{Bootstrap: "1=127.0.0.1:7401", Zone: "rack 1"}, "Peers.Zone", "without spaces"},
		"least rate":            {PeerOptions{Bootstrap: "1=127.0.0.1:7401", TransferRate: TransferRateMin}, "", ""},
		"most rate":             {PeerOptions{Bootstrap: "1=127.0.0.1:7401", TransferRate: TransferRateMax}, "", ""},
		"rate too small":        {PeerOptions{Bootstrap: "1=127.0.0.1:7401", TransferRate: TransferRateMin - 1}, "Peers.TransferRate", "1 MiB"},
		"rate too great":        {PeerOptions{Bootstrap: "1=127.0.0.1:7401", TransferRate: TransferRateMax + 1}, "Peers.TransferRate", "1 GiB"},
		"rate without peers":    {PeerOptions{TransferRate: TransferRateMin}, "Peers.TransferRate", "no peers"},
		"any port":              {PeerOptions{Join: "127.0.0.1:7401", Listen: "127.0.0.1:0"}, "Peers.Listen", "1 to 65535"},
		"secret too short":      {PeerOptions{Join: "127.0.0.1:7411", SecretFile: short}, "Peers.SecretFile", "openssl rand"},
	} {
		o := Options{Peers: c.peers}.withDefaults()
		err := o.validate()
		if err == nil && c.peers.SecretFile == short {
			_, err = o.interpret()
		}
		wrong, found := errors.AsType[*OptionError](err)
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.field != "" && (!found || wrong.Field != c.field || !strings.Contains(wrong.Problem, c.want)):
			t.Errorf("%s: %v, want %s with %q", name, err, c.field, c.want)
		}
	}
}

// TestOptionsOfTheCatalog: what the catalog would not take of a node is refused at its start.
func TestOptionsOfTheCatalog(t *testing.T) {
	peers := PeerOptions{Bootstrap: "1=127.0.0.1:7401"}
	for field, o := range map[string]Options{
		"":          {Peers: peers, Advertise: "beaver.example.org:7400", Version: strings.Repeat("v", cluster.NodeVersionBytesMax)},
		"Advertise": {Peers: peers, Advertise: "beaver.example.org"},
		"Version":   {Peers: peers, Version: strings.Repeat("v", cluster.NodeVersionBytesMax+1)},
	} {
		err := o.withDefaults().validate()
		if wrong, found := errors.AsType[*OptionError](err); field == "" && err != nil || field != "" && (!found || wrong.Field != field) {
			t.Errorf("want %q refused: %v", field, err)
		}
	}
}

func manyFounders(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%d=10.0.0.%d:7401", i+1, i+1))
	}
	return strings.Join(list, ",")
}

// openTogether opens nodes that wait for each other.
func openTogether(t *testing.T, options ...Options) []*Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nodes, errs := make([]*Server, len(options)), make([]error, len(options))
	done := make(chan int)
	for i := range options {
		go func() {
			nodes[i], errs[i] = Open(ctx, options[i])
			done <- i
		}()
	}
	for range options {
		<-done
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return nodes
}

func closeAll(t *testing.T, nodes ...*Server) {
	t.Helper()
	for _, n := range nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := n.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// await asks for the cluster until a condition holds.
func await(t *testing.T, c *beaver.Client, what string, condition func(*beaver.ClusterInfo) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := c.Cluster(ctx)
		if err == nil && condition(info) {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			t.Fatalf("it does not come that %s: %+v, %v", what, info, err)
		}
	}
}

func clientOf(t *testing.T, s *Server) *beaver.Client {
	t.Helper()
	c, err := s.Client()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) }) // its server may be closed
	return c
}

// TestCluster: three nodes in one process found a cluster. One is removed while it is down, another moves to a new address, and both
// find out when they come back.
func TestCluster(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("0123456789abcdef", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	var list []string
	for node := range 3 {
		list = append(list, fmt.Sprintf("%d=%s", node+1, freeport.Address(t)))
	}
	options := make([]Options, 3)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 2, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1), SecretFile: secret},
		}
	}
	nodes := openTogether(t, options...)
	first := clientOf(t, nodes[0])
	for i := range 20 {
		if _, err := clientOf(t, nodes[i%3]).Enqueue(t.Context(), beaver.Job{Queue: fmt.Sprintf("q%d", i%4), Payload: []byte("1")}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, first, "the founders are known", func(i *beaver.ClusterInfo) bool { return len(i.Nodes) == 3 })

	closeAll(t, nodes[2])
	if err := first.RemoveNode(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	await(t, first, "node 3 is removed", func(i *beaver.ClusterInfo) bool {
		return slices.ContainsFunc(i.Nodes, func(n beaver.ClusterNode) bool { return n.ID == 3 && n.State == "removed" })
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n, err := Open(ctx, options[2]); err == nil || !strings.Contains(err.Error(), "was removed from cluster") {
		t.Fatalf("a node that was removed while it was down: %v, %v", n, err)
	}
	if n, err := Open(ctx, options[2]); err == nil || !strings.Contains(err.Error(), "never used again") {
		t.Fatalf("a node that was removed: %v, %v", n, err)
	}

	closeAll(t, nodes[1])
	moved := freeport.Address(t)
	options[1].Peers.Listen, options[1].Peers.Advertise = moved, moved
	nodes[1] = openTogether(t, options[1])[0]
	await(t, first, "node 2 has moved, and votes", func(i *beaver.ClusterInfo) bool {
		there := slices.ContainsFunc(i.Nodes, func(n beaver.ClusterNode) bool { return n.ID == 2 && n.PeerAddress == moved && n.Reachable })
		for _, s := range i.Shards {
			there = there && s.LeaderNodeID != 0 && len(s.Members) == 2 && s.Members[0].Reachable && s.Members[1].Reachable
		}
		return there
	})
	await(t, first, "metrics tell of node 2 alone, with its lag in each shard that node 1 leads", func(i *beaver.ClusterInfo) bool {
		figures, leads := nodes[0].peers.figures(), 0
		for _, s := range i.Shards {
			if s.LeaderNodeID == 1 {
				leads++
			}
		}
		return len(figures) == 1 && figures[0].Node == 2 && figures[0].Connected && len(figures[0].Behind) == leads
	})
	queues, err := clientOf(t, nodes[1]).Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	total := uint64(0)
	for _, q := range queues {
		total += q.Ready
	}
	if total != 20 {
		t.Fatalf("%d jobs wait, want 20", total)
	}
	closeAll(t, nodes[0], nodes[1])
}

// TestLastFounder: a node whose fellow founders have all been replaced is started again. The record of the founding names nobody that
// is still there; it finds the others by its own copy of the catalog.
func TestLastFounder(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(strings.Repeat("0123456789abcdef", 2)), 0o600); err != nil {
		t.Fatal(err)
	}
	addresses := make([]string, 3)
	list := make([]string, 3)
	for i := range list {
		addresses[i] = freeport.Address(t)
		list[i] = fmt.Sprintf("%d=%s", i+1, addresses[i])
	}
	options := make([]Options, 3)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 2, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1), SecretFile: secret},
		}
	}
	nodes := openTogether(t, options...)
	last := clientOf(t, nodes[2])
	await(t, last, "the founders are known", func(i *beaver.ClusterInfo) bool { return len(i.Nodes) == 3 })
	for i, successor := range []uint64{4, 5} {
		closeAll(t, nodes[i])
		address := freeport.Address(t)
		if _, err := last.AddNode(t.Context(), address, uint64(i+1)); err != nil {
			t.Fatal(err)
		}
		nodes[i] = openTogether(t, Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 2, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Join: addresses[2], Listen: address, SecretFile: secret},
		})[0]
		await(t, last, "the successor has the place", func(info *beaver.ClusterInfo) bool {
			for _, n := range info.Nodes {
				if n.ID == uint64(i+1) && n.State != "removed" || n.ID == successor && n.State != "active" {
					return false
				}
			}
			return len(info.Nodes) > int(successor)-1
		})
	}
	closeAll(t, nodes[2])
	began := time.Now()
	nodes[2] = openTogether(t, options[2])[0]
	if took := time.Since(began); took > inquireInterval/2 {
		t.Errorf("it took %v: the others had to ask it first", took)
	}
	if _, err := clientOf(t, nodes[2]).Enqueue(t.Context(), beaver.Job{Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	closeAll(t, nodes...)
}

// leads counts the shards that each node leads.
func leads(i *beaver.ClusterInfo) map[uint64]int {
	count := make(map[uint64]int)
	for _, s := range i.Shards {
		count[s.LeaderNodeID]++
	}
	return count
}

// spread reports whether so many shards are led by so many nodes that all vote in all of them, each with its share of the leads.
func spread(i *beaver.ClusterInfo, shards, nodes int) bool {
	count := leads(i)
	for _, s := range i.Shards {
		for _, m := range s.Members {
			if m.Role != "leader" && m.Role != "follower" || !m.Reachable {
				return false
			}
		}
		if len(s.Members) != nodes {
			return false
		}
	}
	for _, n := range count {
		if n < shards/nodes || n > (shards+nodes-1)/nodes {
			return false
		}
	}
	return len(i.Shards) == shards && count[0] == 0 && len(count) == nodes
}

// TestShardsAreAdded: a cluster gets shards while a node is down, another one joins, and by a node that is restarted with more. All nodes
// come to have all of them, the leads are shared out again after each restart, and new queues come to live there.
func TestShardsAreAdded(t *testing.T) {
	var list []string
	for node := range 3 {
		list = append(list, fmt.Sprintf("%d=%s", node+1, freeport.Address(t)))
	}
	options := make([]Options, 4)
	for i := range 3 {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 1, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
		}
	}
	nodes := openTogether(t, options[:3]...)
	first := clientOf(t, nodes[0])
	store := func(count int) {
		t.Helper()
		for i := range count {
			if _, err := first.Enqueue(t.Context(), beaver.Job{Queue: fmt.Sprintf("q%d", i), Payload: []byte("1")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	await(t, first, "the founders are known", func(i *beaver.ClusterInfo) bool { return len(i.Nodes) == 3 })
	store(2)
	closeAll(t, nodes[2])
	if n, err := first.AddShards(t.Context(), 2, 1); err != nil || n != 3 {
		t.Fatalf("%d shards, %v", n, err)
	}
	if n, err := first.AddShards(t.Context(), 2, 1); err != nil || n != 3 {
		t.Fatalf("a repeat: %d shards, %v", n, err)
	}
	if n, err := first.AddShards(t.Context(), 3, 1); err == nil || !strings.Contains(err.Error(), "3 data shards by now") {
		t.Fatalf("another wish by somebody who saw less: %d shards, %v", n, err)
	}
	await(t, first, "two nodes lead the new shards", func(i *beaver.ClusterInfo) bool {
		return len(i.Shards) == 4 && leads(i)[0] == 0
	})
	store(9)
	homes := make(map[int]bool)
	queues, err := first.Queues(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		homes[q.Shard] = true
	}
	if !homes[1] || !homes[2] || !homes[3] {
		t.Fatalf("9 queues live on %v", homes)
	}

	nodes[2] = openTogether(t, options[2])[0]
	await(t, first, "the node that was down founds the new shards too", func(i *beaver.ClusterInfo) bool { return spread(i, 4, 3) })

	// A node that joins has a place in what there is, and learns of what comes afterwards.
	options[3] = Options{DataDir: t.TempDir(), Listen: "127.0.0.1:0", Fatal: options[0].Fatal, Peers: PeerOptions{
		Join: strings.SplitN(list[0], "=", 2)[1], Listen: freeport.Address(t),
	}}
	nodes = append(nodes, openTogether(t, options[3])[0])
	if _, err := first.AddShards(t.Context(), 1, 0); err != nil {
		t.Fatal(err)
	}
	await(t, first, "four nodes have five shards", func(i *beaver.ClusterInfo) bool { return spread(i, 5, 4) })

	// A node that is started with more shards gives them to all. One that is started with less takes what there is.
	closeAll(t, nodes[1])
	options[1].Shards = 6
	nodes[1] = openTogether(t, options[1])[0]
	await(t, first, "there are seven shards", func(i *beaver.ClusterInfo) bool { return spread(i, 7, 4) })
	closeAll(t, nodes...)
	options[1].Shards = 2
	nodes = openTogether(t, options...)
	first = clientOf(t, nodes[0])
	await(t, first, "all is as it was", func(i *beaver.ClusterInfo) bool { return spread(i, 7, 4) })
	total := uint64(0)
	if queues, err = first.Queues(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, q := range queues {
		total += q.Ready
	}
	if total != 11 {
		t.Fatalf("%d jobs wait, want 11", total)
	}
	closeAll(t, nodes...)
}

// TestShardsOfANodeAlone: it has as many as before when nobody says, and gets more when somebody does.
func TestShardsOfANodeAlone(t *testing.T) {
	o := Options{DataDir: t.TempDir(), Listen: listenNowhere, Fatal: func(err error) { t.Errorf("fatal: %v", err) }}
	for _, c := range []struct{ given, want int }{{6, 6}, {0, 6}, {7, 7}, {0, 7}} {
		o.Shards = c.given
		n := openTogether(t, o)[0]
		s, err := clientOf(t, n).Status(t.Context())
		if err != nil || len(s.Shards) != c.want+1 {
			t.Fatalf("%d shards, %v; want %d and the catalog", len(s.Shards), err, c.want)
		}
		closeAll(t, n)
	}
}
