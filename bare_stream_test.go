package beaver_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/beaver-raft/beaver"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// TestStreamsThroughAProxy: where something on the way does not upgrade connections, the streams go over HTTP/2, and nobody
// asks again.
func TestStreamsThroughAProxy(t *testing.T) {
	s := openServer(t, t.TempDir(), "127.0.0.1:0")
	t.Cleanup(func() { closeServer(t, s) })
	var upgrades, streams atomic.Int32
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.Addr()})
	proxy.Transport = &http.Transport{Protocols: protocols}
	proxy.FlushInterval = -1
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	front := &http.Server{Protocols: both, ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			upgrades.Add(1)
			http.Error(w, "no upgrades here", http.StatusBadRequest)
			return
		}
		if r.ProtoMajor == 2 {
			streams.Add(1)
		}
		proxy.ServeHTTP(w, r)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = front.Serve(l) // ends with Close
	}()
	t.Cleanup(func() {
		_ = front.Close()
		<-served
	})

	c, err := beaver.NewClient(beaver.Config{Addr: l.Addr().String(), Logger: testLogger()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	w := startWorker(t, c, beaver.WorkerConfig{
		Queues:  []string{"q"},
		Handler: beaver.HandlerFunc(func(context.Context, *beaver.LeasedJob) error { return nil }),
	})
	id, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"})
	if err != nil {
		t.Fatal(err)
	}
	waitJob(t, c, id, beaver.StateCompleted)
	if got := w.Stats(); got.Completed > 1 {
		t.Errorf("stats: %+v", got)
	}
	if upgrades.Load() == 0 || upgrades.Load() > 2 || streams.Load() < 2 {
		t.Errorf("%d upgrades asked for, %d requests over HTTP/2; want 1 or 2, and at least 2", upgrades.Load(), streams.Load())
	}
}

// TestStreamsOverHTTP2Alone: a server that hangs up on an upgrade since it speaks only HTTP/2 gets its streams over that.
func TestStreamsOverHTTP2Alone(t *testing.T) {
	fake := &forgetful{}
	mux := http.NewServeMux()
	mux.Handle(beaverv1connect.NewJobServiceHandler(fake))
	s := httptest.NewUnstartedServer(mux)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	c, err := beaver.NewClient(beaver.Config{Addr: s.URL, RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	if _, err := c.Enqueue(t.Context(), beaver.Job{Queue: "q"}); err != nil {
		t.Error(err)
	}
}
