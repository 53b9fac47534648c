package beaver

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestWorkerBusyHeartbeat: a worker that always has something to say still names what it holds every third of the TTL.
func TestWorkerBusyHeartbeat(t *testing.T) {
	handler := HandlerFunc(func(ctx context.Context, j *LeasedJob) error {
		if j.Kind == "long" {
			<-ctx.Done()
		}
		return nil
	})
	workerBubble(t, WorkerConfig{Handler: handler, Concurrency: 2, GracePeriod: -1}, func(t *testing.T, _ *fakeWork, w *Worker, s *fakeWorkStream) {
		s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(1, "long")}}
		start, beats := time.Now(), 0
		for n := uint64(2); time.Since(start) < 30*time.Second; n++ {
			s.answers <- &beaverv1.WorkResponse{Jobs: []*beaverv1.LeasedJob{leased(n, "k")}}
			for answered := false; !answered; {
				m := <-s.requests
				if m.GetReceived() != n && m.GetReceived() != n-1 { // The job may have come after the message was made.
					t.Errorf("%d jobs are received after %d", m.GetReceived(), n)
				}
				if m.GetComplete() != (len(m.GetHeld()) > 0) {
					t.Errorf("%v; want complete what names the leases", m)
				}
				if len(m.GetHeld()) > 0 {
					beats++
				}
				if answered = len(m.GetOutcomes()) > 0; answered {
					s.answers <- &beaverv1.WorkResponse{OutcomesThrough: m.GetOutcomesSequence()}
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if beats < 9 || beats > 11 { // a TTL of 9 s
			t.Errorf("%d messages with all leases in 30 s, want 10", beats)
		}
		stop(t, w, s)
	})
}

// TestWorkerShortTTL: a TTL shorter than assumed holds from the welcome on.
func TestWorkerShortTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeWork(t)
		c := &Client{cfg: Config{Logger: slog.New(slog.DiscardHandler)}, dialWork: fake.open}
		handler := HandlerFunc(func(context.Context, *LeasedJob) error { return nil })
		w, err := NewWorker(c, WorkerConfig{Handler: handler, Queues: []string{"q"}})
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan error)
		go func() { started <- w.Start(t.Context()) }()
		s := <-fake.streams
		<-s.requests
		s.answers <- &beaverv1.WorkResponse{Welcome: &beaverv1.Welcome{WorkerId: 1, Ttl: durationpb.New(300 * time.Millisecond)}}
		if err := <-started; err != nil {
			t.Fatal(err)
		}
		for range 5 {
			before := time.Now()
			<-s.requests
			if silent := time.Since(before); silent > 100*time.Millisecond {
				t.Errorf("silent for %v with a TTL of 300 ms", silent)
			}
		}
		stop(t, w, s)
	})
}
