package rpc

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// What goes with a unique key is understood with it, and refused by name without.
func TestDecodeUnique(t *testing.T) {
	hour := durationpb.New(time.Hour)
	for _, test := range []struct {
		name  string
		job   *beaverv1.NewJob
		queue string
		field string // at fault; empty: none
		want  string
	}{
		{"key", &beaverv1.NewJob{Queue: "q", UniqueKey: "k"}, "q", "", ""},
		{"all", fullJob(), "mail", "", ""},
		{"queue by its other name", &beaverv1.NewJob{UniqueQueue: "q", UniqueKey: "k"}, "q", "", ""},
		{"both names", &beaverv1.NewJob{Queue: "q", UniqueQueue: "q", UniqueKey: "k"}, "", "unique_queue", "give either queue or unique_queue"},
		{"other name without key", &beaverv1.NewJob{UniqueQueue: "q"}, "", "unique_queue", "add unique_key, or use queue"},
		{"started without key", &beaverv1.NewJob{Queue: "q", UniqueUntil: beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED}, "", "unique_until", "add unique_key"},
		{"ended without key", &beaverv1.NewJob{Queue: "q", UniqueUntil: beaverv1.UniqueUntil_UNIQUE_UNTIL_ENDED}, "", "unique_until", "add unique_key"},
		{"window without key", &beaverv1.NewJob{Queue: "q", UniqueFor: hour}, "", "unique_for", "add unique_key"},
		{"until of a newer client", &beaverv1.NewJob{Queue: "q", UniqueKey: "k", UniqueUntil: 3}, "", "unique_until", "is 3: want one of ended, started"},
		{"negative window", &beaverv1.NewJob{Queue: "q", UniqueKey: "k", UniqueFor: durationpb.New(-1)}, "", "unique_for", "not negative"},
		{"longest window", &beaverv1.NewJob{Queue: "q", UniqueKey: "k", UniqueFor: durationpb.New(720 * time.Hour)}, "q", "", ""},
		{"too long a window", &beaverv1.NewJob{Queue: "q", UniqueKey: "k", UniqueFor: durationpb.New(720*time.Hour + 1)}, "", "unique_for", "want at most 720h0m0s, which is 30 days"},
		{"no duration", &beaverv1.NewJob{Queue: "q", UniqueKey: "k", UniqueFor: &durationpb.Duration{Nanos: -1, Seconds: 1}}, "", "unique_for", "want a duration"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var in streamRequest
			for range 2 { // the second time in used buffers
				in.setProto(mustMarshal(t, &beaverv1.EnqueueStreamRequest{Sequence: 1, Jobs: []*beaverv1.NewJob{{Queue: "a"}, test.job, {Queue: "b"}}}))
				jobs := in.request.Jobs
				if in.err != nil || len(jobs) != 3 || jobs[0].Err != nil || jobs[2].Err != nil || jobs[2].Spec.UniqueKey != "" || jobs[2].Spec.UniqueForMillis != 0 {
					t.Fatalf("the jobs around it: %+v, %v", jobs, in.err)
				}
				got := &jobs[1]
				switch {
				case test.field == "" && (got.Err != nil || got.Queue != test.queue || got.Spec.UniqueKey != test.job.GetUniqueKey()):
					t.Errorf("got %+v", got)
				case test.field != "" && (got.Err == nil || got.Err.Field != test.field || !strings.Contains(got.Err.Message, test.want)):
					t.Errorf("got %+v, want field %s and …%s…", got.Err, test.field, test.want)
				}
			}
		})
	}
	bad := []byte{'\x0a', 1, 'q', uniqueKeyTag, 1, 0xff} // which the generated code does not make
	var in streamRequest
	in.setProto(append([]byte{0x10, 1, 0x22, byte(len(bad))}, bad...))
	if e := in.request.Jobs[0].Err; e == nil || e.Field != "unique_key" {
		t.Errorf("a key that is not UTF-8: %+v", e)
	}
}

// uniqueKeyTag is the tag of the bytes field unique_key.
const uniqueKeyTag = byte(uniqueKeyField<<3 | 2)

// The one job of a request that stands beside jobs has the same fields.
func TestDecodeUniqueSingle(t *testing.T) {
	var in enqueueRequest
	in.setProto(mustMarshal(t, &beaverv1.EnqueueRequest{UniqueQueue: "q", UniqueKey: "k", UniqueFor: durationpb.New(time.Microsecond)}))
	if in.err != nil || len(in.request.Jobs) != 1 || in.request.Jobs[0].Queue != "q" || in.request.Jobs[0].Spec.UniqueForMillis != 1 {
		t.Errorf("got %+v, %v", in.request, in.err)
	}
	in.release()
}
