//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver"
)

// fault is something that goes wrong. Its run returns when it is over, and reports whether it really happened: a partition that no
// packet met is none.
type fault struct {
	name     string
	weight   int
	possible func() bool // nil: always
	run      func() bool
	// least is how long it may take: none is begun for which too little time is left.
	least  time.Duration
	beside bool // it may happen while a queue comes to other homes
}

// faults are all that may go wrong, and what operators do that may go wrong. Each leaves at most a minority broken at once, but for the
// blackout, which says so.
func (s *storm) faults() []fault {
	grown := func() bool { return len(s.members) > stormFounders }
	small := func() bool { return len(s.members) < stormNodesMax }
	filled := func() bool { return len(s.onSmallDisks()) > 0 }
	return []fault{
		{name: "SIGKILL", weight: 18, run: s.kill, beside: true},
		{name: "SIGSTOP, SIGCONT", weight: 12, run: s.freeze, beside: true},
		{name: "node cut off", weight: 6, run: s.cutOff, beside: true},
		{name: "leader cut off from peers only", weight: 8, run: s.cutFromPeers, beside: true},
		{name: "one direction cut", weight: 8, run: s.cutOneWay, beside: true},
		{name: "pair cut", weight: 5, run: s.cutPair, beside: true},
		{name: "clients cut off from a node", weight: 4, run: s.cutClients},
		{name: "loss", weight: 8, run: s.lose, beside: true},
		{name: "delay", weight: 8, run: s.delay, beside: true},
		{name: "disk full", weight: 6, run: s.fillDisk, possible: filled},
		{name: "clock jump", weight: 8, run: s.jump},
		{name: "node added", weight: 6, run: s.add, possible: small, least: 5 * time.Second},
		{name: "node removed", weight: 6, run: s.remove, possible: grown, least: 5 * time.Second},
		{name: "disk lost, node replaced", weight: 6, run: s.replace, least: 5 * time.Second},
		{name: "shard added", weight: 3, run: s.grow, possible: func() bool { return s.shards < stormShardsMax }, least: 5 * time.Second},
		{name: "beaver work killed", weight: 4, run: s.killPrograms},
		{name: "partitions changed", weight: 16, run: s.spread, least: 2 * time.Second},
		{name: "queue moved", weight: 10, run: s.move, least: 2 * time.Second},
		{name: "rolling restart", weight: 4, run: s.roll, least: 8 * time.Second},
		{name: "blackout", weight: 2, run: s.blackout},
	}
}

// strike has one fault happen, at times in bad weather, and waits until the cluster has got over it.
func (s *storm) strike(left time.Duration) {
	s.rest(1500 * time.Millisecond)
	f, with := s.drawFault(func(f *fault) bool { return (f.possible == nil || f.possible()) && f.least <= left }), ""
	drizzle := &spell{ways: s.everywhere(), lossPermille: 1 + s.rng.IntN(20), delay: upTo(s.rng, 5*time.Millisecond), jitter: 5 * time.Millisecond}
	bad := s.rng.IntN(4) == 0
	if bad {
		s.weather.begin(drizzle)
		with = fmt.Sprintf(", while %d ‰ of all are lost", drizzle.lossPermille)
	}
	began := time.Now()
	happened := f.run()
	if bad {
		s.weather.end(drizzle)
	}
	struck := time.Since(began)
	if !s.heal() {
		return
	}
	if happened {
		s.happened[f.name]++
	} else {
		s.missed[f.name]++
	}
	s.t.Logf("%7.1f s: %s%s: %v, whole again after %v more%s", s.record.now().Seconds(), f.name, with, struck.Round(time.Millisecond),
		(time.Since(began) - struck).Round(time.Millisecond), map[bool]string{true: "", false: " (it met nothing)"}[happened])
}

// drawFault draws one of the faults that are possible.
func (s *storm) drawFault(possible func(*fault) bool) fault {
	all := slices.DeleteFunc(s.faults(), func(f fault) bool { return !possible(&f) })
	sum := 0
	for _, f := range all {
		sum += f.weight
	}
	at, chosen := s.rng.IntN(sum), 0
	for ; at >= all[chosen].weight; chosen++ {
		at -= all[chosen].weight
	}
	return all[chosen]
}

// rest lets the load run for a while, up to a bound.
func (s *storm) rest(most time.Duration) { _ = pause(s.ctx, upTo(s.rng, most)) }

// draw draws a member.
func (s *storm) draw() *member {
	ids := s.ids()
	return s.members[ids[s.rng.IntN(len(ids))]]
}

// drawLeader draws a member that leads a shard, as far as can be told.
func (s *storm) drawLeader() *member {
	m := s.draw()
	info, err := s.cluster(s.addrs(), time.Second)
	if err != nil || len(info.Shards) == 0 {
		return m
	}
	if leader := s.members[info.Shards[s.rng.IntN(len(info.Shards))].LeaderNodeID]; leader != nil {
		return leader
	}
	return m
}

// others are the places of the members but one.
func (s *storm) others(m *member) (places []int) {
	for _, id := range s.ids() {
		if id != m.id {
			places = append(places, s.members[id].place)
		}
	}
	return places
}

// everywhere is all ways, those to clients too.
func (s *storm) everywhere() (ways []direction) {
	for _, id := range s.ids() {
		m := s.members[id]
		ways = append(ways, direction{m.place, outside}, direction{outside, m.place})
		for _, o := range s.others(m) {
			ways = append(ways, direction{m.place, o})
		}
	}
	return ways
}

// signal ends a process; that it had ended by itself is a violation.
func (s *storm) signal(m *member, sig syscall.Signal) bool {
	if err := m.p.signal(sig); err != nil {
		s.record.violate("node %d: %v\n%s", m.id, err, m.p.tail())
		return false
	}
	return true
}

// kill ends a process at a random moment, and starts it again; at times it is killed in the midst of its recovery too.
func (s *storm) kill() bool {
	m := s.drawLeader()
	for more := true; more; more = s.rng.IntN(4) == 0 {
		if !s.signal(m, syscall.SIGKILL) {
			return false
		}
		s.rest(2 * time.Second)
		s.start(m)
		s.rest(300 * time.Millisecond)
	}
	return true
}

// blackout kills all processes at once: nothing is served, and nothing is lost.
func (s *storm) blackout() bool {
	for _, id := range s.ids() {
		if !s.signal(s.members[id], syscall.SIGKILL) {
			return false
		}
	}
	for _, id := range s.ids() {
		s.start(s.members[id])
	}
	return true
}

// freeze stops a process for a while. It does not know, when it goes on.
func (s *storm) freeze() bool {
	m := s.drawLeader()
	stopped, err := m.p.halt(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	s.rest(8 * time.Second)
	if err := m.p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
	return stopped
}

// while has a spell last for a while.
func (s *storm) while(sp *spell) bool {
	s.weather.begin(sp)
	s.rest(8 * time.Second)
	return s.weather.end(sp)
}

func (s *storm) cutOff() bool {
	m := s.drawLeader()
	return s.while(&spell{cut: true, ways: between(m.place, append(s.others(m), outside)...)})
}

func (s *storm) cutFromPeers() bool {
	m := s.drawLeader()
	return s.while(&spell{cut: true, ways: between(m.place, s.others(m)...)})
}

// cutOneWay keeps a node from being heard, or from hearing.
func (s *storm) cutOneWay() bool {
	m, deaf := s.drawLeader(), s.rng.IntN(2) == 0
	sp := &spell{cut: true}
	for _, o := range s.others(m) {
		d := direction{m.place, o}
		if deaf {
			d = direction{o, m.place}
		}
		sp.ways = append(sp.ways, d)
	}
	return s.while(sp)
}

// cutPair keeps two nodes from each other, and leaves both to the rest.
func (s *storm) cutPair() bool {
	m := s.drawLeader()
	others := s.others(m)
	return s.while(&spell{cut: true, ways: between(m.place, others[s.rng.IntN(len(others))])})
}

func (s *storm) cutClients() bool {
	return s.while(&spell{cut: true, ways: between(s.draw().place, outside)})
}

// somewhere is all ways, or those of one node.
func (s *storm) somewhere() []direction {
	if s.rng.IntN(2) == 0 {
		return s.everywhere()
	}
	m := s.draw()
	return between(m.place, append(s.others(m), outside)...)
}

func (s *storm) lose() bool {
	return s.while(&spell{ways: s.somewhere(), lossPermille: 10 + s.rng.IntN(200)})
}

func (s *storm) delay() bool {
	return s.while(&spell{ways: s.somewhere(), delay: time.Millisecond + upTo(s.rng, 100*time.Millisecond), jitter: upTo(s.rng, 50*time.Millisecond)})
}

func (s *storm) onSmallDisks() (on []*member) {
	for _, id := range s.ids() {
		if m := s.members[id]; m.disk {
			on = append(on, m)
		}
	}
	return on
}

// fillDisk takes a node's disk away, but for a little. It happened when the node says so.
func (s *storm) fillDisk() bool {
	on := s.onSmallDisks()
	m := on[s.rng.IntN(len(on))]
	ballast := filepath.Join(filepath.Dir(m.p.dataDir), "ballast")
	if err := fill(ballast, s.rng.Int64N(3<<20)); err != nil {
		s.t.Fatalf("fill a disk: %v", err)
	}
	full := false
	deadline := time.Now().Add(5 * time.Second)
	for !full && time.Now().Before(deadline) {
		_ = s.operator("http://"+m.at.public, time.Second, func(ctx context.Context, c *beaver.Client) error {
			status, err := c.Status(ctx)
			full = err == nil && status.Log.DiskFull
			return err
		})
		_ = pause(s.ctx, 50*time.Millisecond)
	}
	s.rest(5 * time.Second)
	if err := os.Remove(ballast); err != nil {
		s.t.Fatal(err)
	}
	return full
}

// jump moves a node's wall clock for a while. Forward by seconds only: a shard's clock never goes back, so that its timers then stand still
// until the machines' have come as far. It happened when the node's answers are dated so.
func (s *storm) jump() bool {
	m := s.drawLeader()
	by := 2*time.Second + upTo(s.rng, 8*time.Second)
	switch s.rng.IntN(4) {
	case 0:
		by = -by
	case 1:
		by = -(time.Hour + upTo(s.rng, 100*time.Hour))
	}
	if err := m.clock.jump(by); err != nil {
		s.t.Fatal(err)
	}
	jumped := s.dated(m, by)
	s.rest(6 * time.Second)
	if err := m.clock.jump(0); err != nil {
		s.t.Fatal(err)
	}
	return jumped
}

// dated reports whether a node's answers bear a date that is so far from the machine's.
func (s *storm) dated(m *member, by time.Duration) bool {
	client := &http.Client{Timeout: 2 * time.Second}
	defer client.CloseIdleConnections()
	for range 5 {
		resp, err := client.Get("http://" + m.at.public + "/healthz")
		if err != nil {
			continue
		}
		_ = resp.Body.Close() // only the date counts
		date, err := http.ParseTime(resp.Header.Get("Date"))
		if off := date.Sub(time.Now().Add(by)); err == nil && off.Abs() < 2*time.Second {
			return true
		}
		_ = pause(s.ctx, 500*time.Millisecond) // net/http may keep a date for half a second
	}
	return false
}

// join starts a node that becomes a member, and waits until it is one.
func (s *storm) join(m *member) bool {
	contact := s.draw()
	m.flags = append(m.flags, "--join", contact.at.publicToPeer)
	s.start(m)
	id := uint64(0)
	if !s.until(fmt.Sprintf("the node at place %d has joined", m.place), func(*beaver.ClusterInfo) bool {
		select {
		case err := <-m.p.exited:
			m.p.cmd = nil
			s.record.violate("the node at place %d ended by itself while it joined: %v\n%s", m.place, err, m.p.tail())
			return true
		default:
		}
		err := s.operator("http://"+m.at.public, time.Second, func(ctx context.Context, c *beaver.Client) error {
			status, err := c.Status(ctx)
			if err == nil && status.Ready {
				id = status.NodeID
			}
			return err
		})
		return err == nil && id != 0
	}) || id == 0 {
		return false
	}
	s.adopt(id, m)
	return s.heal()
}

func (s *storm) add() bool { return s.join(s.newMember()) }

// insist runs a command until the cluster, which may be about something else, takes it. Its answer may be lost, so a refusal counts
// only if what it asks for has not been done.
func (s *storm) insist(done func(*beaver.ClusterInfo) bool, args ...string) bool {
	deadline := time.Now().Add(healMax)
	for {
		err := s.run(args...)
		if err == nil {
			return true
		}
		if info, e := s.cluster(s.addrs(), 5*time.Second); e == nil && done(info) {
			return true
		}
		if time.Now().After(deadline) || s.ctx.Err() != nil {
			s.record.violate("it does not work: %v", err)
			return false
		}
		_ = pause(s.ctx, 200*time.Millisecond)
	}
}

// gone frees what a member left behind that is no member any more.
func (s *storm) gone(m *member) {
	delete(s.members, m.id)
	s.network.leave(m.place)
}

func (s *storm) remove() bool {
	m := s.drawLeader()
	delete(s.members, m.id) // it is asked no more
	if !s.insist(func(info *beaver.ClusterInfo) bool {
		state := states(info)[m.id]
		return state == "leaving" || state == "removed"
	}, "cluster", "remove", fmt.Sprint(m.id)) {
		return false
	}
	select {
	case err := <-m.p.exited:
		m.p.cmd = nil
		if err != nil {
			s.record.violate("node %d was removed, and ended with %v\n%s", m.id, err, m.p.tail())
			return false
		}
	case <-time.After(healMax):
		s.record.violate("node %d was removed, and does not end\n%s", m.id, m.p.tail())
		return false
	}
	s.gone(m)
	return s.heal()
}

// replace loses a node's disk for good, and puts a new node in its place.
func (s *storm) replace() bool {
	m := s.drawLeader()
	if !s.signal(m, syscall.SIGKILL) {
		return false
	}
	if err := os.RemoveAll(m.p.dataDir); err != nil {
		s.t.Fatal(err)
	}
	s.gone(m)
	heir := s.newMember()
	return s.insist(func(info *beaver.ClusterInfo) bool {
		return slices.ContainsFunc(info.Nodes, func(n beaver.ClusterNode) bool { return n.Replaces == m.id })
	}, "cluster", "replace", fmt.Sprint(m.id), heir.at.publicToPeer) && s.join(heir)
}

// grow adds a data shard.
func (s *storm) grow() bool {
	if !s.until("it is told how many shards there are", s.countShards) {
		return false
	}
	before := s.shards
	grown := func(info *beaver.ClusterInfo) bool { return s.countShards(info) && s.shards > before }
	return s.insist(grown, "cluster", "add-shards", "1") && s.until("there is another shard", grown)
}

// countShards takes note of how many data shards there are, as far as the node knows that was asked.
func (s *storm) countShards(info *beaver.ClusterInfo) bool {
	s.shards = len(info.Shards) - 1 // without the catalog
	return s.shards > 0
}

// killPrograms kills a worker with the jobs that it has. Its programs may go on, and nobody hears of what they did.
func (s *storm) killPrograms() bool {
	if err := s.programs.signal(syscall.SIGKILL); err != nil {
		s.record.violate("beaver work: %v\n%s", err, s.programs.tail())
		return false
	}
	s.rest(2 * time.Second)
	s.programs.env = []string{"BEAVER_ADDR=" + s.addrs()} // of those that it was begun with, all may be gone
	if err := s.programs.launch(); err != nil {
		s.t.Fatalf("start beaver work: %v", err)
	}
	return true
}

// roll restarts all nodes, one after the other, as an upgrade does.
func (s *storm) roll() bool {
	for _, id := range s.ids() {
		m := s.members[id]
		if !s.signal(m, syscall.SIGTERM) {
			return false
		}
		s.start(m)
		ctx, cancel := context.WithTimeout(s.ctx, healMax)
		err := m.p.awaitReady(ctx)
		cancel()
		if err != nil {
			s.record.violate("node %d is not ready after a restart: %v\n%s", id, errors.Join(err), m.p.tail())
			return false
		}
		s.rolled++
	}
	return true
}
