package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// The procedures with which people and tools look at jobs and set them right.

func (h *Handler) getJob(ctx context.Context, e Engine, in *beaverv1.GetJobRequest) (*beaverv1.GetJobResponse, error) {
	id, bad := parseID("id", in.GetId())
	if bad != nil {
		return nil, bad
	}
	detail, err := e.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	return &beaverv1.GetJobResponse{Job: pbJob(&detail)}, nil
}

func (h *Handler) listJobs(ctx context.Context, e Engine, in *beaverv1.ListJobsRequest) (*beaverv1.ListJobsResponse, error) {
	if in.GetQueue() == "" {
		return nil, invalid("queue", "missing: want the name of a queue")
	}
	state, bad := stateOf("state", in.GetState())
	if bad != nil {
		return nil, bad
	}
	limit := int(in.GetPageSize())
	if limit == 0 {
		limit = PageSizeDefault
	}
	if in.GetPageSize() > queue.ListMax {
		return nil, invalid("page_size", "is %d: want 1 to %d", in.GetPageSize(), queue.ListMax)
	}
	jobs, next, err := e.List(ctx, engine.ListRequest{
		Queue: in.GetQueue(), State: state, Cursor: in.GetPageToken(), Limit: limit, Full: in.GetFull(),
	})
	if err != nil {
		return nil, renamed(err, "cursor", "page_token")
	}
	out := &beaverv1.ListJobsResponse{NextPageToken: next, Jobs: make([]*beaverv1.Job, len(jobs))}
	for i := range jobs {
		out.Jobs[i] = pbJob(&jobs[i])
	}
	return out, nil
}

// renamed puts the API's name for a field in place of the engine's, in the message too.
func renamed(err error, from, to string) error {
	e := asEngineError(err)
	if e.Field != from {
		return err
	}
	changed := *e
	changed.Field = to
	if text, names := strings.CutPrefix(e.Message, from+" "); names {
		changed.Message = to + " " + text
	}
	return &changed
}

func (h *Handler) cancelJob(ctx context.Context, e Engine, in *beaverv1.CancelJobRequest) (*beaverv1.CancelJobResponse, error) {
	id, bad := parseID("id", in.GetId())
	if bad != nil {
		return nil, bad
	}
	state, err := e.Cancel(ctx, id)
	if err != nil {
		return nil, err
	}
	return &beaverv1.CancelJobResponse{State: pbState(state)}, nil
}

func (h *Handler) retryDead(ctx context.Context, e Engine, in *beaverv1.DeadRequest) (*beaverv1.DeadResponse, error) {
	return dead(ctx, in, e.RetryDead, e.RetryAllDead)
}

func (h *Handler) discardDead(ctx context.Context, e Engine, in *beaverv1.DeadRequest) (*beaverv1.DeadResponse, error) {
	return dead(ctx, in, e.DiscardDead, e.DiscardAllDead)
}

// dead moves dead jobs: those named by one, or those of a queue by all.
func dead(
	ctx context.Context, in *beaverv1.DeadRequest,
	one func(context.Context, []engine.JobID, []engine.Ended) ([]engine.Ended, error),
	all func(ctx context.Context, queue, after string, limit int) (int, string, error),
) (*beaverv1.DeadResponse, error) {
	texts := in.GetIds()
	switch {
	case len(texts) > 0 && in.GetQueue() != "":
		return nil, invalid("queue", "give either ids or a queue")
	case len(texts) == 0 && in.GetQueue() == "":
		return nil, invalid("ids", "missing: want the ids of dead jobs, or a queue to take all of")
	case len(texts) > DeadIDsMax:
		return nil, tooLarge("ids", "has %d ids: want at most %d", len(texts), DeadIDsMax)
	case len(texts) > 0 && in.GetPageToken() != "":
		return nil, invalid("page_token", "is of a queue: leave it out, or give the queue instead of ids")
	case in.GetLimit() > DeadLimitMax:
		return nil, invalid("limit", "is %d: want at most %d a call", in.GetLimit(), DeadLimitMax)
	}
	if len(texts) == 0 {
		limit := int(in.GetLimit())
		if limit == 0 {
			limit = DeadLimitMax
		}
		count, next, err := all(ctx, in.GetQueue(), in.GetPageToken(), limit)
		out := &beaverv1.DeadResponse{Count: uint32(count), More: next != "", NextPageToken: next}
		if over, ok := errors.AsType[*engine.PassedOver](err); ok {
			out.PassedOver, out.Errors = uint32(over.Count), append(out.Errors, jobError(0, "", over.First))
		} else if err != nil {
			return nil, renamed(err, "cursor", "page_token")
		}
		return out, nil
	}
	ids := make([]engine.JobID, len(texts))
	for i, text := range texts {
		var bad *engine.Error
		if ids[i], bad = parseID(fmt.Sprintf("ids[%d]", i), text); bad != nil {
			return nil, bad
		}
	}
	ended, err := one(ctx, ids, make([]engine.Ended, 0, len(ids)))
	if err != nil {
		return nil, err
	}
	out := new(beaverv1.DeadResponse)
	for i := range ended {
		if ended[i].Err != nil {
			out.Errors = append(out.Errors, jobError(i, fmt.Sprintf("ids[%d]", i), ended[i].Err))
		} else {
			out.Count++
		}
	}
	return out, nil
}

// deadReasons name why a job is dead.
var deadReasons = [...]string{
	queue.DeadNot: "", queue.DeadAttempts: "attempts", queue.DeadFinal: "final", queue.DeadPoison: "poison", queue.DeadDamaged: "damaged",
}

func deadReason(r queue.DeadReason) string {
	if int(r) < len(deadReasons) {
		return deadReasons[r]
	}
	return ""
}

// pbJob is a job as the API shows it.
func pbJob(d *engine.JobDetail) *beaverv1.Job {
	i, s := &d.Info, &d.Spec
	job := &beaverv1.Job{
		Id: d.ID.String(), Queue: d.QueueName, State: pbState(i.State), Priority: uint32(i.Priority),
		RunAt: pbTime(i.RunAt), StartedAt: pbTime(i.StartedAt), EndedAt: pbTime(i.EndedAt), Deadline: pbTime(i.Deadline),
		Attempt: i.Attempt, Failures: i.Failures, Crashes: i.Crashes,
		WorkerId: uint64(i.Worker), Token: uint64(i.Token), CancelRequested: i.CancelRequested,
		ProgressPercent: uint32(i.ProgressPercent), ProgressMessage: d.Progress,
		Result: d.Result, ResultContentType: d.ResultContentType, DeadReason: deadReason(i.DeadReason),
	}
	if d.HasSpec {
		job.Kind, job.Payload, job.ContentType = s.Kind, s.Payload, s.ContentType
		job.OrderingKey, job.UniqueKey = s.OrderingKey, s.UniqueKey
		if s.UniqueKey != "" {
			job.UniqueUntil, job.UniqueFor = pbUniqueUntil(s.UniqueUntil), pbMillis(s.UniqueForMillis)
		}
		job.EnqueuedAt, job.ExpiresAt = pbTime(s.EnqueuedAt), pbTime(s.ExpiresAt)
		job.MaxAttempts, job.Timeout = s.MaxAttempts, pbMillis(max(0, s.TimeoutMillis))
		if len(s.Metadata) > 0 {
			job.Metadata = make(map[string]string, len(s.Metadata))
			for _, kv := range s.Metadata {
				job.Metadata[kv.Key] = kv.Value
			}
		}
	}
	for k := range d.Errors {
		e := &d.Errors[k]
		job.Errors = append(job.Errors, &beaverv1.AttemptError{
			At: pbInstant(e.At), Type: e.Type, Message: e.Message, Stack: e.Stack,
		})
	}
	return job
}
