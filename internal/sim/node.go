package sim

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// root is a node's data directory.
	root = "data"
	// maintainEvery lies between two looks for background work of a log.
	maintainEvery = 2 * time.Second
)

// node is one process on one machine: a disk, a log, and a member of each group it belongs to.
type node struct {
	w      *world
	index  int
	id     shard.NodeID
	name   string
	chance chance

	up       bool
	dying    bool   // the power went in the middle of a call to the disk
	life     uint32 // grows with each start
	stopping bool   // it was told to end
	begun    time.Duration

	disk        *vfs.Sim
	cutAfter    int // calls to the disk until the power goes; 0 is never
	slowUntil   time.Duration
	pausedUntil time.Duration
	clockSkew   int64 // milliseconds
	clockDrift  int64 // of all its clocks, in millionths
	wallDrift   int64 // the same, until the faults stop and the wall clocks are set right
	newer       bool  // it runs the newer binary

	fs       vfs.FS // disk, maybe behind a deliberate bug
	log      *wal.Log
	members  []*member // by shard; nil where the node has no member
	flushing bool
	again    bool // something was appended since the flush began
	appended int64
	keeping  bool               // maintenance is scheduled
	mended   map[mendKey]uint64 // of a deliberate bug
	rotted   bool               // the disk has damaged anything
	harmed   bool               // the disk has damaged what the next start alone finds out
	bad      badSector

	rounds int // of maintenance

	cutShort *group  // whose installation loses power, and then rots
	spoiled  []spoil // what its disk damaged of what a start reads

	wrong     []bool   // by shard: the state of its member is; see diverge.go
	rightFrom []uint64 // by shard: from which entry on it was right again
}

func newNode(w *world, index int) *node {
	n := &node{w: w, index: index, id: shard.NodeID(index + 1), name: fmt.Sprintf("n%d", index+1)}
	n.wrong, n.rightFrom = make([]bool, w.plan.shards), make([]uint64, w.plan.shards)
	n.chance = newChance(w.opts.Seed, forNodes+uint64(index)<<16)
	n.disk = vfs.NewSim(n.chance.Uint64(), vfs.SimOptions{})
	if d := w.plan.driftMax; d > 0 {
		n.clockDrift = n.chance.Int64N(2*d+1) - d
		n.wallDrift = n.clockDrift
	}
	return n
}

func snapshotDir(id shard.ID) string { return path.Join(root, "snapshots", fmt.Sprintf("%05d", id)) }

// instant is now on the node's clocks.
func (n *node) instant() replica.Instant {
	return replica.Instant{Mono: drifted(n.w.now-n.begun, n.clockDrift), Millis: n.wall()}
}

func (n *node) wall() int64 {
	return epochMillis + drifted(n.w.now, n.wallDrift).Milliseconds() + n.clockSkew
}

// drifted is how much of a time a clock counts that goes wrong by so many millionths.
func drifted(d time.Duration, millionths int64) time.Duration {
	return d + time.Duration(int64(d)/1_000_000*millionths)
}

// later is when a pause by the node's clock is over.
func (n *node) later(pause time.Duration) time.Duration {
	return n.w.now + time.Duration(float64(pause)*1e6/float64(1_000_000+n.clockDrift)) + 1
}

// hook is asked before each call that changes the disk.
func (n *node) hook(op vfs.Op) error {
	n.remap(op)
	if n.cutAfter > 0 {
		if n.cutAfter--; n.cutAfter == 0 {
			n.dying = true
		}
	}
	if n.dying {
		return vfs.ErrPowerCut
	}
	return nil
}

// start starts the process.
func (n *node) start() {
	if n.up {
		return
	}
	w := n.w
	n.life++
	n.up, n.dying, n.stopping, n.begun = true, false, false, w.now
	n.flushing, n.again, n.keeping, n.appended, n.pausedUntil = false, false, false, 0, 0
	n.disk.SetHook(n.hook)
	n.disk.SetReadHook(n.refuse)
	n.fs = w.bug.disk(n.disk)
	n.members = make([]*member, w.plan.shards)
	n.mended = make(map[mendKey]uint64)
	w.counts.Starts++
	w.trace.mix(uint64(n.index), uint64(n.life), uint64(w.now))
	w.trace.printf(n.name, "starts")
	if err := n.open(); err != nil {
		n.failed(err)
	}
}

// open recovers the log and all members.
func (n *node) open() error {
	w := n.w
	log, recovery, err := wal.Open(wal.Options{
		FS: n.fs, Dir: path.Join(root, "log"), FileBytes: w.plan.fileBytes, ReserveBytes: w.plan.fileBytes, KeepAbove: w.plan.keepAbove,
		KeepHoles: true, Peers: w.plan.nodes > 1, Existing: n.hasData(),
	})
	if err != nil {
		return err
	}
	n.log = log
	n.unharmed(recovery.Damage)
	for _, b := range recovery.Rebuilt {
		w.counts.Rebuilt++
		w.trace.printf(n.name, "makes an index out of records: %+v", b)
	}
	if recovery.TornBytes > 0 {
		w.trace.printf(n.name, "cut a torn tail of %d bytes", recovery.TornBytes)
	}
	for _, g := range w.groups {
		if err := n.clear(g); err != nil {
			return err
		}
		id := g.identity[n.index]
		if id == 0 || n.lost(g) {
			continue
		}
		m := newMember(n, g, id)
		ok, err := m.recover()
		if err != nil {
			return err
		}
		if ok {
			n.members[g.id] = m
		}
	}
	for _, m := range n.members {
		if m != nil {
			err := m.open()
			if n.rotted && isLost(err) {
				n.replaced(m.group, err)
				n.members[m.group.id] = nil
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	for _, m := range n.members {
		if m != nil && n.up {
			m.turn()
		}
	}
	n.harmed = false
	n.keep(0)
	return nil
}

// failed ends the process because something returned an error. Whether that is all right depends on what is wrong with
// the node: a healthy node must not fail.
func (n *node) failed(err error) {
	w := n.w
	switch {
	case !n.up:
		return
	case n.dying:
		n.crash("loses power in the middle of a write", vfs.Mixed(n.chance.Uint64()))
	case n.rotted && isLost(err): // The next start finds it so.
		w.trace.printf(n.name, "fails: %v", err)
		n.crash("ends itself", vfs.Killed())
	case n.tooOld(err):
		n.crash("stops", vfs.Killed())
	case noSpace(err) || errors.Is(err, syscall.EIO):
		w.trace.printf(n.name, "fails: %v", err)
		n.crash("ends itself", vfs.Killed())
	default:
		w.fail("%s failed: %v", n.name, err)
	}
}

// crash ends the process, with what that leaves on its disk, and starts it again after a while.
func (n *node) crash(how string, leaves vfs.Outcome) {
	if !n.up {
		return
	}
	w := n.w
	w.trace.printf(n.name, "%s (%v)", how, leaves)
	n.down(leaves)
	n.spoilInstallation()
	if w.plan.rumours && leaves == vfs.Killed() {
		w.tellOfEnd(n)
	}
	wait := n.chance.between(50*time.Millisecond, 4*time.Second)
	if w.healing {
		wait = 50 * time.Millisecond
	}
	w.after(wait, n.start)
}

// blink takes a node's power away just after it has voted, and gives it back at once: what it remembers counts then.
func (n *node) blink() {
	life := n.life
	n.w.after(n.chance.between(0, 30*time.Millisecond), func() {
		if n.up && n.life == life {
			n.w.trace.printf(n.name, "loses power just after a vote")
			n.down(vfs.Mixed(n.chance.Uint64()))
			n.w.after(n.chance.between(time.Millisecond, 30*time.Millisecond), n.start)
		}
	})
}

// down ends the process.
func (n *node) down(leaves vfs.Outcome) {
	for _, m := range n.members {
		if m != nil {
			m.lost()
		}
	}
	n.disk = n.disk.CrashClone(leaves)
	n.up, n.dying, n.cutAfter, n.slowUntil = false, false, 0, 0
	n.log, n.members = nil, nil
}

// handle lets something happen to a node that is up.
func (n *node) handle(e *event) {
	if e.kind == evMaintain {
		n.maintain()
		return
	}
	if e.kind == evDurable {
		n.durable(wal.Position(e.value))
		return
	}
	m := n.members[e.shard]
	if m == nil {
		if e.kind == evRequest {
			m.refuse(e.call)
		}
		return
	}
	switch e.kind {
	case evTurn:
		if m.wakeAt != 0 && m.wakeAt <= n.w.now {
			m.wakeAt = 0
			m.turn()
		}
	case evMessage:
		m.step(e.msg)
	case evRequest:
		m.request(e.call)
	case evStore:
		m.store(e.value)
	case evChunk:
		m.chunk(e)
	case evChunkAck:
		m.chunkAck(e)
	case evSend:
		m.carryDue()
	case evMend:
		m.mend(e)
	case evReply, evDurable, evMaintain, evOther:
	}
}

// wantFlush has what was appended made durable. While one flush is under way, the next one gathers.
func (n *node) wantFlush() {
	if n.w.bug.is(BugAckBeforeDurable) {
		n.tellDurable(^wal.Position(0))
		if n.flushing {
			return
		}
		n.flushing = true
		life := n.life
		n.w.after(300*time.Millisecond, func() {
			if n.up && n.life == life {
				n.flushing = false
				if _, err := n.log.Flush(); err != nil || n.dying {
					n.failed(err)
				}
			}
		})
		return
	}
	if n.flushing {
		n.again = true
		return
	}
	n.flushing, n.again = true, false
	position, err := n.log.Flush()
	if err != nil || n.dying {
		n.failed(err)
		return
	}
	p := &n.w.plan
	took := p.syncMin + n.chance.between(0, p.syncSpread)
	if n.w.now < n.slowUntil {
		took += n.chance.between(0, time.Second)
	}
	n.w.schedule.add(event{at: n.w.now + took, kind: evDurable, node: n.index, life: n.life, value: uint64(position)})
}

// durable ends a flush.
func (n *node) durable(position wal.Position) {
	n.flushing = false
	n.tellDurable(position)
	if n.up && n.again {
		n.wantFlush()
	}
	if n.up && n.appended >= n.w.plan.fileBytes/2 {
		n.appended = 0
		n.keep(time.Millisecond)
	}
}

func (n *node) tellDurable(position wal.Position) {
	for _, m := range n.members {
		if m != nil && n.up {
			m.rep.Durable(position)
			m.poke()
		}
	}
}

// keep schedules the log's background work.
func (n *node) keep(in time.Duration) {
	if !n.keeping || in < maintainEvery {
		n.keeping = true
		n.w.schedule.add(event{at: n.w.now + in, kind: evMaintain, node: n.index, life: n.life})
	}
}

// maintain does one step of the log's background work.
func (n *node) maintain() {
	more, err := n.log.Maintain()
	n.keeping = false
	if n.bad.file != "" {
		n.log.RetryUnreadable()
	}
	if !n.dying && !n.w.opts.HistoryOnly {
		n.bounded()
	}
	if n.rounds++; err == nil && !more && (n.w.plan.rotMean > 0 || n.rounds%scrubRounds == 0) {
		_, err = n.log.Scrub(scrubBytes)
	}
	if n.w.rot.node != nil && wal.IsDamage(err) {
		n.w.trace.printf(n.name, "finds damage: %v", err)
		n.keep(time.Millisecond)
		return
	}
	switch {
	case n.dying:
		n.failed(err)
		return
	case err == nil, noSpace(err), errors.Is(err, wal.ErrRetry):
	default:
		n.failed(err)
		return
	}
	if more {
		n.keep(100 * time.Microsecond)
		return
	}
	for _, id := range n.log.NeedsSnapshot() {
		if m := n.members[id]; m != nil {
			m.rep.WantSnapshot()
			m.poke()
		}
		if !n.up {
			return
		}
	}
	n.keep(maintainEvery)
}

func noSpace(err error) bool { return err != nil && replica.NoSpace(err) }

// nodeLog is the log as the members of a node see it.
type nodeLog struct {
	*wal.Log
	n *node
}

// Append implements replica.Log.
func (l nodeLog) Append(id wal.ShardID, hs *wal.HardState, entries []wal.Entry) (wal.Position, error) {
	for i := range entries {
		l.n.appended += int64(len(entries[i].Data)) + 64
	}
	if w := l.n.w; hs != nil && hs.Vote != 0 && hs.Vote != l.State(id).HardState.Vote && !w.healing &&
		slices.Contains(w.plan.faults, FaultPower) && l.n.chance.percent(30) {
		l.n.blink()
	}
	if l.n.w.bug.promises(l.n, id, hs, entries) {
		return 0, nil
	}
	hs, entries = l.n.w.bug.append(l.n, hs, entries)
	position, err := l.Log.Append(id, hs, l.n.outward(entries))
	if hs != nil && len(entries) == 0 && l.n.w.bug.is(BugVoteUnsynced) {
		position = 0 // as durable as nothing
	}
	return position, err
}

// Holes implements replica.Log.
func (l nodeLog) Holes(id wal.ShardID, from uint64) (first, last uint64) {
	if l.n.w.bug.is(BugVoteWithHole) {
		return 0, 0
	}
	return l.Log.Holes(id, from)
}

// Retain implements replica.Log.
func (l nodeLog) Retain(id wal.ShardID, r wal.Retention) { l.Log.Retain(id, l.n.w.bug.retain(r)) }
