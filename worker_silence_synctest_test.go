package beaver

import (
	"context"
	"errors"
	"testing"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestWorkerSilentServer: a server that stands still is left within half of the TTL, with the worker's id and what it holds; one that
// never gave a sign of life, as older ones, is not.
func TestWorkerSilentServer(t *testing.T) {
	handler := HandlerFunc(func(ctx context.Context, _ *LeasedJob) error {
		<-ctx.Done()
		return ErrRelease
	})
	workerBubble(t, WorkerConfig{Handler: handler, GracePeriod: -1}, func(t *testing.T, fake *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "k")}}
		for range 20 { // an older server says nothing for long
			<-s.requests
		}
		if s.ctx.Err() != nil {
			t.Fatal("the stream to a server that gives no signs of life was ended")
		}
		for range 5 {
			s.answers <- &beaverv1.WorkResponse{}
			time.Sleep(1500 * time.Millisecond)
			select {
			case <-s.requests:
			default:
			}
		}
		before := time.Now()
		go func() {
			for { // it reads, and says nothing
				select {
				case <-s.requests:
				case <-s.ctx.Done():
					return
				}
			}
		}()
		next := <-fake.streams
		if silent := time.Since(before); silent > 5*time.Second {
			t.Errorf("the worker left a silent server after %v, with a TTL of 9 s", silent)
		}
		if !errors.Is(context.Cause(s.ctx), errSilent) {
			t.Errorf("the stream ended with %v", context.Cause(s.ctx))
		}
		if hello := next.welcome(42); hello.GetWorkerId() != 42 || len(hello.GetHeld()) != 1 {
			t.Errorf("the worker comes back with %v", hello)
		}
		stop(t, w, next)
	})
}
