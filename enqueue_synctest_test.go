package beaver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// enqueued is what an Enqueue in a goroutine returned.
type enqueued struct {
	id  JobID
	err error
}

func goEnqueue(ctx context.Context, c *Client, job Job) <-chan enqueued {
	out := make(chan enqueued, 1)
	go func() {
		id, err := c.Enqueue(ctx, job)
		out <- enqueued{id, err}
	}()
	return out
}

func bubble(t *testing.T, retryFor time.Duration, f func(t *testing.T, f *fakeEnqueues, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeEnqueues(t)
		f(t, fake, fake.client(t, retryFor))
	})
}

func TestEnqueueCoalesces(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		lone := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		first := <-s.requests
		if len(first.GetJobs()) != 1 || first.GetSequence() != 1 || len(first.GetSession()) != 16 {
			t.Fatalf("first message: %v", first)
		}
		var answers []<-chan enqueued
		for i := range 64 {
			answers = append(answers, goEnqueue(t.Context(), c, Job{Queue: "q", Kind: fmt.Sprint(i)}))
			synctest.Wait()
		}
		// The second message left with the first of the 64, and waits in Send: the others gather.
		second := <-s.requests
		synctest.Wait()
		select {
		case m := <-s.requests:
			t.Fatalf("a third message while two are in flight: %v", m)
		default:
		}
		s.answer(7, first, second)
		third := <-s.requests
		if got := len(second.GetJobs()) + len(third.GetJobs()); got != 64 || len(second.GetJobs()) != 1 {
			t.Fatalf("second message has %d jobs, third %d", len(second.GetJobs()), len(third.GetJobs()))
		}
		if len(second.GetSession()) != 0 {
			t.Error("the session stands in every message")
		}
		s.answer(100, third)
		if got, want := (<-lone), JobID("000400000000000e"); got.err != nil || len(got.id) != 16 {
			t.Errorf("lone: %v, want an id like %s", got, want)
		}
		for i, a := range answers {
			got := <-a
			position := uint64(100 + i - 1)
			if i == 0 {
				position = 8
			}
			if want := jobIDFromWire(wireID(1, position)); got.err != nil || got.id != want {
				t.Errorf("caller %d got %v, want %s", i, got, want)
			}
		}
	})
}

func TestEnqueueResendsUnansweredWithSameSequence(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "a"})
		s := <-f.streams
		first := <-s.requests
		b := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "b"})
		second := <-s.requests
		s.answer(1, first)
		<-a
		third := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "c"})
		last := <-s.requests
		s.end <- &Error{Code: CodeUnavailable, Message: "gone"}

		s = <-f.streams
		again, lastAgain := <-s.requests, <-s.requests
		if again.GetSequence() != second.GetSequence() || lastAgain.GetSequence() != last.GetSequence() {
			t.Fatalf("sent again as %d and %d, were %d and %d", again.GetSequence(), lastAgain.GetSequence(), second.GetSequence(), last.GetSequence())
		}
		if string(again.GetSession()) != string(first.GetSession()) || again.GetJobs()[0].GetKind() != "b" {
			t.Fatalf("sent again: %v", again)
		}
		s.answer(2, again, lastAgain)
		for _, ch := range []<-chan enqueued{b, third} {
			if got := <-ch; got.err != nil {
				t.Error(got.err)
			}
		}
	})
}

func TestEnqueueCallerLeaves(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		ctx, cancel := context.WithCancel(t.Context())
		sent := goEnqueue(ctx, c, Job{Queue: "q", Kind: "sent"})
		s := <-f.streams
		first := <-s.requests
		also := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "also"})
		second := <-s.requests

		kept1 := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "kept1"})
		synctest.Wait()
		waits := goEnqueue(ctx, c, Job{Queue: "q", Kind: "waits"})
		synctest.Wait()
		kept2 := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "kept2", Payload: []byte("two")})
		synctest.Wait()
		cancel()

		if got := <-sent; !errors.Is(got.err, ErrOutcomeUnknown) || !errors.Is(got.err, context.Canceled) {
			t.Errorf("sent: %v, want an unknown outcome", got.err)
		}
		if got := <-waits; errors.Is(got.err, ErrOutcomeUnknown) || !errors.Is(got.err, context.Canceled) {
			t.Errorf("not sent: %v, want just the context's error", got.err)
		}
		s.answer(1, first, second)
		<-also
		third := <-s.requests
		if len(third.GetJobs()) != 2 || third.GetJobs()[0].GetKind() != "kept1" || string(third.GetJobs()[1].GetPayload()) != "two" {
			t.Fatalf("third message: %v", third)
		}
		s.answer(10, third)
		if got := <-kept1; got.id != jobIDFromWire(wireID(1, 10)) {
			t.Errorf("kept1: %v", got)
		}
		if got := <-kept2; got.id != jobIDFromWire(wireID(1, 11)) {
			t.Errorf("kept2: %v", got)
		}
	})
}

func TestEnqueueAllCallersOfABatchLeave(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		first := <-s.requests
		b := goEnqueue(t.Context(), c, Job{Queue: "q"})
		second := <-s.requests
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Enqueue(ctx, Job{Queue: "q"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		s.answer(1, first, second)
		<-a
		<-b
		d := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "d"})
		third := <-s.requests
		if len(third.GetJobs()) != 1 || third.GetJobs()[0].GetKind() != "d" || third.GetSequence() != 3 {
			t.Fatalf("third message: %v", third)
		}
		s.answer(3, third)
		if got := <-d; got.err != nil {
			t.Error(got.err)
		}
	})
}

func TestEnqueueRefusals(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		first := <-s.requests
		done := make(chan []Enqueued)
		go func() {
			got, err := c.EnqueueMany(t.Context(), []Job{{Queue: "q"}, {Queue: "no such name"}, {Queue: "full"}, {Queue: "q"}})
			if err != nil {
				t.Error(err)
			}
			done <- got
		}()
		second := <-s.requests
		s.answers <- &beaverv1.EnqueueStreamResponse{
			Through: second.GetSequence(),
			Ids:     append(append(append(wireID(1, 1), wireID(1, 2)...), make([]byte, jobIDWireBytes)...), wireID(1, 3)...),
			Errors:  []*beaverv1.JobError{{Index: 2, Code: "resource_exhausted", Reason: "QUEUE_FULL", Message: "the queue full is full"}},
		}
		if got := <-a; got.id != jobIDFromWire(wireID(1, 1)) {
			t.Errorf("first: %v of %v", got, first)
		}
		got := <-done
		if got[0].ID != jobIDFromWire(wireID(1, 2)) || got[3].ID != jobIDFromWire(wireID(1, 3)) {
			t.Errorf("accepted: %v", got)
		}
		if !errors.Is(got[1].Err, ErrInvalidArgument) || got[1].Err.Field != "queue" {
			t.Errorf("bad name: %v", got[1].Err)
		}
		if !errors.Is(got[2].Err, ErrQueueFull) || !errors.Is(got[2].Err, ErrResourceExhausted) || errors.Is(got[2].Err, ErrLeaseLost) {
			t.Errorf("full: %v", got[2].Err)
		}
	})
}

// TestEnqueueUnreached: while no connection can be made nothing is sent, and the callers hear that.
func TestEnqueueUnreached(t *testing.T) {
	refused := connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: errors.New("connection refused")})
	bubble(t, time.Second, func(t *testing.T, f *fakeEnqueues, c *Client) {
		leaving, leave := context.WithCancel(t.Context())
		left, stays := goEnqueue(leaving, c, Job{Queue: "left"}), goEnqueue(t.Context(), c, Job{Queue: "stays"})
		(<-f.streams).end <- refused
		synctest.Wait() // until it waits to connect again
		leave()
		if got := <-left; errors.Is(got.err, ErrOutcomeUnknown) || !errors.Is(got.err, context.Canceled) {
			t.Errorf("left: %v, want not sent", got.err)
		}
		s := <-f.streams
		sent := <-s.requests
		if len(sent.GetJobs()) != 1 || sent.GetJobs()[0].GetQueue() != "stays" || sent.GetSequence() != 1 {
			t.Errorf("sent %v, want the job of who stayed, as message 1", sent)
		}
		s.end <- errors.New("connection reset")
		never := goEnqueue(t.Context(), c, Job{Queue: "never", Payload: make([]byte, payloadBytesMax)})
		for waiting := 2; waiting > 0; {
			select {
			case s := <-f.streams:
				s.end <- refused
			case got := <-stays:
				waiting--
				if !errors.Is(got.err, ErrOutcomeUnknown) {
					t.Errorf("sent once: %v, want an unknown outcome", got.err)
				}
			case got := <-never:
				waiting--
				if errors.Is(got.err, ErrOutcomeUnknown) || !errors.Is(got.err, ErrUnavailable) ||
					!strings.Contains(got.err.Error(), "the server cannot be reached") {
					t.Errorf("never sent: %v, want unreachable", got.err)
				}
			}
		}
	})
}

// TestEnqueueServerHangs: a server that takes a message and does not answer is asked again over a new stream.
func TestEnqueueServerHangs(t *testing.T) {
	bubble(t, 10*time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		start := time.Now()
		got := goEnqueue(t.Context(), c, Job{Queue: "q"})
		<-(<-f.streams).requests
		s := <-f.streams
		if waited := time.Since(start); waited < answerMax || waited > 2*answerMax {
			t.Errorf("it took %v to take the server for hung, want about %v", waited, answerMax)
		}
		m := <-s.requests
		s.answer(1, m)
		if got := <-got; got.err != nil || m.GetSequence() != 1 {
			t.Errorf("message %d: %v", m.GetSequence(), got.err)
		}
	})
}

func TestEnqueueGivesUp(t *testing.T) {
	bubble(t, time.Second, func(t *testing.T, f *fakeEnqueues, c *Client) {
		sent := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		<-s.requests
		s.end <- errors.New("connection reset")
		start := time.Now()
		var never <-chan enqueued
		for {
			select {
			case s = <-f.streams:
				if never == nil {
					never = goEnqueue(t.Context(), c, Job{Queue: "q", Payload: make([]byte, payloadBytesMax)})
				}
				s.end <- errRefused // whatever was given to this stream meanwhile was not sent
				continue
			case got := <-sent:
				if !errors.Is(got.err, ErrOutcomeUnknown) {
					t.Errorf("sent: %v, want an unknown outcome", got.err)
				}
				if strings.Count(got.err.Error(), "may be stored") != 1 {
					t.Errorf("it does not say once that the job may be stored: %v", got.err)
				}
			case got := <-never:
				if errors.Is(got.err, ErrOutcomeUnknown) || !errors.Is(got.err, ErrUnavailable) {
					t.Errorf("never sent: %v, want unavailable", got.err)
				}
				if waited := time.Since(start); waited < time.Second || waited > 4*time.Second {
					t.Errorf("gave up after %v", waited)
				}
				return
			}
		}
	})
}

func TestEnqueueMessageLimits(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		many := make([]Job, messageJobsMax+1)
		for i := range many {
			many[i] = Job{Queue: "q"}
		}
		big := Job{Queue: "q", Payload: make([]byte, payloadBytesMax)}
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := c.EnqueueMany(t.Context(), append(many, big, big)); err != nil {
				t.Error(err)
			}
		})
		s := <-f.streams
		var sizes []string
		for jobs := 0; jobs < messageJobsMax+3; {
			m := <-s.requests
			jobs += len(m.GetJobs())
			sizes = append(sizes, fmt.Sprint(len(m.GetJobs())))
			s.answer(uint64(jobs), m)
		}
		group.Wait()
		// The first message leaves before or after the first jobs joined it, but no message is over the limit.
		for _, n := range sizes {
			if len(n) > 4 || len(n) == 4 && n > fmt.Sprint(messageJobsMax) {
				t.Errorf("messages of %v jobs", sizes)
			}
		}
		if last := sizes[len(sizes)-2:]; strings.Join(last, " ") != "1 1" {
			t.Errorf("jobs of 1 MiB share messages: %v", sizes)
		}
	})
}

func TestEnqueueWaitsForRoom(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		big := Job{Queue: "q", Payload: make([]byte, payloadBytesMax)}
		var answers []<-chan enqueued
		for range messagesInFlight + waitingMax {
			answers = append(answers, goEnqueue(t.Context(), c, big))
		}
		s := <-f.streams
		requests := []*beaverv1.EnqueueStreamRequest{<-s.requests, <-s.requests}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Enqueue(ctx, big); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrOutcomeUnknown) {
			t.Errorf("over the limit: %v", err)
		}
		answers = append(answers, goEnqueue(t.Context(), c, big))
		s.answer(1, requests...)
		for range len(answers) - messagesInFlight {
			s.answer(3, <-s.requests)
		}
		for _, a := range answers {
			if got := <-a; got.err != nil {
				t.Error(got.err)
			}
		}
	})
}

func TestEnqueueAtomic(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		first := <-s.requests
		b := goEnqueue(t.Context(), c, Job{Queue: "q"})
		second := <-s.requests
		d := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "before"})
		synctest.Wait()
		atomic := make(chan []JobID)
		go func() {
			ids, err := c.EnqueueAtomic(t.Context(), []Job{{Queue: "q"}, {Queue: "q"}})
			if err != nil {
				t.Error(err)
			}
			atomic <- ids
		}()
		synctest.Wait()
		e := goEnqueue(t.Context(), c, Job{Queue: "q", Kind: "after"})
		synctest.Wait()
		s.answer(1, first, second)
		third, fourth := <-s.requests, <-s.requests
		if third.GetAtomic() || len(third.GetJobs()) != 1 || !fourth.GetAtomic() || len(fourth.GetJobs()) != 2 {
			t.Fatalf("third %v, fourth %v", third, fourth)
		}
		s.answer(3, third, fourth)
		if ids := <-atomic; len(ids) != 2 || ids[1] != jobIDFromWire(wireID(1, 5)) {
			t.Errorf("atomic: %v", ids)
		}
		s.answer(6, <-s.requests)
		for _, ch := range []<-chan enqueued{a, b, d, e} {
			if got := <-ch; got.err != nil {
				t.Error(got.err)
			}
		}
	})
}

func TestEnqueuerClose(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q"})
		s := <-f.streams
		first := <-s.requests
		closed := make(chan error)
		go func() { closed <- c.Close(t.Context()) }()
		synctest.Wait()
		if _, err := c.Enqueue(t.Context(), Job{Queue: "q"}); !errors.Is(err, ErrClosed) {
			t.Errorf("enqueue on a closed client: %v", err)
		}
		s.answer(1, first)
		if got := <-a; got.err != nil {
			t.Errorf("in flight at close: %v", got.err)
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
	})
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		a := goEnqueue(t.Context(), c, Job{Queue: "q"})
		<-(<-f.streams).requests
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("close: %v", err)
		}
		if got := <-a; !errors.Is(got.err, ErrOutcomeUnknown) {
			t.Errorf("in flight: %v, want an unknown outcome", got.err)
		}
	})
}

// TestRefusedRepeatIsInDoubt: a message that was sent before, and whose repeat is refused for what is of the node and the moment, may be
// stored. It was not, when it is sent for the first time, or when what refuses the repeat has refused the message before too.
func TestRefusedRepeatIsInDoubt(t *testing.T) {
	for _, c := range []struct {
		code    connect.Code
		reason  string
		settled bool
	}{
		{connect.CodeFailedPrecondition, "REPEAT_DIFFERS", false},
		{connect.CodeFailedPrecondition, "SESSION_TOO_OLD", false},
		{connect.CodeResourceExhausted, "DISK_FULL", false},
		{connect.CodeResourceExhausted, "OVERLOADED", false},
		{connect.CodeDataLoss, "STATE_DIVERGED", false},
		{connect.CodeUnauthenticated, "", false},
		{connect.CodeResourceExhausted, reasonQueueFull, true},
		{connect.CodeInvalidArgument, reasonInvalid, true},
	} {
		t.Run(fmt.Sprint(c.code, " ", c.reason), func(t *testing.T) {
			bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, client *Client) {
				refusal := func() error { return wireRefusalOf(t, c.code, &beaverv1.ErrorInfo{Reason: c.reason}) }
				sent := goEnqueue(t.Context(), client, Job{Queue: "q"})
				s := <-f.streams
				<-s.requests
				s.end <- errors.New("connection reset")
				s = <-f.streams
				<-s.requests
				s.end <- refusal()
				if got := <-sent; got.err == nil || errors.Is(got.err, ErrOutcomeUnknown) == c.settled {
					t.Errorf("sent twice: %v", got.err)
				}
				sent = goEnqueue(t.Context(), client, Job{Queue: "q"})
				s = <-f.streams
				<-s.requests
				s.end <- refusal()
				if got := <-sent; got.err == nil || errors.Is(got.err, ErrOutcomeUnknown) {
					t.Errorf("sent once: %v", got.err)
				}
			})
		})
	}
}

// TestRefusedJobOfARepeatIsInDoubt: the same for one job of a message, while the others have their answers.
func TestRefusedJobOfARepeatIsInDoubt(t *testing.T) {
	bubble(t, time.Minute, func(t *testing.T, f *fakeEnqueues, c *Client) {
		done := make(chan []Enqueued)
		go func() {
			got, err := c.EnqueueMany(t.Context(), []Job{{Queue: "q"}, {Queue: "r"}})
			if err != nil {
				t.Error(err)
			}
			done <- got
		}()
		s := <-f.streams
		<-s.requests
		s.end <- errors.New("connection reset")
		s = <-f.streams
		m := <-s.requests
		s.answers <- &beaverv1.EnqueueStreamResponse{
			Through: m.GetSequence(),
			Ids:     append(wireID(1, 2), make([]byte, jobIDWireBytes)...),
			Errors:  []*beaverv1.JobError{{Index: 1, Code: "resource_exhausted", Reason: "OVERLOADED", Message: "slow down"}},
		}
		if got := <-done; got[0].Err != nil || !errors.Is(got[1].Err, ErrOutcomeUnknown) {
			t.Errorf("answers: %v", got)
		}
	})
}
