package sim

import (
	"encoding/binary"
	"errors"
	"path"
	"slices"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/wal"
)

// proven lists the frames of the log's tail that are proven durable: damage in the very last flush cannot be told from a torn write.
func (n *node) proven() []wal.Record {
	if !n.up || n.dying {
		return nil
	}
	var frames []wal.Record // of the file
	var proven []wal.Record
	newest, durable := "", int64(0)
	err := wal.Inspect(n.disk, path.Join(root, "log"), func(r wal.Record) error {
		switch r.Kind {
		case wal.RecordTailFile:
			proven = append(proven, frames...) // the file before has a successor
			frames, newest, durable = nil, r.File, 0
		case wal.RecordEntry, wal.RecordState, wal.RecordMark, wal.RecordSeal:
			if r.File != newest {
				return nil
			}
			syncOffset, err := n.syncOffset(r.File, r.Offset)
			if err != nil {
				return err
			}
			durable = max(durable, syncOffset)
			if r.Kind == wal.RecordState {
				r.Bytes = stateBytes
			}
			if r.Kind == wal.RecordEntry || r.Kind == wal.RecordState {
				frames = append(frames, r)
			}
		default:
		}
		return nil
	})
	if err != nil {
		return nil
	}
	for _, r := range frames {
		if r.Offset < durable {
			proven = append(proven, r)
		}
	}
	return proven
}

// flipTail flips a bit in the data of an entry of the log's tail.
func (n *node) flipTail() bool {
	c := n.w.rot.chance
	proven := slices.DeleteFunc(n.proven(), func(r wal.Record) bool { return r.Kind != wal.RecordEntry || r.Bytes == 0 })
	if len(proven) == 0 {
		return false
	}
	r := pick(c, proven)
	offset, bit := r.Offset+frameHead+c.Int64N(r.Bytes), uint(c.IntN(8))
	if err := n.disk.FlipBit(r.File, offset, bit); err != nil {
		return false
	}
	n.w.trace.mix(uint64(n.index), uint64(offset), uint64(bit))
	n.w.trace.printf(n.name, "rots: bit %d of byte %d of %s, entry %d of shard %d", bit, offset, r.File, r.Index, r.Shard)
	return true
}

// frameHead is the size of a frame's header, stateBytes of the data of a hard state, and syncOffsetAt where that says what was durable before it.
const (
	frameHead    = 48
	stateBytes   = 56
	syncOffsetAt = 40
)

// syncOffset reads what a frame says of its file.
func (n *node) syncOffset(name string, frame int64) (int64, error) {
	f, err := n.disk.Open(name)
	if err != nil {
		return 0, err
	}
	var b [8]byte
	_, err = f.ReadAt(b[:], frame+syncOffsetAt)
	return int64(binary.LittleEndian.Uint64(b[:])), errors.Join(err, f.Close())
}

// holes notes when a replica leaves its group on account of holes, and comes back.
func (m *member) holes(eff *replica.Effects) {
	w := m.n.w
	if eff.HolesBegan {
		w.counts.Outages++
		w.trace.printf(m.name, "is out of its group: entry %d is damaged", m.rep.Stats().Hole)
	}
	if eff.HolesEnded {
		w.trace.printf(m.name, "is back in its group")
	}
}

// failed is what to do about an error of the replica: what others can heal ends only the replica, which begins anew.
func (m *member) failed(err error) {
	n := m.n
	if n.dying || !m.rep.Heals(err) {
		n.failed(err)
		return
	}
	m.anew(err)
}

// anew stops the replica and opens it again, in one process.
func (m *member) anew(why error) {
	n := m.n
	n.w.trace.printf(m.name, "begins anew: %v", why)
	m.rep.Stop(errGone)
	m.lost()
	m.leading, m.wakeAt = false, 0
	if err := m.open(); err != nil || n.dying {
		n.failed(err)
		return
	}
	m.poke()
}
