package beaver_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

	connectrpc "connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// forgetful answers the enqueue stream at once and stores nothing, so that what is measured is the client and the wire.
type forgetful struct {
	beaverv1connect.UnimplementedJobServiceHandler
	messages, jobs atomic.Uint64
}

func (f *forgetful) EnqueueStream(
	_ context.Context, stream *connectrpc.BidiStream[beaverv1.EnqueueStreamRequest, beaverv1.EnqueueStreamResponse],
) error {
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		answer := &beaverv1.EnqueueStreamResponse{Through: m.GetSequence(), Ids: make([]byte, 0, 10*len(m.GetJobs()))}
		f.messages.Add(1)
		for range m.GetJobs() {
			answer.Ids = binary.BigEndian.AppendUint64(append(answer.Ids, 0, 1), f.jobs.Add(1))
		}
		if err := stream.Send(answer); err != nil {
			return err
		}
	}
}

// BenchmarkEnqueueWire is BenchmarkEnqueue against a server that stores nothing.
func BenchmarkEnqueueWire(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			fake := &forgetful{}
			mux := http.NewServeMux()
			mux.Handle(beaverv1connect.NewJobServiceHandler(fake))
			s := httptest.NewUnstartedServer(mux)
			s.Config.Protocols = new(http.Protocols)
			s.Config.Protocols.SetUnencryptedHTTP2(true)
			s.Config.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerConnection: 16 << 20, MaxReceiveBufferPerStream: 8 << 20, MaxReadFrameSize: 1 << 20}
			s.Start()
			defer s.Close()
			c, err := beaver.NewClient(beaver.Config{Addr: s.URL})
			if err != nil {
				b.Fatal(err)
			}
			job := beaver.Job{Queue: "bench", Kind: "bench", Payload: make([]byte, benchPayloadBytes)}
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			for range callers {
				group.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Enqueue(context.Background(), job); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
			b.ReportMetric(float64(fake.jobs.Load())/float64(fake.messages.Load()), "jobs/message")
			b.StopTimer()
			if err := c.Close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}
