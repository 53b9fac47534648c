package replica

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// electionTicks is so long that the library's random part of an election timeout never matters in a script.
const electionTicks = 100_000

const testShard shard.ID = 3

// member is one node with one replica, its disk and its log, turned by hand.
type member struct {
	g      *group
	node   shard.NodeID
	id     shard.ReplicaID
	disk   *vfs.Sim
	log    *wal.Log
	rep    *Replica // nil: down
	driver *toy
	skew   int64         // of the wall clock
	ahead  time.Duration // how much more time than for others has passed here
	held   bool          // flushes wait
	wishes []shard.SnapshotWish
}

// group is members and the messages between them.
type group struct {
	t        testing.TB
	out      strings.Builder
	members  map[shard.NodeID]*member
	founders []shard.ReplicaID
	now      time.Duration
	bag      []*raftpb.Message
	mail     []letter // about damaged entries
	cut      map[shard.NodeID]bool
	ticks    int
	snapshot int64
}

func newGroup(t testing.TB, voters, ticks int) *group {
	g := &group{t: t, members: map[shard.NodeID]*member{}, cut: map[shard.NodeID]bool{}, ticks: ticks, snapshot: 1 << 40}
	for i := range voters {
		g.founders = append(g.founders, shard.NewReplicaID(shard.NodeID(i+1), 0))
	}
	for _, id := range g.founders {
		g.add(id, g.founders)
	}
	return g
}

// add starts a member on an empty disk.
func (g *group) add(id shard.ReplicaID, founders []shard.ReplicaID) *member {
	m := &member{g: g, node: id.Node(), id: id, disk: vfs.NewSim(uint64(id.Node()), vfs.SimOptions{})}
	if old := g.members[m.node]; old != nil {
		m.skew = old.skew
	}
	g.members[m.node] = m
	if err := m.open(founders); err != nil {
		g.t.Fatal(err)
	}
	return m
}

// open starts the member from what its disk holds.
func (m *member) open(founders []shard.ReplicaID) error {
	log, _, err := wal.Open(wal.Options{FS: m.disk, Dir: "log", FileBytes: 128 << 10, KeepHoles: true, Peers: true})
	if err != nil {
		return err
	}
	m.log = log
	return m.restore(founders)
}

// restore makes the replica over the open log.
func (m *member) restore(founders []shard.ReplicaID) error {
	m.driver = newToy(fmt.Sprint(m.node), &m.g.out)
	m.driver.mute = true
	m.wishes = nil
	rep, err := Open(Config{
		Shard: testShard, Replica: m.id, Log: m.log, Driver: m.driver, FS: m.disk, SnapshotDir: "snapshots/3", DiskDir: ".",
		Founders: founders, TickInterval: 100 * time.Millisecond, ElectionTicks: m.g.ticks, SnapshotBytes: m.g.snapshot,
		UncommittedBytes: shard.BatchBytesMax,
	})
	if err != nil {
		return err
	}
	for more := true; more; {
		if more, err = rep.Replay(); err != nil {
			return err
		}
	}
	if r := rep.Retention(); r.Live != nil {
		m.log.Retain(testShard, r)
	}
	m.driver.mute, m.rep = false, rep
	return nil
}

// crash loses what is not durable.
func (m *member) crash() {
	m.disk = m.disk.CrashClone(vfs.AllLost())
	m.rep, m.log = nil, nil
}

func (m *member) instant() Instant {
	return Instant{Mono: m.g.now + m.ahead, Millis: m.g.now.Milliseconds() + m.skew}
}

// turn turns the replica until it has nothing to do; what it sends lands in the bag.
func (m *member) turn() (moved bool) {
	for range 1000 {
		eff, err := m.rep.Turn(m.instant())
		if err != nil && m.rep.Heals(err) {
			m.driver.say("begins anew: %v", err)
			m.rep.Stop(ErrNotLeader)
			if err = m.restore(nil); err == nil {
				continue
			}
		}
		if err != nil {
			m.fail(err)
			return true
		}
		if eff.HolesBegan || eff.HolesEnded {
			m.driver.say("is out of its group: %v", eff.HolesBegan)
		}
		moved = moved || len(eff.Messages) > 0 || eff.Batch.Items > 0
		m.g.bag = append(m.g.bag, slices.Clone(eff.Messages)...)
		for _, mail := range eff.Mends {
			m.driver.say("asks %s: %s", mail.To, transfer.Describe(mail.Data))
			m.g.mail = append(m.g.mail, letter{m.id, mail})
			moved = true
		}
		for _, w := range eff.Snapshots {
			m.driver.say("wishes that %s gets snapshot %d", w.To, w.Index)
			m.wishes = append(m.wishes, w)
		}
		if eff.Renew {
			above, _ := m.rep.Renewing()
			m.driver.say("is to be renewed by a snapshot above %d", above)
		}
		if eff.Snapshot {
			job, err := m.rep.Freeze()
			if err != nil {
				m.g.t.Fatal(err)
			}
			res := job.Store()
			m.rep.SnapshotStored(m.instant(), res)
			m.driver.say("snapshot of %d stored, error %v", job.Meta.Index, res.Err)
			eff.More = true
		}
		if eff.Flush != FlushNone && !m.held {
			m.flush()
			eff.More = true
		}
		if !eff.More {
			return moved
		}
	}
	m.g.t.Fatalf("replica %s has no end of turns", m.id)
	return true
}

func (m *member) flush() {
	position, err := m.log.Flush()
	if err != nil {
		m.g.t.Fatal(err)
	}
	m.rep.Durable(position)
}

// fail is what an owner does with a final error.
func (m *member) fail(err error) {
	m.driver.say("stops: %v", err)
	m.rep.Stop(err)
	m.rep = nil
}

// step hands a message over.
func (m *member) step(msg *raftpb.Message) {
	if err := m.rep.Step(msg); err != nil {
		m.fail(err)
	}
}

func (g *group) nodes() []shard.NodeID {
	var nodes []shard.NodeID
	for n := range g.members {
		nodes = append(nodes, n)
	}
	slices.Sort(nodes)
	return nodes
}

// deliver hands out the messages that are in the bag now and match.
func (g *group) deliver(match func(from, to shard.NodeID) bool) (moved bool) {
	bag := g.bag
	g.bag = nil
	for _, msg := range bag {
		from, to := shard.ReplicaID(msg.GetFrom()).Node(), shard.ReplicaID(msg.GetTo()).Node()
		switch m := g.members[to]; {
		case g.cut[from] || g.cut[to]: // lost
		case !match(from, to):
			g.bag = append(g.bag, msg)
		case m != nil && m.rep != nil:
			moved = true
			m.step(msg)
		}
	}
	return moved
}

// stabilize turns and delivers until nothing moves.
func (g *group) stabilize() {
	for range 1000 {
		moved := false
		for _, n := range g.nodes() {
			if m := g.members[n]; m.rep != nil && m.turn() {
				moved = true
			}
		}
		if g.deliver(func(_, _ shard.NodeID) bool { return true }) {
			moved = true
		}
		if g.deliverMail() {
			moved = true
		}
		if !moved && len(g.bag) == 0 && len(g.mail) == 0 {
			return
		}
	}
	g.t.Fatal("the group does not come to rest")
}

// pass lets time pass in steps, and everything happen meanwhile; only for one clock when that is given.
func (g *group) pass(d time.Duration, clock *time.Duration) {
	if clock == nil {
		clock = &g.now
	}
	for end := *clock + d; *clock < end; {
		*clock = min(*clock+50*time.Millisecond, end)
		g.stabilize()
	}
}

// campaign makes a follower take over as if it had been told to, so that nobody has to wait for an election timeout.
func (m *member) campaign() error {
	leader := m.rep.Leader()
	if leader == 0 {
		return m.rep.sh.Campaign()
	}
	return m.force(leader)
}

// force makes a follower stand for election as if another member had handed it the lead.
func (m *member) force(from shard.ReplicaID) error {
	_, term := m.rep.sh.Leading()
	return m.rep.Step(&raftpb.Message{
		Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(from)), To: new(uint64(m.id)), Term: new(term),
	})
}

// wait is a read in a test.
type wait struct {
	name string
	m    *member
	gone bool
}

func (w *wait) Abandoned() bool { return w.gone }
func (w *wait) Finish(err error) {
	if err != nil {
		w.m.driver.say("read %s refused: %v", w.name, err)
		return
	}
	w.m.driver.say("read %s sees %v", w.name, short(w.m.driver.words))
}

// bring installs the newest snapshot of a leader on a member as its owner would: the member's replica is made anew.
func (g *group) bring(from *member, w shard.SnapshotWish) error {
	to := g.members[w.To.Node()]
	loaded, _, err := snapshot.Load(from.disk, "snapshots/3")
	if err != nil {
		return err
	}
	defer func() { _ = loaded.Close() }()
	to.rep.Stop(ErrNotLeader)
	if _, err := snapshot.Write(to.disk, "snapshots/3", loaded.Meta, func(w io.Writer) error {
		_, err := io.Copy(w, loaded.Content)
		return err
	}); err != nil {
		return err
	}
	if err := to.log.InstallSnapshot(testShard, loaded.Meta.Index, loaded.Meta.Term); err != nil {
		return err
	}
	if _, err := to.log.Flush(); err != nil {
		return err
	}
	if err := to.restore(nil); err != nil {
		return err
	}
	fmt.Fprintf(&g.out, "%d: installed %d: %v\n", to.node, loaded.Meta.Index, short(to.driver.words))
	return from.rep.SnapshotSent(w.To, true)
}

// TestGroup turns groups by script. Commands:
//
//	new voters=3 [ticks=10]     a new group on empty disks; node n has replica n
//	campaign node=1             take over
//	put node=1 words=(a,b)      commands for the driver
//	put node=1 mib=3            one of so many MiB
//	turn node=1                 turn until there is nothing to do; messages stay in the bag
//	deliver|drop [from=] [to=]  hand out, or lose, the messages in the bag
//	stabilize                   all of that until nothing moves
//	pass ms=1000 [node=1]       let time pass, for all or for one, and everything happen meanwhile
//	hold|release node=1         flushes of the log wait, or go on
//	cut|heal node=1             all messages from and to it are lost
//	clock node=1 ms=-500        set the wall clock off
//	pause node=1                how long the owner may wait when nothing happens
//	read node=1 name=x          a linearizable read
//	transfer node=1 to=2        hand the lead over
//	change node=1 add=(4) promote=(4@7) demote=(3) remove=(3)
//	join node=4 birth=7         start a blank replica on an empty disk
//	bring node=1                carry out what the leader wishes of snapshots
//	snapshot node=1             the log wants one
//	flip node=1 text=x          damage a bit of every place on the disk that holds the text
//	payload node=1 index=3      read an entry as a dispatch does
//	maintain node=1             the log's background work
//	skew node=1 word=x          change the state behind the log's back
//	verify node=1               the driver puts its fingerprint into the log
//	close node=1                begin to close
//	crash node=1                lose what is not durable, and stop
//	wipe node=1                 lose all, and begin again as a founder under the old id
//	restart node=1              after a crash; else an orderly stop, and another start
//	status                      what each member knows
func TestGroup(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/group", func(t *testing.T, path string) {
		var g *group
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "new" {
				var voters int
				d.ScanArgs(t, "voters", &voters)
				ticks := electionTicks
				d.MaybeScanArgs(t, "ticks", &ticks)
				g = newGroup(t, voters, ticks)
				return ""
			}
			g.out.Reset()
			if err := g.run(t, d); err != nil {
				fmt.Fprintf(&g.out, "error: %v\n", err)
			}
			return g.out.String()
		})
	})
}

func (g *group) run(t *testing.T, d *datadriven.TestData) error {
	var (
		node, ms int64
		words    []string
		name     string
	)
	d.MaybeScanArgs(t, "node", &node)
	d.MaybeScanArgs(t, "ms", &ms)
	d.MaybeScanArgs(t, "words", &words)
	d.MaybeScanArgs(t, "name", &name)
	m := g.members[shard.NodeID(node)]
	switch d.Cmd {
	case "campaign":
		return m.campaign()
	case "put":
		m.driver.queue = append(m.driver.queue, words...)
		var big int
		d.MaybeScanArgs(t, "mib", &big)
		if big > 0 {
			m.driver.queue = append(m.driver.queue, strings.Repeat("x", big<<20))
		}
	case "turn":
		m.turn()
	case "deliver", "drop":
		g.route(t, d)
	case "stabilize":
		g.stabilize()
	case "pass":
		var clock *time.Duration
		if m != nil {
			clock = &m.ahead
		}
		g.pass(time.Duration(ms)*time.Millisecond, clock)
	case "hold":
		m.held = true
	case "release":
		m.held = false
		m.flush()
	case "cut", "heal":
		g.cut[m.node] = d.Cmd == "cut"
	case "clock":
		m.skew = ms
	case "pause":
		pause, timed := m.rep.Pause(m.instant())
		m.driver.say("may wait %v, timed %v", pause, timed)
	case "read":
		m.rep.Read(&wait{name: name, m: m})
	case "snapshot":
		m.rep.WantSnapshot()
	case "close":
		m.rep.BeginClose()
	case "flip":
		return m.flip(t, d)
	case "payload":
		return m.payload(t, d)
	case "maintain":
		return m.maintain()
	case "skew", "verify":
		m.doubt(t, d)
	case "status":
		g.status()
	default:
		return g.runMembers(t, d, m)
	}
	return nil
}

// runMembers carries out the commands that change who is there.
func (g *group) runMembers(t *testing.T, d *datadriven.TestData, m *member) error {
	var to, node, birth uint64
	d.MaybeScanArgs(t, "to", &to)
	d.MaybeScanArgs(t, "node", &node)
	d.MaybeScanArgs(t, "birth", &birth)
	switch d.Cmd {
	case "transfer":
		return m.rep.Transfer(shard.NewReplicaID(shard.NodeID(to), 0))
	case "change":
		return m.change(t, d)
	case "join":
		g.add(shard.NewReplicaID(shard.NodeID(node), birth), nil)
	case "bring":
		wishes := m.wishes
		m.wishes = nil
		for _, w := range wishes {
			if err := g.bring(m, w); err != nil {
				return err
			}
		}
	case "crash":
		m.crash()
	case "restart":
		if m.log != nil {
			m.flush() // It was stopped, and did not crash.
		}
		return m.open(nil)
	case "wipe":
		g.add(m.id, g.founders)
	default:
		return fmt.Errorf("unknown command %s", d.Cmd)
	}
	return nil
}

func (m *member) change(t *testing.T, d *datadriven.TestData) error {
	var changes []shard.Change
	for kind, key := range []string{"", "add", "promote", "demote", "remove"} {
		var names []string
		if key != "" && d.HasArg(key) {
			d.ScanArgs(t, key, &names)
		}
		for _, name := range names {
			var node, birth uint64
			if _, err := fmt.Sscanf(name, "%d@%d", &node, &birth); err != nil {
				if _, err := fmt.Sscanf(name, "%d", &node); err != nil {
					return err
				}
			}
			changes = append(changes, shard.Change{Kind: shard.ChangeKind(kind), Replica: shard.NewReplicaID(shard.NodeID(node), birth)})
		}
	}
	made, err := m.rep.ChangeMembers(changes...)
	for _, c := range made {
		m.driver.say("changes %s", c.Replica)
	}
	return err
}

// route delivers or drops.
func (g *group) route(t *testing.T, d *datadriven.TestData) {
	var from, to uint64
	d.MaybeScanArgs(t, "from", &from)
	d.MaybeScanArgs(t, "to", &to)
	match := func(f, t shard.NodeID) bool {
		return (from == 0 || uint64(f) == from) && (to == 0 || uint64(t) == to)
	}
	if d.Cmd == "deliver" {
		g.deliver(match)
		return
	}
	g.bag = slices.DeleteFunc(g.bag, func(m *raftpb.Message) bool {
		return match(shard.ReplicaID(m.GetFrom()).Node(), shard.ReplicaID(m.GetTo()).Node())
	})
}

func (g *group) status() {
	for _, n := range g.nodes() {
		m := g.members[n]
		if m.rep == nil {
			fmt.Fprintf(&g.out, "%d: down\n", n)
			continue
		}
		s := m.rep.Stats()
		ms := m.rep.Members()
		fmt.Fprintf(&g.out, "%d: replica %s term=%d leader=%d leading=%v applied=%d last=%d snapshot=%d voters=%v", n, m.id, s.Term,
			s.Leader, m.rep.Leading(), s.Applied, s.Last, s.SnapshotIndex, ms.Voters)
		if len(ms.Outgoing) > 0 {
			fmt.Fprintf(&g.out, " outgoing=%v", ms.Outgoing)
		}
		if len(ms.Learners) > 0 {
			fmt.Fprintf(&g.out, " learners=%v", ms.Learners)
		}
		if s.Hole > 0 {
			fmt.Fprintf(&g.out, " %s hole=%d barren=%v", s.Role, s.Hole, s.HolesBarren)
		}
		fmt.Fprintf(&g.out, " words=%v\n", short(m.driver.words))
	}
}
