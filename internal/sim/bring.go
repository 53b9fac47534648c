package sim

import (
	"errors"
	"io/fs"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/wal"
)

// newSenders makes what carries snapshots to other members.
func (m *member) newSenders() *transfer.Senders {
	return transfer.NewSenders(transfer.SendersConfig{
		FS: m.n.fs, Shard: m.group.id, SnapshotDir: snapshotDir(m.group.id), Log: sendLog{m.n.log, &m.n.w.bug}, ChunkBytes: 16 << 10,
	})
}

// bring begins to send the newest snapshot to a member that needs it.
func (m *member) bring(wish shard.SnapshotWish) {
	w := m.n.w
	if wish.Term != m.rep.LeadTerm() {
		return // The lead was lost in the same turn.
	}
	if m.withhold(wish) {
		return
	}
	m.needed(wish)
	w.counts.Transfers++
	w.trace.printf(m.name, "brings a snapshot to %v", wish.To)
	m.senders.Begin(w.now, uint64(wish.To))
}

// needed counts the snapshots that a member could do without, as it could be brought up from the leader's log. There are a few:
// an acknowledgement is still on its way, or a newer snapshot was brought than Raft knows of. Many would be a mistake.
func (m *member) needed(wish shard.SnapshotWish) {
	w := m.n.w
	to := w.nodes[wish.To.Node()-1]
	if !to.up || to.members[m.group.id] == nil || to.members[m.group.id].id != wish.To {
		return
	}
	f := to.members[m.group.id]
	if _, wrong := f.rep.Renewing(); wrong || f.rep.Stats().Hole > 0 {
		return // It asked for it.
	}
	if begins := m.n.log.State(m.group.id).First; f.rep.Applied() > 0 && f.rep.Applied()+1 >= begins {
		w.counts.Needless++
		w.trace.printf(m.name, "could do without: %s has applied %d, and the log begins at %d", f.name, f.rep.Applied(), begins)
	}
}

// carry sends what may be sent now, and ends the transfers that are over.
func (m *member) carry() {
	w, n := m.n.w, m.n
	for out, ok := m.senders.Next(w.now); ok; out, ok = m.senders.Next(w.now) {
		to := int(shard.ReplicaID(out.To).Node()) - 1
		w.counts.TransferBytes += uint64(len(out.Data))
		w.trace.mix(out.To, uint64(len(out.Data)))
		w.net.send(n.index, to, event{kind: evChunk, node: to, shard: int(m.group.id), from: n.index, data: out.Data})
	}
	for _, e := range m.senders.Ended() {
		_, damaged := errors.AsType[*snapshot.Damage](e.Err)
		if n.dying || e.Err != nil && !damaged && !errors.Is(e.Err, fs.ErrNotExist) {
			n.failed(e.Err)
			return
		}
		w.counts.FullBytes += e.Stats.FullBytes
		w.trace.printf(m.name, "snapshot %d for %v is over: %v %s", e.Index, shard.ReplicaID(e.To), e.OK, e.Reason)
		if e.Refused || damaged {
			m.rep.WantSnapshot()
		}
		if err := m.rep.SnapshotSent(shard.ReplicaID(e.To), e.OK); err != nil {
			m.failed(err)
			return
		}
		m.poke()
	}
	if at, ok := m.senders.Due(); ok && n.up && (m.carryAt == 0 || at < m.carryAt) {
		m.carryAt = at
		w.schedule.add(event{at: at, kind: evSend, node: n.index, life: n.life, shard: int(m.group.id)})
	}
}

// chunk takes in a piece of a snapshot.
func (m *member) chunk(e *event) {
	n := m.n
	ack, err := m.receiver.Accept(e.data)
	if errors.Is(err, transfer.ErrMalformed) {
		n.w.fail("%s: a chunk that nobody changed is malformed: %v", m.name, err)
	}
	if n.dying || err != nil {
		n.failed(err)
		return
	}
	if n.w.trace.on() {
		n.w.trace.printf(m.name, "gets %s: %s", transfer.Describe(e.data), ack.String())
	}
	n.w.net.send(n.index, e.from, event{
		kind: evChunkAck, node: e.from, shard: e.shard, from: n.index, data: ack.Append(nil),
	})
	if ack.Status == transfer.StatusReady {
		m.install(e.from)
	}
}

// install puts a snapshot that is all here into the replica's place.
func (m *member) install(from int) {
	n := m.n
	m.rep.Stop(errGone)
	m.lost()
	n.cutInstallation(m.group)
	meta, ack, err := m.receiver.Finish(func(wal.Position) error {
		_, err := n.log.Flush()
		return err
	})
	needed := !errors.Is(err, transfer.ErrNotNeeded)
	if n.dying || err != nil && needed {
		n.failed(err)
		return
	}
	m.leading, m.wakeAt = false, 0
	if needed {
		n.w.trace.mix(uint64(m.group.id), meta.Index)
		n.w.trace.printf(m.name, "installed snapshot %d", meta.Index)
		n.w.net.send(n.index, from, event{
			kind: evChunkAck, node: from, shard: int(m.group.id), from: n.index, data: ack.Append(nil),
		})
	}
	if needed && n.spoilBrought(m.group) {
		return
	}
	if err := m.open(); err != nil || n.dying {
		n.failed(err)
		return
	}
	m.checkBrought()
	m.poke()
}

// chunkAck takes the follower's answer to a piece.
func (m *member) chunkAck(e *event) {
	m.senders.Acked(m.n.w.now, e.data)
	m.carry()
}

// carryDue goes on with the senders when it is time.
func (m *member) carryDue() {
	if m.carryAt != 0 && m.carryAt <= m.n.w.now {
		m.carryAt = 0
		m.carry()
	}
}
