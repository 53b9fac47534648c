package sim

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/beaver-raft/beaver/internal/shard"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A cluster is upgraded one node after the other, and until the last one is done, entries of two formats are in one log. There
// is one binary today, which reads two versions of batches. So the newer binary is made here: it runs the same code, and what it
// proposes has a version two above on disk and on the wire, which the nodes of the older binary, being what they are, do not read:
// such a node stores and acknowledges the entry, stops when it is to apply it, naming the version, and goes on from there when it is
// upgraded.

// upgrade is how an operator goes about a newer binary.
type upgrade uint8

const (
	upgradeNone     upgrade = iota
	upgradeCareful          // entries are written in the newer format once every node reads it
	upgradeCareless         // and by whoever can
)

const (
	batchHeader   = 40
	batchRow      = 8
	knownVersions = 2               // of batches, which the older binary reads
	newerSequence = uint64(1) << 63 // marks what a newer binary proposed in the newer format
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writesNewer reports whether what the node proposes now is to have the newer format.
func (n *node) writesNewer() bool {
	if !n.newer || n.w.plan.upgrade == upgradeCareless {
		return n.newer
	}
	for _, o := range n.w.nodes {
		if !o.newer {
			return false
		}
	}
	return true
}

// reversion gives a batch that was proposed in the newer format its version there, or that of the older one, in a copy.
func reversion(data []byte, newer bool) []byte {
	if len(data) < batchHeader || newer == (data[0] > knownVersions) || binary.LittleEndian.Uint64(data[24:])&newerSequence == 0 {
		return data
	}
	head := batchHeader + int(binary.LittleEndian.Uint16(data[2:]))*batchRow
	if len(data) < head {
		return data
	}
	out := append([]byte(nil), data...)
	if newer {
		out[0] += knownVersions
	} else {
		out[0] -= knownVersions
	}
	clear(out[4:8])
	binary.LittleEndian.PutUint32(out[4:], crc32.Checksum(out[:head], castagnoli))
	return out
}

// outward is what a newer binary writes of entries that it has in memory as the older ones would.
func (n *node) outward(entries []wal.Entry) []wal.Entry {
	if !n.newer {
		return entries
	}
	out := append([]wal.Entry(nil), entries...)
	for i := range out {
		out[i].Data = reversion(out[i].Data, true)
	}
	return out
}

// translate gives the entries of a message their versions in the newer format or the older one.
func (n *node) translate(m *raftpb.Message, newer bool) *raftpb.Message {
	if !n.newer || len(m.GetEntries()) == 0 {
		return m
	}
	m = flatCopy(m)
	entries := append([]*raftpb.Entry(nil), m.GetEntries()...)
	for i, e := range entries {
		if data := reversion(e.GetData(), newer); len(data) > 0 && data[0] != e.GetData()[0] {
			entries[i] = &raftpb.Entry{Type: e.Type, Term: e.Term, Index: e.Index, Data: data}
		}
	}
	m.Entries = entries
	return m
}

// ReadRange implements shard.Log.
func (l nodeLog) ReadRange(id wal.ShardID, lo, hi uint64, maxBytes int) ([]wal.Entry, error) {
	entries, err := l.Log.ReadRange(id, lo, hi, maxBytes)
	if l.n.newer {
		for i := range entries {
			entries[i].Data = reversion(entries[i].Data, false)
		}
	}
	return entries, err
}

// ReadPart implements replica.Log. The header and the table may reach into what is read.
func (l nodeLog) ReadPart(id wal.ShardID, index uint64, buf []byte, off int64) (int, error) {
	index = l.instead(id, index)
	n, err := l.Log.ReadPart(id, index, buf, off)
	if !l.n.newer {
		return n, err
	}
	head := make([]byte, batchHeader)
	if got, _ := l.Log.ReadPart(id, index, head, 0); got < batchHeader {
		return n, err
	}
	head = append(head, make([]byte, int(binary.LittleEndian.Uint16(head[2:]))*batchRow)...)
	if got, _ := l.Log.ReadPart(id, index, head, 0); got == len(head) && off < int64(len(head)) {
		copy(buf[:n], reversion(head, false)[off:])
	}
	return n, err
}

// tooOld reports whether a node stopped since it met an entry of the newer format, and begins its upgrade, sooner or later.
func (n *node) tooOld(err error) bool {
	w := n.w
	newer, ok := errors.AsType[*shard.NewerBatchError](err)
	if !ok || w.plan.upgrade == upgradeNone || n.newer {
		return false
	}
	if newer.Version <= knownVersions {
		w.fail("%s met version %d: %v", n.name, newer.Version, err)
	}
	w.counts.TooOld++
	w.trace.printf(n.name, "is too old: %v", err)
	n.newer = w.healing || n.chance.percent(50)
	return true
}

// cannotRead reports whether a payload is of the newer format, which a node of the older binary may have to hand out when it was brought a
// snapshot. It gives out none, and its operator is told, as when it meets such an entry.
func (n *node) cannotRead(err error) bool {
	if _, newer := errors.AsType[*shard.NewerBatchError](err); !newer || n.newer || n.w.plan.upgrade == upgradeNone {
		return false
	}
	life := n.life
	n.w.after(0, func() {
		if n.up && n.life == life {
			n.failed(err)
		}
	})
	return true
}
