package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// testNode is a node on a temporary directory and a free port, and clients of its services over HTTP/2.
type testNode struct {
	*Server
	url     string
	http    *http.Client
	jobs    beaverv1connect.JobServiceClient
	queues  beaverv1connect.QueueServiceClient
	workers beaverv1connect.WorkerServiceClient
	node    beaverv1connect.NodeServiceClient
}

func newTestNode(t testing.TB, opts Options) *testNode {
	t.Helper()
	if opts.DataDir == "" {
		opts.DataDir = t.TempDir()
	}
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:0"
	}
	if opts.Fatal == nil {
		opts.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	s, err := Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	n := &testNode{Server: s, url: "http://" + s.Addr(), http: h2cClient(t)}
	plain := connect.WithAcceptCompression("gzip", nil, nil)
	n.jobs = beaverv1connect.NewJobServiceClient(n.http, n.url, plain)
	n.queues = beaverv1connect.NewQueueServiceClient(n.http, n.url, plain)
	n.workers = beaverv1connect.NewWorkerServiceClient(n.http, n.url, plain)
	n.node = beaverv1connect.NewNodeServiceClient(n.http, n.url, plain)
	return n
}
