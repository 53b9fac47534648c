package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

type (
	enqueueStream = connect.BidiStreamForClient[beaverv1.EnqueueStreamRequest, beaverv1.EnqueueStreamResponse]
	workStream    = connect.BidiStreamForClient[beaverv1.WorkRequest, beaverv1.WorkResponse]
)

func send[In, Out any](t *testing.T, s *connect.BidiStreamForClient[In, Out], msg *In) {
	t.Helper()
	if err := s.Send(msg); err != nil {
		_, answer := s.Receive()
		t.Fatalf("send: %v; the stream says %v", err, answer)
	}
}

func namedJobs(queue string, n int) []*beaverv1.NewJob {
	jobs := make([]*beaverv1.NewJob, n)
	for i := range jobs {
		jobs[i] = &beaverv1.NewJob{Queue: queue, Kind: fmt.Sprint(i)}
	}
	return jobs
}

// receiveThrough takes answers until sequence is answered, and returns the ids of all jobs.
func receiveThrough(t *testing.T, s *enqueueStream, sequence uint64) (ids []byte, errs []*beaverv1.JobError) {
	t.Helper()
	for {
		msg, err := s.Receive()
		if err != nil {
			t.Fatalf("receive: %v", err)
		}
		ids, errs = append(ids, msg.GetIds()...), append(errs, msg.GetErrors()...)
		if msg.GetThrough() >= sequence {
			return ids, errs
		}
	}
}

func TestEnqueueStream(t *testing.T) {
	n := newTestNode(t, Options{})
	s := n.jobs.EnqueueStream(t.Context())
	const messages, perMessage = 50, 7
	for sequence := 1; sequence <= messages; sequence++ {
		msg := &beaverv1.EnqueueStreamRequest{Sequence: uint64(sequence), Jobs: namedJobs("q", perMessage)}
		if sequence == 1 {
			msg.Session = []byte("0123456789abcdef")
		}
		if sequence == 3 {
			msg.Jobs[2].Queue = "no such name"
		}
		send(t, s, msg)
	}
	ids, errs := receiveThrough(t, s, messages)
	if len(ids) != messages*perMessage*10 {
		t.Errorf("%d bytes of ids", len(ids))
	}
	if len(errs) != 1 || errs[0].GetField() != "queue" || errs[0].GetCode() != "invalid_argument" {
		t.Errorf("errors: %v", errs)
	}
	if err := s.CloseRequest(); err != nil {
		t.Error(err)
	}
	if _, err := s.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	// The session goes on where it was on another stream: a repeat is answered with the first one's ids.
	again := n.jobs.EnqueueStream(t.Context())
	send(t, again, &beaverv1.EnqueueStreamRequest{
		Session: []byte("0123456789abcdef"), Sequence: messages, Jobs: namedJobs("q", perMessage),
	})
	repeated, _ := receiveThrough(t, again, messages)
	if string(repeated) != string(ids[len(ids)-perMessage*10:]) {
		t.Error("a repeat got other ids")
	}
	_ = again.CloseRequest()
	q := must[beaverv1.GetQueueResponse](t)(n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: "q"}))).GetQueue()
	if q.GetReady() != messages*perMessage-1 {
		t.Errorf("%d jobs are ready", q.GetReady())
	}
}

// A message that is refused whole ends the stream, after all messages before it are answered.
func TestEnqueueStreamRefusals(t *testing.T) {
	n := newTestNode(t, Options{})
	tests := []struct {
		name, reason, field string
		bad                 *beaverv1.EnqueueStreamRequest
	}{
		{"gap", "INVALID", "sequence", &beaverv1.EnqueueStreamRequest{Sequence: 3, Jobs: namedJobs("q", 1)}},
		{"no number", "INVALID", "sequence", &beaverv1.EnqueueStreamRequest{Jobs: namedJobs("q", 1)}},
		{"no jobs", "INVALID", "jobs", &beaverv1.EnqueueStreamRequest{Sequence: 2}},
		{"late session", "INVALID", "session", &beaverv1.EnqueueStreamRequest{Session: make([]byte, 16), Sequence: 2, Jobs: namedJobs("q", 1)}},
		{"short session", "INVALID", "session", &beaverv1.EnqueueStreamRequest{Session: make([]byte, 15), Sequence: 2, Jobs: namedJobs("q", 1)}},
		{"too many", "TOO_LARGE", "jobs", &beaverv1.EnqueueStreamRequest{Sequence: 2, Jobs: namedJobs("q", 2001)}},
	}
	for _, test := range tests {
		s := n.jobs.EnqueueStream(t.Context())
		send(t, s, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: namedJobs("q", 1)})
		send(t, s, test.bad)
		receiveThrough(t, s, 1)
		_, err := s.Receive()
		t.Log(test.name, err)
		refused(t, err, connect.CodeInvalidArgument, test.reason, test.field)
	}
}

// openWork opens a Work stream and returns it with its welcome.
func openWork(ctx context.Context, t *testing.T, n *testNode, hello *beaverv1.WorkRequest) (*workStream, *beaverv1.WorkResponse) {
	t.Helper()
	if hello.Hello == nil {
		hello.Hello = &beaverv1.WorkerInfo{Name: "w", Queues: []string{"q"}, Concurrency: 10}
	}
	s := n.jobs.Work(ctx)
	send(t, s, hello)
	msg, err := s.Receive()
	if err != nil {
		t.Fatal(err)
	}
	if msg.GetWelcome().GetWorkerId() == 0 || msg.GetWelcome().GetTtl() == nil || msg.GetState() != beaverv1.WorkerState_WORKER_STATE_RUN {
		t.Fatalf("welcome: %v", msg)
	}
	return s, msg
}

// receiveJobs takes messages until it has n jobs.
func receiveJobs(t *testing.T, s *workStream, n int) (jobs []*beaverv1.LeasedJob) {
	t.Helper()
	for len(jobs) < n {
		msg, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, msg.GetJobs()...)
	}
	return jobs
}

// waitFor receives until ok says that a message is the one.
func waitFor(t *testing.T, s *workStream, ok func(*beaverv1.WorkResponse) bool) *beaverv1.WorkResponse {
	t.Helper()
	for {
		msg, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if ok(msg) {
			return msg
		}
	}
}

func TestWork(t *testing.T) {
	n := newTestNode(t, Options{})
	s, _ := openWork(t.Context(), t, n, &beaverv1.WorkRequest{Credits: 2})
	must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: namedJobs("q", 5)})))
	jobs := receiveJobs(t, s, 2)
	if len(jobs) != 2 {
		t.Fatalf("%d jobs for 2 credits", len(jobs))
	}
	send(t, s, &beaverv1.WorkRequest{OutcomesSequence: 1, Credits: 3, Outcomes: []*beaverv1.Outcome{
		{Id: jobs[0].GetId(), Token: jobs[0].GetToken(), Result: []byte("1"), ContentType: "application/json"},
		{Id: jobs[1].GetId(), Token: jobs[1].GetToken(), Failure: &beaverv1.Failure{Message: "no", Final: true}},
		{Id: jobs[1].GetId(), Token: jobs[1].GetToken() + 100},
	}})
	var through uint64
	var refusals []*beaverv1.OutcomeRefused
	var more []*beaverv1.LeasedJob
	for through < 1 || len(more) < 3 {
		msg, err := s.Receive()
		if err != nil {
			t.Fatal(err)
		}
		through, refusals, more = max(through, msg.GetOutcomesThrough()), append(refusals, msg.GetRefused()...), append(more, msg.GetJobs()...)
	}
	if len(refusals) != 1 || refusals[0].GetError().GetReason() != "LEASE_LOST" {
		t.Errorf("refused: %v", refusals)
	}
	if got := getJob(t, n, jobs[0].GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_COMPLETED {
		t.Errorf("acked: %v", got)
	}
	// Cancellation reaches the worker, without its asking.
	must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: more[0].GetId()})))
	msg := waitFor(t, s, func(m *beaverv1.WorkResponse) bool { return len(m.GetCancel()) > 0 })
	if msg.GetCancel()[0].GetId() != more[0].GetId() {
		t.Errorf("cancel: %v", msg)
	}
	// What the worker no longer holds, it is told.
	send(t, s, &beaverv1.WorkRequest{Held: []*beaverv1.LeaseRef{{Id: jobs[0].GetId(), Token: jobs[0].GetToken()}}})
	waitFor(t, s, func(m *beaverv1.WorkResponse) bool { return len(m.GetLost()) == 1 })
	// The end of the worker's side says goodbye: what it holds goes back.
	if err := s.CloseRequest(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := s.Receive(); err != nil {
			if !errors.Is(err, io.EOF) {
				t.Errorf("the end: %v", err)
			}
			break
		}
	}
	if workers := must[beaverv1.ListWorkersResponse](t)(n.workers.ListWorkers(t.Context(), call(&beaverv1.ListWorkersRequest{}))).GetWorkers(); len(workers) != 0 {
		t.Errorf("workers: %v", workers)
	}
	if got := getJob(t, n, more[1].GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_READY {
		t.Errorf("after the goodbye: %v", got)
	}
}

// A stream that breaks keeps its worker: who comes back with its id keeps what it names and loses nothing else.
func TestWorkResume(t *testing.T) {
	n := newTestNode(t, Options{WorkerTTL: time.Minute})
	ctx, cut := context.WithCancel(t.Context())
	s, welcome := openWork(ctx, t, n, &beaverv1.WorkRequest{Credits: 2})
	must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: namedJobs("q", 2)})))
	jobs := receiveJobs(t, s, 2)
	cut()
	if _, err := s.Receive(); err == nil {
		t.Error("the cut stream lives")
	}
	worker := welcome.GetWelcome().GetWorkerId()
	again, second := openWork(t.Context(), t, n, &beaverv1.WorkRequest{
		WorkerId: worker, Held: []*beaverv1.LeaseRef{{Id: jobs[0].GetId(), Token: jobs[0].GetToken()}},
	})
	if second.GetWelcome().GetWorkerId() != worker || second.GetState() != beaverv1.WorkerState_WORKER_STATE_RUN {
		t.Fatalf("resumed as %v", second)
	}
	if got := getJob(t, n, jobs[0].GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_RUNNING || got.GetToken() != jobs[0].GetToken() {
		t.Errorf("the job it holds: %v", got)
	}
	if got := getJob(t, n, jobs[1].GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_READY || got.GetCrashes() != 0 {
		t.Errorf("the job that never reached it: %v", got)
	}
	// A third stream of the same worker ends the second.
	third, _ := openWork(t.Context(), t, n, &beaverv1.WorkRequest{WorkerId: worker, Held: []*beaverv1.LeaseRef{
		{Id: jobs[0].GetId(), Token: jobs[0].GetToken()},
	}})
	_, err := again.Receive()
	refused(t, err, connect.CodeAborted, "STREAM_REPLACED", "")
	send(t, third, &beaverv1.WorkRequest{OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{{Id: jobs[0].GetId(), Token: jobs[0].GetToken()}}})
	waitFor(t, third, func(m *beaverv1.WorkResponse) bool { return m.GetOutcomesThrough() == 1 })
	// A worker that is not known is registered anew, and told what it lost.
	_, fourth := openWork(t.Context(), t, n, &beaverv1.WorkRequest{
		WorkerId: worker + 1000, Held: []*beaverv1.LeaseRef{{Id: jobs[1].GetId(), Token: jobs[1].GetToken()}},
	})
	if fourth.GetWelcome().GetWorkerId() == worker+1000 || len(fourth.GetLost()) != 1 {
		t.Errorf("unknown worker: %v", fourth)
	}
}

// A worker that counts its jobs and leaves one out gets it back in another attempt, without ending first.
func TestWorkUnnamed(t *testing.T) {
	n := newTestNode(t, Options{WorkerTTL: WorkerTTLMin})
	s, _ := openWork(t.Context(), t, n, &beaverv1.WorkRequest{Credits: 3, Complete: true})
	must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: namedJobs("q", 2)})))
	jobs := receiveJobs(t, s, 2)
	kept := &beaverv1.LeaseRef{Id: jobs[0].GetId(), Token: jobs[0].GetToken()}
	beats := time.NewTicker(100 * time.Millisecond)
	defer beats.Stop()
	stop := make(chan struct{})
	beating := make(chan error, 1)
	go func() {
		for {
			select {
			case <-beats.C:
			case <-stop:
				beating <- nil
				return
			}
			if err := s.Send(&beaverv1.WorkRequest{Held: []*beaverv1.LeaseRef{kept}, Complete: true, Received: 2}); err != nil {
				beating <- err
				return
			}
		}
	}()
	again := receiveJobs(t, s, 1)[0]
	close(stop)
	if err := <-beating; err != nil {
		t.Error(err)
	}
	if again.GetId() != jobs[1].GetId() || again.GetToken() == jobs[1].GetToken() || again.GetCrashes() != 0 || again.GetFailures() != 0 {
		t.Errorf("got %v; want the job that was left out, %v", again, jobs[1])
	}
	if got := getJob(t, n, kept.GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_RUNNING || got.GetToken() != kept.GetToken() {
		t.Errorf("the job that was named: %v", got)
	}
}

func TestWorkRefusals(t *testing.T) {
	n := newTestNode(t, Options{})
	hello := &beaverv1.WorkerInfo{Queues: []string{"q"}}
	tests := []struct {
		name, reason, field string
		messages            []*beaverv1.WorkRequest
	}{
		{"no hello", "INVALID", "hello", []*beaverv1.WorkRequest{{Credits: 1}}},
		{"no queues", "INVALID", "hello.queues", []*beaverv1.WorkRequest{{Hello: &beaverv1.WorkerInfo{}}}},
		{"long name", "TOO_LARGE", "hello.name", []*beaverv1.WorkRequest{{Hello: &beaverv1.WorkerInfo{Name: strings.Repeat("x", 257)}}}},
		{"second hello", "INVALID", "hello", []*beaverv1.WorkRequest{{Hello: hello}, {Hello: hello}}},
		{"credits", "INVALID", "credits", []*beaverv1.WorkRequest{{Hello: hello, Credits: 100_001}}},
		{"no number", "INVALID", "outcomes_sequence", []*beaverv1.WorkRequest{{Hello: hello}, {Outcomes: []*beaverv1.Outcome{{Id: "0000000000000000"}}}}},
		{"bad id", "INVALID", "outcomes[0].id", []*beaverv1.WorkRequest{{Hello: hello}, {OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{{Id: "u"}}}}},
	}
	for _, test := range tests {
		s := n.jobs.Work(t.Context())
		for _, msg := range test.messages {
			send(t, s, msg)
		}
		var err error
		for err == nil {
			_, err = s.Receive()
		}
		t.Log(test.name, err)
		refused(t, err, connect.CodeInvalidArgument, test.reason, test.field)
	}
}

// Quiet drops the credits; credits without it bring jobs again.
func TestWorkQuiet(t *testing.T) {
	n := newTestNode(t, Options{})
	s, _ := openWork(t.Context(), t, n, &beaverv1.WorkRequest{Credits: 5})
	send(t, s, &beaverv1.WorkRequest{Quiet: true, OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{{Id: "0000000000000000"}}})
	waitFor(t, s, func(m *beaverv1.WorkResponse) bool { return m.GetOutcomesThrough() == 1 })
	id := enqueueOne(t, n, &beaverv1.NewJob{Queue: "q"})
	if got := getJob(t, n, id); got.GetState() != beaverv1.JobState_JOB_STATE_READY {
		t.Errorf("a quiet worker got %v", got)
	}
	send(t, s, &beaverv1.WorkRequest{Credits: 1})
	if jobs := receiveJobs(t, s, 1); jobs[0].GetId() != id {
		t.Errorf("got %v", jobs)
	}
}

// Close finishes what streams have in flight, and tells them to come again.
func TestCloseEndsStreams(t *testing.T) {
	dir := t.TempDir()
	n := newTestNode(t, Options{DataDir: dir})
	work, welcome := openWork(t.Context(), t, n, &beaverv1.WorkRequest{Credits: 1})
	enqueue := n.jobs.EnqueueStream(t.Context())
	send(t, enqueue, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: namedJobs("q", 1)})
	receiveThrough(t, enqueue, 1)
	job := receiveJobs(t, work, 1)[0]
	fetched := make(chan error, 1)
	go func() {
		_, err := n.jobs.Fetch(t.Context(), call(&beaverv1.FetchRequest{Queues: []string{"none"}, Wait: durationpb.New(5 * time.Minute)}))
		fetched <- err
	}()
	send(t, work, &beaverv1.WorkRequest{OutcomesSequence: 1, Outcomes: []*beaverv1.Outcome{{Id: job.GetId(), Token: job.GetToken()}}})
	waitFor(t, work, func(m *beaverv1.WorkResponse) bool { return m.GetOutcomesThrough() == 1 })
	if err := n.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := work.Receive()
	refused(t, err, connect.CodeUnavailable, "STOPPING", "")
	_, err = enqueue.Receive()
	refused(t, err, connect.CodeUnavailable, "STOPPING", "")
	if err := <-fetched; connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("fetch: %v", err)
	}
	// The worker is still known after the restart, and what it did is done.
	n = newTestNode(t, Options{DataDir: dir})
	_, again := openWork(t.Context(), t, n, &beaverv1.WorkRequest{WorkerId: welcome.GetWelcome().GetWorkerId()})
	if again.GetWelcome().GetWorkerId() != welcome.GetWelcome().GetWorkerId() {
		t.Errorf("after the restart: %v", again)
	}
	if got := getJob(t, n, job.GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_COMPLETED {
		t.Errorf("after the restart: %v", got)
	}
}
