package rpc

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// priorityDefault is the priority of a job that does not say.
const priorityDefault = 5

// jitterPercentDefault is the jitter of an exponential retry policy that does not say.
const jitterPercentDefault = 20

// Times.

func toMillis(t time.Time) queue.Millis { return queue.Millis(t.UnixMilli()) }

func fromMillis(m queue.Millis) time.Time { return time.UnixMilli(int64(m)) }

// pbTime is m as a message; nil for no time.
func pbTime(m queue.Millis) *timestamppb.Timestamp {
	if m == 0 {
		return nil
	}
	return timestamppb.New(fromMillis(m))
}

func pbInstant(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func pbMillis(millis int64) *durationpb.Duration {
	if millis == 0 {
		return nil
	}
	return durationpb.New(time.Duration(millis) * time.Millisecond)
}

// durationOf checks a duration that must not be negative. A fraction of a millisecond is rounded up, so that what is
// positive stays so.
func durationOf(field string, d *durationpb.Duration) (time.Duration, *engine.Error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, invalid(field, "want a duration such as 30s")
	}
	v := d.AsDuration()
	if v < 0 {
		return 0, invalid(field, "is %v: want a duration that is not negative", v)
	}
	if v > queue.DelayMillisMax*time.Millisecond {
		return 0, invalid(field, "is %v: want at most ten years", v)
	}
	if rest := v % time.Millisecond; rest != 0 {
		v += time.Millisecond - rest
	}
	return v, nil
}

func millisOf(field string, d *durationpb.Duration) (int64, *engine.Error) {
	v, err := durationOf(field, d)
	return v.Milliseconds(), err
}

// instantOf checks a point in time.
func instantOf(field string, t *timestamppb.Timestamp) (queue.Millis, *engine.Error) {
	if t == nil {
		return 0, nil
	}
	if err := t.CheckValid(); err != nil || t.GetSeconds() < 0 {
		return 0, invalid(field, "want a time after 1970, such as 2026-01-31T08:00:00Z")
	}
	return toMillis(t.AsTime()), nil
}

// Ids.

func appendID(dst []byte, id engine.JobID) []byte {
	dst, _ = id.AppendText(dst) // never fails
	return dst
}

func parseID(field, s string) (engine.JobID, *engine.Error) {
	if s == "" {
		return engine.JobID{}, invalid(field, "missing: want the id of a job, 16 characters")
	}
	id, err := queue.ParseJobID(s)
	if err != nil {
		return id, invalid(field, "%q is %v", clip(s), err)
	}
	return id, nil
}

func parseIDBytes(field string, b []byte) (engine.JobID, *engine.Error) {
	return parseID(field, string(b))
}

// indexed is the path of an element.
func indexed(field string, i int) string { return fmt.Sprintf("%s[%d]", field, i) }

// clip shortens a user's text for an error message.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// Jobs.

func setPriority(s *engine.Spec, priority uint32) *engine.Error {
	if priority >= queue.PriorityCount {
		return invalid("priority", "is %d: want 0 (first) to %d (last)", priority, queue.PriorityCount-1)
	}
	s.Priority = uint8(priority)
	return nil
}

// rareJobField decodes the fields of a NewJob that are messages: the job overrides something.
func rareJobField(number protowire.Number, data []byte, s *engine.Spec, b *jobBuilder) *engine.Error {
	var err *engine.Error
	switch number {
	case 6, 8:
		var t timestamppb.Timestamp
		if cause := proto.Unmarshal(data, &t); cause != nil {
			return malformed(cause)
		}
		if number == 6 {
			b.hasRunAt = true
			s.RunAt, err = instantOf("run_at", &t)
		} else {
			s.ExpiresAt, err = instantOf("expires_at", &t)
		}
	case 7, 11:
		var d durationpb.Duration
		if cause := proto.Unmarshal(data, &d); cause != nil {
			return malformed(cause)
		}
		if number == 7 {
			b.hasDelay = true
			b.delay, err = durationOf("delay", &d)
		} else {
			s.TimeoutMillis, err = millisOf("timeout", &d)
		}
	case 10:
		var r beaverv1.RetryPolicy
		if cause := proto.Unmarshal(data, &r); cause != nil {
			return malformed(cause)
		}
		s.Retry, err = retryOf("retry", &r)
	}
	return err
}

// jobFieldName names a field of a NewJob.
func jobFieldName(number protowire.Number) string {
	f := (&beaverv1.NewJob{}).ProtoReflect().Descriptor().Fields().ByNumber(number)
	if f == nil {
		return ""
	}
	return string(f.Name())
}

// retryOf reads a retry policy. field is its path. Without a kind it is the default of what it belongs to.
func retryOf(field string, r *beaverv1.RetryPolicy) (queue.Retry, *engine.Error) {
	var out queue.Retry
	if r == nil {
		return out, nil
	}
	if r.GetJitterPercent() > 100 {
		return out, invalid(field+".jitter_percent", "is %d: want 0 to 100", r.GetJitterPercent())
	}
	out.JitterPercent = uint8(r.GetJitterPercent())
	var err *engine.Error
	switch kind := r.GetKind().(type) {
	case *beaverv1.RetryPolicy_Exponential_:
		out.Kind = queue.RetryExponential
		if r.JitterPercent == nil {
			out.JitterPercent = jitterPercentDefault
		}
		if out.BaseMillis, err = millisOf(field+".exponential.base", kind.Exponential.GetBase()); err != nil {
			return out, err
		}
		if out.MaxMillis, err = millisOf(field+".exponential.max", kind.Exponential.GetMax()); err != nil {
			return out, err
		}
		exponentialDefaults(&out)
	case *beaverv1.RetryPolicy_Fixed_:
		out.Kind = queue.RetryFixed
		out.BaseMillis, err = millisOf(field+".fixed.delay", kind.Fixed.GetDelay())
	case *beaverv1.RetryPolicy_List:
		out.Kind = queue.RetryList
		out.List, err = delaysOf(field+".list.delays", kind.List.GetDelays())
	case *beaverv1.RetryPolicy_Never:
		if kind.Never {
			out.Kind = queue.RetryNever
			break
		}
		return out, invalid(field+".never", "is false: leave it out, or set another kind")
	default:
		return out, invalid(field, "want one of exponential, fixed, list, never")
	}
	return out, err
}

func exponentialDefaults(r *queue.Retry) {
	if r.BaseMillis == 0 {
		r.BaseMillis = time.Second.Milliseconds()
	}
	if r.MaxMillis == 0 {
		r.MaxMillis = max(time.Hour.Milliseconds(), r.BaseMillis)
	}
}

func delaysOf(field string, delays []*durationpb.Duration) ([]int64, *engine.Error) {
	switch n := len(delays); {
	case n == 0:
		return nil, invalid(field, "missing: want 1 to %d delays", queue.RetryListMax)
	case n > queue.RetryListMax:
		return nil, tooLarge(field, "has %d items: want at most %d", n, queue.RetryListMax)
	}
	list := make([]int64, len(delays))
	for i, d := range delays {
		var err *engine.Error
		if list[i], err = millisOf(field, d); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func pbRetry(r queue.Retry) *beaverv1.RetryPolicy {
	out := &beaverv1.RetryPolicy{JitterPercent: new(uint32(r.JitterPercent))}
	switch r.Kind {
	case queue.RetryDefault:
		return nil
	case queue.RetryExponential:
		out.Kind = &beaverv1.RetryPolicy_Exponential_{Exponential: &beaverv1.RetryPolicy_Exponential{
			Base: pbMillis(r.BaseMillis), Max: pbMillis(r.MaxMillis),
		}}
	case queue.RetryFixed:
		out.Kind = &beaverv1.RetryPolicy_Fixed_{Fixed: &beaverv1.RetryPolicy_Fixed{
			Delay: durationpb.New(time.Duration(r.BaseMillis) * time.Millisecond),
		}}
	case queue.RetryList:
		list := &beaverv1.RetryPolicy_Delays{}
		for _, millis := range r.List {
			list.Delays = append(list.Delays, durationpb.New(time.Duration(millis)*time.Millisecond))
		}
		out.Kind = &beaverv1.RetryPolicy_List{List: list}
	case queue.RetryNever:
		out.Kind, out.JitterPercent = &beaverv1.RetryPolicy_Never{Never: true}, nil
	}
	return out
}

// failureOf reads a failure; nil is one that says nothing.
func failureOf(f *beaverv1.Failure) (engine.Failure, *engine.Error) {
	delay, err := millisOf("failure.retry_after", f.GetRetryAfter())
	return engine.Failure{
		Type: f.GetType(), Message: f.GetMessage(), Stack: f.GetStack(), Final: f.GetFinal(), DelayMillis: delay,
	}, err
}

// States.

// pbStates maps the machine's states to the API's.
var pbStates = [...]beaverv1.JobState{
	queue.StateUnknown:   beaverv1.JobState_JOB_STATE_UNSPECIFIED,
	queue.StateScheduled: beaverv1.JobState_JOB_STATE_SCHEDULED,
	queue.StateReady:     beaverv1.JobState_JOB_STATE_READY,
	queue.StateRunning:   beaverv1.JobState_JOB_STATE_RUNNING,
	queue.StateBackoff:   beaverv1.JobState_JOB_STATE_BACKOFF,
	queue.StateDead:      beaverv1.JobState_JOB_STATE_DEAD,
	queue.StateCompleted: beaverv1.JobState_JOB_STATE_COMPLETED,
	queue.StateCancelled: beaverv1.JobState_JOB_STATE_CANCELLED,
	queue.StateExpired:   beaverv1.JobState_JOB_STATE_EXPIRED,
	queue.StateDiscarded: beaverv1.JobState_JOB_STATE_DISCARDED,
}

func pbState(s engine.State) beaverv1.JobState {
	if int(s) < len(pbStates) {
		return pbStates[s]
	}
	return beaverv1.JobState_JOB_STATE_UNSPECIFIED
}

func stateOf(field string, s beaverv1.JobState) (engine.State, *engine.Error) {
	for state, pb := range pbStates {
		if pb == s && state != int(queue.StateUnknown) {
			return engine.State(state), nil
		}
	}
	return 0, invalid(field, "want one of scheduled, ready, running, backoff, dead, completed, cancelled, expired, discarded")
}

func pbWorkerState(s engine.WorkerState) beaverv1.WorkerState {
	switch s {
	case engine.WorkerQuiet:
		return beaverv1.WorkerState_WORKER_STATE_QUIET
	case engine.WorkerStop:
		return beaverv1.WorkerState_WORKER_STATE_STOP
	case engine.WorkerRun:
	}
	return beaverv1.WorkerState_WORKER_STATE_RUN
}

func workerStateOf(s beaverv1.WorkerState) (engine.WorkerState, *engine.Error) {
	switch s {
	case beaverv1.WorkerState_WORKER_STATE_RUN:
		return engine.WorkerRun, nil
	case beaverv1.WorkerState_WORKER_STATE_QUIET:
		return engine.WorkerQuiet, nil
	case beaverv1.WorkerState_WORKER_STATE_STOP:
		return engine.WorkerStop, nil
	case beaverv1.WorkerState_WORKER_STATE_UNSPECIFIED:
	}
	return 0, invalid("state", "want one of run, quiet, stop")
}
