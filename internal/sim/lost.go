package sim

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/beaver-raft/beaver/internal/replica"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// badSector is a part of a file that the disk refuses to read until it is written again.
type badSector struct {
	file   string
	offset int64
}

const sectorBytes = 512

func (b *badSector) hit(op vfs.Op) bool {
	return op.Name == b.file && op.Offset < b.offset+sectorBytes && b.offset < op.Offset+op.Length
}

// refuse is asked before each read.
func (n *node) refuse(op vfs.Op) error {
	if op.Kind == vfs.OpRead && n.bad.hit(op) {
		return syscall.EIO
	}
	return nil
}

// remap ends that a sector is bad when it is written, or its file goes.
func (n *node) remap(op vfs.Op) {
	switch op.Kind {
	case vfs.OpWrite:
		if !n.bad.hit(op) {
			return
		}
	case vfs.OpRename, vfs.OpRemove:
		if op.Name != n.bad.file && op.NewName != n.bad.file {
			return
		}
	default:
		return
	}
	n.bad = badSector{}
}

// harmTail damages what is proven durable of the log's tail: the data of an entry, or any part of a frame, or a sector of one that can
// no longer be read.
func (n *node) harmTail() bool {
	c := n.w.rot.chance
	if c.percent(50) {
		return n.flipTail()
	}
	proven := n.proven()
	if len(proven) == 0 {
		return false
	}
	r := pick(c, proven)
	offset := r.Offset + c.Int64N(frameHead+r.Bytes)
	if c.percent(40) {
		n.bad = badSector{r.File, offset / sectorBytes * sectorBytes}
	} else if err := n.disk.FlipBit(r.File, offset, uint(c.IntN(8))); err != nil {
		return false
	}
	n.harmed = true
	n.w.trace.mix(uint64(n.index), uint64(offset))
	n.w.trace.printf(n.name, "rots: byte %d of %s, in the frame at %d, sector %v", offset, r.File, r.Offset, n.bad.file != "")
	return true
}

// lost reports whether a replica may have lost what it promised, and has it replaced: it never speaks again. What there is of it stays until
// its group has gone on without it.
func (n *node) lost(g *group) bool {
	damage := n.log.Lost(g.id)
	if damage == nil {
		return false
	}
	n.replaced(g, damage)
	return true
}

// replaced has a replica replaced that must not go on.
func (n *node) replaced(g *group, damage error) {
	w := n.w
	w.trace.printf(n.name, "replica %v of shard %d must not go on: %v", g.identity[n.index], g.id, damage)
	w.counts.Lost++
	n.spoiled = slices.DeleteFunc(n.spoiled, func(s spoil) bool { return path.Dir(s.file) == snapshotDir(g.id) })
	g.identity[n.index] = 0
	g.replace, g.resting = n.index, false
	w.after(time.Second, g.operate)
}

// isLost reports whether an error says that a replica must not go on.
func isLost(err error) bool {
	_, lost := errors.AsType[*replica.LostError](err)
	return lost
}

// unharmed fails the run if a disk is damaged that nobody has damaged: then something was not as durable as it was told.
func (n *node) unharmed(damage *wal.CorruptError) {
	if !n.rotted && damage != nil {
		n.w.fail("%s failed: open log: %v, though its disk did not rot", n.name, damage)
	}
}

// succeed begins to run the member that takes the place of one that is lost.
func (n *node) succeed(g *group) {
	g.anew[n.index] = true
	err := n.clear(g)
	if err == nil && !n.dying {
		m := newMember(n, g, g.identity[n.index])
		n.members[g.id] = m
		if err = m.open(); err == nil && !n.dying {
			m.poke()
			return
		}
	}
	n.failed(err)
}

// clear removes what a replica left that was replaced.
func (n *node) clear(g *group) error {
	if !g.anew[n.index] {
		return nil
	}
	if _, err := n.log.Forget(g.id); err != nil {
		return err
	}
	if _, err := n.log.Flush(); err != nil {
		return err
	}
	for _, dir := range []string{snapshotDir(g.id), transfer.Dir(root, g.id)} {
		names, err := n.fs.List(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, name := range names {
			err = errors.Join(err, n.fs.Remove(path.Join(dir, name)))
		}
		if err := errors.Join(err, n.fs.SyncDir(dir)); err != nil {
			return fmt.Errorf("clear shard %d: %w", g.id, err)
		}
	}
	if !n.dying {
		g.anew[n.index] = false
	}
	return nil
}
