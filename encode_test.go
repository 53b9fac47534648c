package beaver

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// TestMessageEncoding compares the message that a batch makes, minus the jobs whose callers left, with the API's own.
func TestMessageEncoding(t *testing.T) {
	text := rapid.StringN(0, 20, 60)
	rapid.Check(t, func(t *rapid.T) {
		e := newEnqueuer(nil, 0, slog.New(slog.DiscardHandler))
		b := &batch{done: make(chan struct{})}
		want := &beaverv1.EnqueueStreamRequest{Session: e.session[:], Sequence: rapid.Uint64().Draw(t, "sequence"), Atomic: rapid.Bool().Draw(t, "atomic")}
		var all []*beaverv1.NewJob
		for range rapid.IntRange(1, 20).Draw(t, "jobs") {
			job := Job{
				Queue: text.Draw(t, "queue"), Kind: text.Draw(t, "kind"), Payload: rapid.SliceOf(rapid.Byte()).Draw(t, "payload"),
				ContentType: text.Draw(t, "content type"), MaxAttempts: rapid.IntRange(0, 1000).Draw(t, "attempts"),
				Delay: time.Duration(rapid.Int64Range(0, 1e15).Draw(t, "delay")), Metadata: rapid.MapOfN(text, text, 0, 3).Draw(t, "metadata"),
				OrderingKey: text.Draw(t, "ordering key"),
			}
			m := &beaverv1.NewJob{
				Queue: job.Queue, Kind: job.Kind, Payload: job.Payload, ContentType: job.ContentType, MaxAttempts: uint32(job.MaxAttempts),
				Metadata: job.Metadata, OrderingKey: job.OrderingKey,
			}
			if job.Delay != 0 {
				m.Delay = durationpb.New(job.Delay)
			}
			if rapid.Bool().Draw(t, "has priority") {
				job.Priority = new(rapid.IntRange(0, 9).Draw(t, "priority"))
				m.Priority = new(uint32(*job.Priority))
			}
			if rapid.Bool().Draw(t, "has run-at") {
				job.RunAt = time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "run-at"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanos"))
				m.RunAt = timestamppb.New(job.RunAt)
			}
			if rapid.Bool().Draw(t, "expires") {
				job.ExpiresAt = time.Unix(rapid.Int64Range(0, 1e10).Draw(t, "expires-at"), 0)
				m.ExpiresAt = timestamppb.New(job.ExpiresAt)
			}
			if rapid.Bool().Draw(t, "has timeout") {
				job.Timeout = time.Duration(rapid.Int64Range(1, 1e15).Draw(t, "timeout"))
				m.Timeout = durationpb.New(job.Timeout)
			}
			if job.UniqueKey = text.Draw(t, "unique key"); job.UniqueKey != "" {
				m.Queue, m.UniqueQueue, m.UniqueKey = "", job.Queue, job.UniqueKey
				if rapid.Bool().Draw(t, "until started") {
					job.UniqueUntil, m.UniqueUntil = UniqueUntilStarted, beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED
				}
				if rapid.Bool().Draw(t, "has window") {
					job.UniqueFor = time.Duration(rapid.Int64Range(1, 1e15).Draw(t, "window"))
					m.UniqueFor = durationpb.New(job.UniqueFor)
				}
			}
			if rapid.Bool().Draw(t, "never") {
				job.Retry = &RetryPolicy{Kind: RetryNever}
				m.Retry = &beaverv1.RetryPolicy{Kind: &beaverv1.RetryPolicy_Never{Never: true}}
			}
			encoded, err := newEncoding(&job)
			if err != nil {
				t.Fatal(err)
			}
			if want := proto.Size(m); encoded.size != want {
				t.Fatalf("the job is measured as %d bytes, want %d", encoded.size, want)
			}
			start := len(b.jobs)
			if p := b.append(&encoded); p.index != len(all) {
				t.Fatal(p)
			}
			if got, want := len(b.jobs)-start, sizeBytes(enqueueJobsField, encoded.size); got != want {
				t.Fatalf("the job took %d bytes, want %d", got, want)
			}
			all = append(all, m)
		}
		leaving := rapid.SliceOfNDistinct(rapid.IntRange(0, len(all)-1), 0, len(all), rapid.ID[int]).Draw(t, "leaving")
		left := make(map[int]bool)
		for _, i := range leaving {
			b.remove(i)
			left[i] = true
		}
		b.sequence = want.Sequence
		for i, m := range all {
			if left[i] {
				continue
			}
			b.ids = append(b.ids, wireID(3, uint64(i+1))...)
			if i%3 == 0 {
				b.existing = append(b.existing, len(want.Jobs))
			}
			want.Jobs = append(want.Jobs, m)
		}
		wire, err := enqueueCodec{}.MarshalAppend(nil, &enqueueMessage{
			session: e.session[:], sequence: want.Sequence, atomic: want.Atomic, jobs: b.jobs,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := &beaverv1.EnqueueStreamRequest{}
		if err := proto.Unmarshal(wire, got); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		for i := range all {
			if left[i] {
				continue
			}
			if a, err := b.answer(i); err != nil || a.ID != jobIDFromWire(wireID(3, uint64(i+1))) || a.Existing != (i%3 == 0) {
				t.Fatalf("job %d got the answer %v, %v", i, a, err)
			}
		}
	})
}

// FuzzAnswer feeds the enqueuer answers of any kind: every batch gets one answer at most, and nothing panics.
func FuzzAnswer(f *testing.F) {
	good, err := proto.Marshal(&beaverv1.EnqueueStreamResponse{
		Through: 2, Ids: make([]byte, 3*jobIDWireBytes), Errors: []*beaverv1.JobError{{Index: 1}, {Index: 1}, {Index: 0}, {Index: 900}},
		Existing: []uint32{2, 0, 1, 1 << 31},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, wire []byte) {
		answer := &beaverv1.EnqueueStreamResponse{}
		if (enqueueCodec{}).Unmarshal(wire, answer) != nil {
			return
		}
		e := newEnqueuer(nil, 0, slog.New(slog.DiscardHandler))
		var batches []*batch
		for i := range 3 {
			b := &batch{done: make(chan struct{}), sequence: uint64(i + 1), ends: make([]uint32, i+1)}
			batches = append(batches, b)
		}
		e.inFlight = append(e.inFlight, batches...)
		for range 2 {
			_, _ = e.complete(answer)
		}
		for _, b := range batches {
			select {
			case <-b.done:
				for i := range b.ends {
					_, _ = b.answer(i)
				}
			default:
			}
		}
	})
}
