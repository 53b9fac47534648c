package transfer_test

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/snapshot"
	"github.com/beaver-raft/beaver/internal/transfer"
	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// rotRun crashes a follower before every call of an installation that changes its disk, and damages what is left of what was received.
// Then the follower must be what it was, or have the snapshot, or say that it must not go on; and unless it does, catch up.
type rotRun struct {
	t       *testing.T
	p       *pair
	before  uint64
	every   int64 // one byte in so many is flipped, beside those at the ends
	results map[string]int
}

func TestRotBeforeRecovery(t *testing.T) {
	t.Parallel()
	for _, tc := range crashCases() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := smallPair(t)
			tc.prepare(t, p)
			r := &rotRun{t, p, p.follower.m.applied, int64(8009 * stride()), make(map[string]int)}
			disk, decided := p.follower.disk, false
			disk.SetHook(func(op vfs.Op) error {
				decided = decided || op.Kind == vfs.OpRename && strings.HasSuffix(op.NewName, "/install")
				if decided {
					for _, o := range outcomes(1, op.Number) {
						if err := r.rot(disk.CrashClone(o)); err != nil {
							t.Errorf("before %v, %v: %v", op, o, err)
							return vfs.ErrPowerCut
						}
					}
				}
				return nil
			})
			_, err := catchUp(p.leader, p.follower, 5, 1)
			must(t, err)
			t.Logf("%v", r.results)
			if r.results["abandoned"] == 0 || r.results["must not go on"] == 0 {
				t.Error("some are missing: the test tests nothing")
			}
		})
	}
}

// rot damages each file of an interrupted installation at several places, each time on a copy of the disk.
func (r *rotRun) rot(disk *vfs.Sim) error {
	incoming, live := transfer.Dir("node", testShard), logDir+"/live/00003"
	if _, err := disk.Stat(incoming + "/install"); err != nil {
		return nil // It is not decided, or over.
	}
	moved, err := r.moved(disk)
	if err != nil {
		return err
	}
	index := snapshot.FileName(r.p.leader.newest)
	names := []string{incoming + "/install", incoming + "/" + index, snapshotDir + "/" + index}
	for _, dir := range []string{incoming, live} {
		found, _ := disk.List(dir) // there may be none
		for _, name := range found {
			if strings.HasPrefix(name, "r") && strings.HasSuffix(name, ".seg") {
				names = append(names, dir+"/"+name)
			}
		}
	}
	for _, name := range names {
		info, err := disk.Stat(name)
		if err != nil {
			continue
		}
		for at := int64(0); at < info.Size; at++ {
			if at%r.every != 0 && at != 9 && at != 70 && at != info.Size-3 && at != info.Size-40 {
				continue
			}
			clone := disk.CrashClone(vfs.Killed())
			if err := clone.FlipBit(name, at, uint(at%8)); err != nil {
				return err
			}
			if err := r.start(clone, name, moved); err != nil {
				return fmt.Errorf("byte %d of %s is damaged: %w", at, name, err)
			}
		}
		if path.Dir(name) == live || path.Base(name) == "install" {
			continue // That they are there tells what was done.
		}
		clone := disk.CrashClone(vfs.Killed())
		if err := errors.Join(clone.Remove(name), clone.SyncDir(path.Dir(name))); err != nil {
			return err
		}
		if err := r.start(clone, name, moved); err != nil {
			return fmt.Errorf("%s is lost: %w", name, err)
		}
	}
	return nil
}

// moved reports whether the log has something of the installation.
func (r *rotRun) moved(disk *vfs.Sim) (bool, error) {
	clone := disk.CrashClone(vfs.Killed())
	log, _, err := wal.Open(logOptions(clone))
	if err != nil {
		return false, err
	}
	names, _ := clone.List(transfer.Dir("node", testShard))
	for _, name := range names {
		if strings.HasSuffix(name, ".snapshot") {
			return false, nil
		}
	}
	return log.State(testShard).First > r.p.leader.newest || log.NextReceived(testShard) > r.p.follower.log.NextReceived(testShard), nil
}

// start starts the follower from a disk on which a file is damaged.
func (r *rotRun) start(disk *vfs.Sim, damaged string, moved bool) error {
	n, err := open(disk, r.p.h)
	if lost, ok := errors.AsType[*transfer.DamagedError](err); ok {
		r.results["must not go on"]++
		if lost.Shard != testShard || lost.Damage == nil {
			return fmt.Errorf("it does not say what is damaged: %w", err)
		}
		if _, again := open(disk.CrashClone(vfs.Killed()), r.p.h); again == nil || again.Error() != err.Error() {
			return errors.Join(errors.New("the next start says something else"), err, again)
		}
		return nil
	}
	if err != nil {
		return err
	}
	switch n.m.applied {
	case r.p.leader.newest:
		r.results["installed"]++
	case r.before:
		r.results["abandoned"]++
	default:
		return fmt.Errorf("it is at %d, which is neither %d nor %d", n.m.applied, r.before, r.p.leader.newest)
	}
	if n.m.applied == r.before && moved {
		return errors.New("it is abandoned although the log has something of it")
	}
	if _, err := catchUp(r.p.leader, n, 6, 1); err != nil {
		return fmt.Errorf("catch up: %w", err)
	}
	if n.m.applied != r.p.leader.newest {
		return fmt.Errorf("caught up to %d, not %d", n.m.applied, r.p.leader.newest)
	}
	segment := strings.HasSuffix(damaged, ".seg")
	return n.reads(segment)
}

// reads checks the state, and all that is live: damaged entries may be missing, to be mended, and nothing may be another.
func (n *node) reads(damaged bool) error {
	if !damaged {
		return n.check()
	}
	want := n.h.at(n.m.applied)
	if n.m.sum != want.sum || !n.m.live.Equals(want.live) {
		return fmt.Errorf("at %d the state is %016x, not that of a replay, %016x", n.m.applied, n.m.sum, want.sum)
	}
	for it := want.live.Iterator(); it.HasNext(); {
		index := it.Next()
		if e, err := n.log.Read(testShard, index); err == nil && !bytes.Equal(e.Data, n.h.entries[index-1].Data) {
			return fmt.Errorf("entry %d reads back as another", index)
		}
	}
	return nil
}
