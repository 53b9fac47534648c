package beaver

import (
	"errors"
	"slices"
	"strings"
)

// batch is the jobs of one message to the server. It is filled and sealed under the enqueuer's mutex, and read-only once done
// is closed.
type batch struct {
	jobs     []byte // encoded: field jobs of EnqueueStreamRequest, repeated
	ends     []uint32
	removed  []int // sorted places in ends whose callers left before the message was sent
	atomic   bool
	since    moment // of the first job
	sequence uint64 // 0 until the message is sent for the first time
	again    bool   // it was sent on an earlier stream too

	done     chan struct{} // closed when the answer, or err, is there
	ids      []byte        // jobIDWireBytes a job
	existing []int         // the jobs whose keys others hold, in order
	errs     []jobRefusal
	err      error // of the whole message
}

// jobRefusal is why one job of a batch was refused.
type jobRefusal struct {
	index int
	err   *Error
}

// place is where a job stands: in a batch, at an index.
type place struct {
	batch *batch
	index int
}

// count is how many jobs the message has.
func (b *batch) count() int { return len(b.ends) - len(b.removed) }

// fits says whether a job of so many bytes may join.
func (b *batch) fits(size int) bool {
	return b.sequence == 0 && !b.atomic && len(b.ends) < messageJobsMax &&
		(len(b.ends) == 0 || len(b.jobs)+size <= messageBytesMax)
}

// append adds a job.
func (b *batch) append(job *encoding) place {
	b.jobs = job.append(b.jobs)
	b.ends = append(b.ends, uint32(len(b.jobs)))
	return place{b, len(b.ends) - 1}
}

// remove takes a job out. What waits behind it keeps its place.
//
// REQUIRES: the message was not sent yet.
func (b *batch) remove(index int) {
	at, _ := slices.BinarySearch(b.removed, index)
	b.removed = slices.Insert(b.removed, at, index)
	start := uint32(0)
	if index > 0 {
		start = b.ends[index-1]
	}
	size := b.ends[index] - start
	b.jobs = slices.Delete(b.jobs, int(start), int(b.ends[index]))
	for i := index; i < len(b.ends); i++ {
		b.ends[i] -= size
	}
}

// answer returns what became of the job at index.
//
// REQUIRES: done is closed.
func (b *batch) answer(index int) (Enqueued, error) {
	if b.err != nil {
		return Enqueued{}, b.err
	}
	before, _ := slices.BinarySearch(b.removed, index)
	index -= before
	if at, found := slices.BinarySearchFunc(b.errs, index, func(r jobRefusal, i int) int { return r.index - i }); found {
		return Enqueued{}, b.errs[at].err
	}
	if id := jobIDFromWire(b.ids[index*jobIDWireBytes:]); id != "" {
		_, existing := slices.BinarySearch(b.existing, index)
		return Enqueued{ID: id, Existing: existing}, nil
	}
	return Enqueued{}, &Error{Code: CodeInternal, Message: "the server refused the job without saying why"}
}

// explain returns what the error that the job got says to its caller. To a server that is older than unique keys the job names no
// queue (see encoding), and so it refuses what it would have stored without its key.
//
// REQUIRES: done is closed.
func (b *batch) explain(job *Job, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*Error](err)
	if ok && b.doubts(e) {
		return repeatRefused(e)
	}
	if !ok || job.UniqueKey == "" || e.Code != CodeInvalidArgument || e.Field != "queue" && !strings.HasSuffix(e.Field, ".queue") {
		return err
	}
	const old = "the server is older than unique keys, and does not store jobs that have one: upgrade it"
	if b.again { // maybe to a newer one, and stored there
		return &Error{
			Code: CodeUnimplemented, Reason: reasonOutcomeUnknown, Field: "unique_key", cause: err,
			Message: "the job was sent before and not answered, and may be stored; its repeat was refused: " + old,
		}
	}
	return &Error{Code: CodeUnimplemented, Reason: reasonNoUniqueKeys, Field: "unique_key", Message: old, cause: err}
}

// doubts reports whether a refusal says nothing of what became of the message when it was sent before. A limit of messages is the same
// wherever it is looked at, and that a queue is full the session remembers, so that no copy of the message is stored any more. All else is of
// the node and the moment: a disk that is full, too much that waits, a shard that has stopped, the versions of the cluster, who may call. That
// the outcome is unknown is no refusal.
func (b *batch) doubts(e *Error) bool {
	return b.again && e.Code != CodeInvalidArgument && e.Reason != reasonQueueFull && e.Reason != reasonOutcomeUnknown
}

// repeatRefused is the error of a job whose message was refused when it was sent again.
func repeatRefused(e *Error) *Error {
	return &Error{
		Code: e.Code, Reason: reasonOutcomeUnknown, Field: e.Field, cause: e,
		Message: "the job was sent before and not answered, and may be stored; its repeat was refused: " + e.Message,
	}
}
