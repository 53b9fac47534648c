package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const enqueuePath = "/beaver.v1.JobService/Enqueue"

// curled is what an enqueue by curl answers.
type curled struct {
	IDs       []string `json:"ids"`
	Existing  []bool   `json:"existing"`
	Duplicate bool     `json:"duplicate"`
	Errors    []struct {
		Index               int
		Code, Reason, Field string
	} `json:"errors"`
}

// curl stores jobs as a person does.
func curl(t *testing.T, n *testNode, body string) curled {
	t.Helper()
	status, answer := post(t, n.url+enqueuePath, "", body)
	var out curled
	if err := json.Unmarshal([]byte(answer), &out); err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d %s, %v", body, status, answer, err)
	}
	return out
}

// stored checks that a request's one job was stored, and returns its id.
func stored(t *testing.T, got curled) string {
	t.Helper()
	if len(got.IDs) != 1 || len(got.Existing) != 0 {
		t.Fatalf("got %+v, want a job that was stored", got)
	}
	return got.IDs[0]
}

// existing checks that a request's one job was not stored, since id holds its key.
func existing(t *testing.T, got curled, id string) {
	t.Helper()
	if len(got.IDs) != 1 || got.IDs[0] != id || len(got.Existing) != 1 || !got.Existing[0] {
		t.Fatalf("got %+v, want %s, which exists", got, id)
	}
}

func ack(t *testing.T, n *testNode, job *beaverv1.LeasedJob) {
	t.Helper()
	must[beaverv1.AckResponse](t)(n.jobs.Ack(t.Context(), call(&beaverv1.AckRequest{Id: job.GetId(), Token: job.GetToken()})))
}

// die makes a job dead.
func die(t *testing.T, n *testNode, job *beaverv1.LeasedJob) {
	t.Helper()
	must[beaverv1.FailResponse](t)(n.jobs.Fail(t.Context(), call(&beaverv1.FailRequest{
		Id: job.GetId(), Token: job.GetToken(), Failure: &beaverv1.Failure{Message: "no", Final: true},
	})))
}

func getQueue(t *testing.T, n *testNode, name string) *beaverv1.Queue {
	t.Helper()
	return must[beaverv1.GetQueueResponse](t)(n.queues.GetQueue(t.Context(), call(&beaverv1.GetQueueRequest{Name: name}))).GetQueue()
}

// A key is held by one job at a time, from its enqueue until it has ended.
func TestUniqueUntilEnded(t *testing.T) {
	n := newTestNode(t, Options{})
	const body = `{"queue":"sync","payload":{},"uniqueKey":"account-42"}`
	first := stored(t, curl(t, n, body))
	existing(t, curl(t, n, body), first)
	stored(t, curl(t, n, `{"queue":"sync","uniqueKey":"account-43"}`))
	stored(t, curl(t, n, `{"queue":"other","uniqueKey":"account-42"}`))
	stored(t, curl(t, n, `{"queue":"sync","uniqueKey":"account-42","orderingKey":"eu"}`))
	if got := getJob(t, n, first); got.GetUniqueKey() != "account-42" || got.GetUniqueUntil() != beaverv1.UniqueUntil_UNIQUE_UNTIL_ENDED || got.GetUniqueFor() != nil {
		t.Errorf("the job: %v", got)
	}
	if q := getQueue(t, n, "sync"); q.GetUniqueKeys() != 3 || q.GetDeduplicatedTotal() != 1 || q.GetReady() != 3 || q.GetEnqueuedTotal() != 3 {
		t.Errorf("the queue: %v", q)
	}
	_, metrics := get(t, n.url+"/metrics")
	for _, line := range []string{`beaver_unique_keys{queue="sync"} 3`, `beaver_jobs_deduplicated_total{queue="sync"} 1`} {
		if !strings.Contains(metrics, "\n"+line+"\n") {
			t.Errorf("metrics: no %s", line)
		}
	}
	job := fetchOne(t, n, "sync")
	if job.GetId() != first || job.GetUniqueKey() != "account-42" {
		t.Errorf("leased: %v", job)
	}
	existing(t, curl(t, n, body), first)
	ack(t, n, job)
	second := stored(t, curl(t, n, body))
	existing(t, curl(t, n, body), second)
	must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: second})))
	stored(t, curl(t, n, body))
}

// With until started, one more may wait while one runs, and no more.
func TestUniqueUntilStarted(t *testing.T) {
	n := newTestNode(t, Options{})
	const body = `{"queue":"reindex","uniqueKey":"shop","uniqueUntil":"started"}`
	first := stored(t, curl(t, n, body))
	existing(t, curl(t, n, body), first)
	running := fetchOne(t, n, "reindex")
	second := stored(t, curl(t, n, body))
	existing(t, curl(t, n, body), second)
	must[beaverv1.ReleaseResponse](t)(n.jobs.Release(t.Context(), call(&beaverv1.ReleaseRequest{Id: running.GetId(), Token: running.GetToken()})))
	existing(t, curl(t, n, body), second) // what comes back does not hold it again
	if got := getJob(t, n, first); got.GetState() != beaverv1.JobState_JOB_STATE_READY || got.GetUniqueUntil() != beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED {
		t.Errorf("released: %v", got)
	}
}

// A window holds the key when the job has ended, and lets it go by itself.
func TestUniqueFor(t *testing.T) {
	n := newTestNode(t, Options{})
	const body = `{"queue":"remind","uniqueKey":"ada","uniqueFor":"1h"}`
	first := stored(t, curl(t, n, body))
	ack(t, n, fetchOne(t, n, "remind"))
	existing(t, curl(t, n, body), first)
	if q := getQueue(t, n, "remind"); q.GetUniqueKeys() != 1 || q.GetReady() != 0 {
		t.Errorf("the queue: %v", q)
	}
	if got := getJob(t, n, first); got.GetUniqueFor().AsDuration() != time.Hour {
		t.Errorf("the job: %v", got)
	}
	const short = `{"queue":"brief","uniqueKey":"ada","uniqueFor":"50ms"}`
	first = stored(t, curl(t, n, short))
	ack(t, n, fetchOne(t, n, "brief"))
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got := curl(t, n, short)
		if len(got.Existing) == 0 && got.IDs[0] != first {
			break
		}
		existing(t, got, first)
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("the window does not pass")
		}
	}
}

// A dead job lets go of its key, and is not retried while another holds it.
func TestUniqueRetryDead(t *testing.T) {
	n := newTestNode(t, Options{})
	const body = `{"queue":"q","uniqueKey":"k"}`
	dead := stored(t, curl(t, n, body))
	die(t, n, fetchOne(t, n, "q"))
	free := stored(t, curl(t, n, `{"queue":"q"}`))
	die(t, n, fetchOne(t, n, "q"))
	holder := stored(t, curl(t, n, body))

	status, answer := post(t, n.url+"/beaver.v1.JobService/RetryDead", "", `{"ids":["`+dead+`"]}`)
	for _, want := range []string{`"reason":"UNIQUE_KEY_HELD"`, `"code":"failed_precondition"`, holder, `"field":"ids[0]"`} {
		if status != http.StatusOK || !strings.Contains(answer, want) {
			t.Errorf("retry while it is held: %d %s, want …%s…", status, answer, want)
		}
	}
	if got := getJob(t, n, dead); got.GetState() != beaverv1.JobState_JOB_STATE_DEAD {
		t.Errorf("refused: %v", got)
	}
	// All of the queue: the others are retried.
	all := must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Queue: "q"})))
	if all.GetCount() != 1 || all.GetMore() || all.GetPassedOver() != 1 || len(all.GetErrors()) != 1 || !strings.Contains(all.GetErrors()[0].GetMessage(), dead) || getJob(t, n, free).GetState() != beaverv1.JobState_JOB_STATE_READY {
		t.Errorf("retry of all: %v", all)
	}
	// And one a call: the first page has what stays dead, and the second what comes behind it.
	die(t, n, fetchOne(t, n, "q"))
	page := must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Queue: "q", Limit: 1})))
	if page.GetCount() != 0 || !page.GetMore() || page.GetPassedOver() != 1 || page.GetNextPageToken() == "" {
		t.Errorf("the first page: %v", page)
	}
	page = must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Queue: "q", Limit: 1, PageToken: page.GetNextPageToken()})))
	if page.GetCount() != 1 || page.GetMore() || page.GetPassedOver() != 0 || page.GetNextPageToken() != "" {
		t.Errorf("the second page: %v", page)
	}
	must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: holder})))
	again := must[beaverv1.DeadResponse](t)(n.jobs.RetryDead(t.Context(), call(&beaverv1.DeadRequest{Ids: []string{dead}})))
	if again.GetCount() != 1 {
		t.Errorf("retry when it is free: %v", again)
	}
	existing(t, curl(t, n, body), dead)
}

// In one request the second job with a key is answered with the first, and an existing one refuses nothing.
func TestUniqueInOneRequest(t *testing.T) {
	n := newTestNode(t, Options{})
	got := curl(t, n, `{"jobs":[{"queue":"q","uniqueKey":"a"},{"queue":"q"},{"queue":"q","uniqueKey":"a"},{"queue":"q","uniqueKey":"b"}]}`)
	if len(got.IDs) != 4 || got.IDs[2] != got.IDs[0] || got.IDs[1] == got.IDs[0] || len(got.Existing) != 4 || !got.Existing[2] || got.Existing[0] || got.Existing[1] || got.Existing[3] {
		t.Errorf("a batch: %+v", got)
	}
	atomic := curl(t, n, `{"atomic":true,"jobs":[{"queue":"q"},{"queue":"q","uniqueKey":"b"},{"queue":"q","uniqueKey":"c"},{"queue":"q","uniqueKey":"c"}]}`)
	if len(atomic.IDs) != 4 || atomic.IDs[1] != got.IDs[3] || atomic.IDs[3] != atomic.IDs[2] || len(atomic.Existing) != 4 || !atomic.Existing[1] || !atomic.Existing[3] {
		t.Errorf("an atomic one: %+v", atomic)
	}
	if q := getQueue(t, n, "q"); q.GetReady() != 5 || q.GetUniqueKeys() != 3 || q.GetDeduplicatedTotal() != 3 {
		t.Errorf("the queue: %v", q)
	}
}

// A session's repeat gets the first answers, whatever became of the holder.
func TestUniqueSession(t *testing.T) {
	n := newTestNode(t, Options{})
	holder := stored(t, curl(t, n, `{"queue":"q","uniqueKey":"k"}`))
	const body = `{"session":"MDEyMzQ1Njc4OWFiY2RlZg==","sequence":1,"jobs":[{"queue":"q","uniqueKey":"k"},{"queue":"q"}]}`
	first := curl(t, n, body)
	if first.IDs[0] != holder || len(first.Existing) != 2 || !first.Existing[0] || first.Existing[1] {
		t.Errorf("first: %+v", first)
	}
	must[beaverv1.CancelJobResponse](t)(n.jobs.CancelJob(t.Context(), call(&beaverv1.CancelJobRequest{Id: holder})))
	again := curl(t, n, body)
	if !again.Duplicate || again.IDs[0] != holder || again.IDs[1] != first.IDs[1] || len(again.Existing) != 2 || !again.Existing[0] || again.Existing[1] {
		t.Errorf("again: %+v", again)
	}
	stored(t, curl(t, n, `{"queue":"q","uniqueKey":"k"}`))
}

// A key that is held is answered also by a queue that is full.
func TestUniqueQueueFull(t *testing.T) {
	n := newTestNode(t, Options{})
	must[beaverv1.ConfigureQueueResponse](t)(n.queues.ConfigureQueue(t.Context(), call(&beaverv1.ConfigureQueueRequest{
		Name: "q", Settings: &beaverv1.QueueSettings{DepthMax: new(uint64(1))},
	})))
	first := stored(t, curl(t, n, `{"queue":"q","uniqueKey":"k"}`))
	existing(t, curl(t, n, `{"queue":"q","uniqueKey":"k"}`), first)
	if status, answer := post(t, n.url+enqueuePath, "", `{"queue":"q","uniqueKey":"l"}`); status != 429 || !strings.Contains(answer, "QUEUE_FULL") {
		t.Errorf("another key: %d %s", status, answer)
	}
}

// Streams tell which of all the jobs they answer exist. The message is that of the Go client, or another's.
func TestUniqueStream(t *testing.T) {
	n := newTestNode(t, Options{})
	s := n.jobs.EnqueueStream(t.Context())
	send(t, s, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{{Queue: "q", UniqueKey: "a"}, {UniqueQueue: "q", UniqueKey: "b"}}})
	first, err := s.Receive()
	if err != nil || len(first.GetExisting()) != 0 || len(first.GetErrors()) != 0 {
		t.Fatalf("first: %v, %v", first, err)
	}
	send(t, s, &beaverv1.EnqueueStreamRequest{Sequence: 2, Jobs: []*beaverv1.NewJob{
		{Queue: "q"}, {Queue: "q", UniqueKey: "b"}, {Queue: "q", UniqueFor: durationpb.New(time.Hour)}, {UniqueQueue: "q", UniqueKey: "a"},
	}})
	second, err := s.Receive()
	if err != nil || len(second.GetExisting()) != 2 || second.GetExisting()[0] != 1 || second.GetExisting()[1] != 3 {
		t.Fatalf("second: %v, %v", second, err)
	}
	if ids, before := second.GetIds(), first.GetIds(); string(ids[10:20]) != string(before[10:20]) || string(ids[30:40]) != string(before[:10]) {
		t.Errorf("ids %x, after %x", ids, before)
	}
	if errs := second.GetErrors(); len(errs) != 1 || errs[0].GetIndex() != 2 || errs[0].GetField() != "unique_for" {
		t.Errorf("errors: %v", errs)
	}
	_ = s.CloseRequest()
}

// Each wrong input has its own error, and each limit two sides.
func TestUniqueRefusals(t *testing.T) {
	n := newTestNode(t, Options{})
	long := strings.Repeat("k", 256)
	for body, want := range map[string]string{
		`{"queue":"q","uniqueKey":"` + long + `x"}`:                      `"reason":"TOO_LARGE","field":"unique_key"`,
		`{"queue":"q","uniqueKey":"k","uniqueFor":"720.001h"}`:           `"field":"unique_for"`,
		`{"queue":"q","uniqueKey":"k","uniqueFor":"-1s"}`:                `unique_for: is -1s: want a duration that is not negative`,
		`{"queue":"q","uniqueKey":"k","uniqueFor":60}`:                   `unique_for: is 60: want a duration`,
		`{"queue":"q","uniqueKey":"k","uniqueUntil":"done"}`:             `unique_until: is the string \"done\": want one of ended, started`,
		`{"queue":"q","uniqueUntil":"started"}`:                          `unique_until: says when a job lets go of its unique key, and the job has none: add unique_key`,
		`{"queue":"q","uniqueFor":"1h"}`:                                 `unique_for: says how long a job keeps its unique key, and the job has none: add unique_key`,
		`{"queue":"q","uniqueKey":7}`:                                    `unique_key: is 7: want a string`,
		`{"queue":"q","uniqueKye":"k"}`:                                  `did you mean uniqueKey?`,
		`{"queue":"q","uniqueQueue":"q","uniqueKey":"k"}`:                `unique_queue: give either queue or unique_queue`,
		`{"uniqueQueue":"q"}`:                                            `unique_queue: names the queue of a job with a unique key, and the job has none`,
		`{"jobs":[{"queue":"q","uniqueKey":"a"}],"uniqueKey":"account"}`: `jobs: give either jobs, or one job's fields beside them`,
	} {
		status, answer := post(t, n.url+enqueuePath, "", body)
		if status != http.StatusBadRequest || !strings.Contains(answer, want) {
			t.Errorf("%s\n got %d %s\nwant …%s…", body, status, answer, want)
		}
	}
	stored(t, curl(t, n, `{"queue":"q","uniqueKey":"`+long+`","uniqueFor":"720h"}`))
	stored(t, curl(t, n, `{"queue":"q","uniqueKey":""}`))
	stored(t, curl(t, n, `{"queue":"q","uniqueKey":"k","uniqueFor":"0s","uniqueUntil":"UNIQUE_UNTIL_ENDED"}`))
	got := curl(t, n, `{"jobs":[{"queue":"q"},{"queue":"q","uniqueKey":"`+long+`x"}]}`)
	if len(got.Errors) != 1 || got.Errors[0].Field != "jobs[1].unique_key" || got.Errors[0].Reason != "TOO_LARGE" || got.IDs[0] == "" {
		t.Errorf("one bad job of a batch: %+v", got)
	}
	_, err := n.jobs.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: []*beaverv1.NewJob{{Queue: "q", UniqueKey: "k", UniqueUntil: 9}}}))
	refused(t, err, connect.CodeInvalidArgument, "INVALID", "unique_until")
}
