package beaver

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// echoStream is a server without wire and disk: it answers each message at once, so that what is measured is the client.
type echoStream struct {
	ctx  context.Context
	sent chan *beaverv1.EnqueueStreamResponse
	ids  []byte // as many as any message needs
}

func dialEcho(ctx context.Context) enqueueStream {
	s := &echoStream{ctx: ctx, sent: make(chan *beaverv1.EnqueueStreamResponse, messagesInFlight)}
	for i := range messageJobsMax {
		s.ids = append(s.ids, wireID(1, uint64(i+1))...)
	}
	return s
}

func (s *echoStream) Send(m *enqueueMessage) error {
	s.sent <- &beaverv1.EnqueueStreamResponse{Through: m.sequence, Ids: s.ids}
	return nil
}

func (s *echoStream) Receive() (*beaverv1.EnqueueStreamResponse, error) {
	select {
	case a := <-s.sent:
		return a, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

func (s *echoStream) CloseRequest() error  { return nil }
func (s *echoStream) CloseResponse() error { return nil }

// BenchmarkEnqueueClient is the client's own share of an Enqueue: no system call, no wire, no server.
func BenchmarkEnqueueClient(b *testing.B) {
	for _, callers := range []int{1, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			e := newEnqueuer(alone(dialEcho), time.Minute, slog.New(slog.DiscardHandler))
			c := &Client{enqueuer: e}
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			job := Job{Queue: "bench", Kind: "bench", Payload: make([]byte, 1<<10)}
			b.ReportAllocs()
			var left atomic.Int64
			left.Store(int64(b.N))
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for left.Add(-1) >= 0 {
						if _, err := c.Enqueue(ctx, job); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.StopTimer()
			if err := e.close(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}
