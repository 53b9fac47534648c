package rpc

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// The fields of a NewJob that have to do with its unique key.
const (
	uniqueKeyField   protowire.Number = 14
	uniqueUntilField protowire.Number = 15
	uniqueForField   protowire.Number = 16
	uniqueQueueField protowire.Number = 17

	uniqueFirst = uniqueKeyField
	uniqueLast  = uniqueQueueField
)

// uniqueFields are which of a job's fields were given of those that go only together, or only one without the other.
type uniqueFields struct {
	queue  string // as unique_queue gives it
	until  bool
	window bool
}

// uniqueField decodes one of the fields of a unique key.
func (d *jobDecoder) uniqueField(f *fields, number protowire.Number, job *engine.NewJob, b *jobBuilder) *engine.Error {
	ok := true
	switch {
	case number == uniqueKeyField && f.isBytes():
		job.Spec.UniqueKey, ok = d.names.uniqueKey.text(f.value)
	case number == uniqueUntilField && f.isVarint():
		b.unique.until = f.varint != 0
		var err *engine.Error
		job.Spec.UniqueUntil, err = uniqueUntilOf(beaverv1.UniqueUntil(min(f.varint, math.MaxInt32)))
		return err
	case number == uniqueForField && f.isBytes():
		var window durationpb.Duration
		if cause := proto.Unmarshal(f.value, &window); cause != nil {
			return malformed(cause)
		}
		b.unique.window = true
		var err *engine.Error
		if job.Spec.UniqueForMillis, err = millisOf("unique_for", &window); err == nil && job.Spec.UniqueForMillis > queue.UniqueForMillisMax {
			return invalid("unique_for", "is %v: want at most %v, which is 30 days", window.AsDuration(), queue.UniqueForMillisMax*time.Millisecond)
		}
		return err
	case number == uniqueQueueField && f.isBytes():
		b.unique.queue, ok = d.names.queue.text(f.value)
	}
	if !ok {
		return invalid(jobFieldName(number), "want valid UTF-8")
	}
	return nil
}

// finish refuses what says more of a key than there is, and names the queue. The limits are the machine's.
func (u *uniqueFields) finish(job *engine.NewJob) *engine.Error {
	switch {
	case u.queue != "" && job.Queue != "":
		return invalid("unique_queue", "give either queue or unique_queue")
	case job.Spec.UniqueKey != "":
		if u.queue != "" {
			job.Queue = u.queue
		}
		return nil
	case u.until:
		return invalid("unique_until", "says when a job lets go of its unique key, and the job has none: add unique_key, or leave this out")
	case u.window:
		return invalid("unique_for", "says how long a job keeps its unique key, and the job has none: add unique_key, or leave this out")
	case u.queue != "":
		return invalid("unique_queue", "names the queue of a job with a unique key, and the job has none: add unique_key, or use queue")
	}
	return nil
}

func uniqueUntilOf(u beaverv1.UniqueUntil) (queue.UniqueUntil, *engine.Error) {
	switch u {
	case beaverv1.UniqueUntil_UNIQUE_UNTIL_UNSPECIFIED, beaverv1.UniqueUntil_UNIQUE_UNTIL_ENDED:
		return queue.UniqueUntilEnded, nil
	case beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED:
		return queue.UniqueUntilStarted, nil
	}
	return 0, invalid("unique_until", "is %d: want one of ended, started", int32(u))
}

func pbUniqueUntil(u queue.UniqueUntil) beaverv1.UniqueUntil {
	if u == queue.UniqueUntilStarted {
		return beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED
	}
	return beaverv1.UniqueUntil_UNIQUE_UNTIL_ENDED
}
