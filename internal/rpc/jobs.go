package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// fetch answers Fetch. Jobs whose payloads together are over FetchBytesMax are given back rather than sent.
func (h *Handler) fetch(ctx context.Context, e Engine, in *received[beaverv1.FetchRequest, *beaverv1.FetchRequest]) (*fetchResponse, error) {
	if in.err != nil {
		return nil, in.err
	}
	msg := &in.msg
	r := engine.FetchRequest{
		Worker: engine.WorkerID(msg.GetWorkerId()), Queues: msg.GetQueues(), Max: int(msg.GetMax()),
	}
	if r.Max == 0 {
		r.Max = 1
	}
	if msg.GetMax() > queue.FetchMax {
		return nil, invalid("max", "is %d: want 1 to %d", msg.GetMax(), queue.FetchMax)
	}
	if err := checkQueues("queues", r.Queues); err != nil {
		return nil, err
	}
	var err *engine.Error
	if r.Wait, err = durationOf("wait", msg.GetWait()); err != nil {
		return nil, err
	}
	if r.Wait > queue.WaitMillisMax*time.Millisecond {
		return nil, invalid("wait", "is %v: want at most %v", r.Wait, queue.WaitMillisMax*time.Millisecond)
	}
	if r.Lease, err = leaseOf(msg); err != nil {
		return nil, err
	}
	if r.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(h.stop, cancel)()
	}
	jobs, failure := e.Fetch(ctx, &r)
	if failure != nil {
		if h.stop.Err() != nil {
			return nil, errStopping()
		}
		return nil, failure
	}
	return &fetchResponse{jobs: h.trim(ctx, e, jobs)}, nil
}

// leaseOf is the lease that a fetch without a worker asks for.
func leaseOf(msg *beaverv1.FetchRequest) (time.Duration, *engine.Error) {
	if msg.GetLease() == nil {
		if msg.GetWorkerId() != 0 {
			return 0, nil
		}
		return LeaseDefault, nil
	}
	if msg.GetWorkerId() != 0 {
		return 0, invalid("lease", "a worker's jobs are its own as long as it lives: leave lease out, or worker_id")
	}
	return leaseDuration("lease", msg.GetLease())
}

func checkQueues(field string, queues []string) *engine.Error {
	switch n := len(queues); {
	case n == 0:
		return invalid(field, "missing: want the names of 1 to %d queues", queue.FetchQueuesMax)
	case n > queue.FetchQueuesMax:
		return tooLarge(field, "has %d names: want at most %d", n, queue.FetchQueuesMax)
	}
	return nil
}

// trim gives back the jobs that would make an answer larger than FetchBytesMax.
func (h *Handler) trim(ctx context.Context, e Engine, jobs []engine.FetchedJob) []engine.FetchedJob {
	size := 0
	for i := range jobs {
		size += len(jobs[i].Spec.Payload)
		if size > FetchBytesMax && i > 0 {
			h.giveBack(ctx, e, jobs[i:])
			return jobs[:i]
		}
	}
	return jobs
}

// giveBack releases leased jobs that the worker will not get to see. Should it fail, the lease's end does the same. It is the node that does so:
// no sign that the worker lives.
func (h *Handler) giveBack(ctx context.Context, e Engine, jobs []engine.FetchedJob) {
	if len(jobs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	outcomes := make([]engine.Outcome, len(jobs))
	for i := range jobs {
		outcomes[i] = engine.Outcome{Kind: engine.OutcomeRelease, ID: jobs[i].ID, Token: jobs[i].Token}
	}
	if _, err := e.Finish(ctx, 0, outcomes, nil); err != nil {
		h.opts.Logger.Warn("jobs could not be given back; their leases have to run out", "jobs", len(jobs), "err", err)
	}
}

// end ends one attempt and returns the job's state.
func (h *Handler) end(ctx context.Context, e Engine, id string, o engine.Outcome) (beaverv1.JobState, error) {
	var err *engine.Error
	if o.ID, err = parseID("id", id); err != nil {
		return 0, err
	}
	ended, failure := e.Finish(ctx, 0, []engine.Outcome{o}, nil)
	if failure != nil {
		return 0, failure
	}
	if len(ended) != 1 {
		return 0, fmt.Errorf("finish answered %d outcomes instead of 1", len(ended))
	}
	if ended[0].Err != nil {
		return 0, ended[0].Err
	}
	return pbState(ended[0].State), nil
}

func (h *Handler) ack(ctx context.Context, e Engine, in *beaverv1.AckRequest) (*beaverv1.AckResponse, error) {
	state, err := h.end(ctx, e, in.GetId(), engine.Outcome{
		Kind: engine.OutcomeAck, Token: engine.Token(in.GetToken()), ContentType: in.GetContentType(), Result: in.GetResult(),
	})
	return &beaverv1.AckResponse{State: state}, err
}

func (h *Handler) fail(ctx context.Context, e Engine, in *beaverv1.FailRequest) (*beaverv1.FailResponse, error) {
	failure, bad := failureOf(in.GetFailure())
	if bad != nil {
		return nil, bad
	}
	state, err := h.end(ctx, e, in.GetId(), engine.Outcome{
		Kind: engine.OutcomeFail, Token: engine.Token(in.GetToken()), Failure: failure,
	})
	return &beaverv1.FailResponse{State: state}, err
}

func (h *Handler) release(ctx context.Context, e Engine, in *beaverv1.ReleaseRequest) (*beaverv1.ReleaseResponse, error) {
	state, err := h.end(ctx, e, in.GetId(), engine.Outcome{
		Kind: engine.OutcomeRelease, Token: engine.Token(in.GetToken()),
	})
	return &beaverv1.ReleaseResponse{State: state}, err
}

// finishRequest is a FinishRequest. Results alias its copy of the data.
type finishRequest struct {
	data     []byte
	outcomes []engine.Outcome
	err      error
}

func (r *finishRequest) setProto(data []byte) {
	r.data = append(r.data[:0], data...)
	var decoder outcomeDecoder
	f := fields{data: r.data}
	for f.next() {
		if f.number != 1 || !f.isBytes() {
			continue
		}
		if len(r.outcomes) == OutcomesMax {
			r.err = tooLarge("outcomes", "more than %d in one message: send several", OutcomesMax)
			return
		}
		r.outcomes = append(r.outcomes, engine.Outcome{})
		if err := decoder.outcome(f.value, &r.outcomes[len(r.outcomes)-1]); err != nil {
			r.err = inside(fmt.Sprintf("outcomes[%d]", len(r.outcomes)-1), err)
			return
		}
	}
	if f.err != nil {
		r.err = errMalformed
	}
}

func (r *finishRequest) setJSON(data []byte) {
	if data, r.err = transcode(data, new(beaverv1.FinishRequest)); r.err == nil {
		r.setProto(data)
	}
}

// finishResponse answers Finish.
type finishResponse struct{ ended []engine.Ended }

func (r *finishResponse) message() proto.Message { return new(beaverv1.FinishResponse) }

func (r *finishResponse) appendProto(dst []byte) []byte {
	n := 0
	for i := range r.ended {
		n += protowire.SizeVarint(uint64(pbState(r.stateAt(i))))
	}
	dst = appendLength(dst, 1, n)
	for i := range r.ended {
		dst = protowire.AppendVarint(dst, uint64(pbState(r.stateAt(i))))
	}
	for i := range r.ended {
		if e := r.ended[i].Err; e != nil {
			dst = appendMessage(dst, 2, jobError(i, fmt.Sprintf("outcomes[%d]", i), e))
		}
	}
	return dst
}

func (r *finishResponse) stateAt(i int) engine.State {
	if r.ended[i].Err != nil {
		return queue.StateUnknown
	}
	return r.ended[i].State
}

func (h *Handler) finish(ctx context.Context, e Engine, in *finishRequest) (*finishResponse, error) {
	if in.err != nil {
		return nil, in.err
	}
	if len(in.outcomes) == 0 {
		return nil, invalid("outcomes", "missing: want at least one")
	}
	ended, err := e.Finish(ctx, 0, in.outcomes, make([]engine.Ended, 0, len(in.outcomes)))
	if err != nil {
		return nil, err
	}
	return &finishResponse{ended: ended}, nil
}

func leaseDuration(field string, d interface{ AsDuration() time.Duration }) (time.Duration, *engine.Error) {
	v := d.AsDuration()
	if most := queue.LeaseMillisMax * time.Millisecond; v < time.Millisecond || v > most {
		return 0, invalid(field, "is %v: want a duration from 1ms to %v", v, most)
	}
	return v, nil
}

func (h *Handler) extend(ctx context.Context, e Engine, in *beaverv1.ExtendRequest) (*beaverv1.ExtendResponse, error) {
	id, bad := parseID("id", in.GetId())
	if bad != nil {
		return nil, bad
	}
	if in.GetLease() == nil {
		return nil, invalid("lease", "missing: want how long the lease lasts from now, such as 30s")
	}
	lease, bad := leaseDuration("lease", in.GetLease())
	if bad != nil {
		return nil, bad
	}
	deadline, err := e.Extend(ctx, id, engine.Token(in.GetToken()), lease)
	if err != nil {
		return nil, err
	}
	return &beaverv1.ExtendResponse{Deadline: timestamppb.New(deadline)}, nil
}

func (h *Handler) progress(ctx context.Context, e Engine, in *beaverv1.ProgressRequest) (*beaverv1.ProgressResponse, error) {
	id, bad := parseID("id", in.GetId())
	if bad != nil {
		return nil, bad
	}
	if in.GetPercent() > 100 {
		return nil, invalid("percent", "is %d: want 0 to 100", in.GetPercent())
	}
	if err := e.Progress(ctx, id, engine.Token(in.GetToken()), int(in.GetPercent()), in.GetMessage()); err != nil {
		return nil, err
	}
	detail, err := e.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	return &beaverv1.ProgressResponse{CancelRequested: detail.Info.CancelRequested}, nil
}
