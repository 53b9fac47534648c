package server

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/freeport"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// crowded is a disk that others fill at times.
type crowded struct {
	vfs.FS
	full *atomic.Bool
}

func (c crowded) Usage(dir string) (vfs.Usage, error) {
	if c.full.Load() {
		return vfs.Usage{Free: 1 << 20, Total: 1 << 40}, nil
	}
	return c.FS.Usage(dir)
}

// TestFullNodeLeadsNothing: a node whose disk is full hands over what it leads to nodes with room, and gets its share back when it has
// room again. Meanwhile jobs are stored by way of it, whatever their queues are.
func TestFullNodeLeadsNothing(t *testing.T) {
	var list []string
	for node := range 3 {
		list = append(list, fmt.Sprintf("%d=%s", node+1, freeport.Address(t)))
	}
	var full atomic.Bool
	options := make([]Options, 3)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 5, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
		}
	}
	options[0].fs = crowded{vfs.OS(), &full}
	nodes := openTogether(t, options...)
	first := clientOf(t, nodes[0])
	store := func() {
		t.Helper()
		var jobs []beaver.Job
		for i := range 10 {
			jobs = append(jobs, beaver.Job{Queue: fmt.Sprintf("q%d", i), Payload: []byte("1")})
		}
		answers, err := first.EnqueueMany(t.Context(), jobs) // of several shards
		for _, a := range answers {
			if a.Err != nil {
				t.Fatal(a.Err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	await(t, first, "all have their share of the leads", func(i *beaver.ClusterInfo) bool { return spread(i, 6, 3) })
	store()
	full.Store(true)
	await(t, first, "node 1, whose disk is full, leads nothing", func(i *beaver.ClusterInfo) bool {
		count := leads(i)
		return count[0] == 0 && count[1] == 0 && count[2]+count[3] == 6
	})
	store()
	full.Store(false)
	await(t, first, "node 1 has its share again", func(i *beaver.ClusterInfo) bool { return spread(i, 6, 3) })
	store()
	closeAll(t, nodes...)
}
