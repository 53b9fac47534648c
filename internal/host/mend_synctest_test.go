package host

import (
	"bytes"
	"errors"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/beaver-raft/beaver/internal/vfs"
	"github.com/beaver-raft/beaver/internal/wal"
)

// A payload that a node's disk damages is brought from another node while whoever wants it waits, and is then on the disk.
func TestDamagedPayloadIsMended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t)
		c.edit = func(o *Options) { o.CacheBytes = 1 }
		c.found(3)
		c.add("precious")
		c.fill(3)
		c.agree(1, 2, 3)
		for _, id := range []uint64{c.leader(), c.others(c.leader())[0]} {
			if flipAll(t, c.disks[id], "data/log", "precious") == 0 {
				t.Fatal("nothing was damaged")
			}
			n := c.nodes[id]
			var index uint64
			if err := n.StaleRead(t.Context(), groupShard, func() { index = n.drivers[groupShard].freeze().newest["precious"] }); err != nil {
				t.Fatal(err)
			}
			_, _, err := n.Payload(groupShard, index, 0)
			damage, ok := errors.AsType[*wal.CorruptError](err)
			if !ok || damage.Mending == nil {
				t.Fatalf("node %d: %v", id, err)
			}
			<-damage.Mending
			if _, item, err := n.Payload(groupShard, index, 0); err != nil || !strings.HasPrefix(string(item), "precious") {
				t.Errorf("node %d: %.20s, %v", id, item, err)
			}
			time.Sleep(2 * maintainInterval)
			if s := n.Stats().Log; s.EntriesMended == 0 || s.EntriesDamaged != 0 {
				t.Errorf("node %d: %+v", id, s)
			}
			c.payloads(id)
		}
		c.closeAll()
	})
}

// flipAll damages every place under a directory that holds a text.
func flipAll(t *testing.T, disk *vfs.Sim, dir, text string) (places int) {
	t.Helper()
	names, err := disk.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name = path.Join(dir, name)
		info, err := disk.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Dir {
			places += flipAll(t, disk, name, text)
			continue
		}
		f, err := disk.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, info.Size)
		_, err = f.ReadAt(b, 0)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		for at := bytes.Index(b, []byte(text)); at >= 0; {
			if err := disk.FlipBit(name, int64(at), 3); err != nil {
				t.Fatal(err)
			}
			places++
			next := bytes.Index(b[at+1:], []byte(text))
			if next < 0 {
				break
			}
			at += 1 + next
		}
	}
	return places
}
