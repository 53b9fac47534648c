package rpc

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// jobIDBytes is the length of a job's id as text.
const jobIDBytes = 16

// leaseSize holds the sizes of a LeasedJob's parts, so that they are counted once.
type leaseSize struct {
	total    int
	deadline timestamp
	enqueued timestamp
}

// sizeLeasedJob counts the bytes of a LeasedJob message.
func sizeLeasedJob(j *engine.FetchedJob) leaseSize {
	s := &j.Spec
	n := sizeBytesField(1, jobIDBytes) + sizeVarintField(2, uint64(j.Token)) + sizeBytesField(3, len(j.QueueName)) +
		sizeBytesField(4, len(s.Kind)) + sizeBytesField(5, len(s.Payload)) + sizeBytesField(6, len(s.ContentType)) +
		sizeVarintField(7, uint64(s.Priority)) + sizeVarintField(8, uint64(j.Attempt)) +
		sizeVarintField(9, uint64(j.Failures)) + sizeVarintField(10, uint64(j.Crashes))
	var size leaseSize
	if !j.Deadline.IsZero() {
		size.deadline = timestampOf(j.Deadline)
		n += sizeEmbedded(11, size.deadline.size())
	}
	if s.EnqueuedAt != 0 {
		size.enqueued = timestampOf(fromMillis(s.EnqueuedAt))
		n += sizeEmbedded(12, size.enqueued.size())
	}
	for i := range s.Metadata {
		n += sizeEmbedded(13, sizePair(&s.Metadata[i]))
	}
	n += sizeBytesField(14, len(s.OrderingKey)) + sizeBytesField(15, len(s.UniqueKey))
	size.total = n
	return size
}

// appendLeasedJob appends a LeasedJob as field number of the message around it.
func appendLeasedJob(dst []byte, number protowire.Number, j *engine.FetchedJob) []byte {
	size := sizeLeasedJob(j)
	s := &j.Spec
	dst = appendLength(dst, number, size.total)
	dst = appendIDField(dst, 1, j.ID)
	dst = appendVarintField(dst, 2, uint64(j.Token))
	dst = appendStringField(dst, 3, j.QueueName)
	dst = appendStringField(dst, 4, s.Kind)
	dst = appendBytesField(dst, 5, s.Payload)
	dst = appendStringField(dst, 6, s.ContentType)
	dst = appendVarintField(dst, 7, uint64(s.Priority))
	dst = appendVarintField(dst, 8, uint64(j.Attempt))
	dst = appendVarintField(dst, 9, uint64(j.Failures))
	dst = appendVarintField(dst, 10, uint64(j.Crashes))
	if !j.Deadline.IsZero() {
		dst = size.deadline.append(dst, 11)
	}
	if s.EnqueuedAt != 0 {
		dst = size.enqueued.append(dst, 12)
	}
	for i := range s.Metadata {
		dst = appendPair(dst, 13, &s.Metadata[i])
	}
	dst = appendStringField(dst, 14, s.OrderingKey)
	return appendStringField(dst, 15, s.UniqueKey)
}

func sizePair(kv *engine.KeyValue) int {
	return sizeBytesField(1, len(kv.Key)) + sizeBytesField(2, len(kv.Value))
}

func appendPair(dst []byte, number protowire.Number, kv *engine.KeyValue) []byte {
	dst = appendLength(dst, number, sizePair(kv))
	dst = appendStringField(dst, 1, kv.Key)
	return appendStringField(dst, 2, kv.Value)
}

func appendIDField(dst []byte, number protowire.Number, id engine.JobID) []byte {
	return appendID(appendLength(dst, number, jobIDBytes), id)
}

// appendLeaseRef appends a LeaseRef message as field number.
func appendLeaseRef(dst []byte, number protowire.Number, l engine.LeaseRef) []byte {
	dst = appendLength(dst, number, sizeBytesField(1, jobIDBytes)+sizeVarintField(2, uint64(l.Token)))
	dst = appendIDField(dst, 1, l.ID)
	return appendVarintField(dst, 2, uint64(l.Token))
}

// fetchResponse answers Fetch.
type fetchResponse struct{ jobs []engine.FetchedJob }

func (r *fetchResponse) message() proto.Message { return new(beaverv1.FetchResponse) }

func (r *fetchResponse) appendProto(dst []byte) []byte {
	for i := range r.jobs {
		dst = appendLeasedJob(dst, 1, &r.jobs[i])
	}
	return dst
}

// outcomeDecoder decodes Outcomes into the engine's type. Results alias the data.
type outcomeDecoder struct{ contentType interner }

// outcome decodes one Outcome message. An error says that no lease can be read from it; what else is wrong concerns this
// outcome alone, and is in o.Err.
func (d *outcomeDecoder) outcome(data []byte, o *engine.Outcome) (err *engine.Error) {
	*o = engine.Outcome{}
	var hasID, hasFailure, release bool
	f := fields{data: data}
	for f.next() {
		var bad *engine.Error
		switch {
		case f.number == 1 && f.isBytes():
			if o.ID, err = parseIDBytes("id", f.value); err != nil {
				return err
			}
			hasID = true
		case f.number == 2 && f.isVarint():
			o.Token = engine.Token(f.varint)
		case f.number == 3 && f.isBytes():
			o.Result = f.value
		case f.number == 4 && f.isBytes():
			text, ok := d.contentType.text(f.value)
			if !ok {
				bad = invalid("content_type", "want valid UTF-8")
			}
			o.ContentType = text
		case f.number == 5 && f.isBytes():
			o.Failure, bad = failureFrom(f.value)
			hasFailure = true
		case f.number == 6 && f.isVarint():
			release = f.varint != 0
		}
		if o.Err == nil {
			o.Err = bad
		}
	}
	switch {
	case f.err != nil:
		return errMalformed
	case !hasID:
		return invalid("id", "missing: want the id of the leased job")
	case o.Err != nil:
	case hasFailure && release:
		o.Err = invalid("release", "an outcome is either a failure or a release")
	case hasFailure:
		o.Kind = engine.OutcomeFail
	case release:
		o.Kind = engine.OutcomeRelease
	}
	return nil
}

func failureFrom(data []byte) (engine.Failure, *engine.Error) {
	var f beaverv1.Failure
	if err := proto.Unmarshal(data, &f); err != nil {
		return engine.Failure{}, malformed(err)
	}
	return failureOf(&f)
}
