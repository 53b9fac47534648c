package rpc

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// workRequest is a WorkRequest. Results of outcomes alias its copy of the data; it goes back to the pool when the engine
// has them.
type workRequest struct {
	data     []byte
	hello    *beaverv1.WorkerInfo
	worker   engine.WorkerID
	credits  uint32
	sequence uint64 // of the outcomes
	outcomes []engine.Outcome
	quiet    bool
	held     []engine.LeaseRef
	received uint64 // jobs taken in
	complete bool   // held is all that the worker held then
	stopping bool
	decoder  outcomeDecoder
	err      error
}

var workPool = sync.Pool{New: func() any { return new(workRequest) }}

const workBuffersKept = 1 << 20

// reset empties the request and keeps its buffers.
func (r *workRequest) reset() {
	*r = workRequest{data: r.data[:0], outcomes: r.outcomes[:0], held: r.held[:0], decoder: r.decoder}
}

func (r *workRequest) release() {
	if cap(r.data) <= workBuffersKept {
		workPool.Put(r)
	}
}

func (r *workRequest) setProto(data []byte) {
	r.data = append(r.data[:0], data...)
	if err := r.decode(); err != nil {
		r.err = err
	}
}

func (r *workRequest) setJSON(data []byte) {
	if data, r.err = transcode(data, new(beaverv1.WorkRequest)); r.err == nil {
		r.setProto(data)
	}
}

func (r *workRequest) decode() *engine.Error {
	f := fields{data: r.data}
	for f.next() {
		var err *engine.Error
		switch {
		case f.number == 1 && f.isBytes():
			r.hello = new(beaverv1.WorkerInfo)
			if cause := proto.Unmarshal(f.value, r.hello); cause != nil {
				err = malformed(cause)
			}
		case f.number == 2 && f.isVarint():
			r.worker = engine.WorkerID(f.varint)
		case f.number == 3 && f.isVarint():
			r.credits = uint32(f.varint)
		case f.number == 4 && f.isVarint():
			r.sequence = f.varint
		case f.number == 5 && f.isBytes():
			err = r.outcome(f.value)
		case f.number == 6 && f.isVarint():
			r.quiet = f.varint != 0
		case f.number == 7 && f.isBytes():
			err = r.lease(f.value)
		case f.number == 8 && f.isVarint():
			r.received = f.varint
		case f.number == 9 && f.isVarint():
			r.complete = f.varint != 0
		case f.number == 10 && f.isVarint():
			r.stopping = f.varint != 0
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

func (r *workRequest) outcome(data []byte) *engine.Error {
	if len(r.outcomes) == OutcomesMax {
		return tooLarge("outcomes", "more than %d in one message: send several", OutcomesMax)
	}
	r.outcomes = append(r.outcomes, engine.Outcome{})
	if err := r.decoder.outcome(data, &r.outcomes[len(r.outcomes)-1]); err != nil {
		return inside(fmt.Sprintf("outcomes[%d]", len(r.outcomes)-1), err)
	}
	return nil
}

func (r *workRequest) lease(data []byte) *engine.Error {
	if len(r.held) == HeldMax {
		return tooLarge("held", "more than %d leases in one message", HeldMax)
	}
	var l engine.LeaseRef
	f := fields{data: data}
	for f.next() {
		switch {
		case f.number == 1 && f.isBytes():
			id, err := parseIDBytes("id", f.value)
			if err != nil {
				return inside(fmt.Sprintf("held[%d]", len(r.held)), err)
			}
			l.ID = id
		case f.number == 2 && f.isVarint():
			l.Token = engine.Token(f.varint)
		}
	}
	if f.err != nil {
		return errMalformed
	}
	r.held = append(r.held, l)
	return nil
}

// workResponse is a WorkResponse.
type workResponse struct {
	worker  engine.WorkerID // of a welcome; 0: no welcome
	ttl     time.Duration
	jobs    []engine.FetchedJob
	through uint64
	refused []refusal
	cancel  []engine.LeaseRef
	lost    []engine.LeaseRef
	state   beaverv1.WorkerState
	alive   bool // a sign of life, also when there is nothing else
}

// refusal is an outcome that changed nothing.
type refusal struct {
	lease engine.LeaseRef
	err   *engine.Error
}

func (r *workResponse) message() proto.Message { return new(beaverv1.WorkResponse) }

// empty tells that there is nothing to say.
func (r *workResponse) empty() bool {
	return r.worker == 0 && len(r.jobs) == 0 && r.through == 0 && len(r.refused) == 0 && len(r.cancel) == 0 &&
		len(r.lost) == 0 && r.state == 0 && !r.alive
}

// reset empties the response and keeps its slices, without what they pointed to.
func (r *workResponse) reset() {
	clear(r.jobs)
	clear(r.refused)
	*r = workResponse{jobs: r.jobs[:0], refused: r.refused[:0], cancel: r.cancel[:0], lost: r.lost[:0]}
}

func (r *workResponse) appendProto(dst []byte) []byte {
	if r.worker != 0 {
		dst = appendMessage(dst, 1, &beaverv1.Welcome{WorkerId: uint64(r.worker), Ttl: durationpb.New(r.ttl)})
	}
	for i := range r.jobs {
		dst = appendLeasedJob(dst, 2, &r.jobs[i])
	}
	dst = appendVarintField(dst, 3, r.through)
	for i := range r.refused {
		dst = appendMessage(dst, 4, &beaverv1.OutcomeRefused{
			Id: r.refused[i].lease.ID.String(), Token: uint64(r.refused[i].lease.Token), Error: jobError(0, "", r.refused[i].err),
		})
	}
	for _, l := range r.cancel {
		dst = appendLeaseRef(dst, 5, l)
	}
	for _, l := range r.lost {
		dst = appendLeaseRef(dst, 6, l)
	}
	return appendVarintField(dst, 7, uint64(r.state))
}
