package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/freeport"
)

// TestUniqueKeysWaitForTheUpgrade: while a node of a cluster may be older than unique keys, the others store no job with one, say why, and store
// the others. A client that has one goes on until the node is upgraded, and then it is stored.
func TestUniqueKeysWaitForTheUpgrade(t *testing.T) {
	var list []string
	for node := range 3 {
		list = append(list, fmt.Sprintf("%d=%s", node+1, freeport.Address(t)))
	}
	options := make([]Options, 3)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Fatal: func(err error) { t.Errorf("fatal: %v", err) }, Version: "devel-now",
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1)},
		}
	}
	options[2].Version = "devel-before"
	nodes := openTogether(t, options...)
	patient := clientOf(t, nodes[0])
	await(t, patient, "the versions are known", func(i *beaver.ClusterInfo) bool {
		return len(i.Nodes) == 3 && i.Nodes[0].Version == "devel-now" && i.Nodes[1].Version == "devel-now" && i.Nodes[2].Version == "devel-before"
	})
	hasty, err := beaver.NewClient(beaver.Config{Addr: "http://" + nodes[1].Addr(), OnlyAddr: true, RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	job := beaver.Job{Queue: "q", UniqueKey: "k"}
	for refused := false; !refused; { // the catalog of that node may be late, and of when who recorded the founders took all for as old as itself
		_, err = hasty.Enqueue(t.Context(), job)
		refused = errors.Is(err, beaver.ErrFailedPrecondition) && strings.Contains(err.Error(), "node 3 runs version devel-before")
		if err != nil && !refused && !strings.Contains(err.Error(), "runs version devel-before") {
			t.Fatal(err)
		}
	}
	if _, err := hasty.Enqueue(t.Context(), beaver.Job{Queue: "q"}); err != nil {
		t.Errorf("a job without a key: %v", err)
	}
	if err := hasty.Close(t.Context()); err != nil {
		t.Error(err)
	}

	type answer struct {
		existing bool
		err      error
	}
	waiting := make(chan answer, 1)
	go func() {
		_, existing, err := patient.EnqueueUnique(t.Context(), beaver.Job{Queue: "q", UniqueKey: "another"})
		waiting <- answer{existing, err}
	}()
	if err := nodes[2].Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	options[2].Version = "devel-now"
	nodes[2] = openTogether(t, options[2])[0]
	if got := <-waiting; got.err != nil || got.existing {
		t.Errorf("the job that waited: %+v", got)
	}
	closeAll(t, nodes...)
}
