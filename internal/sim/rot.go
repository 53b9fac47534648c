package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/beaver-raft/beaver/internal/history"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

const (
	// scrubBytes is how much a log is read through between two looks for background work.
	scrubBytes = 64 << 10
	// scrubRounds is every how many of these it happens where no disk rots: there is nothing to find, and it takes a third
	// of a simulation's time.
	scrubRounds = 16
)

// rot is what the disks of a run damage by themselves. One node rots at a time, and none does while another lacks something:
// what is damaged everywhere is lost, and no program can bring it back.
type rot struct {
	chance    chance
	node      *node  // the last one that rotted
	installer chance // which installations are cut short, and what rots of them
	brought   chance // which snapshots rot when they were brought
}

// nextRot schedules the next damage, if the plan has any.
func (w *world) nextRot() {
	if w.plan.rotMean == 0 {
		return
	}
	w.after(w.rot.chance.about(w.plan.rotMean), func() {
		if !w.healing {
			w.decay()
			w.nextRot()
		}
	})
}

// decay flips bits of one node's disk, if no other lacks anything.
func (w *world) decay() {
	if w.wrong() {
		return // Its log lacks what its state called dead.
	}
	n := pick(w.rot.chance, w.nodes)
	if !w.mayRot(n) {
		return
	}
	kinds := []Fault{FaultBitRot, FaultBitRot, FaultRotSnapshot, FaultRotIndex, FaultLoseFile}
	tail, kind := w.rot.chance.percent(50), pick(w.rot.chance, kinds)
	if w.plan.nodes == 2 { // two cannot go on without one that lost what the other never had
		tail, kind = false, FaultBitRot
	}
	if kind == FaultLoseFile && n.loseFile() {
		w.rot.node, n.rotted = n, true
		w.faults[kind]++
		return
	}
	for range 1 + w.rot.chance.IntN(3) {
		var struck bool
		switch {
		case kind == FaultRotSnapshot:
			struck = n.spoilSnapshot()
		case kind == FaultRotIndex:
			struck = n.spoilIndex()
		case tail:
			struck = n.harmTail()
		default:
			struck = n.flipSegment()
		}
		if struck {
			w.rot.node, n.rotted = n, true
			w.faults[kind]++
		}
	}
	if (tail || kind != FaultBitRot) && (n.harmed || w.rot.chance.percent(50)) {
		w.after(w.rot.chance.between(0, time.Second), func() { n.crash("loses power after bits flipped", vfs.Mixed(n.chance.Uint64())) })
	}
}

// mayRot reports whether the other nodes lack nothing that this one may lose.
func (w *world) mayRot(n *node) bool {
	for _, g := range w.groups {
		if g.replace >= 0 {
			return false // The disk that was lost counts as rotten.
		}
	}
	for _, o := range w.nodes {
		if (o.up || o == w.rot.node) && o != n && !o.whole() {
			return false
		}
	}
	return true
}

// rotten reports whether some node still lacks what its disk damaged: then nobody may lose a disk.
func (w *world) rotten() bool { return w.rot.node != nil && !w.rot.node.whole() }

// flipSegment flips a bit of a frame in a live segment, or in a file that was kept.
func (n *node) flipSegment() bool {
	c := n.w.rot.chance
	name, ok := n.anySegment()
	if !ok {
		return false
	}
	end, err := n.framesEnd(name)
	if kept := n.logFiles(".kept"); err == nil && end == segmentHead && len(kept) > 0 {
		name = pick(c, kept) // The segment has no frames of its own.
		var info vfs.Info
		info, err = n.disk.Stat(name)
		end = info.Size
	}
	if err != nil || end <= segmentHead {
		return false
	}
	offset, bit := segmentHead+c.Int64N(end-segmentHead), uint(c.IntN(8))
	if err := n.disk.FlipBit(name, offset, bit); err != nil {
		return false
	}
	n.w.trace.mix(uint64(n.index), uint64(offset), uint64(bit))
	n.w.trace.printf(n.name, "rots: bit %d of byte %d of %s", bit, offset, name)
	return true
}

// segmentHead is the size of a segment's header, and of its footer.
const segmentHead = 64

// framesEnd is where the index block of a segment begins, as the footer says.
func (n *node) framesEnd(name string) (int64, error) {
	f, err := n.disk.Open(name)
	if err != nil {
		return 0, fmt.Errorf("open segment: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	size, err := f.Size()
	if err != nil || size < 2*segmentHead {
		return 0, err
	}
	var b [8]byte
	if _, err := f.ReadAt(b[:], size-segmentHead+40); err != nil {
		return 0, fmt.Errorf("read segment: %w", err)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), nil
}

// whole reports whether the node is up and reads back all that its shards refer to.
func (n *node) whole() bool {
	if !n.up || n.harmed || !n.unspoiled() {
		return false
	}
	for _, m := range n.members {
		if m != nil && (m.lacks() != 0 || m.holed() != 0) {
			return false
		}
	}
	return true
}

// holed is the first entry behind the newest snapshot that does not read back; 0 is none.
func (m *member) holed() uint64 {
	s := m.n.log.State(m.group.id)
	for index := max(s.First, m.rep.Stats().SnapshotIndex+1); index <= s.Last; index++ {
		if _, err := m.n.log.Read(m.group.id, index); err != nil {
			return index
		}
	}
	return 0
}

// lacks is the first entry that the state refers to and that does not read back; 0 is none.
func (m *member) lacks() uint64 {
	for it := m.driver.machine.Snapshot().Live().Iterator(); it.HasNext(); {
		index := it.Next()
		if _, err := m.n.log.Read(m.group.id, index); err != nil {
			return index
		}
	}
	return 0
}

// mail sends what is asked of other members about damaged entries.
func (m *member) mail(to shard.ReplicaID, data []byte) {
	w := m.n.w
	if w.bug.is(BugDropMends) {
		return
	}
	node := int(to.Node()) - 1
	w.counts.Mends++
	w.trace.mix(uint64(to), uint64(len(data)))
	w.net.send(m.n.index, node, event{kind: evMend, node: node, shard: int(m.group.id), from: m.n.index, value: uint64(m.id), data: data})
}

// mend takes in what another member asks or answers about damaged entries.
func (m *member) mend(e *event) {
	n := m.n
	if answer := m.rep.StepMend(n.instant(), shard.ReplicaID(e.value).Node(), e.data); answer != nil {
		m.mail(shard.ReplicaID(e.value), answer)
	}
	n.keep(time.Millisecond)
	m.poke()
}

// unread is an answer to a fetch with payloads that are being mended.
type unread struct {
	call   *call
	answer answer
}

// readLater answers the fetches whose payloads have been mended.
func (d *driver) readLater() {
	left := d.unread[:0]
	for _, u := range d.unread {
		switch {
		case u.call.over: // The worker has given up: its lease goes back.
		case d.payloads(&u.answer):
			u.call.reply(u.answer)
		default:
			left = append(left, u)
		}
	}
	d.unread = left
}

// payloads reads what an answer hands out, as a dispatch does; false when something of it is being mended.
func (d *driver) payloads(a *answer) bool {
	for i := range a.leases {
		var ok bool
		if a.leases[i].label, ok = d.checkPayload(a.leases[i].Pos); !ok {
			return false
		}
	}
	return true
}

// checkPayload reads a payload as a dispatch does, and returns whose it is. It is false when the payload is damaged here and
// other members are asked for it.
func (d *driver) checkPayload(p queue.Pos) (history.Label, bool) {
	w := d.m.n.w
	if d.m.rep == nil {
		return history.NoLabel, true
	}
	_, item, err := d.m.rep.Payload(p.Index(), p.Ordinal())
	if d.m.n.dying {
		return history.NoLabel, true
	}
	if damage, ok := errors.AsType[*wal.CorruptError](err); ok && damage.Mending != nil && !w.bug.is(BugServeDamaged) {
		w.trace.printf(d.m.name, "waits for the payload of job %d.%d: %v", p.Index(), p.Ordinal(), err)
		return history.NoLabel, false
	}
	if d.m.n.cannotRead(err) {
		w.trace.printf(d.m.name, "cannot read the payload of job %d.%d: %v", p.Index(), p.Ordinal(), err)
		return history.NoLabel, false
	}
	if !w.opts.HistoryOnly {
		if want := w.oracles[d.m.group.id].jobs[p]; err != nil || want == nil || hashBytes(0, item) != want.payload {
			w.fail("%s: the payload of job %d.%d is lost: %v", d.m.name, p.Index(), p.Ordinal(), err)
		}
	}
	spec, err := queue.DecodeSpec(item)
	if err != nil || len(spec.Payload) < 8 {
		return history.NoLabel, true
	}
	return history.Label(binary.LittleEndian.Uint64(spec.Payload)), true
}
