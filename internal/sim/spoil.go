package sim

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// spoil is a stored snapshot that a disk damaged or lost, which only a start reads. It shows late, or never, if another takes its place
// first. Until then the node counts as one that lacks something.
//
// It is passed over: the one before is restored, and the log behind it applied. It must be healed so, unless another node brought
// it: then the log begins behind it, and its replica has no state to go on from: it is not run, and its group makes the node a member anew.
//
// What tells a segment's entries apart is read by a start alone too, but its records give it back: the node lacks nothing.
type spoil struct {
	file     string
	snapshot uint64 // its index
	missing  bool
}

// snapshotsKept is how many good snapshots above a damaged one make it one that nobody reads any more.
const snapshotsKept = 2

// spoilSnapshot flips a bit of the newest snapshot of a shard, or of the one before.
func (n *node) spoilSnapshot() bool {
	c := n.w.rot.chance
	dir := snapshotDir(pick(c, n.w.groups).id)
	files, err := snapshot.List(n.disk, dir)
	if err != nil || len(files) < snapshotsKept || slices.ContainsFunc(files, func(f snapshot.File) bool { return f.Err != nil }) ||
		slices.ContainsFunc(n.spoiled, func(s spoil) bool { return path.Dir(s.file) == dir }) {
		return false // What the only one says is nowhere else.
	}
	return n.spoil(pick(c, files[:snapshotsKept]))
}

// spoil flips a bit of a snapshot, or loses it.
func (n *node) spoil(f snapshot.File) bool {
	c := n.w.rot.chance
	lose := c.percent(25)
	switch {
	case lose && errors.Join(n.disk.Remove(f.Path), n.disk.SyncDir(path.Dir(f.Path))) == nil:
		n.w.trace.mix(uint64(n.index), f.Index)
		n.w.trace.printf(n.name, "has lost %s", f.Path)
	case lose || !n.flip(f.Path, c.Int64N(f.Bytes)):
		return false
	}
	n.spoiled = append(n.spoiled, spoil{f.Path, f.Index, lose})
	return true
}

// spoilBrought takes the power, at times, when a snapshot that was brought is installed, and damages it.
func (n *node) spoilBrought(g *group) bool {
	w, c := n.w, n.w.rot.brought
	if w.plan.rotMean == 0 || w.plan.nodes < 3 || w.healing || w.wrong() || len(n.spoiled) > 0 || !c.percent(5) || !w.mayRot(n) {
		return false
	}
	files, err := snapshot.List(n.disk, snapshotDir(g.id))
	if err != nil || len(files) == 0 || files[0].Err != nil || !n.spoil(files[0]) {
		return false
	}
	w.rot.node, n.rotted = n, true
	w.faults[FaultRotSnapshot]++
	n.crash("loses power when a snapshot was brought, and that is damaged", vfs.Mixed(n.chance.Uint64()))
	return true
}

// spoilIndex flips a bit of a live segment outside its frames, or makes the sector unreadable that has it.
func (n *node) spoilIndex() bool {
	c := n.w.rot.chance
	name, ok := n.anySegment()
	if !ok {
		return false
	}
	end, err := n.framesEnd(name)
	info, errStat := n.disk.Stat(name)
	if err != nil || errStat != nil || end < segmentHead || end > info.Size-segmentHead {
		return false
	}
	offset := c.Int64N(segmentHead + info.Size - end)
	if offset >= segmentHead {
		offset += end - segmentHead
	}
	if c.percent(25) {
		n.bad = badSector{name, offset / sectorBytes * sectorBytes}
		n.w.trace.printf(n.name, "rots: sector %d of %s", offset/sectorBytes, name)
		return true
	}
	return n.flip(name, offset)
}

// cutInstallation takes the power, at times, in the middle of an installation that begins, so that what was received may rot before it
// is completed.
func (n *node) cutInstallation(g *group) {
	w := n.w
	n.cutShort = nil
	if w.plan.rotMean == 0 || w.plan.nodes < 3 || w.healing || w.wrong() || n.cutAfter > 0 || n.harmed || len(n.spoiled) > 0 {
		return
	}
	c := w.rot.installer
	if c.percent(15) && w.mayRot(n) {
		n.cutAfter, n.cutShort = 6+c.IntN(18), g // The first ones make the decision.
	}
}

// spoilInstallation flips a bit of the decision to install a snapshot, or of the snapshot, where that is. A start completes the installation,
// abandons it, or has the replica replaced.
func (n *node) spoilInstallation() {
	g, w := n.cutShort, n.w
	n.cutShort = nil
	if g == nil || w.healing || w.wrong() || !w.mayRot(n) {
		return
	}
	dir := transfer.Dir(root, g.id)
	decision := path.Join(dir, "install")
	if _, err := n.disk.Stat(decision); err != nil {
		return // It was not decided, or is over.
	}
	file := decision
	if w.rot.installer.percent(80) {
		for _, from := range []string{dir, snapshotDir(g.id)} {
			if files, err := snapshot.List(n.disk, from); err == nil && len(files) > 0 {
				file = files[0].Path
				break
			}
		}
	}
	info, err := n.disk.Stat(file)
	if err == nil && n.flip(file, w.rot.installer.Int64N(info.Size)) {
		w.rot.node, n.rotted, n.harmed = n, true, true
		w.faults[FaultRotSnapshot]++
	}
}

// flip flips a bit of a byte.
func (n *node) flip(file string, offset int64) bool {
	bit := uint(n.w.rot.chance.IntN(8))
	if err := n.disk.FlipBit(file, offset, bit); err != nil {
		return false
	}
	n.w.trace.mix(uint64(n.index), uint64(offset), uint64(bit))
	n.w.trace.printf(n.name, "rots: bit %d of byte %d of %s", bit, offset, file)
	return true
}

// unspoiled reports whether nothing that is damaged of what a start reads is in use any more.
func (n *node) unspoiled() bool {
	n.spoiled = slices.DeleteFunc(n.spoiled, func(s spoil) bool {
		if _, err := n.disk.Stat(s.file); errors.Is(err, fs.ErrNotExist) && !s.missing {
			return true
		}
		files, err := snapshot.List(n.disk, path.Dir(s.file))
		good := 0
		for _, f := range files {
			if f.Err == nil && f.Index > s.snapshot {
				good++
			}
			if f.Err == nil && f.Index == s.snapshot {
				return true // It was stored again.
			}
		}
		return err == nil && good >= snapshotsKept
	})
	return len(n.spoiled) == 0
}

// loseFile takes the power from a node, and a file from its log: of the tail, one that was kept, or a live segment.
func (n *node) loseFile() bool {
	if !n.up || n.dying || !n.hasData() {
		return false
	}
	c := n.w.rot.chance
	name, ok := n.anySegment()
	if tail := n.logFiles(".wal", ".kept"); len(tail) > 0 && (!ok || c.percent(75)) {
		name, ok = pick(c, tail), true
	}
	if !ok {
		return false
	}
	n.crash("loses power, and a file", vfs.Mixed(n.chance.Uint64()))
	err := n.disk.Remove(name)
	if err == nil {
		err = n.disk.SyncDir(path.Dir(name))
	}
	n.harmed = true
	n.w.trace.printf(n.name, "has lost %s: %v", name, err)
	return true
}

// logFiles lists the files of the log's tail, or those that were kept.
func (n *node) logFiles(suffixes ...string) (files []string) {
	dir := path.Join(root, "log", "tail")
	names, _ := n.disk.List(dir) // none: nothing is there to lose
	for _, name := range names {
		if slices.Contains(suffixes, path.Ext(name)) {
			files = append(files, path.Join(dir, name))
		}
	}
	return files
}

// hasData reports whether a start knows that there was a log, even if all of it is gone.
func (n *node) hasData() bool {
	return slices.ContainsFunc(n.w.groups, func(g *group) bool {
		found, err := snapshot.Exists(n.disk, snapshotDir(g.id))
		return found && err == nil
	})
}

// anySegment is one of the live segments of a node.
func (n *node) anySegment() (name string, ok bool) {
	var files []string
	live := path.Join(root, "log", "live")
	dirs, _ := n.disk.List(live) // none: nothing is there to rot
	for _, dir := range dirs {
		names, _ := n.disk.List(path.Join(live, dir))
		for _, name := range names {
			if strings.HasSuffix(name, ".seg") {
				files = append(files, path.Join(live, dir, name))
			}
		}
	}
	if len(files) == 0 {
		return "", false
	}
	return pick(n.w.rot.chance, files), true
}
