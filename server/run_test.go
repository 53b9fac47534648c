package server

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/freeport"
	"github.com/beaver-raft/beaver/internal/vfs"
)

// TestSuperseded: a node that nobody could object to when it began hears later that another run of it has begun since, and must not go on.
func TestSuperseded(t *testing.T) {
	var list []string
	for node := range 3 {
		list = append(list, fmt.Sprintf("%d=%s", node+1, freeport.Address(t)))
	}
	options, fatal := make([]Options, 3), make(chan error, 1)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 1, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
		}
	}
	options[1].Fatal = func(err error) { fatal <- err }
	nodes := openTogether(t, options...)
	defer closeAll(t, nodes...)
	for _, n := range nodes {
		n.peers.inquireOnce() // as it does from time to time; nobody minds
	}
	second := nodes[1].peers.membership()
	later := founding.Run{
		Cluster: second.Cluster, Node: 2, Address: "elsewhere:1", Count: nodes[1].peers.run.Count + 1, Nonce: cluster.Nonce{9}, Begun: true,
	}
	if refusal := nodes[2].peers.knownRuns.judge(&later); refusal != "" {
		t.Fatal(refusal)
	}
	nodes[1].peers.inquireOnce()
	err := <-fatal
	if _, ok := errors.AsType[*founding.StartError](err); !ok || !strings.Contains(err.Error(), "node 2 has run since, at elsewhere:1") {
		t.Fatalf("it ends with %v", err)
	}
}

// noRoom is a disk without room for another count of runs.
type noRoom struct{ vfs.FS }

func (n noRoom) Create(name string) (vfs.File, error) {
	if strings.HasPrefix(filepath.Base(name), founding.RunsFileName) {
		return nil, &fs.PathError{Op: "create", Path: name, Err: syscall.ENOSPC}
	}
	return n.FS.Create(name)
}

// TestRunWithoutRoom: a node starts on a full disk, since only what its workers end makes room, and the next run has the number of this one.
func TestRunWithoutRoom(t *testing.T) {
	options := Options{
		DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 1, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
		Peers: PeerOptions{Listen: freeport.Address(t)},
	}
	for _, full := range []bool{false, true, true, false} {
		before, err := founding.ReadRuns(vfs.OS(), options.DataDir)
		if err != nil {
			t.Fatal(err)
		}
		if options.fs = vfs.OS(); full {
			options.fs = noRoom{vfs.OS()}
		}
		node, err := Open(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		node.peers.inquireOnce()
		if run := node.peers.run; run.Count != before+1 || run.Begun == full {
			t.Errorf("a run on a full disk: %v is number %d, and was told: %v", full, run.Count, run.Begun)
		}
		closeAll(t, node)
		after, err := founding.ReadRuns(vfs.OS(), options.DataDir)
		if err != nil || full != (after == before) {
			t.Errorf("there were %d runs, and %d after one on a full disk: %v (%v)", before, after, full, err)
		}
	}
}

// TestRunsOfRemovedNodes: they are forgotten, and make room for others. Those of members are not, nor those of a node that has just come.
func TestRunsOfRemovedNodes(t *testing.T) {
	k := &keeper{last: 4, nodes: []cluster.Node{{ID: 1, State: cluster.NodeActive}, {ID: 2, State: cluster.NodeRemoved}, {ID: 3, State: cluster.NodeLeaving}}}
	var r runs
	for node := range uint64(cluster.NodesMax) {
		if refusal := r.judge(&founding.Run{Node: node + 1, Count: 7, Begun: true}); refusal != "" {
			t.Fatal(refusal)
		}
	}
	r.prune(k.removed)
	for node, want := range map[uint64]bool{1: true, 2: false, 3: true, 4: false, 5: true} { // the catalog has forgotten node 4
		if _, known := r.newest[node]; known != want {
			t.Errorf("the run of node %d is known: %v", node, known)
		}
	}
	if r.judge(&founding.Run{Node: cluster.NodesMax + 1, Count: 1, Begun: true}); len(r.newest) != cluster.NodesMax-1 {
		t.Errorf("%d runs are known", len(r.newest))
	}
}
