package server

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

func call[T any](msg *T) *connect.Request[T] { return connect.NewRequest(msg) }

// must returns the answer of a call that has to succeed.
func must[T any](t *testing.T) func(*connect.Response[T], error) *T {
	return func(r *connect.Response[T], err error) *T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r.Msg
	}
}

// refused checks a call that has to fail: its code, and the reason and field of its detail.
func refused(t *testing.T, err error, code connect.Code, reason, field string) {
	t.Helper()
	if connect.CodeOf(err) != code || err == nil {
		t.Errorf("want code %v, got error %v", code, err)
		return
	}
	info := detailOf(err)
	if info.GetReason() != reason || info.GetField() != field {
		t.Errorf("want reason %s and field %q, got %v in %v", reason, field, info, err)
	}
}

// detailOf is the ErrorInfo of an error; empty when there is none.
func detailOf(err error) *beaverv1.ErrorInfo {
	c, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil
	}
	for _, detail := range c.Details() {
		if v, err := detail.Value(); err == nil {
			if info, ok := v.(*beaverv1.ErrorInfo); ok {
				return info
			}
		}
	}
	return nil
}

func enqueueOne(t *testing.T, n *testNode, job *beaverv1.NewJob) string {
	t.Helper()
	return must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{
		Jobs: []*beaverv1.NewJob{job},
	}))).GetIds()[0]
}

func fetchOne(t *testing.T, n *testNode, queue string) *beaverv1.LeasedJob {
	t.Helper()
	jobs := must[beaverv1.FetchResponse](t)(n.jobs.Fetch(t.Context(), call(&beaverv1.FetchRequest{
		Queues: []string{queue}, Wait: durationpb.New(10 * time.Second),
	}))).GetJobs()
	if len(jobs) != 1 {
		t.Fatalf("fetched %d jobs, want 1", len(jobs))
	}
	return jobs[0]
}

func getJob(t *testing.T, n *testNode, id string) *beaverv1.Job {
	t.Helper()
	return must[beaverv1.GetJobResponse](t)(n.jobs.GetJob(t.Context(), call(&beaverv1.GetJobRequest{Id: id}))).GetJob()
}

// A job's way through the unary calls: enqueued, fetched, progress, extended, acked; and read at each step.
func TestJobLife(t *testing.T) {
	n := newTestNode(t, Options{})
	id := enqueueOne(t, n, &beaverv1.NewJob{
		Queue: "mail", Kind: "send", Payload: []byte(`{"to":"ada"}`), ContentType: "application/json",
		Metadata: map[string]string{"trace": "1"},
	})
	job := fetchOne(t, n, "mail")
	if job.GetId() != id || job.GetKind() != "send" || string(job.GetPayload()) != `{"to":"ada"}` || job.GetAttempt() != 1 ||
		job.GetMetadata()["trace"] != "1" || job.GetDeadline() == nil || job.GetEnqueuedAt() == nil {
		t.Errorf("fetched %v", job)
	}
	token := job.GetToken()
	progress := must[beaverv1.ProgressResponse](t)(n.jobs.Progress(t.Context(), call(&beaverv1.ProgressRequest{
		Id: id, Token: token, Percent: 40, Message: "halfway",
	})))
	if progress.GetCancelRequested() {
		t.Error("cancellation was not asked for")
	}
	extended := must[beaverv1.ExtendResponse](t)(n.jobs.Extend(t.Context(), call(&beaverv1.ExtendRequest{
		Id: id, Token: token, Lease: durationpb.New(time.Hour),
	})))
	if !extended.GetDeadline().AsTime().After(job.GetDeadline().AsTime()) {
		t.Errorf("deadline %v is not after %v", extended.GetDeadline(), job.GetDeadline())
	}
	if got := getJob(t, n, id); got.GetState() != beaverv1.JobState_JOB_STATE_RUNNING || got.GetProgressPercent() != 40 ||
		got.GetProgressMessage() != "halfway" || got.GetToken() != token {
		t.Errorf("running: %v", got)
	}
	acked := must[beaverv1.AckResponse](t)(n.jobs.Ack(t.Context(), call(&beaverv1.AckRequest{
		Id: id, Token: token, Result: []byte("42"), ContentType: "application/json",
	})))
	if acked.GetState() != beaverv1.JobState_JOB_STATE_COMPLETED {
		t.Errorf("acked: %v", acked)
	}
	if got := getJob(t, n, id); got.GetState() != beaverv1.JobState_JOB_STATE_COMPLETED || string(got.GetResult()) != "42" {
		t.Errorf("completed: %v", got)
	}
	again := must[beaverv1.AckResponse](t)(n.jobs.Ack(t.Context(), call(&beaverv1.AckRequest{Id: id, Token: token})))
	if again.GetState() != beaverv1.JobState_JOB_STATE_COMPLETED {
		t.Errorf("the repeat of an ack: %v; want the first one's answer", again)
	}
	_, err := n.jobs.Ack(t.Context(), call(&beaverv1.AckRequest{Id: id, Token: token + 1}))
	refused(t, err, connect.CodeFailedPrecondition, "LEASE_LOST", "")
}

// Failures lead to backoff and death; dead jobs are retried and discarded.
func TestFailAndDead(t *testing.T) {
	n := newTestNode(t, Options{})
	id := enqueueOne(t, n, &beaverv1.NewJob{Queue: "q", Payload: []byte("x")})
	job := fetchOne(t, n, "q")
	failed := must[beaverv1.FailResponse](t)(n.jobs.Fail(t.Context(), call(&beaverv1.FailRequest{
		Id: id, Token: job.GetToken(), Failure: &beaverv1.Failure{Type: "E", Message: "no", RetryAfter: durationpb.New(time.Millisecond)},
	})))
	if failed.GetState() != beaverv1.JobState_JOB_STATE_BACKOFF {
		t.Errorf("failed: %v", failed)
	}
	job = fetchOne(t, n, "q")
	if job.GetId() != id || job.GetAttempt() != 2 || job.GetFailures() != 1 {
		t.Errorf("second attempt: %v", job)
	}
	released := must[beaverv1.ReleaseResponse](t)(n.jobs.Release(t.Context(), call(&beaverv1.ReleaseRequest{Id: id, Token: job.GetToken()})))
	if released.GetState() != beaverv1.JobState_JOB_STATE_READY {
		t.Errorf("released: %v", released)
	}
	job = fetchOne(t, n, "q")
	finished := must[beaverv1.FinishResponse](t)(n.jobs.Finish(t.Context(), call(&beaverv1.FinishRequest{Outcomes: []*beaverv1.Outcome{
		{Id: id, Token: job.GetToken(), Failure: &beaverv1.Failure{Message: "never", Final: true}},
		{Id: id, Token: job.GetToken() + 1},
	}})))
	if states := finished.GetStates(); len(states) != 2 || states[0] != beaverv1.JobState_JOB_STATE_DEAD || states[1] != 0 {
		t.Errorf("finished: %v", finished)
	}
	if errs := finished.GetErrors(); len(errs) != 1 || errs[0].GetIndex() != 1 || errs[0].GetReason() != "LEASE_LOST" || errs[0].GetCode() != "failed_precondition" {
		t.Errorf("refused: %v", errs)
	}
	dead := getJob(t, n, id)
	if dead.GetDeadReason() != "final" || len(dead.GetErrors()) != 2 || dead.GetErrors()[1].GetMessage() != "never" {
		t.Errorf("dead: %v", dead)
	}
	listed := must[beaverv1.ListJobsResponse](t)(n.jobs.ListJobs(t.Context(), call(&beaverv1.ListJobsRequest{
		Queue: "q", State: beaverv1.JobState_JOB_STATE_DEAD, Full: true,
	}))).GetJobs()
	if len(listed) != 1 || listed[0].GetId() != id || string(listed[0].GetPayload()) != "x" {
		t.Errorf("listed: %v", listed)
	}
	retried := must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Ids: []string{id}})))
	if retried.GetCount() != 1 {
		t.Errorf("retried: %v", retried)
	}
	again := must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Ids: []string{id}})))
	if again.GetCount() != 0 || len(again.GetErrors()) != 1 || again.GetErrors()[0].GetField() != "ids[0]" {
		t.Errorf("retried again: %v", again)
	}
	job = fetchOne(t, n, "q")
	must[beaverv1.FailResponse](t)(n.jobs.Fail(t.Context(), call(&beaverv1.FailRequest{
		Id: job.GetId(), Token: job.GetToken(), Failure: &beaverv1.Failure{Final: true},
	})))
	discarded := must[beaverv1.DeadResponse](t)(n.jobs.DiscardDead(t.Context(), call(&beaverv1.DeadRequest{Queue: "q"})))
	if discarded.GetCount() != 1 || discarded.GetMore() {
		t.Errorf("discarded: %v", discarded)
	}
}

func TestCancel(t *testing.T) {
	n := newTestNode(t, Options{})
	waiting := enqueueOne(t, n, &beaverv1.NewJob{Queue: "later", Delay: durationpb.New(time.Hour)})
	if got := getJob(t, n, waiting); got.GetState() != beaverv1.JobState_JOB_STATE_SCHEDULED || got.GetRunAt() == nil {
		t.Errorf("scheduled: %v", got)
	}
	gone := must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: waiting})))
	if gone.GetState() != beaverv1.JobState_JOB_STATE_CANCELLED {
		t.Errorf("cancelled: %v", gone)
	}
	running := enqueueOne(t, n, &beaverv1.NewJob{Queue: "now"})
	job := fetchOne(t, n, "now")
	asked := must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: running})))
	if asked.GetState() != beaverv1.JobState_JOB_STATE_RUNNING {
		t.Errorf("asked: %v", asked)
	}
	progress := must[beaverv1.ProgressResponse](t)(n.jobs.Progress(t.Context(), call(&beaverv1.ProgressRequest{
		Id: running, Token: job.GetToken(), Percent: 1,
	})))
	if !progress.GetCancelRequested() {
		t.Error("the worker is not told")
	}
}

func TestQueues(t *testing.T) {
	n := newTestNode(t, Options{})
	settings := &beaverv1.QueueSettings{
		MaxAttempts: new(uint32(3)), Timeout: durationpb.New(time.Minute),
		Retry: &beaverv1.RetryPolicy{Kind: &beaverv1.RetryPolicy_Fixed_{Fixed: &beaverv1.RetryPolicy_Fixed{Delay: durationpb.New(time.Second)}}},
	}
	must[beaverv1.ConfigureQueueResponse](t)(n.queues.ConfigureQueue(t.Context(), call(&beaverv1.ConfigureQueueRequest{Name: "a", Settings: settings})))
	// Fields left out keep their values.
	paused := must[beaverv1.ConfigureQueueResponse](t)(n.queues.ConfigureQueue(t.Context(), call(&beaverv1.ConfigureQueueRequest{
		Name: "a", Settings: &beaverv1.QueueSettings{Paused: new(true)},
	}))).GetQueue().GetSettings()
	if !paused.GetPaused() || paused.GetMaxAttempts() != 3 || paused.GetTimeout().AsDuration() != time.Minute ||
		paused.GetRetry().GetFixed().GetDelay().AsDuration() != time.Second || paused.GetPoisonLimit() != 5 {
		t.Errorf("settings: %v", paused)
	}
	enqueueOne(t, n, &beaverv1.NewJob{Queue: "a"})
	jobs := must[beaverv1.FetchResponse](t)(n.jobs.Fetch(t.Context(), call(&beaverv1.FetchRequest{Queues: []string{"a"}}))).GetJobs()
	if len(jobs) != 0 {
		t.Errorf("a paused queue handed out %v", jobs)
	}
	q := must[beaverv1.GetQueueResponse](t)(n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: "a"}))).GetQueue()
	if q.GetReady() != 1 || q.GetEnqueuedTotal() != 1 || q.GetOldestReadyAt() == nil {
		t.Errorf("queue: %v", q)
	}
	all := must[beaverv1.ListQueuesResponse](t)(n.queues.ListQueues(t.Context(), call(&beaverv1.ListQueuesRequest{}))).GetQueues()
	if len(all) != 1 || all[0].GetName() != "a" {
		t.Errorf("queues: %v", all)
	}
	_, err := n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: "nope"}))
	refused(t, err, connect.CodeNotFound, "QUEUE_NOT_FOUND", "name")
}

func TestWorkers(t *testing.T) {
	n := newTestNode(t, Options{})
	info := &beaverv1.WorkerInfo{Name: "w", Host: "h", Pid: 7, Version: "1", Labels: []string{"gpu"}, Queues: []string{"q"}, Concurrency: 4}
	registered := must[beaverv1.RegisterResponse](t)(n.workers.Register(t.Context(), call(&beaverv1.RegisterRequest{Info: info})))
	worker := registered.GetWorkerId()
	if worker == 0 || registered.GetTtl().AsDuration() < time.Second {
		t.Fatalf("registered: %v", registered)
	}
	enqueueOne(t, n, &beaverv1.NewJob{Queue: "q"})
	jobs := must[beaverv1.FetchResponse](t)(n.jobs.Fetch(t.Context(), call(&beaverv1.FetchRequest{Queues: []string{"q"}, WorkerId: worker}))).GetJobs()
	if len(jobs) != 1 || jobs[0].GetDeadline() != nil {
		t.Fatalf("fetched: %v", jobs)
	}
	must[beaverv1.SignalWorkerResponse](t)(n.workers.SignalWorker(t.Context(), call(&beaverv1.SignalWorkerRequest{
		WorkerId: worker, State: beaverv1.WorkerState_WORKER_STATE_QUIET,
	})))
	beat := must[beaverv1.HeartbeatResponse](t)(n.workers.Heartbeat(t.Context(), call(&beaverv1.HeartbeatRequest{
		WorkerId: worker,
		Held: []*beaverv1.LeaseRef{
			{Id: jobs[0].GetId(), Token: jobs[0].GetToken()}, {Id: jobs[0].GetId(), Token: jobs[0].GetToken() + 1},
		},
	})))
	if beat.GetState() != beaverv1.WorkerState_WORKER_STATE_QUIET || len(beat.GetLost()) != 1 || beat.GetTtl() == nil {
		t.Errorf("heartbeat: %v", beat)
	}
	all := must[beaverv1.ListWorkersResponse](t)(n.workers.ListWorkers(t.Context(), call(&beaverv1.ListWorkersRequest{}))).GetWorkers()
	if len(all) != 1 || all[0].GetRunning() != 1 || all[0].GetInfo().GetLabels()[0] != "gpu" || all[0].GetInfo().GetPid() != 7 {
		t.Errorf("workers: %v", all)
	}
	must[beaverv1.DeregisterResponse](t)(n.workers.Deregister(t.Context(), call(&beaverv1.DeregisterRequest{WorkerId: worker})))
	if got := getJob(t, n, jobs[0].GetId()); got.GetState() != beaverv1.JobState_JOB_STATE_READY || got.GetCrashes() != 0 {
		t.Errorf("after the goodbye: %v", got)
	}
	_, err := n.workers.Heartbeat(t.Context(), call(&beaverv1.HeartbeatRequest{WorkerId: worker}))
	refused(t, err, connect.CodeNotFound, "WORKER_LOST", "")
}

func TestStatus(t *testing.T) {
	n := newTestNode(t, Options{Version: "v9"})
	s := must[beaverv1.GetStatusResponse](t)(n.node.GetStatus(t.Context(), call(&beaverv1.GetStatusRequest{})))
	if !s.GetReady() || s.GetVersion() != "v9" || s.GetNodeId() == 0 || len(s.GetShards()) < 2 || s.GetDataDir() == "" ||
		s.GetLog().GetDiskTotalBytes() == 0 || s.GetRecovery().GetDuration() == nil || s.GetShards()[0].GetRole() != "leader" {
		t.Errorf("status: %v", s)
	}
}

// A session's repeat gets the first answer, and stores nothing.
func TestSession(t *testing.T) {
	n := newTestNode(t, Options{})
	request := &beaverv1.EnqueueRequest{
		Jobs: []*beaverv1.NewJob{{Queue: "q"}, {Queue: "q"}}, Session: []byte("0123456789abcdef"), Sequence: 1,
	}
	first := must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(request)))
	second := must[beaverv1.EnqueueResponse](t)(n.jobs.Enqueue(t.Context(), call(request)))
	if first.GetDuplicate() || !second.GetDuplicate() || first.GetIds()[1] != second.GetIds()[1] {
		t.Errorf("first %v, second %v", first, second)
	}
	q := must[beaverv1.GetQueueResponse](t)(n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: "q"}))).GetQueue()
	if q.GetReady() != 2 {
		t.Errorf("queue: %v", q)
	}
}
