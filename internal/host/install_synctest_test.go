package host

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// fullDirDisk has no room for one more name in a directory of snapshots, as often as it is said.
type fullDirDisk struct {
	vfs.FS
	times *atomic.Int32
}

func (d fullDirDisk) Rename(from, to string) error {
	if strings.Contains(from, "incoming/") && strings.Contains(to, snapshotDirName+"/") && d.times.Add(-1) >= 0 {
		return syscall.ENOSPC
	}
	return d.FS.Rename(from, to)
}

// When there is no room in the middle of an installation that was decided, the node ends, and completes it at the next start: the
// replica must not go on between the old state and the new.
func TestInstallationMeetsAFullDirectory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		defer c.closeAll()
		c.found(3)
		c.add("k")
		c.agree(1, 2, 3)
		behind := c.others(c.leader())[0]
		c.net.cutOff(behind, true)
		c.fill(3)
		c.crash(behind, vfs.Killed())
		var times atomic.Int32
		times.Store(1)
		c.edit = func(o *Options) { o.FS = fullDirDisk{o.FS, &times} }
		c.mustOpen(behind, Replica{})
		c.net.cutOff(behind, false)
		failed := false
		c.await("the node ends, or has caught up", func() bool {
			select {
			case err := <-c.nodes[behind].fatal:
				failed = err != nil
			default:
			}
			return failed
		})
		c.crash(behind, vfs.Killed())
		c.edit = nil
		c.mustOpen(behind, Replica{})
		c.agree(behind)
	})
}
