package server

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// TestWorkersWhoseConnectionsBreak: their jobs are with others before a silent worker's would be, whichever way the streams went.
func TestWorkersWhoseConnectionsBreak(t *testing.T) {
	const ttl = 15 * time.Second // long, so that nobody counts as silent only since this machine is busy
	n := newTestNode(t, Options{WorkerTTL: ttl})
	hello := &beaverv1.WorkRequest{Hello: &beaverv1.WorkerInfo{Queues: []string{"q"}}, Credits: 1}
	must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: namedJobs("q", 2)})))
	b := upgrade(t, n, beaverv1connect.JobServiceWorkProcedure)
	b.sendProto(hello)
	for m := new(beaverv1.WorkResponse); len(m.GetJobs()) == 0; {
		_, data := b.receive()
		if err := proto.Unmarshal(data, m); err != nil {
			t.Fatal(err)
		}
	}
	client := h2cClient(t)
	var connection net.Conn
	client.Transport.(*http.Transport).DialContext = func(_ context.Context, network, addr string) (conn net.Conn, err error) {
		connection, err = net.Dial(network, addr)
		return connection, err
	}
	other := *n
	other.jobs = beaverv1connect.NewJobServiceClient(client, n.url)
	s, _ := openWork(t.Context(), t, &other, hello)
	receiveJobs(t, s, 1)

	broke := time.Now()
	if err := errors.Join(b.conn.Close(), connection.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res := must[beaverv1.FetchResponse](t)(n.jobs.Fetch(t.Context(), call(&beaverv1.FetchRequest{
			Queues: []string{"q"}, Max: 1, Wait: durationpb.New(20 * time.Second),
		})))
		if len(res.GetJobs()) != 1 || res.GetJobs()[0].GetCrashes() != 1 {
			t.Fatalf("%v", res)
		}
	}
	if took := time.Since(broke); took < ttl/3 || took > ttl*7/10 {
		t.Errorf("it took %v; want less than the shortest TTL, and time to come back", took)
	}
}
