package rpc

import (
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// enqueueBuffers are the reusable parts of an enqueue: the bytes of the message, the jobs decoded from them (whose
// payloads alias the bytes) and the answers.
type enqueueBuffers struct {
	decoder jobDecoder
	data    []byte
	request engine.EnqueueRequest
	answers []engine.Enqueued
}

// enqueueBuffersKept is the size above which buffers are left to the garbage collector: one huge request must not stay
// in memory for ever.
const enqueueBuffersKept = 1 << 20

var enqueuePool = sync.Pool{New: func() any { return new(enqueueBuffers) }}

func (b *enqueueBuffers) release() {
	if cap(b.data) > enqueueBuffersKept {
		return
	}
	enqueuePool.Put(b)
}

// begin takes a copy of the message's bytes and clears what is left of the one before.
func (b *enqueueBuffers) begin(data []byte) {
	b.data = append(b.data[:0], data...)
	b.clear()
}

// clear forgets what was decoded, and keeps the room.
func (b *enqueueBuffers) clear() {
	b.request = engine.EnqueueRequest{Jobs: b.request.Jobs[:0]}
	b.decoder.now = time.Now()
}

// addJob makes room for one more job.
func (b *enqueueBuffers) addJob() (*engine.NewJob, *engine.Error) {
	jobs := b.request.Jobs
	if len(jobs) == EnqueueJobsMax {
		return nil, tooLarge("jobs", "more than %d jobs in one message: send several", EnqueueJobsMax)
	}
	if len(jobs) < cap(jobs) {
		jobs = jobs[:len(jobs)+1] // keeps the metadata's room of the job that stood here
	} else {
		jobs = append(jobs, engine.NewJob{})
	}
	b.request.Jobs = jobs
	return &jobs[len(jobs)-1], nil
}

// job decodes one element of jobs. What is wrong with it is in the job.
func (b *enqueueBuffers) job(data []byte) *engine.Error {
	job, err := b.addJob()
	if err != nil {
		return err
	}
	if err := b.decoder.job(data, job); err != nil {
		job.Err = err
	}
	return nil
}

// inside puts the path of the message around it before an error's field.
func inside(path string, err *engine.Error) *engine.Error {
	e := *err
	if e.Field == "" {
		e.Field, e.Message = path, path+": "+e.Message
	} else {
		e.Field, e.Message = path+"."+e.Field, path+"."+e.Message
	}
	return &e
}

// setSession reads a client's session id.
func (b *enqueueBuffers) setSession(data []byte) *engine.Error {
	id, err := sessionOf(data)
	b.request.Session = id
	return err
}

func sessionOf(data []byte) (engine.SessionID, *engine.Error) {
	var id engine.SessionID
	if len(data) != 0 && len(data) != len(id) {
		return id, invalid("session", "has %d bytes: want %d random ones, which are in base64 in JSON", len(data), len(id))
	}
	copy(id[:], data)
	return id, nil
}

// enqueueRequest is an EnqueueRequest. Its buffers come from the pool; the handler releases them.
type enqueueRequest struct {
	*enqueueBuffers
	err error
}

func (r *enqueueRequest) setProto(data []byte) {
	r.enqueueBuffers = enqueuePool.Get().(*enqueueBuffers)
	r.begin(data)
	if err := r.decode(); err != nil {
		r.err = err
	}
}

func (r *enqueueRequest) setJSON(data []byte) {
	if data, r.err = transcode(data, new(beaverv1.EnqueueRequest)); r.err == nil {
		r.setProto(data)
	}
}

// singleShift is how much greater the numbers of a job's fields are in EnqueueRequest than in NewJob.
const (
	singleShift = 1
	singleFirst = 2
	singleLast  = singleShift + uniqueLast
)

func (r *enqueueRequest) decode() *engine.Error {
	var single engine.NewJob
	var builder jobBuilder
	hasSingle := false
	f := fields{data: r.data}
	for f.next() {
		var err *engine.Error
		switch {
		case f.number == 1 && f.isBytes():
			err = r.job(f.value)
		case f.number >= singleFirst && f.number <= singleLast:
			if !hasSingle {
				hasSingle = true
				builder = newJobBuilder(&single)
			}
			err = r.decoder.field(&f, f.number-singleShift, &single, &builder)
		case f.number == 20 && f.isVarint():
			r.request.Atomic = f.varint != 0
		case f.number == 21 && f.isBytes():
			err = r.setSession(f.value)
		case f.number == 22 && f.isVarint():
			r.request.Sequence = f.varint
		}
		if err != nil {
			return err
		}
	}
	if f.err != nil {
		return errMalformed
	}
	if !hasSingle {
		return nil
	}
	if len(r.request.Jobs) > 0 {
		return invalid("jobs", "give either jobs, or one job's fields beside them")
	}
	if err := builder.finish(&single, r.decoder.now); err != nil {
		return err
	}
	job, err := r.addJob()
	if err != nil {
		return err
	}
	*job = single
	return nil
}

// enqueueResponse answers Enqueue.
type enqueueResponse struct {
	ids       []byte // 16 characters each; zeros where the job was refused
	count     int
	errors    []*beaverv1.JobError
	duplicate bool
	existing  []byte // one a job, 1 where another job holds its key; empty: that is so of none
}

func (r *enqueueResponse) message() proto.Message { return new(beaverv1.EnqueueResponse) }

func (r *enqueueResponse) appendProto(dst []byte) []byte {
	for i := range r.count {
		id := r.ids[i*jobIDBytes : (i+1)*jobIDBytes]
		if id[0] == 0 {
			id = nil
		}
		dst = protowire.AppendBytes(protowire.AppendTag(dst, 1, protowire.BytesType), id)
	}
	for _, e := range r.errors {
		dst = appendMessage(dst, 2, e)
	}
	if r.duplicate {
		dst = appendVarintField(dst, 3, 1)
	}
	return appendBytesField(dst, 4, r.existing) // as packed booleans are
}

// fill takes the engine's answers. path names the jobs in errors.
func (r *enqueueResponse) fill(answers []engine.Enqueued, path func(int) string) {
	r.count = len(answers)
	r.ids = make([]byte, 0, len(answers)*jobIDBytes)
	for i := range answers {
		a := &answers[i]
		if a.Err != nil {
			r.ids = append(r.ids, make([]byte, jobIDBytes)...)
			r.errors = append(r.errors, jobError(i, path(i), a.Err))
			continue
		}
		r.ids = appendID(r.ids, a.ID)
		r.duplicate = r.duplicate || a.Duplicate
		if a.Existing {
			if r.existing == nil {
				r.existing = make([]byte, len(answers))
			}
			r.existing[i] = 1
		}
	}
}

// streamRequest is an EnqueueStreamRequest, reused from message to message of its stream.
type streamRequest struct {
	enqueueBuffers
	session    engine.SessionID
	hasSession bool
	sequence   uint64 // as the client numbered the message
	err        error
}

func (r *streamRequest) setProto(data []byte) {
	r.data = append(r.data[:0], data...)
	r.setOwn()
}

// buffer implements owner.
func (r *streamRequest) buffer() *[]byte { return &r.data }

// setOwn implements owner.
func (r *streamRequest) setOwn() {
	r.clear()
	r.session, r.hasSession, r.err = engine.SessionID{}, false, nil
	if err := r.decode(); err != nil {
		r.err = err
	}
}

func (r *streamRequest) setJSON(data []byte) {
	if data, r.err = transcode(data, new(beaverv1.EnqueueStreamRequest)); r.err == nil {
		r.setProto(data)
	}
}

func (r *streamRequest) decode() *engine.Error {
	f := fields{data: r.data}
	for f.next() {
		var err *engine.Error
		switch {
		case f.number == 1 && f.isBytes():
			r.session, err = sessionOf(f.value)
			r.hasSession = len(f.value) > 0
		case f.number == 2 && f.isVarint():
			r.request.Sequence = f.varint
		case f.number == 3 && f.isVarint():
			r.request.Atomic = f.varint != 0
		case f.number == 4 && f.isBytes():
			err = r.job(f.value)
		}
		if err != nil {
			return err
		}
	}
	if f.err != nil {
		return errMalformed
	}
	return nil
}

// streamResponse is an EnqueueStreamResponse, reused from message to message of its stream.
type streamResponse struct {
	through uint64
	jobs    int
	ids     []byte
	errors  []*beaverv1.JobError

	existing []byte // which jobs' keys are held by others: the content of a packed field
}

func (r *streamResponse) message() proto.Message { return new(beaverv1.EnqueueStreamResponse) }

func (r *streamResponse) reset() {
	*r = streamResponse{ids: r.ids[:0], errors: r.errors[:0], existing: r.existing[:0]}
}

// add appends the answers to one message.
func (r *streamResponse) add(sequence uint64, answers []engine.Enqueued) {
	r.through = sequence
	for i := range answers {
		a := &answers[i]
		if a.Err != nil {
			r.ids = appendBinaryID(r.ids, engine.JobID{})
			r.errors = append(r.errors, jobError(r.jobs, "", a.Err)) // the client may have put many callers' jobs together
		} else {
			r.ids = appendBinaryID(r.ids, a.ID)
		}
		if a.Existing && a.Err == nil {
			r.existing = protowire.AppendVarint(r.existing, uint64(r.jobs))
		}
		r.jobs++
	}
}

func (r *streamResponse) appendProto(dst []byte) []byte {
	dst = appendVarintField(dst, 1, r.through)
	dst = appendBytesField(dst, 2, r.ids)
	for _, e := range r.errors {
		dst = appendMessage(dst, 3, e)
	}
	return appendBytesField(dst, 4, r.existing)
}
