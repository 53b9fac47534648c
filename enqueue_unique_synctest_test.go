package beaver

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// manyAnswers is what an EnqueueMany in a goroutine returned.
type manyAnswers struct {
	answers []Enqueued
	err     error
}

func goEnqueueMany(t *testing.T, c *Client, jobs ...Job) <-chan manyAnswers {
	out := make(chan manyAnswers, 1)
	go func() {
		answers, err := c.EnqueueMany(t.Context(), jobs)
		out <- manyAnswers{answers, err}
	}()
	return out
}

// TestEnqueueExisting: which jobs' keys others hold is told to the callers of these, also when one answer is of several messages.
func TestEnqueueExisting(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		lone := make(chan bool, 1)
		go func() {
			id, existing, err := c.EnqueueUnique(t.Context(), Job{Queue: "q", UniqueKey: "k"})
			if err != nil || id != jobIDFromWire(wireID(1, 1)) {
				t.Error(id, err)
			}
			lone <- existing
		}()
		s := <-f.streams
		first := <-s.requests
		many := goEnqueueMany(t, c, Job{Queue: "q"}, Job{Queue: "q", UniqueKey: "k"}, Job{Queue: "q", UniqueKey: "l"})
		second := <-s.requests
		if job := second.GetJobs()[1]; job.GetQueue() != "" || job.GetUniqueQueue() != "q" || second.GetJobs()[0].GetQueue() != "q" {
			t.Errorf("the second message: %v", second)
		}
		a := &beaverv1.EnqueueStreamResponse{Through: second.GetSequence(), Existing: []uint32{0, 2}}
		for i := range len(first.GetJobs()) + len(second.GetJobs()) {
			a.Ids = append(a.Ids, wireID(1, uint64(i+1))...)
		}
		s.answers <- a
		if !<-lone {
			t.Error("the lone job is not said to be there already")
		}
		got := <-many
		if got.err != nil || got.answers[0].Existing || !got.answers[1].Existing || got.answers[2].Existing {
			t.Errorf("many: %+v", got)
		}
	})
}

// refuseNameless answers as a server does that is older than unique keys: it refuses jobs without a queue, and stores the others.
func (s *fakeEnqueueStream) refuseNameless(r *beaverv1.EnqueueStreamRequest) {
	a := &beaverv1.EnqueueStreamResponse{Through: r.GetSequence()}
	for i, job := range r.GetJobs() {
		if job.GetQueue() != "" {
			a.Ids = append(a.Ids, wireID(1, uint64(i+1))...)
			continue
		}
		a.Ids = append(a.Ids, wireID(0, 0)...)
		a.Errors = append(a.Errors, &beaverv1.JobError{
			Index: uint32(i), Code: "invalid_argument", Reason: "INVALID", Field: "queue", Message: "queue is missing or empty; want the name of a queue",
		})
	}
	s.answers <- a
}

// TestEnqueueOldServer: a server that does not know of unique keys stores no job without its key, and the caller is told why.
func TestEnqueueOldServer(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		many := goEnqueueMany(t, c, Job{Queue: "q"}, Job{Queue: "q", UniqueKey: "k"})
		s := <-f.streams
		s.refuseNameless(<-s.requests)
		got := <-many
		if got.err != nil || got.answers[0].Err != nil || got.answers[0].ID == "" {
			t.Errorf("the job without a key: %+v", got)
		}
		if e := got.answers[1].Err; e == nil || e.Code != CodeUnimplemented || e.Reason != reasonNoUniqueKeys || e.Field != "unique_key" {
			t.Errorf("the job with one: %+v", e)
		}

		// Sent before, on a stream that broke: a newer server may have stored it.
		lone := goEnqueue(t.Context(), c, Job{Queue: "q", UniqueKey: "k"})
		<-s.requests
		s.end <- &Error{Code: CodeUnavailable, Message: "gone"}
		s = <-f.streams
		s.refuseNameless(<-s.requests)
		if got := <-lone; !errors.Is(got.err, ErrOutcomeUnknown) {
			t.Errorf("sent again: %v, want an unknown outcome", got.err)
		}
		synctest.Wait()
	})
}
