package beaver

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// The fields of NewJob.
const (
	jobQueueField       protowire.Number = 1
	jobKindField        protowire.Number = 2
	jobPayloadField     protowire.Number = 3
	jobContentTypeField protowire.Number = 4
	jobPriorityField    protowire.Number = 5
	jobRunAtField       protowire.Number = 6
	jobDelayField       protowire.Number = 7
	jobExpiresAtField   protowire.Number = 8
	jobMaxAttemptsField protowire.Number = 9
	jobRetryField       protowire.Number = 10
	jobTimeoutField     protowire.Number = 11
	jobMetadataField    protowire.Number = 12
	jobOrderingKeyField protowire.Number = 13
	jobUniqueKeyField   protowire.Number = 14
	jobUniqueUntilField protowire.Number = 15
	jobUniqueForField   protowire.Number = 16
	jobUniqueQueueField protowire.Number = 17
)

// encoding is a prepared job on its way to the wire, where it is a NewJob. It is measured before the enqueuer's mutex is
// taken, and written under it by hand: the generated code takes several times as long.
//
// Invariant: append writes exactly size bytes.
type encoding struct {
	job   *Job
	retry []byte // encoded; the policy is rare
	size  int
}

// newEncoding measures a prepared job, which must stay as it is until it is appended.
func newEncoding(job *Job) (encoding, error) {
	e := encoding{job: job}
	if job.Retry != nil {
		policy, err := job.Retry.proto()
		if err != nil {
			return encoding{}, err
		}
		if e.retry, err = proto.Marshal(policy); err != nil {
			return encoding{}, invalid("retry", "the policy cannot be encoded: %v", err)
		}
		e.size += sizeBytes(jobRetryField, len(e.retry))
	}
	e.size += sizeText(job.queueField(), len(job.Queue)) + sizeText(jobKindField, len(job.Kind)) +
		sizeText(jobPayloadField, len(job.Payload)) + sizeText(jobContentTypeField, len(job.ContentType)) + sizeText(jobOrderingKeyField, len(job.OrderingKey))
	if job.Priority != nil {
		e.size += sizeVarint(jobPriorityField, uint64(*job.Priority))
	}
	if job.MaxAttempts != 0 {
		e.size += sizeVarint(jobMaxAttemptsField, uint64(job.MaxAttempts))
	}
	e.size += sizeTime(jobRunAtField, job.RunAt) + sizeTime(jobExpiresAtField, job.ExpiresAt) +
		sizeDuration(jobDelayField, job.Delay) + sizeDuration(jobTimeoutField, job.Timeout)
	if job.UniqueKey != "" {
		e.size += sizeText(jobUniqueKeyField, len(job.UniqueKey)) + sizeDuration(jobUniqueForField, job.UniqueFor)
		if job.UniqueUntil == UniqueUntilStarted {
			e.size += sizeVarint(jobUniqueUntilField, uint64(beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED))
		}
	}
	for k, v := range job.Metadata {
		e.size += sizeBytes(jobMetadataField, sizeBytes(1, len(k))+sizeBytes(2, len(v)))
	}
	return e, nil
}

// append appends the job as an element of EnqueueStreamRequest.jobs.
func (e *encoding) append(dst []byte) []byte {
	job := e.job
	dst = appendLength(dst, enqueueJobsField, e.size)
	dst = appendText(dst, job.queueField(), job.Queue)
	dst = appendText(dst, jobKindField, job.Kind)
	dst = appendText(dst, jobPayloadField, job.Payload)
	dst = appendText(dst, jobContentTypeField, job.ContentType)
	if job.Priority != nil {
		dst = appendVarint(dst, jobPriorityField, uint64(*job.Priority))
	}
	dst = appendTime(dst, jobRunAtField, job.RunAt)
	dst = appendDuration(dst, jobDelayField, job.Delay)
	dst = appendTime(dst, jobExpiresAtField, job.ExpiresAt)
	if job.MaxAttempts != 0 {
		dst = appendVarint(dst, jobMaxAttemptsField, uint64(job.MaxAttempts))
	}
	if job.Retry != nil {
		dst = append(appendLength(dst, jobRetryField, len(e.retry)), e.retry...)
	}
	dst = appendDuration(dst, jobTimeoutField, job.Timeout)
	dst = appendText(dst, jobOrderingKeyField, job.OrderingKey)
	if job.UniqueKey != "" {
		dst = appendText(dst, jobUniqueKeyField, job.UniqueKey)
		if job.UniqueUntil == UniqueUntilStarted {
			dst = appendVarint(dst, jobUniqueUntilField, uint64(beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED))
		}
		dst = appendDuration(dst, jobUniqueForField, job.UniqueFor)
	}
	for k, v := range job.Metadata {
		dst = appendLength(dst, jobMetadataField, sizeBytes(1, len(k))+sizeBytes(2, len(v)))
		dst = protowire.AppendString(protowire.AppendTag(dst, 1, protowire.BytesType), k)
		dst = protowire.AppendString(protowire.AppendTag(dst, 2, protowire.BytesType), v)
	}
	return dst
}

// queueField is where the queue's name stands. That of a job with a unique key stands where a server does not look that is older than
// unique keys: it would store the job and leave its key out, and so it refuses the job.
func (j *Job) queueField() protowire.Number {
	if j.UniqueKey != "" {
		return jobUniqueQueueField
	}
	return jobQueueField
}

// size and append functions go in pairs: the append writes exactly the bytes that the size counted. Texts, times and
// durations that are zero are not written.

func sizeBytes(n protowire.Number, bytes int) int {
	return protowire.SizeTag(n) + protowire.SizeBytes(bytes)
}

func sizeVarint(n protowire.Number, v uint64) int {
	return protowire.SizeTag(n) + protowire.SizeVarint(v)
}

func appendLength(dst []byte, n protowire.Number, bytes int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, n, protowire.BytesType), uint64(bytes))
}

func appendVarint(dst []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, n, protowire.VarintType), v)
}

func sizeText(n protowire.Number, bytes int) int {
	if bytes == 0 {
		return 0
	}
	return sizeBytes(n, bytes)
}

func appendText[T string | []byte](dst []byte, n protowire.Number, text T) []byte {
	if len(text) == 0 {
		return dst
	}
	return append(appendLength(dst, n, len(text)), text...)
}

func sizeTime(n protowire.Number, t time.Time) int {
	if t.IsZero() {
		return 0
	}
	return sizeBytes(n, sizeSeconds(t.Unix(), t.Nanosecond()))
}

func appendTime(dst []byte, n protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	return appendSeconds(dst, n, t.Unix(), t.Nanosecond())
}

func sizeDuration(n protowire.Number, d time.Duration) int {
	if d == 0 {
		return 0
	}
	return sizeBytes(n, sizeSeconds(int64(d/time.Second), int(d%time.Second)))
}

func appendDuration(dst []byte, n protowire.Number, d time.Duration) []byte {
	if d == 0 {
		return dst
	}
	return appendSeconds(dst, n, int64(d/time.Second), int(d%time.Second))
}

// sizeSeconds is the size of a Timestamp or a Duration without its own tag and length; they look alike.
func sizeSeconds(seconds int64, nanos int) int {
	size := 0
	if seconds != 0 {
		size += sizeVarint(1, uint64(seconds))
	}
	if nanos != 0 {
		size += sizeVarint(2, uint64(nanos))
	}
	return size
}

func appendSeconds(dst []byte, n protowire.Number, seconds int64, nanos int) []byte {
	dst = appendLength(dst, n, sizeSeconds(seconds, nanos))
	if seconds != 0 {
		dst = appendVarint(dst, 1, uint64(seconds))
	}
	if nanos != 0 {
		dst = appendVarint(dst, 2, uint64(nanos))
	}
	return dst
}
