package host

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// slowDisk takes its time to make snapshots durable, as disks do.
type slowDisk struct{ vfs.FS }

func (d slowDisk) Create(name string) (vfs.File, error) {
	f, err := d.FS.Create(name)
	if err != nil || !strings.Contains(name, snapshotDirName+"/") {
		return f, err
	}
	return slowFile{f}, nil
}

type slowFile struct{ vfs.File }

func (f slowFile) Sync() error {
	time.Sleep(20 * time.Millisecond)
	return f.File.Sync()
}

// A node that is closed in the middle of the load of its group has an end: what the others commit meanwhile does not keep it.
func TestCloseUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.edit = func(o *Options) { o.FS = slowDisk{o.FS} }
		defer c.closeAll()
		c.found(3)
		var (
			stop  atomic.Bool
			group sync.WaitGroup
		)
		for i := range 8 {
			group.Go(func() {
				for !stop.Load() {
					if n := c.net.leading(); n != nil {
						_, _ = n.add(groupShard, fmt.Sprint("k", i, "|", strings.Repeat("p", 500)))
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(time.Second)
		for _, leads := range []bool{false, true} {
			id := c.leader()
			if !leads {
				id = c.others(id)[0]
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			began := time.Now()
			err := c.nodes[id].Close(ctx)
			t.Logf("leads %v: closed in %v", leads, time.Since(began))
			cancel()
			if err != nil {
				t.Errorf("leads %v: %v", leads, err)
			}
			c.net.mu.Lock()
			delete(c.net.nodes, id)
			c.net.mu.Unlock()
			delete(c.nodes, id)
			c.mustOpen(id, Replica{})
			c.leader()
		}
		stop.Store(true)
		group.Wait()
	})
}
