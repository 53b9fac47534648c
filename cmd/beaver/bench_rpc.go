package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

const (
	benchBatch   = 100
	benchCallers = 8
	unaryCallers = 64

	// requestBufferBytes holds a request of benchBatch jobs of 1 KiB.
	requestBufferBytes = 128 << 10

	// benchWarmUp is how long a rate runs before it is measured: until the log has stopped making new files, which takes a
	// quarter of the server's time, and writes retired ones again.
	benchWarmUp = 3 * time.Second
)

// rpc returns generated Connect clients, without the SDK's coalescing, over HTTP/1.1 as curl and most libraries speak it:
// a connection a caller, one client for each node.
func (b *benchRun) rpc(callers int) *rpcClients {
	client := &http.Client{Transport: &wholeRequests{Transport: &http.Transport{
		MaxIdleConnsPerHost: callers, DisableCompression: true, WriteBufferSize: requestBufferBytes,
	}}}
	clients := new(rpcClients)
	for _, p := range b.servers() {
		clients.all = append(clients.all, beaverv1connect.NewJobServiceClient(client, p.url(), connect.WithAcceptCompression("gzip", nil, nil)))
	}
	return clients
}

// rpcClients are clients of all nodes, which take turns.
type rpcClients struct {
	all  []beaverv1connect.JobServiceClient
	turn atomic.Uint64
}

func (c *rpcClients) next() beaverv1connect.JobServiceClient {
	return c.all[c.turn.Add(1)%uint64(len(c.all))]
}

// wholeRequests sends a request's header together with its body, as curl does. Of a body that is of no type it knows
// net/http sends the header alone first: one more packet, one more wake-up of the server for every call.
type wholeRequests struct {
	*http.Transport
	bodies sync.Pool // of *[]byte
}

func (t *wholeRequests) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body == nil || req.ContentLength <= 0 {
		return t.Transport.RoundTrip(req)
	}
	body, _ := t.bodies.Get().(*[]byte)
	if body == nil {
		body = new([]byte)
	}
	*body = slices.Grow((*body)[:0], int(req.ContentLength))[:req.ContentLength]
	if _, err := io.ReadFull(req.Body, *body); err != nil {
		return nil, err
	}
	if err := req.Body.Close(); err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Body = io.NopCloser(bytes.NewReader(*body))
	res, err := t.Transport.RoundTrip(req)
	if err == nil && res.StatusCode == http.StatusOK {
		t.bodies.Put(body) // the server has read all of it
	}
	return res, err
}

// rate runs step in n goroutines for a warm-up and then for the time of a measurement, and returns a row with how many jobs a
// second the steps reported while it was measured, and what processor time they took.
func (b *benchRun) rate(ctx context.Context, name string, n int, step func(context.Context) (jobs int, err error)) (benchRow, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		jobs atomic.Int64
		wg   sync.WaitGroup
		stop atomic.Bool
	)
	for range n {
		wg.Go(func() {
			for !stop.Load() {
				done, err := step(ctx)
				if err != nil {
					cancel(err)
					return
				}
				jobs.Add(int64(done))
			}
		})
	}
	if err := pause(ctx, benchWarmUp); err != nil {
		return benchRow{}, err
	}
	before, cpu, began := jobs.Load(), b.cpu(), time.Now()
	if err := pause(ctx, time.Duration(b.seconds)*time.Second); err != nil {
		return benchRow{}, err
	}
	done, took := float64(jobs.Load()-before), time.Since(began)
	row := benchRow{Name: name, JobsPerSec: done / took.Seconds()}
	if done > 0 {
		row.CPUMicros = micros(b.cpu()-cpu) / done
	}
	stop.Store(true)
	wg.Wait()
	return row, nil
}

// cpu is the processor time that server and load have used so far.
func (b *benchRun) cpu() time.Duration {
	used := processCPU(os.Getpid())
	for _, p := range b.servers() {
		used += processCPU(p.pid())
	}
	return used
}

// batches are requests that store size jobs each: one for each queue, or as many as it takes to have all ordering keys.
func (b *benchRun) batches(queue string, size int) *batches {
	all := new(batches)
	for turn := uint64(0); turn == 0 || turn < uint64(b.keys); turn += uint64(size) {
		for _, name := range b.queuesOf(queue) {
			req := &beaverv1.EnqueueRequest{Jobs: make([]*beaverv1.NewJob, size)}
			for i := range req.Jobs {
				req.Jobs[i] = &beaverv1.NewJob{Queue: name, Kind: "bench", Payload: b.payload, OrderingKey: b.key(turn + uint64(i))}
			}
			all.all = append(all.all, req)
		}
	}
	return all
}

// batches are requests for several queues, which take turns.
type batches struct {
	all  []*beaverv1.EnqueueRequest
	turn atomic.Uint64
}

func (b *batches) next() *beaverv1.EnqueueRequest { return b.all[b.turn.Add(1)%uint64(len(b.all))] }

// enqueueBatch is a step: it stores one batch.
func enqueueBatch(ctx context.Context, client beaverv1connect.JobServiceClient, req *beaverv1.EnqueueRequest) (int, error) {
	res, err := client.Enqueue(ctx, connect.NewRequest(req))
	if err != nil {
		return 0, err
	}
	if errs := res.Msg.GetErrors(); len(errs) > 0 {
		return 0, refusal("a job", errs[0])
	}
	return len(req.GetJobs()), nil
}

// unlessMoved passes on what a step returned, but for an error that a lead which goes to another node may cause: then nothing was done, as
// far as the measurement goes. On one node there is no such thing.
func (b *benchRun) unlessMoved(done int, err error) (int, error) {
	if code := connect.CodeOf(err); err != nil && b.fleet != nil && (code == connect.CodeAborted || code == connect.CodeUnavailable) {
		return 0, nil
	}
	return done, err
}

// refusal is why one of several jobs was refused, with its code.
func refusal(what string, why *beaverv1.JobError) error {
	var code connect.Code
	if err := code.UnmarshalText([]byte(why.GetCode())); err != nil {
		code = connect.CodeUnknown
	}
	return connect.NewError(code, fmt.Errorf("%s was refused: %s", what, why.GetMessage()))
}

func benchEnqueueBatch(ctx context.Context, b *benchRun) ([]benchRow, error) {
	return b.enqueueRate(ctx, "enqueue-batch", benchQueue)
}

func (b *benchRun) enqueueRate(ctx context.Context, name, queue string) ([]benchRow, error) {
	clients, reqs := b.rpc(benchCallers), b.batches(queue, benchBatch)
	row, err := b.rate(ctx, name, benchCallers, func(ctx context.Context) (int, error) {
		return b.unlessMoved(enqueueBatch(ctx, clients.next(), reqs.next()))
	})
	row.Note = "100 jobs a call, 8 callers"
	return []benchRow{row}, err
}

func benchCycleBatch(ctx context.Context, b *benchRun) ([]benchRow, error) {
	return b.cycleRate(ctx, "cycle-batch", benchQueue)
}

func (b *benchRun) cycleRate(ctx context.Context, name, queue string) ([]benchRow, error) {
	clients, reqs := b.rpc(benchCallers), b.batches(queue, benchBatch)
	row, err := b.rate(ctx, name, benchCallers, func(ctx context.Context) (int, error) {
		client, req := clients.next(), reqs.next()
		if _, err := enqueueBatch(ctx, client, req); err != nil {
			return b.unlessMoved(0, err)
		}
		return b.unlessMoved(fetchAndFinish(ctx, client, req.GetJobs()[0].GetQueue()))
	})
	row.Note = "enqueue + fetch + ack, 100 jobs a call, 8 callers"
	return []benchRow{row}, err
}

// fetchAndFinish leases a batch and acks it.
func fetchAndFinish(ctx context.Context, client beaverv1connect.JobServiceClient, queue string) (int, error) {
	fetched, err := client.Fetch(ctx, connect.NewRequest(&beaverv1.FetchRequest{
		Queues: []string{queue}, Max: benchBatch, Lease: durationpb.New(time.Minute), Wait: durationpb.New(time.Second),
	}))
	if err != nil {
		return 0, err
	}
	outcomes := make([]*beaverv1.Outcome, len(fetched.Msg.GetJobs()))
	for i, job := range fetched.Msg.GetJobs() {
		outcomes[i] = &beaverv1.Outcome{Id: job.GetId(), Token: job.GetToken()}
	}
	if len(outcomes) == 0 {
		return 0, nil
	}
	finished, err := client.Finish(ctx, connect.NewRequest(&beaverv1.FinishRequest{Outcomes: outcomes}))
	if err != nil {
		return 0, err
	}
	if errs := finished.Msg.GetErrors(); len(errs) > 0 {
		return 0, refusal("an ack", errs[0])
	}
	return len(outcomes), nil
}

func benchEnqueueUnary(ctx context.Context, b *benchRun) ([]benchRow, error) {
	clients, reqs := b.rpc(unaryCallers), b.batches(benchQueue, 1)
	row, err := b.rate(ctx, "enqueue-unary", unaryCallers, func(ctx context.Context) (int, error) {
		return b.unlessMoved(enqueueBatch(ctx, clients.next(), reqs.next()))
	})
	row.Note = "one job a call, 64 callers"
	return []benchRow{row}, err
}
