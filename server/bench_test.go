package server

import (
	"bytes"
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

const (
	benchBatch   = 100
	benchCallers = 8
)

// benchClient starts a node on a real disk and port, and returns a client of its job service over HTTP/2.
func benchClient(b *testing.B) beaverv1connect.JobServiceClient {
	b.Helper()
	return newTestNode(b, Options{}).jobs
}

func benchJobs() []*beaverv1.NewJob {
	payload := bytes.Repeat([]byte("x"), 1024)
	jobs := make([]*beaverv1.NewJob, benchBatch)
	for i := range jobs {
		jobs[i] = &beaverv1.NewJob{Queue: "bench", Kind: "noop", Payload: payload, ContentType: "application/octet-stream"}
	}
	return jobs
}

// perJob reports the benchmark's rate in jobs.
func perJob(b *testing.B, jobs int64) {
	b.ReportMetric(float64(jobs)/b.Elapsed().Seconds(), "jobs/s")
	b.ReportMetric(0, "ns/op")
}

// batches calls fn from benchCallers goroutines until b.N batches are done.
func batches(b *testing.B, fn func()) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var callers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range benchCallers {
		callers.Go(func() {
			for left.Add(-1) >= 0 {
				fn()
			}
		})
	}
	callers.Wait()
	b.StopTimer()
	perJob(b, int64(b.N)*benchBatch)
}

// BenchmarkEnqueue: unary calls of 100 jobs of 1 KiB, from 8 callers.
func BenchmarkEnqueue(b *testing.B) {
	client := benchClient(b)
	request := &beaverv1.EnqueueRequest{Jobs: benchJobs()}
	batches(b, func() {
		if _, err := client.Enqueue(b.Context(), connect.NewRequest(request)); err != nil {
			b.Error(err)
		}
	})
}

// BenchmarkEnqueueOne: unary calls of one job, from 64 callers.
func BenchmarkEnqueueOne(b *testing.B) {
	client := benchClient(b)
	request := &beaverv1.EnqueueRequest{Jobs: benchJobs()[:1]}
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.Enqueue(b.Context(), connect.NewRequest(request)); err != nil {
				b.Error(err)
			}
		}
	})
	perJob(b, int64(b.N))
}

// BenchmarkEnqueueStream: one stream, two messages of 100 jobs in flight.
func BenchmarkEnqueueStream(b *testing.B) {
	stream := benchClient(b).EnqueueStream(b.Context())
	jobs := benchJobs()
	inFlight := make(chan struct{}, 2)
	b.ReportAllocs()
	b.ResetTimer()
	var answers sync.WaitGroup
	answers.Go(func() {
		for through := uint64(0); through < uint64(b.N); {
			msg, err := stream.Receive()
			if err != nil {
				b.Error(err)
				return
			}
			for ; through < msg.GetThrough(); through++ {
				<-inFlight
			}
		}
	})
	for sequence := range b.N {
		inFlight <- struct{}{}
		if err := stream.Send(&beaverv1.EnqueueStreamRequest{Sequence: uint64(sequence) + 1, Jobs: jobs}); err != nil {
			b.Fatal(err)
		}
	}
	answers.Wait()
	b.StopTimer()
	perJob(b, int64(b.N)*benchBatch)
	_ = stream.CloseRequest()
}

// BenchmarkCycle: enqueue, fetch and finish by unary calls of 100 jobs, from 8 callers.
func BenchmarkCycle(b *testing.B) {
	client := benchClient(b)
	request := &beaverv1.EnqueueRequest{Jobs: benchJobs()}
	batches(b, func() {
		if err := cycle(b.Context(), client, request); err != nil {
			b.Error(err)
		}
	})
}

func cycle(ctx context.Context, client beaverv1connect.JobServiceClient, request *beaverv1.EnqueueRequest) error {
	if _, err := client.Enqueue(ctx, connect.NewRequest(request)); err != nil {
		return err
	}
	fetched, err := client.Fetch(ctx, connect.NewRequest(&beaverv1.FetchRequest{Queues: []string{"bench"}, Max: benchBatch}))
	if err != nil || len(fetched.Msg.GetJobs()) == 0 {
		return err
	}
	finish := new(beaverv1.FinishRequest)
	for _, job := range fetched.Msg.GetJobs() {
		finish.Outcomes = append(finish.Outcomes, &beaverv1.Outcome{Id: job.GetId(), Token: job.GetToken()})
	}
	_, err = client.Finish(ctx, connect.NewRequest(finish))
	return err
}

// BenchmarkWork: one Work stream takes and acks what one EnqueueStream brings, messages of 100 jobs, two in flight.
func BenchmarkWork(b *testing.B) {
	client := benchClient(b)
	enqueue, work := client.EnqueueStream(b.Context()), client.Work(b.Context())
	const credits = 1000
	err := work.Send(&beaverv1.WorkRequest{
		Hello: &beaverv1.WorkerInfo{Name: "bench", Queues: []string{"bench"}, Concurrency: credits}, Credits: credits,
	})
	if err != nil {
		b.Fatal(err)
	}
	jobs := benchJobs()
	inFlight := make(chan struct{}, 2)
	b.ReportAllocs()
	b.ResetTimer()
	var sides sync.WaitGroup
	sides.Go(func() {
		for through := uint64(0); through < uint64(b.N); {
			msg, err := enqueue.Receive()
			if err != nil {
				b.Error(err)
				return
			}
			for ; through < msg.GetThrough(); through++ {
				<-inFlight
			}
		}
	})
	sides.Go(func() {
		if err := ackAll(work, b.N*benchBatch); err != nil {
			b.Error(err)
		}
	})
	for sequence := range b.N {
		inFlight <- struct{}{}
		if err := enqueue.Send(&beaverv1.EnqueueStreamRequest{Sequence: uint64(sequence) + 1, Jobs: jobs}); err != nil {
			b.Fatal(err)
		}
	}
	sides.Wait()
	b.StopTimer()
	perJob(b, int64(b.N)*benchBatch)
	_ = enqueue.CloseRequest()
	_ = work.CloseRequest()
}

// ackAll acks count jobs and returns when the last ack is durable.
func ackAll(work *connect.BidiStreamForClient[beaverv1.WorkRequest, beaverv1.WorkResponse], count int) error {
	var sequence, through uint64
	for acked := 0; acked < count || through < sequence; {
		msg, err := work.Receive()
		if err != nil {
			return err
		}
		through = max(through, msg.GetOutcomesThrough())
		jobs := msg.GetJobs()
		if len(jobs) == 0 {
			continue
		}
		sequence++
		reply := &beaverv1.WorkRequest{OutcomesSequence: sequence, Credits: uint32(len(jobs))}
		for _, job := range jobs {
			reply.Outcomes = append(reply.Outcomes, &beaverv1.Outcome{Id: job.GetId(), Token: job.GetToken()})
		}
		acked += len(jobs)
		if err := work.Send(reply); err != nil {
			return err
		}
	}
	return nil
}

// h2cClient speaks HTTP/2 without TLS.
func h2cClient(t testing.TB) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
