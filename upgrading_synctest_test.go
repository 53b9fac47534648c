package beaver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// refuseUnique answers as a node does that knows of an older one: it refuses jobs with unique keys, and stores the others.
func (s *fakeEnqueueStream) refuseUnique(r *beaverv1.EnqueueStreamRequest) {
	a := &beaverv1.EnqueueStreamResponse{Through: r.GetSequence()}
	for i, job := range r.GetJobs() {
		if job.GetUniqueKey() == "" {
			a.Ids = append(a.Ids, wireID(1, r.GetSequence()<<8|uint64(i+1))...)
			continue
		}
		a.Ids = append(a.Ids, wireID(0, 0)...)
		a.Errors = append(a.Errors, &beaverv1.JobError{
			Index: uint32(i), Code: "failed_precondition", Reason: reasonVersionsDiffer, Message: "node 2 runs version devel-before",
		})
	}
	s.answers <- a
}

// TestEnqueueWhileUpgrading: jobs that a cluster does not take while a node may be too old for them are sent again until it takes them, each
// time in a new message, and jobs beside them only once.
func TestEnqueueWhileUpgrading(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		many := goEnqueueMany(t, c, Job{Queue: "q"}, Job{Queue: "q", UniqueKey: "k"}, Job{Queue: "q", UniqueKey: "l"})
		s := <-f.streams
		first := <-s.requests
		s.refuseUnique(first)
		for range 5 {
			r := <-s.requests
			if jobs := r.GetJobs(); len(jobs) != 2 || jobs[0].GetUniqueKey() != "k" || jobs[1].GetUniqueKey() != "l" || r.GetSequence() == first.GetSequence() {
				t.Fatalf("sent again: %v", r)
			}
			s.refuseUnique(r)
		}
		last := <-s.requests
		s.answers <- &beaverv1.EnqueueStreamResponse{Through: last.GetSequence(), Ids: append(wireID(2, 1), wireID(2, 2)...), Existing: []uint32{1}}
		got := <-many
		for i, want := range []string{string(jobIDFromWire(wireID(1, first.GetSequence()<<8|1))), string(jobIDFromWire(wireID(2, 1))), string(jobIDFromWire(wireID(2, 2)))} {
			if a := got.answers[i]; got.err != nil || a.Err != nil || string(a.ID) != want || a.Existing != (i == 2) {
				t.Errorf("job %d: %+v, %v", i, a, got.err)
			}
		}

		lone := goEnqueue(t.Context(), c, Job{Queue: "q", UniqueKey: "k"})
		s.refuseUnique(<-s.requests)
		r := <-s.requests
		s.answers <- &beaverv1.EnqueueStreamResponse{Through: r.GetSequence(), Ids: wireID(2, 3)}
		if got := <-lone; got.err != nil || got.id != jobIDFromWire(wireID(2, 3)) {
			t.Errorf("the lone job: %+v", got)
		}

		atomic := make(chan error, 1)
		go func() {
			_, err := c.EnqueueAtomic(t.Context(), []Job{{Queue: "q"}, {Queue: "q", UniqueKey: "k"}})
			atomic <- err
		}()
		<-s.requests
		s.end <- wireRefusal(t, &beaverv1.ErrorInfo{Reason: reasonVersionsDiffer})
		s = <-f.streams
		r = <-s.requests
		s.answers <- &beaverv1.EnqueueStreamResponse{Through: r.GetSequence(), Ids: append(wireID(2, 4), wireID(2, 5)...)}
		if err := <-atomic; err != nil {
			t.Errorf("the atomic request: %v", err)
		}
		synctest.Wait()
	})
}

// wireRefusal is the error with which a server ends a stream whose message it refuses.
func wireRefusal(t *testing.T, info *beaverv1.ErrorInfo) error {
	t.Helper()
	return wireRefusalOf(t, connect.CodeFailedPrecondition, info)
}

func wireRefusalOf(t *testing.T, code connect.Code, info *beaverv1.ErrorInfo) error {
	t.Helper()
	err := connect.NewWireError(code, errors.New("refused"))
	detail, problem := connect.NewErrorDetail(info)
	if problem != nil {
		t.Fatal(problem)
	}
	err.AddDetail(detail)
	return err
}

// TestEnqueueWhileUpgradingGivesUp: it does not go on for ever, nor longer than the caller waits, and what was sent before may be stored.
func TestEnqueueWhileUpgradingGivesUp(t *testing.T) {
	const retryFor = 10 * time.Second
	bubble(t, retryFor, func(t *testing.T, f *fakeEnqueues, c *Client) {
		refuse := func(s *fakeEnqueueStream, over <-chan enqueued) enqueued {
			for {
				select {
				case r := <-s.requests:
					s.refuseUnique(r)
				case got := <-over:
					return got
				}
			}
		}
		want := func(what string, err error, took, least, most time.Duration) {
			t.Helper()
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != CodeFailedPrecondition || e.Reason != reasonVersionsDiffer || took < least || took > most {
				t.Errorf("%s: %v after %v", what, err, took)
			}
		}
		began := time.Now()
		lone := goEnqueue(t.Context(), c, Job{Queue: "q", UniqueKey: "k"})
		s := <-f.streams
		want("as long as it repeats", refuse(s, lone).err, time.Since(began), retryFor, retryFor)

		began = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		want("as long as the caller waits", refuse(s, goEnqueue(ctx, c, Job{Queue: "q", UniqueKey: "k"})).err, time.Since(began), 0, time.Second)

		again := goEnqueue(t.Context(), c, Job{Queue: "q", UniqueKey: "k"})
		<-s.requests
		s.end <- &Error{Code: CodeUnavailable, Message: "gone"}
		s = <-f.streams
		if got := refuse(s, again); !errors.Is(got.err, ErrOutcomeUnknown) {
			t.Errorf("sent before: %v", got.err)
		}
		synctest.Wait()
	})
}
