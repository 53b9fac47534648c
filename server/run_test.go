package server

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/founding"
	"github.com/beaver-raft/beaver/internal/freeport"
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
