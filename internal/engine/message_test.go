package engine

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

func newTestDesk() *desk { return &desk{shard: 3} }

// someCalls are calls of all shapes.
func someCalls(d *desk) []*call {
	one, two := d.newCall(), d.newCall()
	one.urgent, one.ends, one.items.Version = true, true, shard.BatchVersion
	one.items.Commit(queue.AppendAck(one.items.Buf(), 77, 5, "text/plain", []byte("done")))
	two.items.Commit(queue.AppendJob(two.items.Buf(), &Spec{Queue: 4, Priority: 5, Kind: "k", Payload: bytes.Repeat([]byte("p"), 300)}))
	two.items.Commit(queue.AppendJob(two.items.Buf(), &Spec{Queue: 9, Priority: 1, Kind: "k"}))
	two.addReady(4)
	two.addReady(9)
	return []*call{one, two}
}

func decodeCommands(d *desk, body []byte) (shard.ID, []*call, bool) {
	r := reader{b: body}
	if r.u8() != forwardVersion {
		return 0, nil, false
	}
	id, n := r.commands()
	var calls []*call
	for range n {
		c := d.newCall()
		r.command(c)
		calls = append(calls, c)
	}
	return id, calls, r.end()
}

func TestCommandsRoundTrip(t *testing.T) {
	d := newTestDesk()
	sent := someCalls(d)
	body := appendCommands(nil, d.shard, sent)
	id, got, ok := decodeCommands(d, body)
	if !ok || id != d.shard || len(got) != len(sent) {
		t.Fatalf("%v %d %d", ok, id, len(got))
	}
	for i, c := range got {
		if !reflect.DeepEqual(c.items, sent[i].items) || !reflect.DeepEqual(c.adds, sent[i].adds) || c.urgent != sent[i].urgent || c.ends != sent[i].ends || !c.foreign {
			t.Errorf("call %d: %+v, want %+v", i, c, sent[i])
		}
	}
	for at := range body { // any flipped bit of an item is noticed, and any cut
		if _, _, ok := decodeCommands(d, body[:at]); ok {
			t.Fatalf("cut at %d it decodes", at)
		}
	}
	last := bytes.Clone(body)
	last[len(last)-1] ^= 4
	if _, _, ok := decodeCommands(d, last); ok {
		t.Error("with a flipped bit it decodes")
	}
}

// TestUniqueCommandsRoundTrip: a job with a unique key goes in a message that older nodes do not take, and alone with its like.
func TestUniqueCommandsRoundTrip(t *testing.T) {
	d := newTestDesk()
	plain := someCalls(d)
	unique := d.newCall()
	r := &EnqueueRequest{Jobs: []NewJob{{Spec: Spec{Queue: 4, Kind: "k"}}, {Spec: Spec{Queue: 4, UniqueKey: "u"}, hint: JobID{Shard: 3, Pos: 4}}}}
	if _, err := encodeJobs(unique, berth{}, r, make([]Enqueued, 2), 1, nil); err != nil {
		t.Fatal(err)
	}
	sent := []*call{unique}
	id, got, ok := decodeCommands(d, appendCommands(nil, d.shard, sent))
	if !ok || id != d.shard || len(got) != 1 || !reflect.DeepEqual(got[0].items, unique.items) || got[0].items.Version != 2 {
		t.Fatalf("%v %d %+v", ok, id, got)
	}
	o := outlet{desk: d, waiting: []*call{plain[0], unique, plain[1]}}
	for _, c := range o.waiting {
		c.state.Store(callWaiting)
	}
	plain[0].items.Version = 0
	for _, want := range []*call{plain[0], unique, plain[1]} {
		if taken := o.take(false); len(taken) != 1 || taken[0] != want {
			t.Fatalf("took %v", taken)
		}
	}
}

func TestCommandAnswersRoundTrip(t *testing.T) {
	d := newTestDesk()
	calls := someCalls(d)
	calls[1].stamp, calls[1].index = 1000, 42
	calls[1].results = []queue.Result{
		{Code: queue.CodeOK, State: queue.StateReady, Pos: 99, At: 7}, {Code: queue.CodeExists, State: queue.StateRunning, Shard: 1<<16 - 1, Pos: 98},
	}
	failure := &Error{Code: CodeUnavailable, Reason: ReasonNotLeader, Message: strings.Repeat("m", errorTextMax+1), Leader: 2, Cause: errors.New("stays here")}
	body := appendCommandAnswer(appendCommandAnswer(nil, calls[0], failure), calls[1], nil)
	answers := make([]commandAnswer, 2)
	r := reader{b: body}
	if !r.commandAnswers(answers, calls) {
		t.Fatal("it does not decode")
	}
	if got := answers[0].err; got == nil || got.Code != failure.Code || got.Reason != failure.Reason || got.Leader != 2 || len(got.Message) != errorTextMax {
		t.Errorf("%+v", got)
	}
	if a := answers[1]; a.err != nil || a.stamp != 1000 || a.index != 42 || !reflect.DeepEqual(a.results, calls[1].results) {
		t.Errorf("%+v", a)
	}
	for at := range body {
		r := reader{b: body[:at]}
		if r.commandAnswers(make([]commandAnswer, 2), calls) {
			t.Fatalf("cut at %d it decodes", at)
		}
	}
	calls[0].catalog = []cluster.Result{{Code: cluster.CodeExists, Queue: cluster.Queue{ID: 3, Name: "q", Place: cluster.Place{Home: cluster.Homes{ID: 3, Shards: []uint16{1}}}, Version: 2, Settings: queue.DefaultSettings()}}}
	r = reader{b: appendCommandAnswer(nil, calls[0], nil)}
	if !r.commandAnswers(answers[:1], calls[:1]) || !reflect.DeepEqual(answers[0].catalog, calls[0].catalog) {
		t.Errorf("%+v", answers[0])
	}
}

func TestFarFetchRoundTrip(t *testing.T) {
	f := farFetch{id: 8, worker: 4, max: 10, wait: time.Second, legs: []farLeg{{1, []queue.QueueID{3, 4}}, {2, []queue.QueueID{9}}}}
	r := reader{b: appendFarFetch(nil, &f)}
	if got := r.farFetch(); !r.end() || !reflect.DeepEqual(got, f) {
		t.Errorf("%+v, want %+v", got, f)
	}
	jobs := []FetchedJob{
		{ID: JobID{Shard: 1, Pos: 5}, Token: 6, Attempt: 2, Failures: 1, Deadline: time.UnixMilli(5000), Spec: Spec{Queue: 3, Priority: 5, Kind: "k", Payload: []byte("p")}},
		{ID: JobID{Shard: 2, Pos: 7}, Token: 8, Attempt: 1, Crashes: 3, Spec: Spec{Queue: 9, Kind: "l"}},
	}
	r = reader{b: appendFarJobs(nil, jobs)}
	got := r.farJobs()
	if !r.end() || len(got) != 2 || got[0].ID != jobs[0].ID || !got[0].Deadline.Equal(jobs[0].Deadline) || string(got[0].Spec.Payload) != "p" ||
		got[1].Crashes != 3 || !got[1].Deadline.IsZero() || got[1].Spec.Kind != "l" {
		t.Errorf("%+v", got)
	}
	full := farLeg{1, make([]queue.QueueID, queue.FetchQueuesMax)}
	for name, bad := range map[string]farFetch{
		"no max":             {max: 0, legs: f.legs},
		"over max":           {max: queue.FetchMax + 1, legs: f.legs},
		"no shard":           {max: 1},
		"no queue":           {max: 1, legs: []farLeg{{1, nil}}},
		"too many queues":    {max: 1, legs: append(slices.Repeat([]farLeg{full}, farQueuesMax/queue.FetchQueuesMax), farLeg{2, make([]queue.QueueID, 1)})},
		"too many of one":    {max: 1, legs: []farLeg{{1, make([]queue.QueueID, queue.FetchQueuesMax+1)}}},
		"too many legs":      {max: 1, legs: slices.Repeat([]farLeg{{1, make([]queue.QueueID, 1)}}, farLegsMax+1)},
		"waits too long":     {max: 1, wait: queue.WaitMillisMax*time.Millisecond + time.Millisecond, legs: f.legs},
		"lease for a worker": {max: 1, worker: 1, lease: time.Second, legs: f.legs},
	} {
		r := reader{b: appendFarFetch(nil, &bad)}
		if r.farFetch(); r.end() {
			t.Errorf("%s: it decodes", name)
		}
	}
	most := farFetch{max: queue.FetchMax, wait: queue.WaitMillisMax * time.Millisecond, legs: slices.Repeat([]farLeg{full}, farQueuesMax/queue.FetchQueuesMax)}
	r = reader{b: appendFarFetch(nil, &most)}
	if r.farFetch(); !r.end() {
		t.Error("the largest fetch does not decode")
	}
}

func TestBeatsAndNoticesRoundTrip(t *testing.T) {
	beats := []beat{{1, time.Second, WorkerRun}, {1 << 60, 0, WorkerStop}}
	r := reader{b: appendBeats(nil, beats)}
	if got := r.beats(); !r.end() || !reflect.DeepEqual(got, beats) {
		t.Errorf("%+v", got)
	}
	r = reader{b: appendBeats(nil, []beat{{wish: WorkerStop + 1}})}
	if r.beats(); r.end() {
		t.Error("an unknown wish decodes")
	}
	notices := []addressed{{3, Notice{LeaseRef{JobID{Shard: 1, Pos: 2}, 3}, true}}, {4, Notice{LeaseRef{JobID{Shard: 5, Pos: 6}, 7}, false}}}
	r = reader{b: appendNotices(nil, notices)}
	if got := r.notices(); !r.end() || !reflect.DeepEqual(got, notices) {
		t.Errorf("%+v", got)
	}
	severed := []severance{{1, time.Second, time.Millisecond}, {1 << 60, 0, 0}}
	r = reader{b: appendSevered(nil, severed)}
	if got := r.severed(); !r.end() || !reflect.DeepEqual(got, severed) {
		t.Errorf("%+v", got)
	}
}

// FuzzForwarded feeds every decoder of what other nodes send.
func FuzzForwarded(f *testing.F) {
	d := newTestDesk()
	calls := someCalls(d)
	calls[1].results = make([]queue.Result, 2)
	fetch := farFetch{max: 1, legs: []farLeg{{1, []queue.QueueID{1}}}}
	f.Add(appendCommands(nil, d.shard, calls))
	calls[0].items.Commit(queue.AppendJob(calls[0].items.Buf(), &Spec{Queue: 4, UniqueKey: "u"}))
	calls[0].items.Version = shard.BatchVersion
	f.Add(appendCommands(nil, d.shard, calls))
	f.Add(appendCommandAnswer(appendCommandAnswer(nil, calls[0], errNotLeader()), calls[1], nil))
	f.Add(appendFarFetch(nil, &fetch))
	f.Add(appendFarJobs(nil, []FetchedJob{{Spec: Spec{Kind: "k", Payload: []byte("p")}}}))
	f.Add(appendBeats(nil, []beat{{worker: 1}}))
	f.Add(appendNotices(nil, []addressed{{worker: 1}}))
	f.Add(appendSevered(nil, []severance{{worker: 1}}))
	f.Fuzz(func(t *testing.T, body []byte) {
		if id, calls, ok := decodeCommands(d, body); ok {
			again := appendCommands(nil, id, calls)
			if _, _, ok := decodeCommands(d, again); !ok {
				t.Error("what decodes does not decode again")
			}
			for _, c := range calls {
				if c.items.Len() == 0 || c.items.Len() > shard.BatchItemsMax || c.items.Size() > shard.CommandBytesMax {
					t.Errorf("a command of %d items and %d bytes", c.items.Len(), c.items.Size())
				}
			}
		}
		r := reader{b: body}
		r.commandAnswers(make([]commandAnswer, 2), calls)
		r = reader{b: body}
		if far := r.farFetch(); r.end() {
			again := reader{b: appendFarFetch(nil, &far)}
			if !reflect.DeepEqual(again.farFetch(), far) || !again.end() {
				t.Error("a fetch is not the same again")
			}
		}
		r = reader{b: body}
		if jobs := r.farJobs(); r.end() && len(jobs) > queue.FetchMax {
			t.Errorf("%d jobs", len(jobs))
		}
		r = reader{b: body}
		if beats := r.beats(); r.end() {
			again := reader{b: appendBeats(nil, beats)}
			if again.beats(); !again.end() {
				t.Error("beats do not decode again")
			}
		}
		r = reader{b: body}
		if notices := r.notices(); r.end() && len(notices) > courierMax {
			t.Errorf("%d notices", len(notices))
		}
		r = reader{b: body}
		if severed := r.severed(); r.end() {
			again := reader{b: appendSevered(nil, severed)}
			if again.severed(); !again.end() {
				t.Error("broken connections do not decode again")
			}
		}
	})
}

// TestLongestCatalogResult: what the catalog answers of the queue with the most homes keeps to what is reserved for it.
func TestLongestCatalogResult(t *testing.T) {
	homes := func(n int) cluster.Homes {
		h := cluster.Homes{ID: 1<<32 - 1}
		for i := range n {
			h.Shards = append(h.Shards, uint16(cluster.ShardsMax-i))
		}
		return h
	}
	q := cluster.Queue{ID: 1<<32 - 1, Name: strings.Repeat("n", cluster.QueueNameBytesMax), Version: 1<<64 - 1, Settings: queue.DefaultSettings()}
	q.Home, q.From, q.Opened, q.Moves = homes(cluster.PartitionsMax), homes(cluster.PartitionsMax), 1<<62, 1<<62
	q.From.ID -= cluster.FormersMax
	for range cluster.FormersMax {
		q.Formers = append(q.Formers, homes(1))
	}
	q.Settings.Retry = queue.Retry{Kind: queue.RetryList}
	for range queue.RetryListMax {
		q.Settings.Retry.List = append(q.Settings.Retry.List, queue.DelayMillisMax)
	}
	for i := range q.Formers {
		q.Formers[i].ID -= queue.QueueID(i)
	}
	q.Formers[0] = q.From
	q.Formers = q.Formers[:cluster.FormersMax-cluster.PartitionsMax+1]
	c := &call{catalog: []cluster.Result{{Code: cluster.CodeMoving, Worker: 1<<64 - 1, Queue: q}}}
	body := appendCommandAnswer(nil, c, nil)
	if len(body) > catalogResultBytesMax {
		t.Fatalf("it has %d bytes, over %d", len(body), catalogResultBytesMax)
	}
	answers := make([]commandAnswer, 1)
	c.items.Add(func(dst []byte) []byte { return append(dst, 1) })
	r := reader{b: body}
	if !r.commandAnswers(answers, []*call{c}) || !reflect.DeepEqual(answers[0].catalog, c.catalog) {
		t.Fatalf("it does not come back: %+v", answers[0].catalog)
	}
}
