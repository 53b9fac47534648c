package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/beaver-raft/beaver"
	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// post sends a body as plain curl does when contentType is empty, and returns the status and the body.
func post(t *testing.T, url, contentType, body string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

// What people do with curl, right and wrong.
func TestCurl(t *testing.T) {
	n := newTestNode(t, Options{})
	const enqueue, form = "/beaver.v1.JobService/Enqueue", "application/x-www-form-urlencoded"
	tests := []struct {
		path, contentType, body string
		status                  int
		want                    string
	}{
		{enqueue, "application/json", `{"queue":"mail","payload":{"to":"ada"}}`, 200, `{"ids":["0`},
		{enqueue, form, `{"queue":"mail","payload":{"to":"ada"}}`, 200, `{"ids":["0`},
		{enqueue, "", ` {"queue":"mail","payload":1}`, 200, `{"ids":["0`},
		{enqueue, "application/json; charset=utf-8", `{"queue":"mail"}`, 200, `{"ids":["0`},
		{"/beaver.v1.QueueService/ListQueues", "", "", 200, `{"queues":[{"name":"mail"`},
		{"/beaver.v1.JobService/Fetch", form, `{"queues":["mail"]}`, 200, `"payload":{"to":"ada"},"contentType":"application/json"`},
		{enqueue, form, `queue=mail`, 415, `not a JSON object`},
		{enqueue, "text/plain", `{}`, 415, `content type \"text/plain\" is not understood`},
		{enqueue, "text/plain", `{}`, 415, `{"code":"invalid_argument","message":"content type`}, // in this order for people's eyes
		{enqueue, "application/json; charset=UTF-8", `{"queue":"mail"}`, 200, `{"ids":["0`},
		{enqueue, "application/json; charset=latin1", `{"queue":"mail"}`, 415, `the charset latin1 is not understood: JSON is UTF-8`},
		{enqueue, "application/json; profile=x", `{"queue":"mail"}`, 200, `{"ids":["0`},
		{enqueue, "application/connect+json", `{"queue":"mail"}`, 415, `send application/json or application/proto`},
		{"/beaver.v1.JobService/Work", "", `{}`, 505, `this is a stream: open it over HTTP/2`},
		{"/beaver.v1.JobService/EnqueueStream", "application/connect+proto", ``, 505, `NO_STREAM`},
		{enqueue, "application/json", `{"queue":"mail","queue":"x"}`, 400, `queue: given twice"`},
		{enqueue, "application/json", `{"jobs":[{"queue":"q","maxAttempts":1,"max_attempts":2}]}`, 400, `given twice, as maxAttempts and as max_attempts`},
		{enqueue, "application/json", `{"queue":"mail","priority":-1}`, 400, `priority: is -1: want a whole number, at most 9`},
		{enqueue, "application/json", `{"jobs":[{"queue":"mail","maxAttempts":1e30}]}`, 400, `jobs[0].max_attempts: is 1e30: want a whole number, at most 1000`},
		{enqueue, "application/json", `{"queue":"mail","metadata":{"":"x"}}`, 400, `metadata: has an empty key`},
		{enqueue, "application/json", `{"queue":`, 400, `not valid JSON: line 1`},
		{enqueue, "application/json", `{"queue":"q","retry":"never"}`, 400, `retry: is the string \"never\": want an object with exponential, fixed, list, never, jitterPercent`},
		{enqueue, "application/json", `{}`, 400, `jobs: missing`},
		{enqueue, "application/json", `{"payload":1}`, 400, `queue is missing or empty; want the name of a queue`},
		{enqueue, "application/json", `{"queue":"q","sequence":1,"session":"abc"}`, 400, `session: has 2 bytes: want 16 random ones, which are in base64 in JSON`},
		{"/beaver.v1.WorkerService/SignalWorker", "", `{"workerId":77,"state":"stop"}`, 404, `no worker with this id is registered`},
		{enqueue, "application/json", `{"queue":"a b"}`, 400, `no queue name`},
		{enqueue, "application/json", `{"queue":"q","prioritty":1}`, 400, `did you mean priority?`},
		{enqueue, "application/json", `{"queue":"q","priority":10}`, 400, `want 0 (first) to 9 (last)`},
		{enqueue, "application/json", `{"queue":"q","delay":"1s","runAt":"2030-01-01T00:00:00Z"}`, 400, `either delay or run_at`},
		{enqueue, "application/json", `{"queue":"q","metadata":{"a":1}}`, 400, `want a string`},
		{enqueue, "application/json", `{"jobs":[{"queue":"q"},{"queue":"q","kind":"` + strings.Repeat("k", 201) + `"}]}`, 200, `"field":"jobs[1].kind"`},
		{enqueue, "application/json", `{"queue":"q","payload":"` + strings.Repeat("p", 1<<20) + `"}`, 400, `"debug":{"reason":"TOO_LARGE","field":"payload"}`},
		{"/beaver.v1.JobService/Fetch", "", `{}`, 400, `queues: missing`},
		{"/beaver.v1.JobService/Fetch", "", `{"queues":["q"],"max":1001}`, 400, `want 1 to 1000`},
		{"/beaver.v1.JobService/Fetch", "", `{"queues":["q"],"wait":"1h"}`, 400, `want at most 10m`},
		{"/beaver.v1.JobService/Fetch", "", `{"queues":["q"],"workerId":99}`, 404, `WORKER_LOST`},
		{"/beaver.v1.JobService/Ack", "", `{"id":"00000000000000zz","token":1}`, 404, `not_found`},
		{"/beaver.v1.JobService/Ack", "", `{"id":"zz","token":1}`, 400, `not a job id`},
		{"/beaver.v1.JobService/GetJob", "", `{}`, 400, `id: missing`},
		{"/beaver.v1.JobService/ListJobs", "", `{"queue":"mail","state":"done"}`, 400, `want one of scheduled`},
		{"/beaver.v1.JobService/ListJobs", "", `{"queue":"mail","state":"ready","pageSize":1001}`, 400, `want 1 to 1000`},
		{"/beaver.v1.JobService/ListJobs", "", `{"queue":"mail","state":"ready","pageToken":"?"}`, 400, `page_token`},
		{"/beaver.v1.JobService/RetryDead", "", `{}`, 400, `ids: missing`},
		{"/beaver.v1.JobService/RetryDead", "", `{"queue":"mail","pageToken":"x"}`, 400, `page_token was not given out`},
		{"/beaver.v1.JobService/RetryDead", "", `{"ids":["000g000000000g00"],"pageToken":"x"}`, 400, `page_token: is of a queue`},
		{"/beaver.v1.QueueService/ConfigureQueue", "", `{"name":"mail","settings":{"maxAttempts":0}}`, 400, `settings.max_attempts: is 0`},
		{"/beaver.v1.QueueService/ConfigureQueue", "", `{"name":"mail","settings":{"partitions":65}}`, 400, `"message":"settings.partitions is 65; it must lie between 1 and 64"`},
		{"/beaver.v1.JobService/Enqueu", "", `{}`, 404, `did you mean /beaver.v1.JobService/Enqueue?`},
	}
	for _, test := range tests {
		status, answer := post(t, n.url+test.path, test.contentType, test.body)
		if status != test.status || !strings.Contains(answer, test.want) {
			t.Errorf("%s %s\n got %d %s\nwant %d …%s…", test.path, test.body, status, answer, test.status, test.want)
		}
		if status != 200 && !strings.Contains(answer, "beaver.v1.ErrorInfo") {
			t.Errorf("%s %s: no detail in %s", test.path, test.body, answer)
		}
		if !json.Valid([]byte(answer)) {
			t.Errorf("%s %s: not JSON: %s", test.path, test.body, answer)
		}
	}
}

func TestPages(t *testing.T) {
	n := newTestNode(t, Options{Version: "v9"})
	post(t, n.url+"/beaver.v1.JobService/Enqueue", "", `{"queue":"mail"}`)
	tests := []struct {
		path   string
		status int
		want   string
	}{
		{"/", 200, "Beaver-Raft v9"},
		{"/livez", 200, `{"live":true}`},
		{"/readyz", 200, `{"ready":true}`},
		{"/healthz", 200, `{"ready":true}`},
		{"/readyz?verbose", 200, `"version":"v9"`},
		{"/metrics", 200, `beaver_jobs{queue="mail",state="ready"} 1`},
		{"/nothing", 404, "there is nothing at /nothing; see /"},
		{"/debug/pprof/", 404, "there is nothing"},
		{"/beaver.v1.QueueService/GetQueue?encoding=json&message=%7B%22name%22:%22mail%22%7D", 200, `"ready":"1"`},
		{"/beaver.v1.JobService/Enqueue", 405, `curl -d '{\"queue\": \"mail\"`},
	}
	for _, test := range tests {
		if status, answer := get(t, n.url+test.path); status != test.status || !strings.Contains(answer, test.want) {
			t.Errorf("%s: got %d %s\nwant %d …%s…", test.path, status, answer, test.status, test.want)
		}
	}
	if status, _ := get(t, newTestNode(t, Options{Pprof: true}).url+"/debug/pprof/"); status != 200 {
		t.Errorf("pprof: %d", status)
	}
}

// Wrong methods and wrong paths are answered with what would be right, as JSON.
func TestWrongMethodsAndPaths(t *testing.T) {
	n := newTestNode(t, Options{})
	const jobs, queues = "/beaver.v1.JobService/", "/beaver.v1.QueueService/"
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
		want         []string
	}{
		{"GET", jobs + "Enqueue", 405, "POST", []string{"WRONG_HTTP_METHOD", n.url + jobs + "Enqueue"}},
		{"PUT", jobs + "Fetch", 405, "POST", []string{"PUT is not understood", `{\"queues\": [\"mail\"]`, n.url + jobs + "Fetch"}},
		{"GET", jobs + "Work", 405, "POST", []string{"this is a stream"}},
		{"GET", queues + "GetQueue?message={}", 405, "GET, POST", []string{"curl -d"}},
		{"GET", queues + "ListQueues", 405, "GET, POST", []string{"curl -d '{}' " + n.url + queues + "ListQueues"}},
		{"DELETE", queues + "GetQueue?message={}", 405, "GET, POST", []string{"curl -d"}},
		{"POST", "/", 405, "GET, HEAD", []string{"paths such as curl -d", n.url + jobs + "Enqueue"}},
		{"POST", "/readyz", 405, "GET, HEAD", []string{"POST is not understood at /readyz"}},
		{"POST", "/Enqueue", 404, "", []string{"NO_SUCH_PATH", "did you mean " + jobs + "Enqueue?"}},
		{"POST", "/beaver.v1.QueueService/", 404, "", []string{"NO_SUCH_METHOD", "is a service; name one of its procedures behind it: ConfigureQueue, ", "MoveQueue"}},
		{"POST", "/v1/jobservice/listjobs", 404, "", []string{"did you mean " + jobs + "ListJobs?"}},
		{"POST", "/beaver.v1.Queues/ListQueues", 404, "", []string{"NO_SUCH_METHOD", "did you mean " + queues + "ListQueues?"}},
		{"GET", "/nothing%20here", 404, "", []string{"there is nothing at /nothing%20here; see /"}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), tt.method, n.url+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close() // read whole
		if err != nil || response.StatusCode != tt.status || response.Header.Get("Allow") != tt.allow || !json.Valid(body) {
			t.Errorf("%s %s: got %s, Allow %q, %s, %v; want %d, %q", tt.method, tt.path, response.Status, response.Header.Get("Allow"), body, err, tt.status, tt.allow)
		}
		for _, want := range tt.want {
			if !bytes.Contains(body, []byte(want)) {
				t.Errorf("%s %s: got %s\nwant %s", tt.method, tt.path, body, want)
			}
		}
	}
}

// The size of a message has a limit, and both of its sides hold for each way a message comes in.
func TestMessageSize(t *testing.T) {
	const limit = RequestBytesMin
	n := newTestNode(t, Options{RequestBytesMax: limit})
	body := func(size int) string {
		head, tail := `{"queue":"q","payload":"`, `"}`
		return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
	}
	if status, answer := post(t, n.url+"/beaver.v1.JobService/Enqueue", "application/json", body(limit)); status != 200 {
		t.Errorf("at the limit: %d %s", status, answer)
	}
	status, answer := post(t, n.url+"/beaver.v1.JobService/Enqueue", "application/json", body(limit+1))
	if status != 413 || !strings.Contains(answer, "resource_exhausted") || !strings.Contains(answer, "at most 1048576") {
		t.Errorf("over the limit: %d %s", status, answer)
	}
	large := &beaverv1.NewJob{Queue: "q", Payload: bytes.Repeat([]byte("x"), limit)}
	s := n.jobs.EnqueueStream(t.Context())
	_ = s.Send(&beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{large}})
	_, err := s.Receive()
	refused(t, err, connect.CodeResourceExhausted, "TOO_LARGE", "")
	if !strings.Contains(err.Error(), "1048576") {
		t.Errorf("the limit is not named: %v", err)
	}
	grpc := beaverv1connect.NewJobServiceClient(n.http, n.url, connect.WithGRPC())
	_, err = grpc.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Jobs: []*beaverv1.NewJob{large}}))
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("gRPC: %v", err)
	}
}

// gRPC and gRPC-Web are served beside Connect, with details.
func TestProtocols(t *testing.T) {
	n := newTestNode(t, Options{})
	for name, option := range map[string]connect.ClientOption{
		"grpc": connect.WithGRPC(), "grpc-web": connect.WithGRPCWeb(), "json": connect.WithProtoJSON(), "gzip": connect.WithSendGzip(),
	} {
		client := beaverv1connect.NewJobServiceClient(n.http, n.url, option)
		answer, err := client.Enqueue(t.Context(), call(&beaverv1.EnqueueRequest{Queue: name}))
		if err != nil || len(answer.Msg.GetIds()) != 1 {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
		_, err = client.Ack(t.Context(), call(&beaverv1.AckRequest{Id: "x"}))
		refused(t, err, connect.CodeInvalidArgument, "INVALID", "id")
		s := client.EnqueueStream(t.Context())
		send(t, s, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: namedJobs(name, 2)})
		if ids, _ := receiveThrough(t, s, 1); len(ids) != 20 {
			t.Errorf("%s: stream answered %x", name, ids)
		}
		_ = s.CloseRequest()
	}
}

// The client over the pipe in memory is the client that programs elsewhere use.
func TestClientInProcess(t *testing.T) {
	n, err := Open(t.Context(), Options{DataDir: t.TempDir(), Listen: "-"})
	if err != nil {
		t.Fatal(err)
	}
	if n.Addr() != "" {
		t.Errorf("listens at %s", n.Addr())
	}
	client, err := n.Client()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Enqueue(t.Context(), beaver.Job{Queue: "q", Payload: []byte("x")}); err != nil {
		t.Error(err)
	}
	if err := client.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := n.Wait(); err != nil {
		t.Error(err)
	}
}

func TestOpenErrors(t *testing.T) {
	n := newTestNode(t, Options{})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"host:port":       {Listen: "nonsense"},
		"another address": {Listen: n.Addr(), DataDir: t.TempDir()},
		"Shards is":       {Shards: ShardsMax + 1},
		"WorkerTTL is":    {WorkerTTL: WorkerTTLMin - 1},
		"RequestBytesMax": {RequestBytesMax: RequestBytesMin - 1},
		"ConnectionsMax":  {ConnectionsMax: -1},
		"LogFileBytes":    {LogFileBytes: -1},
		"SnapshotBytes":   {SnapshotBytes: -1},
		"lock":            {DataDir: n.opts.DataDir, Listen: "127.0.0.1:0"},
		"file":            {DataDir: file, Listen: "127.0.0.1:0"},
	} {
		s, err := Open(context.Background(), opts)
		if err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close(context.Background())
			continue
		}
		t.Log(err)
		if !strings.Contains(err.Error(), name) {
			t.Errorf("want %q in %v", name, err)
		}
	}
}

// Connections beyond the limit wait, and get their turn.
func TestConnectionLimit(t *testing.T) {
	n := newTestNode(t, Options{ConnectionsMax: 1})
	first, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan int, 1)
	go func() {
		status, _ := get(t, n.url+"/livez")
		done <- status
	}()
	if _, err := first.Write([]byte("GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(first); err != nil || !strings.Contains(string(answer), "200 OK") {
		t.Errorf("first: %s, %v", answer, err)
	}
	_ = first.Close()
	if status := <-done; status != 200 {
		t.Errorf("second: %d", status)
	}
	http.DefaultClient.CloseIdleConnections()
}
