package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/internal/freeport"
)

// TestHeartbeats: nodes show what each has told of itself, with its zone, and one that has ended as silent; so do their metrics.
func TestHeartbeats(t *testing.T) {
	var list []string
	for _, node := range []string{"1", "2", "3"} {
		list = append(list, node+"="+freeport.Address(t))
	}
	options := make([]Options, 3)
	for i := range options {
		options[i] = Options{
			DataDir: t.TempDir(), Listen: "127.0.0.1:0", Shards: 2, Fatal: func(err error) { t.Errorf("fatal: %v", err) },
			Peers: PeerOptions{Bootstrap: strings.Join(list, ","), Node: uint64(i + 1), Zone: "zone-" + string(rune('a'+i))},
		}
	}
	nodes := openTogether(t, options...)
	first := clientOf(t, nodes[0])
	await(t, first, "all have told what they have", func(i *beaver.ClusterInfo) bool {
		leads := 0
		for _, n := range i.Nodes {
			l := n.Load
			if n.Heartbeat != "heard" || n.HeardAt.IsZero() || l == nil || l.Processors == 0 || l.DiskBytes == 0 || l.DiskFreeBytes == 0 || l.DataBytes == 0 {
				return false
			}
			leads += l.Leads
		}
		return len(i.Nodes) == 3 && leads == 3
	})
	wantFigures := func(lines ...string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+nodes[0].Addr()+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !strings.Contains(string(text), "\n"+line) {
				t.Errorf("missing: %s", line)
			}
		}
	}
	wantFigures(`beaver_node_info{node="1",version="`, `beaver_peer_silent{peer="2"} 0`, `beaver_peer_silent{peer="3"} 0`, `beaver_peer_heartbeat_age_seconds{peer="2"} `)
	closeAll(t, nodes[2])
	await(t, first, "node 3 is silent, and what it told last is kept", func(i *beaver.ClusterInfo) bool {
		for _, n := range i.Nodes {
			if silent := n.ID == 3; silent != (n.Heartbeat == "silent") || n.Load == nil || n.HeardAt.IsZero() {
				return false
			}
		}
		return true
	})
	wantFigures(`beaver_peer_silent{peer="2"} 0`, `beaver_peer_silent{peer="3"} 1`)
	closeAll(t, nodes[0], nodes[1])
}

// TestStoppingWorkerIsListed: a worker that was stopped by whoever runs it, and finishes what it has, is listed as one that stops.
func TestStoppingWorkerIsListed(t *testing.T) {
	n := newTestNode(t, Options{})
	c := clientOf(t, n.Server)
	if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q", Payload: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	began, end := make(chan struct{}), make(chan struct{})
	w, err := beaver.NewWorker(c, beaver.WorkerConfig{Queues: []string{"q"}, Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error {
		close(began)
		<-end
		return nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-began
	stopped := make(chan error, 1)
	go func() { stopped <- w.Stop(t.Context()) }()
	var workers []*beaver.WorkerInfo
	listed := func(*beaver.ClusterInfo) bool {
		workers, err = c.Workers(t.Context())
		return err == nil && len(workers) == 1 && workers[0].State == beaver.WorkerStop && workers[0].Running == 1 && workers[0].NodeID == 1
	}
	await(t, c, "the worker is listed as one that stops", listed)
	close(end)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
