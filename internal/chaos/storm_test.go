//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
)

const (
	stormSecondsDefault = 10
	// stormFounders found the cluster, and it is never smaller; it grows up to stormNodesMax.
	stormFounders, stormNodesMax = 3, 5
	// stormShardsMax is how many data shards it grows to.
	stormShardsMax = 7
	// smallDiskBytes is the size of the file systems that are filled.
	smallDiskBytes = 256 << 20
	// healMax is how long the cluster may take, on a slow machine too, until it is whole once the faults have stopped.
	healMax = 3 * time.Minute

	stormDirEnv, stormBinEnv = "BEAVER_CHAOS_DIR", "BEAVER_CHAOS_BIN"
)

// storm is one run: a cluster of real processes, all that goes wrong with it, and all who use it meanwhile.
type storm struct {
	t       *testing.T
	ctx     context.Context
	seed    uint64
	rng     *rand.Rand // of the faults
	dir     string
	bin     string
	network network
	weather *weather
	members map[uint64]*member // by node id
	places  int                // given until now
	shards  int                // data shards, as far as it was looked
	record  *recorder
	traffic *traffic
	happened,
	missed map[string]int // faults, by kind
	refused  int      // changes of a queue's homes while it moved
	rolled   int      // restarts one by one
	programs *process // beaver work
	took     struct{ chaos, heal time.Duration }
}

// member is a node of the cluster.
type member struct {
	id    uint64
	place int
	at    addresses
	p     *process
	clock wallClock
	disk  bool // it has a small file system of its own
	flags []string
}

// TestStorm: a cluster of three to five real processes keeps its promises whatever happens to its processes, its network, its disks,
// its clocks and its members, for BEAVER_CHAOS_SECONDS.
func TestStorm(t *testing.T) {
	seconds, seed := numberFromEnv(t, "BEAVER_CHAOS_SECONDS", stormSecondsDefault), numberFromEnv(t, "BEAVER_CHAOS_SEED", uint64(time.Now().UnixNano()))
	if !isolated() {
		dir, err := os.MkdirTemp("", "beaver-storm-") //nolint:usetesting // it stays when the test fails
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if !t.Failed() {
				_ = os.RemoveAll(dir)
			}
		})
		t.Setenv("BEAVER_CHAOS_SECONDS", strconv.FormatUint(seconds, 10))
		t.Setenv("BEAVER_CHAOS_SEED", strconv.FormatUint(seed, 10))
		t.Setenv(stormDirEnv, dir)
		t.Setenv(stormBinEnv, buildJumping(t))
		if isolate(t) {
			return
		}
	} else if err := furnish(); err != nil {
		t.Fatal(err)
	}
	s := &storm{
		t: t, ctx: t.Context(), seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), dir: os.Getenv(stormDirEnv), bin: os.Getenv(stormBinEnv),
		weather: newWeather(), members: make(map[uint64]*member), record: newRecorder(), happened: make(map[string]int), missed: make(map[string]int),
	}
	s.traffic = &traffic{record: s.record, seed: seed}
	var err error
	if s.network, err = newFabric(s.weather, seed); err != nil {
		t.Logf("no network namespaces (%v): connections go through a proxy", err)
		s.network = newProxies(s.weather, seed)
	}
	t.Logf("BEAVER_CHAOS_SEED=%d BEAVER_CHAOS_SECONDS=%d, by way of %v; data, logs and history in %s", seed, seconds, s.network, s.dir)
	defer s.end()
	s.blow(time.Duration(seconds) * time.Second)
}

// blow is the run: load, faults, healing, and the verdict.
func (s *storm) blow(chaos time.Duration) {
	s.found()
	addrs := s.addrs()
	var clients []*beaver.Client
	for _, addr := range []string{addrs, strings.Split(addrs, ",")[0]} {
		c, err := beaver.NewClient(beaver.Config{Addr: addr})
		if err != nil {
			s.t.Fatal(err)
		}
		clients = append(clients, c)
	}
	if err := s.traffic.configureQueues(s.ctx, clients[0]); err != nil {
		s.t.Fatal(err)
	}
	producing, stopProducing := context.WithCancel(s.ctx)
	consuming, stopConsuming := context.WithCancel(s.ctx)
	defer stopProducing()
	defer stopConsuming()
	var workers []*beaver.Worker
	for i, c := range clients {
		who := uint64(i+1) * 100
		w, err := s.traffic.worker(s.ctx, c, who)
		if err != nil {
			s.t.Fatal(err)
		}
		workers = append(workers, w)
		s.traffic.produce(producing, c, who, 4)
		s.traffic.consume(consuming, c, who+50, 3)
	}
	notes := filepath.Join(s.dir, "programs")
	s.startPrograms(addrs, notes)
	began := time.Now()
	for time.Since(began) < chaos && !s.record.broken() {
		s.strike(chaos - time.Since(began))
	}
	s.took.chaos = time.Since(began)
	healing := time.Now()
	s.heal()
	stopProducing()
	s.traffic.making.Wait()
	s.traffic.tidy.Store(true)
	s.drain(clients[0])
	s.took.heal = time.Since(healing)
	stopConsuming()
	s.traffic.taking.Wait()
	for _, w := range workers {
		if err := w.Stop(s.ctx); err != nil {
			s.record.violate("a worker does not stop: %v", err)
		}
	}
	if err := s.programs.signal(syscall.SIGTERM); err != nil {
		s.record.violate("beaver work: %v\n%s", err, s.programs.tail())
	}
	s.verdict(clients, notes)
}

// founders are the flags of a node, and those that it founds the cluster with.
func (s *storm) found() {
	if err := os.WriteFile(s.secret(), []byte(strings.Repeat("0123456789abcdef", 4)+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	var list []string
	for id := uint64(1); id <= stormFounders; id++ {
		m := s.newMember()
		s.adopt(id, m)
		list = append(list, fmt.Sprintf("%d=%s", id, m.at.publicToPeer))
	}
	for id, m := range s.members {
		m.flags = append(m.flags, "--node", strconv.FormatUint(id, 10), "--bootstrap", strings.Join(list, ","))
		s.start(m)
	}
	s.heal()
	s.until("it is told how many shards there are", s.countShards)
}

func (s *storm) secret() string { return filepath.Join(s.dir, "secret") }

// newMember prepares a node that has no id yet.
func (s *storm) newMember() *member {
	s.places++
	m := &member{place: s.places, disk: s.places%2 == 1}
	var err error
	if m.at, err = s.network.settle(m.place); err != nil {
		s.t.Fatalf("a place for a node: %v", err)
	}
	dir := filepath.Join(s.dir, fmt.Sprintf("place%d", m.place))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	if m.clock, err = newWallClock(filepath.Join(s.dir, fmt.Sprintf("clock%d", m.place))); err != nil {
		s.t.Fatal(err)
	}
	m.disk = m.disk && mountSmallDisk(dir, smallDiskBytes) == nil
	// Small files, so that rotation, snapshots, live segments and compaction are under way at every moment.
	m.flags = []string{
		"--advertise", m.at.public, "--peer-listen", m.at.peerListen, "--advertise-peer", m.at.publicToPeer,
		"--log-file-bytes", "4194304", "--snapshot-bytes", "524288",
	}
	if s.network.secured() {
		m.flags = append(m.flags, "--cluster-secret-file", s.secret())
	}
	m.p = &process{
		bin: s.bin, dataDir: filepath.Join(dir, "data"), logPath: filepath.Join(s.dir, fmt.Sprintf("place%d.log", m.place)), addr: m.at.listen,
		env: []string{m.clock.env()}, run: func(start func() error) error { return s.network.run(m.place, start) },
	}
	return m
}

func (s *storm) adopt(id uint64, m *member) {
	m.id = id
	s.members[id] = m
	s.network.named(id, m.place)
}

func (s *storm) start(m *member) {
	s.t.Helper()
	m.p.args = m.flags
	if err := m.p.launch(); err != nil {
		s.t.Fatalf("start node %d: %v", m.id, err)
	}
}

// startPrograms starts beaver work, which runs a program for each job of a queue.
func (s *storm) startPrograms(addrs, notes string) {
	s.programs = &process{bin: s.bin, logPath: filepath.Join(s.dir, "work.log"), env: []string{"BEAVER_ADDR=" + addrs}}
	s.programs.command = append([]string{"work", programQueue, "--quiet", "--concurrency", "2", "--"}, program(notes)...)
	if err := s.programs.launch(); err != nil {
		s.t.Fatalf("start beaver work: %v", err)
	}
}

// ids are those of the members, in order.
func (s *storm) ids() []uint64 {
	var ids []uint64
	for id := range s.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// addrs are where clients find the members.
func (s *storm) addrs() string {
	var list []string
	for _, id := range s.ids() {
		list = append(list, "http://"+s.members[id].at.public)
	}
	return strings.Join(list, ",")
}

// operator is a client that asks certain nodes and no other, for as long as ask runs.
func (s *storm) operator(addrs string, wait time.Duration, ask func(context.Context, *beaver.Client) error) error {
	c, err := beaver.NewClient(beaver.Config{Addr: addrs, OnlyAddr: true, RetryFor: wait})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, wait)
	defer cancel()
	return errors.Join(ask(ctx, c), c.Close(s.ctx))
}

// cluster describes the cluster as some node sees it.
func (s *storm) cluster(addrs string, wait time.Duration) (info *beaver.ClusterInfo, err error) {
	err = s.operator(addrs, wait, func(ctx context.Context, c *beaver.Client) error {
		info, err = c.Cluster(ctx)
		return err
	})
	return info, err
}

// until looks at the cluster until a condition holds. That it does not, is a violation: it reports whether it did.
func (s *storm) until(what string, condition func(*beaver.ClusterInfo) bool) bool {
	ctx, cancel := context.WithTimeout(s.ctx, healMax)
	defer cancel()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	var info *beaver.ClusterInfo
	var err error
	for {
		if s.fallen() {
			return false
		}
		if info, err = s.cluster(s.addrs(), 5*time.Second); err == nil && condition(info) {
			return true
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			s.record.violate("it does not come within %v that %s: %+v, %v", healMax, what, info, err)
			return false
		}
	}
}

// fallen reports whether a node or beaver work ended by itself, which none may do whatever happens around it.
func (s *storm) fallen() bool {
	ended := func(what string, p *process) bool {
		if p == nil || p.cmd == nil {
			return false
		}
		select {
		case err := <-p.exited:
			p.cmd = nil
			s.record.violate("%s ended by itself: %v\n%s", what, err, p.tail())
			return true
		default:
			return false
		}
	}
	for _, id := range s.ids() {
		if ended(fmt.Sprintf("node %d", id), s.members[id].p) {
			return true
		}
	}
	return ended("beaver work", s.programs)
}

// heal waits until every node is there and serves, and has what any had when it began to wait.
func (s *storm) heal() bool {
	marks := make(map[int]uint64)
	return s.until("the cluster is whole", func(info *beaver.ClusterInfo) bool {
		if len(info.Shards) == 0 {
			return false
		}
		for _, sh := range info.Shards {
			for _, m := range sh.Members {
				if _, ok := marks[sh.ID]; !ok && m.NodeID == sh.LeaderNodeID && m.LastIndex > 0 {
					marks[sh.ID] = m.LastIndex
				}
			}
		}
		for _, sh := range info.Shards {
			if sh.LeaderNodeID == 0 || len(sh.Members) != len(s.members) || sh.Waiting != "" {
				return false
			}
			for _, m := range sh.Members {
				if m.Role != "leader" && m.Role != "follower" || marks[sh.ID] == 0 || m.AppliedIndex < marks[sh.ID] || s.members[m.NodeID] == nil {
					return false
				}
			}
		}
		states := states(info)
		for id := range s.members {
			if states[id] != "active" {
				return false
			}
		}
		return s.allReady()
	})
}

// allReady reports whether each node says that it serves.
func (s *storm) allReady() bool {
	var group sync.WaitGroup
	ready := make([]bool, len(s.members))
	for i, id := range s.ids() {
		group.Go(func() {
			ready[i] = s.operator("http://"+s.members[id].at.public, time.Second, func(ctx context.Context, c *beaver.Client) error { return c.Ping(ctx) }) == nil
		})
	}
	group.Wait()
	return !slices.Contains(ready, false)
}

// run runs a command of the binary against some node.
func (s *storm) run(args ...string) error { return s.runAt(s.addrs(), args...) }

// runAt runs a command of the binary against one of some nodes.
func (s *storm) runAt(addrs string, args ...string) error {
	ctx, cancel := context.WithTimeout(s.ctx, healMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Env = append(os.Environ(), "BEAVER_ADDR="+addrs)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("beaver %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// end ends all processes, and keeps what tells what happened when something went wrong.
func (s *storm) end() {
	for _, m := range s.members {
		if m.p.cmd != nil {
			_ = m.p.cmd.Process.Signal(syscall.SIGCONT)
			_ = m.p.signal(syscall.SIGKILL) // the run is over
		}
	}
	s.network.close()
	if !s.t.Failed() {
		return
	}
	file := filepath.Join(s.dir, "history.jsonl")
	if err := s.record.save(file); err != nil {
		s.t.Errorf("the history could not be kept: %v", err)
	}
	for place := 1; place <= s.places; place++ { // what lies on a file system of its own goes with it
		dir := filepath.Join(s.dir, fmt.Sprintf("place%d", place))
		if err := os.CopyFS(filepath.Join(s.dir, "kept", filepath.Base(dir)), os.DirFS(dir)); err != nil {
			s.t.Logf("the data of place %d could not be kept: %v", place, err)
		}
	}
	s.t.Logf(`where to look:
%s   what clients did to each job and were told, in order
%s/place*.log   the nodes' logs
%s/kept/place*/data   their data, for beaver inspect
again: make chaos-cluster SEED=%d`, file, s.dir, s.dir, s.seed)
}
