package sim

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
)

const (
	// resendAfter is how long a sender waits for an acknowledgement.
	resendAfter = 500 * time.Millisecond
	// resendsMax is how often it tries before it gives up; the leader's Raft then asks again.
	resendsMax = 20
)

// sending is a snapshot on its way to another member.
type sending struct {
	wish   shard.SnapshotWish
	number uint64 // names it among all of the run
	sender *transfer.Sender
	heard  time.Duration
	tries  int
}

// bring begins to send the newest snapshot to a member that needs it.
func (m *member) bring(wish shard.SnapshotWish) {
	w := m.n.w
	w.counts.Transfers++
	s := &sending{wish: wish, number: w.counts.Transfers, heard: w.now}
	if !m.newSender(s) {
		return
	}
	m.sending = append(m.sending, s)
	w.trace.printf(m.name, "brings snapshot %d to %v", s.sender.Index(), wish.To)
	w.schedule.add(event{at: w.now + resendAfter, kind: evSend, node: m.n.index, life: m.n.life, shard: int(m.group.id), value: uint64(wish.To)})
	m.pump(s)
}

// newSender makes the sender of the newest snapshot.
func (m *member) newSender(s *sending) bool {
	n := m.n
	index, live := n.log.Retained(m.group.id)
	loaded, err := snapshot.OpenAt(n.fs, snapshotDir(m.group.id), index)
	if err == nil {
		s.sender, err = transfer.NewSender(transfer.SenderConfig{
			Term: s.wish.Term, Transfer: s.number, Snapshot: loaded, Live: live, Log: n.log,
		})
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.failed(err)
		return false
	}
	if err != nil {
		m.brought(s, false)
	}
	return err == nil
}

// pump sends what may be sent now.
func (m *member) pump(s *sending) {
	w, n := m.n.w, m.n
	for {
		chunk, err := s.sender.Next(16 << 10)
		switch {
		case errors.Is(err, transfer.ErrOutdated):
			w.trace.printf(m.name, "snapshot %d for %v is outdated", s.sender.Index(), s.wish.To)
			_ = s.sender.Close() // only read from
			w.counts.Transfers++
			s.number = w.counts.Transfers
			if !m.newSender(s) {
				return
			}
			continue
		case err != nil:
			n.failed(err)
			return
		case chunk == nil:
			return
		}
		to := int(s.wish.To.Node()) - 1
		w.counts.TransferBytes += uint64(len(chunk))
		w.trace.mix(s.number, uint64(len(chunk)))
		w.net.send(n.index, to, event{kind: evChunk, node: to, shard: int(m.group.id), from: n.index, value: s.number, data: chunk})
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
		kind: evChunkAck, node: e.from, shard: e.shard, from: n.index, value: e.value, data: ack.Append(nil),
	})
	if ack.Status == transfer.StatusReady {
		m.install(e.from, e.value)
	}
}

// install puts a snapshot that is all here into the replica's place.
func (m *member) install(from int, number uint64) {
	n := m.n
	m.rep.Stop(errGone)
	m.lost()
	meta, position, err := m.receiver.Install()
	if errors.Is(err, transfer.ErrNotNeeded) && !n.dying {
		err = m.open()
		if err != nil || n.dying {
			n.failed(err)
			return
		}
		m.poke()
		return
	}
	if err == nil {
		_, err = n.log.Flush()
	}
	if err != nil || n.dying {
		n.failed(err)
		return
	}
	ack, err := m.receiver.Installed()
	if err != nil || n.dying {
		n.failed(err)
		return
	}
	n.w.trace.mix(uint64(m.group.id), meta.Index, uint64(position))
	n.w.trace.printf(m.name, "installed snapshot %d", meta.Index)
	n.w.net.send(n.index, from, event{
		kind: evChunkAck, node: from, shard: int(m.group.id), from: n.index, value: number, data: ack.Append(nil),
	})
	m.leading, m.wakeAt = false, 0
	if err := m.open(); err != nil || n.dying {
		n.failed(err)
		return
	}
	m.poke()
}

// chunkAck takes the follower's answer to a piece.
func (m *member) chunkAck(e *event) {
	at := slices.IndexFunc(m.sending, func(s *sending) bool { return s.number == e.value })
	if at < 0 {
		return
	}
	s := m.sending[at]
	s.heard, s.tries = m.n.w.now, 0
	switch s.sender.Acked(e.data) {
	case transfer.Installed, transfer.NotNeeded:
		m.brought(s, true)
	case transfer.Failed:
		m.n.w.trace.printf(m.name, "snapshot for %v failed: %s", s.wish.To, s.sender.Reason())
		m.brought(s, false)
	case transfer.Sending:
		m.pump(s)
	case transfer.Waiting:
	}
}

// resend looks whether a sender was left without an answer.
func (m *member) resend(e *event) {
	w := m.n.w
	at := slices.IndexFunc(m.sending, func(s *sending) bool { return uint64(s.wish.To) == e.value })
	if at < 0 {
		return
	}
	s := m.sending[at]
	if w.now-s.heard >= resendAfter {
		if s.tries++; s.tries > resendsMax || !m.rep.Leading() {
			m.brought(s, false)
			return
		}
		s.sender.Resend()
		s.heard = w.now
		m.pump(s)
	}
	if slices.Contains(m.sending, s) {
		w.schedule.add(event{at: w.now + resendAfter, kind: evSend, node: m.n.index, life: m.n.life, shard: e.shard, value: e.value})
	}
}

// brought ends a transfer.
func (m *member) brought(s *sending, ok bool) {
	if s.sender != nil {
		stats := s.sender.Stats()
		m.n.w.counts.FullBytes += stats.FullBytes
		_ = s.sender.Close() // only read from
	}
	m.sending = slices.DeleteFunc(m.sending, func(o *sending) bool { return o == s })
	m.n.w.trace.printf(m.name, "snapshot for %v is over: %v", s.wish.To, ok)
	if err := m.rep.SnapshotSent(s.wish.To, ok); err != nil {
		m.n.failed(err)
		return
	}
	m.poke()
}
