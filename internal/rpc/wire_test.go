package rpc

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fullJob is a NewJob with every field set.
func fullJob() *beaverv1.NewJob {
	priority, jitter := uint32(0), uint32(7)
	return &beaverv1.NewJob{
		Queue: "mail", Kind: "send", Payload: []byte(`{"to":"ada"}`), ContentType: contentTypeJSON, Priority: &priority,
		RunAt: timestamppb.New(time.UnixMilli(1_800_000_000_123)), ExpiresAt: timestamppb.New(time.UnixMilli(1_900_000_000_000)),
		MaxAttempts: 3, Timeout: durationpb.New(90 * time.Second), Metadata: map[string]string{"z": "26", "a": "1", "m": ""}, OrderingKey: "ada",
		UniqueKey: "welcome", UniqueUntil: beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED, UniqueFor: durationpb.New(time.Hour),
		Retry: &beaverv1.RetryPolicy{
			JitterPercent: &jitter,
			Kind: &beaverv1.RetryPolicy_List{List: &beaverv1.RetryPolicy_Delays{
				Delays: []*durationpb.Duration{durationpb.New(time.Second), durationpb.New(1500 * time.Microsecond)},
			}},
		},
	}
}

func fullSpec() engine.Spec {
	return engine.Spec{
		Priority: 0, RunAt: 1_800_000_000_123, ExpiresAt: 1_900_000_000_000, MaxAttempts: 3, TimeoutMillis: 90_000,
		Kind: "send", ContentType: contentTypeJSON, Payload: []byte(`{"to":"ada"}`),
		Retry:    queue.Retry{Kind: queue.RetryList, JitterPercent: 7, List: []int64{1000, 2}},
		Metadata: []engine.KeyValue{{Key: "a", Value: "1"}, {Key: "m"}, {Key: "z", Value: "26"}}, OrderingKey: "ada",
		UniqueKey: "welcome", UniqueUntil: queue.UniqueUntilStarted, UniqueForMillis: 3_600_000,
	}
}

func TestDecodeEnqueue(t *testing.T) {
	job := fullJob()
	single := &beaverv1.EnqueueRequest{
		Queue: job.GetQueue(), Kind: job.GetKind(), Payload: job.GetPayload(), ContentType: job.GetContentType(), Priority: job.Priority,
		RunAt: job.GetRunAt(), ExpiresAt: job.GetExpiresAt(), MaxAttempts: job.GetMaxAttempts(), Retry: job.GetRetry(),
		Timeout: job.GetTimeout(), Metadata: job.GetMetadata(), OrderingKey: job.GetOrderingKey(),
		UniqueKey: job.GetUniqueKey(), UniqueUntil: job.GetUniqueUntil(), UniqueFor: job.GetUniqueFor(),
	}
	session := engine.SessionID{1, 2, 3, 15: 16}
	batch := &beaverv1.EnqueueRequest{
		Jobs: []*beaverv1.NewJob{job, {Queue: "q"}, job}, Atomic: true, Session: session[:], Sequence: 1 << 40,
	}
	for name, msg := range map[string]*beaverv1.EnqueueRequest{"single": single, "batch": batch} {
		var in enqueueRequest
		in.setProto(mustMarshal(t, msg))
		if in.err != nil {
			t.Fatalf("%s: %v", name, in.err)
		}
		want := engine.NewJob{Queue: "mail", Spec: fullSpec()}
		for i, got := range in.request.Jobs {
			if name == "batch" && i == 1 {
				if got.Queue != "q" || got.Spec.Priority != priorityDefault || len(got.Spec.Metadata) != 0 || got.Spec.Kind != "" {
					t.Errorf("%s: job %d: %+v", name, i, got)
				}
				continue
			}
			if !reflect.DeepEqual(got, want) { //nolint:govet // The errors inside are our own values, compared field by field.
				t.Errorf("%s: job %d:\n got %+v\nwant %+v", name, i, got, want)
			}
		}
		if name == "batch" && (len(in.request.Jobs) != 3 || !in.request.Atomic || in.request.Session != session || in.request.Sequence != 1<<40) {
			t.Errorf("batch: %+v", in.request)
		}
		in.release()
	}
}

// What a message leaves behind in the buffers must not show in the next one.
func TestDecodeReuse(t *testing.T) {
	var in streamRequest
	in.setProto(mustMarshal(t, &beaverv1.EnqueueStreamRequest{
		Session: make([]byte, 16), Sequence: 1, Atomic: true, Jobs: []*beaverv1.NewJob{fullJob(), fullJob()},
	}))
	in.setProto(mustMarshal(t, &beaverv1.EnqueueStreamRequest{Sequence: 2, Jobs: []*beaverv1.NewJob{{Queue: "b"}}}))
	want := engine.NewJob{Queue: "b", Spec: engine.Spec{Priority: priorityDefault, Metadata: []engine.KeyValue{}}}
	if in.err != nil || in.hasSession || in.request.Atomic || len(in.request.Jobs) != 1 || !reflect.DeepEqual(in.request.Jobs[0], want) { //nolint:govet // The errors inside are our own values, compared field by field.
		t.Errorf("got %+v, err %v", in.request, in.err)
	}
}

// TestDecodeBadJob: what is wrong with one job is in that job.
func TestDecodeBadJob(t *testing.T) {
	priority := uint32(10)
	for field, bad := range map[string]*beaverv1.NewJob{
		"priority": {Priority: &priority},
		"run_at":   {RunAt: &timestamppb.Timestamp{Seconds: -1}},
		"delay":    {Delay: durationpb.New(time.Second), RunAt: timestamppb.Now()},
		"timeout":  {Timeout: durationpb.New(11 * 366 * 24 * time.Hour)},
		"retry":    {Retry: &beaverv1.RetryPolicy{}},
		"retry.list.delays": {Retry: &beaverv1.RetryPolicy{Kind: &beaverv1.RetryPolicy_List{
			List: &beaverv1.RetryPolicy_Delays{Delays: []*durationpb.Duration{durationpb.New(-1)}},
		}}},
	} {
		var in streamRequest
		for range 2 { // the second time in used buffers
			in.setProto(mustMarshal(t, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{{Queue: "a"}, bad, {Queue: "b"}}}))
			jobs := in.request.Jobs
			if in.err != nil || len(jobs) != 3 || jobs[0].Err != nil || jobs[1].Err == nil || jobs[1].Err.Field != field || jobs[2].Err != nil {
				t.Errorf("want field %s of the second job alone, got %+v, err %v", field, jobs, in.err)
			}
			in.setProto(mustMarshal(t, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{{}, {}, {}}}))
			if in.err != nil || in.request.Jobs[1].Err != nil {
				t.Errorf("after it: %+v, err %v", in.request.Jobs, in.err)
			}
		}
	}
}

func TestDecodeEnqueueRefusals(t *testing.T) {
	priority := uint32(10)
	jobs := make([]*beaverv1.NewJob, EnqueueJobsMax+1)
	for i := range jobs {
		jobs[i] = &beaverv1.NewJob{Queue: "q"}
	}
	tests := []struct {
		field string
		msg   *beaverv1.EnqueueRequest
	}{
		{"jobs", &beaverv1.EnqueueRequest{Jobs: jobs}},
		{"jobs", &beaverv1.EnqueueRequest{Queue: "q", Jobs: jobs[:1]}},
		{"priority", &beaverv1.EnqueueRequest{Priority: &priority}},
		{"session", &beaverv1.EnqueueRequest{Session: []byte("short")}},
		{"delay", &beaverv1.EnqueueRequest{Delay: durationpb.New(time.Second), RunAt: timestamppb.Now()}},
		{"delay", &beaverv1.EnqueueRequest{Delay: durationpb.New(-time.Second)}},
		{"delay", &beaverv1.EnqueueRequest{Delay: durationpb.New(11 * 366 * 24 * time.Hour)}},
		{"run_at", &beaverv1.EnqueueRequest{RunAt: &timestamppb.Timestamp{Seconds: -1}}},
		{"run_at", &beaverv1.EnqueueRequest{RunAt: &timestamppb.Timestamp{Nanos: -1}}},
		{"retry", &beaverv1.EnqueueRequest{Retry: &beaverv1.RetryPolicy{}}},
		{"unique_until", &beaverv1.EnqueueRequest{UniqueUntil: beaverv1.UniqueUntil_UNIQUE_UNTIL_ENDED}},
	}
	for _, test := range tests {
		var in enqueueRequest
		in.setProto(mustMarshal(t, test.msg))
		if e, ok := errors.AsType[*engine.Error](in.err); !ok || e.Field != test.field || e.Code != engine.CodeInvalidArgument {
			t.Errorf("want field %s, got %+v", test.field, in.err)
		}
	}
	var in enqueueRequest
	in.setProto(mustMarshal(t, &beaverv1.EnqueueRequest{Jobs: jobs[:EnqueueJobsMax]}))
	if in.err != nil || len(in.request.Jobs) != EnqueueJobsMax {
		t.Errorf("%d jobs: %v", EnqueueJobsMax, in.err)
	}
}

func TestDelayCountsFromNow(t *testing.T) {
	before := toMillis(time.Now())
	var in enqueueRequest
	in.setProto(mustMarshal(t, &beaverv1.EnqueueRequest{Queue: "q", Delay: durationpb.New(time.Hour)}))
	after := toMillis(time.Now())
	hour := queue.Millis(time.Hour.Milliseconds())
	if got := in.request.Jobs[0].Spec.RunAt; got < before+hour || got > after+hour {
		t.Errorf("run at %d, want %d to %d", got, before+hour, after+hour)
	}
}

func TestEncodeJobs(t *testing.T) {
	id := engine.JobID{Shard: 3, Pos: queue.MakePos(77, 5)}
	full := engine.FetchedJob{
		ID: id, Token: 1 << 50, QueueName: "mail", Attempt: 2, Failures: 1, Crashes: 300,
		Deadline: time.UnixMilli(1_800_000_000_001), Spec: fullSpec(),
	}
	full.Spec.Priority, full.Spec.EnqueuedAt = 9, 1_700_000_000_999
	jobs := []engine.FetchedJob{full, {ID: id, Token: 1}}
	want := &beaverv1.FetchResponse{Jobs: []*beaverv1.LeasedJob{{
		Id: id.String(), Token: 1 << 50, Queue: "mail", Kind: "send", Payload: full.Spec.Payload, ContentType: contentTypeJSON,
		Priority: 9, Attempt: 2, Failures: 1, Crashes: 300, Deadline: timestamppb.New(full.Deadline),
		EnqueuedAt: timestamppb.New(time.UnixMilli(1_700_000_000_999)), Metadata: map[string]string{"a": "1", "m": "", "z": "26"}, OrderingKey: "ada",
		UniqueKey: "welcome",
	}, {Id: id.String(), Token: 1}}}
	compareEncoded(t, &fetchResponse{jobs: jobs}, want)

	lease := engine.LeaseRef{ID: id, Token: 9}
	ref := &beaverv1.LeaseRef{Id: id.String(), Token: 9}
	refused := &engine.Error{Code: engine.CodeFailedPrecondition, Reason: "LEASE_LOST", Message: "gone"}
	pbRefused := &beaverv1.JobError{Code: "failed_precondition", Reason: "LEASE_LOST", Message: "gone"}
	compareEncoded(t, &workResponse{
		worker: 5, ttl: 5 * time.Second, jobs: jobs, through: 12, refused: []refusal{{lease: lease, err: refused}},
		cancel: []engine.LeaseRef{lease}, lost: []engine.LeaseRef{lease, lease}, state: beaverv1.WorkerState_WORKER_STATE_QUIET,
	}, &beaverv1.WorkResponse{
		Welcome: &beaverv1.Welcome{WorkerId: 5, Ttl: durationpb.New(5 * time.Second)}, Jobs: want.GetJobs(), OutcomesThrough: 12,
		Refused: []*beaverv1.OutcomeRefused{{Id: id.String(), Token: 9, Error: pbRefused}},
		Cancel:  []*beaverv1.LeaseRef{ref}, Lost: []*beaverv1.LeaseRef{ref, ref}, State: beaverv1.WorkerState_WORKER_STATE_QUIET,
	})
	compareEncoded(t, &workResponse{}, &beaverv1.WorkResponse{})

	compareEncoded(t, &finishResponse{ended: []engine.Ended{{State: queue.StateCompleted}, {State: queue.StateDead, Err: refused}}},
		&beaverv1.FinishResponse{
			States: []beaverv1.JobState{beaverv1.JobState_JOB_STATE_COMPLETED, beaverv1.JobState_JOB_STATE_UNSPECIFIED},
			Errors: []*beaverv1.JobError{{Index: 1, Code: pbRefused.GetCode(), Reason: "LEASE_LOST", Message: "gone", Field: "outcomes[1]"}},
		})

	answers := []engine.Enqueued{{ID: id, Existing: true}, {Err: &engine.Error{Code: engine.CodeResourceExhausted, Reason: "QUEUE_FULL", Field: "queue"}}}
	full1 := &beaverv1.JobError{Index: 1, Code: "resource_exhausted", Reason: "QUEUE_FULL", Field: "jobs[1].queue"}
	var enqueued enqueueResponse
	enqueued.fill(answers, func(i int) string { return indexed("jobs", i) })
	compareEncoded(t, &enqueued, &beaverv1.EnqueueResponse{
		Ids: []string{id.String(), ""}, Errors: []*beaverv1.JobError{full1}, Existing: []bool{true, false},
	})

	var streamed streamResponse
	streamed.add(7, answers[:1])
	streamed.add(8, answers)
	compareEncoded(t, &streamed, &beaverv1.EnqueueStreamResponse{
		Through: 8, Ids: append(appendBinaryID(appendBinaryID(nil, id), id), make([]byte, 10)...),
		Errors:   []*beaverv1.JobError{{Index: 2, Code: "resource_exhausted", Reason: "QUEUE_FULL", Field: "queue"}},
		Existing: []uint32{0, 1},
	})
	streamed.reset()
	streamed.add(9, []engine.Enqueued{{ID: id}})
	compareEncoded(t, &streamed, &beaverv1.EnqueueStreamResponse{Through: 9, Ids: appendBinaryID(nil, id)})
}

func compareEncoded(t *testing.T, out outbound, want proto.Message) {
	t.Helper()
	got := out.message()
	if err := proto.Unmarshal(out.appendProto(nil), got); err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestDecodeWork(t *testing.T) {
	id := engine.JobID{Shard: 1, Pos: queue.MakePos(9, 1)}
	in := new(workRequest)
	in.setProto(mustMarshal(t, &beaverv1.WorkRequest{
		Hello: &beaverv1.WorkerInfo{Name: "w"}, WorkerId: 3, Credits: 10, OutcomesSequence: 4, Quiet: true,
		Outcomes: []*beaverv1.Outcome{
			{Id: id.String(), Token: 5, Result: []byte("1"), ContentType: contentTypeJSON},
			{Id: id.String(), Token: 6, Failure: &beaverv1.Failure{Type: "T", Message: "m", Stack: "s", Final: true, RetryAfter: durationpb.New(time.Second)}},
			{Id: id.String(), Token: 7, Release: true},
		},
		Held: []*beaverv1.LeaseRef{{Id: id.String(), Token: 8}}, Received: 300, Complete: true,
	}))
	want := []engine.Outcome{
		{Kind: engine.OutcomeAck, ID: id, Token: 5, Result: []byte("1"), ContentType: contentTypeJSON},
		{Kind: engine.OutcomeFail, ID: id, Token: 6, Failure: engine.Failure{Type: "T", Message: "m", Stack: "s", Final: true, DelayMillis: 1000}},
		{Kind: engine.OutcomeRelease, ID: id, Token: 7},
	}
	if in.err != nil || !reflect.DeepEqual(in.outcomes, want) { //nolint:govet // The errors inside are our own values, compared field by field.
		t.Errorf("outcomes %+v, err %v", in.outcomes, in.err)
	}
	if in.hello.GetName() != "w" || in.worker != 3 || in.credits != 10 || in.sequence != 4 || !in.quiet ||
		!reflect.DeepEqual(in.held, []engine.LeaseRef{{ID: id, Token: 8}}) {
		t.Errorf("got %+v", in)
	}
	for field, msg := range map[string]*beaverv1.WorkRequest{
		"outcomes[0].id": {Outcomes: []*beaverv1.Outcome{{Token: 1}}},
		"outcomes[1].id": {Outcomes: []*beaverv1.Outcome{{Id: id.String()}, {Id: "nonsense"}}},
		"held[0].id":     {Held: []*beaverv1.LeaseRef{{Id: "x"}}},
	} {
		in.reset()
		in.setProto(mustMarshal(t, msg))
		if e, ok := errors.AsType[*engine.Error](in.err); !ok || e.Field != field {
			t.Errorf("want field %s, got %+v", field, in.err)
		}
	}
	for field, bad := range map[string]*beaverv1.Outcome{
		"release":             {Release: true, Failure: &beaverv1.Failure{}},
		"failure.retry_after": {Failure: &beaverv1.Failure{RetryAfter: durationpb.New(-1)}},
	} {
		bad.Id, bad.Token = id.String(), 9
		in.reset()
		in.setProto(mustMarshal(t, &beaverv1.WorkRequest{Outcomes: []*beaverv1.Outcome{bad, {Id: id.String(), Token: 10}}}))
		if in.err != nil || len(in.outcomes) != 2 || in.outcomes[0].Token != 9 || in.outcomes[0].Err == nil ||
			in.outcomes[0].Err.Field != field || in.outcomes[1].Err != nil {
			t.Errorf("want field %s of the first outcome alone, got %+v, err %v", field, in.outcomes, in.err)
		}
	}
}

// FuzzEnqueueRequest: the hand-written decoder never panics, and agrees with the generated code on what it accepts.
func FuzzEnqueueRequest(f *testing.F) {
	f.Add(mustMarshal(f, &beaverv1.EnqueueRequest{Jobs: []*beaverv1.NewJob{fullJob()}, Session: make([]byte, 16)}))
	f.Add(mustMarshal(f, &beaverv1.EnqueueRequest{Queue: "q", Payload: []byte("p"), Delay: durationpb.New(1)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in enqueueRequest
		in.setProto(data)
		defer in.release()
		want := new(beaverv1.EnqueueRequest)
		if err := proto.Unmarshal(data, want); err != nil || in.err != nil {
			return
		}
		if len(want.GetJobs()) == 0 {
			return
		}
		if len(in.request.Jobs) != len(want.GetJobs()) || in.request.Atomic != want.GetAtomic() || in.request.Sequence != want.GetSequence() {
			t.Fatalf("got %+v\nwant %v", in.request, want)
		}
		for i, got := range in.request.Jobs {
			job := want.GetJobs()[i]
			if got.Err != nil {
				continue // refused: decoding went no further
			}
			if got.Queue != job.GetQueue()+job.GetUniqueQueue() || got.Spec.Kind != job.GetKind() || string(got.Spec.Payload) != string(job.GetPayload()) ||
				got.Spec.ContentType != job.GetContentType() || got.Spec.MaxAttempts != job.GetMaxAttempts() ||
				len(got.Spec.Metadata) != len(job.GetMetadata()) || got.Spec.UniqueKey != job.GetUniqueKey() {
				t.Fatalf("job %d: got %+v\nwant %v", i, got, job)
			}
		}
	})
}

// FuzzWorkRequest: the hand-written decoder never panics, and agrees with the generated code on what it accepts.
func FuzzWorkRequest(f *testing.F) {
	id := engine.JobID{Shard: 1, Pos: 9}.String()
	f.Add(mustMarshal(f, &beaverv1.WorkRequest{
		Hello: &beaverv1.WorkerInfo{}, Credits: 1, Outcomes: []*beaverv1.Outcome{{Id: id, Failure: &beaverv1.Failure{}}},
		Held: []*beaverv1.LeaseRef{{Id: id}}, Received: 1, Complete: true,
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := new(workRequest)
		in.setProto(data)
		want := new(beaverv1.WorkRequest)
		if err := proto.Unmarshal(data, want); err != nil || in.err != nil {
			return
		}
		if len(in.outcomes) != len(want.GetOutcomes()) || len(in.held) != len(want.GetHeld()) || in.credits != want.GetCredits() ||
			in.quiet != want.GetQuiet() || uint64(in.worker) != want.GetWorkerId() || in.sequence != want.GetOutcomesSequence() ||
			in.received != want.GetReceived() || in.complete != want.GetComplete() {
			t.Fatalf("got %+v\nwant %v", in, want)
		}
	})
}
