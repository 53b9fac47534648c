package host

import (
	"context"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
)

// A sector that cannot be read any more is damage of one entry: log maintenance reports it, and the node goes on.
func TestUnreadableSectorEndsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		disk := vfs.NewSim(1, vfs.SimOptions{})
		var refused atomic.Int64
		n := mustOpen(t, disk, nil, func(o *Options) { o.SnapshotBytes = 32 << 10 })
		disk.SetReadHook(func(op vfs.Op) error {
			if op.Kind == vfs.OpRead && strings.HasSuffix(op.Name, "next.tmp") { // as the first file was opened
				refused.Add(1)
				return syscall.EIO
			}
			return nil
		})
		if _, err := n.add(0, "precious"); err != nil {
			t.Fatal(err)
		}
		filler := strings.Repeat("f", 8000)
		for i := range 400 {
			if _, err := n.add(0, filler); err != nil {
				t.Fatal(err)
			}
			if i%10 == 0 {
				time.Sleep(unreadableRetry)
			}
		}
		synctest.Wait()
		select {
		case err := <-n.fatal:
			t.Errorf("the node ended: %v", err)
		default:
		}
		if s := n.Stats().Log; refused.Load() == 0 || s.TailFiles > 3 {
			t.Errorf("refused %d times; %+v", refused.Load(), s)
		}
		if err := n.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
