package sim

import (
	"errors"
	"fmt"
	"io"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
)

// errGone is what waiting reads get when a process or a member ends.
var errGone = errors.New("the process is gone")

// member is one replica of one group, on one node, for as long as the process lives.
type member struct {
	n      *node
	group  *group
	id     shard.ReplicaID
	name   string
	driver *driver
	rep    *replica.Replica

	wakeAt  time.Duration // when a turn is scheduled; 0: none
	job     replica.SnapshotJob
	opened  uint64 // how often the replica was opened in this life: a job of the one before is void
	leading bool

	receiver *transfer.Receiver
	senders  *transfer.Senders
	carryAt  time.Duration // when the senders are due; 0: never
}

func newMember(n *node, g *group, id shard.ReplicaID) *member {
	m := &member{n: n, group: g, id: id, name: fmt.Sprintf("%s/s%d", n.name, g.id)}
	m.senders = m.newSenders()
	return m
}

// receiverConfig says how snapshots come in.
func (m *member) receiverConfig() transfer.ReceiverConfig {
	return transfer.ReceiverConfig{
		FS: m.n.fs, Shard: m.group.id, Dir: transfer.Dir(root, m.group.id), SnapshotDir: snapshotDir(m.group.id),
		Log: receiveLog{m.n.log, &m.n.w.bug},
		Verify: func(_ snapshot.Meta, content io.Reader) (transfer.State, error) {
			machine, err := queue.Restore(uint16(m.group.id), content)
			if err != nil {
				return transfer.State{}, err
			}
			return transfer.State{Fingerprint: machine.Fingerprint(), Live: m.n.w.bug.tooLittle(machine.Snapshot().Live())}, nil
		},
	}
}

// recover completes what a crash interrupted. It is false when the replica must not go on, as it is between two states.
func (m *member) recover() (ok bool, err error) {
	n := m.n
	done, err := transfer.Recover(m.receiverConfig())
	if damaged, ok := errors.AsType[*transfer.DamagedError](err); ok && n.rotted {
		n.replaced(m.group, damaged)
		return false, nil
	}
	if done.Abandoned != nil {
		n.w.counts.Abandoned++
		n.w.trace.printf(m.name, "abandons the installation of a snapshot: %v", done.Abandoned)
		if !n.rotted {
			n.w.fail("%s abandons the installation of a snapshot, though its disk did not rot: %v", m.name, done.Abandoned)
		}
	}
	return true, err
}

// open opens the replica from the disk: at a start, and when a snapshot was installed.
func (m *member) open() error {
	w, n := m.n.w, m.n
	m.driver = newDriver(m)
	m.opened++
	m.remembers()
	config := replica.Config{
		Shard: m.group.id, Replica: m.id, Log: nodeLog{n.log, n}, Driver: m.driver,
		FS: n.fs, SnapshotDir: snapshotDir(m.group.id), DiskDir: root,
		Peers: w.plan.nodes > 1, TickInterval: w.plan.tick, ElectionTicks: w.plan.electionTicks, SnapshotBytes: w.plan.snapshotBytes, CacheBytes: cacheBytes,
		UncommittedBytes: w.plan.uncommitted,
	}
	if m.id.Birth() == 0 {
		config.Founders = m.group.founders
	}
	var err error
	if m.rep, err = replica.Open(config); err != nil {
		return err
	}
	w.oracles[m.group.id].relapses(m, m.driver.machine.Applied(), m.driver.machine.Fingerprint())
	n.log.Retain(m.group.id, m.rep.Retention())
	for more := true; more; {
		if more, err = m.rep.Replay(); err != nil && m.rep.Heals(err) {
			m.rep.Stop(errGone)
			return m.open() // now it is known to be damaged
		}
		if err != nil {
			return err
		}
	}
	if m.receiver, err = transfer.NewReceiver(m.receiverConfig()); err != nil {
		return err
	}
	if above, wrong := m.rep.Renewing(); wrong {
		m.receiver.Renew(above)
	}
	w.oracles[m.group.id].righted(m, m.driver.machine.Applied(), m.driver.machine.Fingerprint())
	w.trace.mix(uint64(m.group.id), m.rep.Applied(), m.rep.Last())
	w.trace.printf(m.name, "opens as %v, applied %d of %d", m.id, m.rep.Applied(), m.rep.Last())
	return m.rep.Campaign()
}

// poke has the replica turned soon.
func (m *member) poke() {
	if d := m.n.w.plan.turnDelay; d > 0 {
		m.wake(m.n.w.now + d)
		return
	}
	m.turn()
}

// wake schedules a turn at a moment, unless there is one before.
func (m *member) wake(at time.Duration) {
	if m.wakeAt != 0 && m.wakeAt <= at {
		return
	}
	m.wakeAt = at
	m.n.w.schedule.add(event{at: at, kind: evTurn, node: m.n.index, life: m.n.life, shard: int(m.group.id)})
}

// turn turns the replica until it has nothing left to do, and carries out what it asks for.
func (m *member) turn() {
	n := m.n
	if n.stopping {
		m.rep.BeginClose()
	}
	for more := true; more; {
		eff, err := m.rep.Turn(n.instant())
		if err != nil || n.dying {
			m.failed(err)
			return
		}
		m.holes(&eff)
		for _, msg := range eff.Messages {
			m.send(msg)
		}
		m.senders.Lead(m.rep.LeadTerm())
		for _, mail := range eff.Mends {
			m.mail(mail.To, mail.Data)
		}
		if above, wrong := m.rep.Renewing(); eff.Renew && wrong {
			m.receiver.Renew(above)
		}
		for _, wish := range eff.Snapshots {
			m.bring(wish)
		}
		if len(eff.Snapshots) > 0 {
			if m.carry(); !n.up {
				return
			}
		}
		if eff.Snapshot {
			if m.job, err = m.rep.Freeze(); err != nil {
				n.failed(err)
				return
			}
			n.w.schedule.add(event{
				at: n.w.now + n.chance.between(time.Millisecond, 300*time.Millisecond), kind: evStore,
				node: n.index, life: n.life, shard: int(m.group.id), value: m.opened,
			})
		}
		if eff.Flush != replica.FlushNone {
			if n.wantFlush(); !n.up {
				return
			}
		}
		more = eff.More
	}
	m.driver.readLater()
	if leading := m.rep.Leading(); leading != m.leading {
		m.leading = leading
		if leading {
			n.w.counts.Elections++
			n.w.trace.printf(m.name, "leads")
			m.elected()
		} else {
			n.w.trace.printf(m.name, "leads no more")
		}
	}
	if pause, ok := m.rep.Pause(n.instant()); ok {
		m.wake(n.later(max(pause, 10*time.Microsecond)))
	}
	m.finish()
}

// send gives a Raft message to the network.
func (m *member) send(msg *raftpb.Message) {
	w := m.n.w
	m.cast(msg)
	to := int(shard.ReplicaID(msg.GetTo()).Node()) - 1
	w.counts.Messages++
	w.trace.mix(uint64(msg.GetType()), msg.GetFrom(), msg.GetTo(), msg.GetTerm(), msg.GetIndex(), msg.GetCommit())
	w.net.send(m.n.index, to, event{kind: evMessage, node: to, shard: int(m.group.id), from: m.n.index, msg: w.bug.message(m.n.translate(msg, true))})
}

// step takes a Raft message in.
func (m *member) step(msg *raftpb.Message) {
	w := m.n.w
	if shard.ReplicaID(msg.GetTo()) != m.id {
		return // It is for a member that is no more.
	}
	if w.trace.on() && msg.GetType() != raftpb.MsgHeartbeat && msg.GetType() != raftpb.MsgHeartbeatResp {
		w.trace.printf(m.name, "gets %s", describe(msg))
	}
	if err := m.rep.Step(m.n.translate(msg, false)); err != nil {
		m.failed(err)
		return
	}
	m.poke()
}

func describe(m *raftpb.Message) string {
	text := fmt.Sprintf("%v from n%d term %d index %d commit %d", m.GetType(), shard.ReplicaID(m.GetFrom()).Node(), m.GetTerm(), m.GetIndex(), m.GetCommit())
	if len(m.GetEntries()) > 0 {
		text += fmt.Sprintf(" entries %d-%d", m.GetEntries()[0].GetIndex(), m.GetEntries()[len(m.GetEntries())-1].GetIndex())
	}
	if m.GetReject() {
		text += fmt.Sprintf(" rejects, try %d", m.GetRejectHint())
	}
	return text
}

// store stores the frozen snapshot.
func (m *member) store(opened uint64) {
	n := m.n
	if opened != m.opened {
		return
	}
	result := m.job.Store()
	if n.dying || (result.Err != nil && !noSpace(result.Err)) {
		n.failed(result.Err)
		return
	}
	n.w.counts.Snapshots++
	n.w.trace.mix(uint64(m.group.id), m.job.Meta.Index, m.job.Meta.Fingerprint)
	n.w.trace.printf(m.name, "stored snapshot %d: %v", m.job.Meta.Index, result.Err)
	m.rep.SnapshotStored(n.instant(), result)
	m.job = replica.SnapshotJob{}
	n.keep(time.Millisecond)
	m.poke()
}

// lost forgets the calls that wait: their connections are gone.
func (m *member) lost() {
	m.senders.Close()
	if m.driver != nil {
		m.driver.abandon()
	}
}

// request takes a call of a client.
func (m *member) request(c *call) {
	switch {
	case c.read != nil:
		if c.read.stale && m.rep.Doubt().Trust != replica.Trusted {
			m.refuse(c) // as the engine does
			return
		}
		if c.read.stale || m.n.w.bug.is(BugStaleRead) && m.leading {
			c.read.serve(m)
			return
		}
		c.read.at = m
		m.rep.Read(c.read)
	case !m.rep.Leading():
		m.refuse(c)
		return
	default:
		m.driver.take(c)
	}
	m.poke()
}

// refuse says that the lead is elsewhere.
func (m *member) refuse(c *call) {
	a := answer{outcome: outcomeNotLeader, leader: -1}
	if m != nil {
		if l := m.rep.Leader(); l != 0 && l != m.id {
			a.leader = int(l.Node()) - 1
		}
	}
	c.reply(a)
}
