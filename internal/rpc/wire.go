package rpc

import (
	"encoding/binary"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/beaver-raft/beaver/internal/engine"
)

// malformed is the error of a message whose bytes are not what its type says.
func malformed(cause error) *engine.Error {
	return &engine.Error{
		Code: engine.CodeInvalidArgument, Reason: reasonMalformed,
		Message: "the message is not valid protobuf of this type: " + cause.Error(), Cause: cause,
	}
}

// errMalformed is what the hand-written decoders return for broken bytes.
var errMalformed = malformed(protowire.ParseError(-1))

// fields walks the fields of a protobuf message.
type fields struct {
	data []byte
	err  error

	number protowire.Number
	kind   protowire.Type
	value  []byte // of a bytes field
	varint uint64 // of a varint field
}

// next reads one field and reports whether there was one. Fixed-size fields and groups are skipped: no message that is
// read by hand has them.
func (f *fields) next() bool {
	for len(f.data) > 0 && f.err == nil {
		number, kind, n := protowire.ConsumeTag(f.data)
		if n < 0 {
			return f.fail()
		}
		f.data = f.data[n:]
		f.number, f.kind = number, kind
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(f.data)
		case protowire.BytesType:
			f.value, n = protowire.ConsumeBytes(f.data)
		default:
			n = protowire.ConsumeFieldValue(number, kind, f.data)
		}
		if n < 0 {
			return f.fail()
		}
		f.data = f.data[n:]
		if kind == protowire.VarintType || kind == protowire.BytesType {
			return true
		}
	}
	return false
}

func (f *fields) fail() bool {
	f.err = errMalformed
	return false
}

// isBytes and isVarint tell whether the current field has the type its number calls for; a field of another type is
// unknown, and skipped.
func (f *fields) isBytes() bool  { return f.kind == protowire.BytesType }
func (f *fields) isVarint() bool { return f.kind == protowire.VarintType }

// interner hands out one string for equal neighbours, so that a batch of like jobs makes no garbage.
type interner struct{ last string }

// text returns b as a string; ok is false when it is not UTF-8.
func (in *interner) text(b []byte) (s string, ok bool) {
	if string(b) == in.last {
		return in.last, true
	}
	if !utf8.Valid(b) {
		return "", false
	}
	in.last = string(b)
	return in.last, true
}

// names are the interners of the texts that repeat within a batch. They outlive the message.
type names struct{ queue, kind, contentType, orderingKey, uniqueKey interner }

// jobDecoder decodes NewJobs into the engine's type. Payloads alias the data.
type jobDecoder struct {
	names names
	now   time.Time
}

// job decodes a NewJob message. path is where it stands in the request, for errors.
func (d *jobDecoder) job(data []byte, job *engine.NewJob) *engine.Error {
	b := newJobBuilder(job)
	f := fields{data: data}
	for f.next() {
		if err := d.field(&f, f.number, job, &b); err != nil {
			return err
		}
	}
	if f.err != nil {
		return errMalformed
	}
	return b.finish(job, d.now)
}

// jobBuilder holds what must be known of all fields before the job is complete.
type jobBuilder struct {
	delay    time.Duration
	hasDelay bool
	hasRunAt bool
	unique   uniqueFields
}

func newJobBuilder(job *engine.NewJob) jobBuilder {
	*job = engine.NewJob{Spec: engine.Spec{Priority: priorityDefault, Metadata: job.Spec.Metadata[:0]}}
	return jobBuilder{}
}

// field decodes one field of a NewJob. number is the field's number there.
func (d *jobDecoder) field(f *fields, number protowire.Number, job *engine.NewJob, b *jobBuilder) *engine.Error {
	s := &job.Spec
	ok := true
	switch {
	case number == 1 && f.isBytes():
		job.Queue, ok = d.names.queue.text(f.value)
	case number == 2 && f.isBytes():
		s.Kind, ok = d.names.kind.text(f.value)
	case number == 3 && f.isBytes():
		s.Payload = f.value
	case number == 4 && f.isBytes():
		s.ContentType, ok = d.names.contentType.text(f.value)
	case number == 5 && f.isVarint():
		return setPriority(s, uint32(f.varint))
	case number == 9 && f.isVarint():
		s.MaxAttempts = uint32(f.varint)
	case number == 12 && f.isBytes():
		return appendMetadata(s, f.value)
	case number == 13 && f.isBytes():
		s.OrderingKey, ok = d.names.orderingKey.text(f.value)
	case number >= uniqueFirst && number <= uniqueLast:
		return d.uniqueField(f, number, job, b)
	case f.isBytes():
		return rareJobField(number, f.value, s, b)
	}
	if !ok {
		return invalid(jobFieldName(number), "want valid UTF-8")
	}
	return nil
}

// appendMetadata decodes one entry of a map<string, string>.
func appendMetadata(s *engine.Spec, data []byte) *engine.Error {
	var kv engine.KeyValue
	f := fields{data: data}
	for f.next() {
		switch {
		case f.number == 1 && f.isBytes():
			kv.Key = string(f.value)
		case f.number == 2 && f.isBytes():
			kv.Value = string(f.value)
		}
	}
	if f.err != nil {
		return errMalformed
	}
	if !utf8.ValidString(kv.Key) || !utf8.ValidString(kv.Value) {
		return invalid("metadata", "want valid UTF-8")
	}
	if kv.Key == "" {
		return invalid("metadata", "has an empty key: want at least one character")
	}
	s.Metadata = append(s.Metadata, kv)
	return nil
}

// finish completes a job after its last field.
func (b *jobBuilder) finish(job *engine.NewJob, now time.Time) *engine.Error {
	s := &job.Spec
	if err := b.unique.finish(job); err != nil {
		return err
	}
	if b.hasDelay {
		if b.hasRunAt {
			return invalid("delay", "give either delay or run_at")
		}
		s.RunAt = toMillis(now.Add(b.delay))
	}
	if len(s.Metadata) > 1 {
		slices.SortStableFunc(s.Metadata, func(a, b engine.KeyValue) int { return strings.Compare(a.Key, b.Key) })
		s.Metadata = lastOfEach(s.Metadata)
	}
	return nil
}

// lastOfEach keeps the last of the pairs with one key, as protobuf maps do. The pairs are sorted by key.
func lastOfEach(pairs []engine.KeyValue) []engine.KeyValue {
	kept := pairs[:0]
	for i, kv := range pairs {
		if i+1 < len(pairs) && pairs[i+1].Key == kv.Key {
			continue
		}
		kept = append(kept, kv)
	}
	return kept
}

// Encoding. size functions and append functions go in pairs: the append writes exactly the bytes that the size counted.

func sizeBytesField(number protowire.Number, n int) int {
	if n == 0 {
		return 0
	}
	return protowire.SizeTag(number) + protowire.SizeBytes(n)
}

func sizeVarintField(number protowire.Number, v uint64) int {
	if v == 0 {
		return 0
	}
	return protowire.SizeTag(number) + protowire.SizeVarint(v)
}

func appendStringField(dst []byte, number protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, number, protowire.BytesType), s)
}

func appendBytesField(dst []byte, number protowire.Number, b []byte) []byte {
	if len(b) == 0 {
		return dst
	}
	return protowire.AppendBytes(protowire.AppendTag(dst, number, protowire.BytesType), b)
}

func appendVarintField(dst []byte, number protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.VarintType), v)
}

// appendLength starts an embedded message of n bytes, also an empty one.
func appendLength(dst []byte, number protowire.Number, n int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, number, protowire.BytesType), uint64(n))
}

// appendMessage appends a message of generated type as an embedded one. It is for the rare parts.
func appendMessage(dst []byte, number protowire.Number, m proto.Message) []byte {
	dst = appendLength(dst, number, proto.Size(m))
	dst, _ = proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, m) // fails only on bad UTF-8 of our own
	return dst
}

// timestamp is the content of a google.protobuf.Timestamp.
type timestamp struct {
	seconds int64
	nanos   int32
}

func timestampOf(t time.Time) timestamp {
	return timestamp{seconds: t.Unix(), nanos: int32(t.Nanosecond())}
}

func (t timestamp) size() int {
	return sizeVarintField(1, uint64(t.seconds)) + sizeVarintField(2, uint64(t.nanos))
}

func (t timestamp) append(dst []byte, number protowire.Number) []byte {
	dst = appendLength(dst, number, t.size())
	dst = appendVarintField(dst, 1, uint64(t.seconds))
	return appendVarintField(dst, 2, uint64(t.nanos))
}

func sizeEmbedded(number protowire.Number, n int) int {
	return protowire.SizeTag(number) + protowire.SizeBytes(n)
}

// appendBinaryID appends the ten bytes of a job's id in a stream's answer; zeros where there is none.
func appendBinaryID(dst []byte, id engine.JobID) []byte {
	dst = binary.BigEndian.AppendUint16(dst, id.Shard)
	return binary.BigEndian.AppendUint64(dst, uint64(id.Pos))
}
