package beaver

import (
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

const (
	jobStatePrefix    = "JOB_STATE_"
	workerStatePrefix = "WORKER_STATE_"
)

func jobStateOf(s beaverv1.JobState) JobState {
	return JobState(strings.ToLower(strings.TrimPrefix(s.String(), jobStatePrefix)))
}

func (s JobState) proto() (beaverv1.JobState, error) {
	n, ok := beaverv1.JobState_value[jobStatePrefix+strings.ToUpper(string(s))]
	if !ok || n == 0 {
		return 0, invalid("state", "%q is not a state; use scheduled, ready, running, backoff, dead, completed, cancelled, expired "+
			"or discarded", string(s))
	}
	return beaverv1.JobState(n), nil
}

func workerStateOf(s beaverv1.WorkerState) WorkerState {
	if s == beaverv1.WorkerState_WORKER_STATE_UNSPECIFIED {
		return WorkerRun
	}
	return WorkerState(strings.ToLower(strings.TrimPrefix(s.String(), workerStatePrefix)))
}

func (s WorkerState) proto() (beaverv1.WorkerState, error) {
	n, ok := beaverv1.WorkerState_value[workerStatePrefix+strings.ToUpper(string(s))]
	if !ok || n == 0 {
		return 0, invalid("state", "%q is not a worker's state; use run, quiet or stop", string(s))
	}
	return beaverv1.WorkerState(n), nil
}

func uniqueUntilOf(u beaverv1.UniqueUntil) UniqueUntil {
	if u == beaverv1.UniqueUntil_UNIQUE_UNTIL_STARTED {
		return UniqueUntilStarted
	}
	return UniqueUntilEnded
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func durationOf(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func jobInfoOf(j *beaverv1.Job) *JobInfo {
	info := &JobInfo{
		ID: JobID(j.GetId()), Queue: j.GetQueue(), State: jobStateOf(j.GetState()), Kind: j.GetKind(),
		Payload: j.GetPayload(), ContentType: j.GetContentType(), Priority: int(j.GetPriority()),
		EnqueuedAt: timeOf(j.GetEnqueuedAt()), RunAt: timeOf(j.GetRunAt()), ExpiresAt: timeOf(j.GetExpiresAt()),
		StartedAt: timeOf(j.GetStartedAt()), EndedAt: timeOf(j.GetEndedAt()), Deadline: timeOf(j.GetDeadline()),
		Attempt: int(j.GetAttempt()), Failures: int(j.GetFailures()), Crashes: int(j.GetCrashes()),
		MaxAttempts: int(j.GetMaxAttempts()), Timeout: j.GetTimeout().AsDuration(),
		WorkerID: j.GetWorkerId(), Token: j.GetToken(), CancelRequested: j.GetCancelRequested(),
		ProgressPercent: int(j.GetProgressPercent()), ProgressMessage: j.GetProgressMessage(),
		Result: j.GetResult(), ResultContentType: j.GetResultContentType(),
		DeadReason: j.GetDeadReason(), OrderingKey: j.GetOrderingKey(), Metadata: j.GetMetadata(),
	}
	if j.GetUniqueKey() != "" {
		info.UniqueKey, info.UniqueUntil, info.UniqueFor = j.GetUniqueKey(), uniqueUntilOf(j.GetUniqueUntil()), j.GetUniqueFor().AsDuration()
	}
	for _, e := range j.GetErrors() {
		info.Errors = append(info.Errors, AttemptError{
			At: timeOf(e.GetAt()), Type: e.GetType(), Message: e.GetMessage(), Stack: e.GetStack(),
		})
	}
	return info
}

func (r *RetryPolicy) proto() (*beaverv1.RetryPolicy, error) {
	if r == nil {
		return nil, nil //nolint:nilnil // No policy is the queue's policy.
	}
	if err := r.validate(); err != nil {
		return nil, err
	}
	p := &beaverv1.RetryPolicy{}
	switch r.Kind {
	case RetryExponential:
		p.Kind = &beaverv1.RetryPolicy_Exponential_{Exponential: &beaverv1.RetryPolicy_Exponential{
			Base: durationOf(r.Base), Max: durationOf(r.Max),
		}}
	case RetryFixed:
		p.Kind = &beaverv1.RetryPolicy_Fixed_{Fixed: &beaverv1.RetryPolicy_Fixed{Delay: durationpb.New(r.Base)}}
	case RetryList:
		switch n := len(r.Delays); {
		case n == 0:
			return nil, invalid("retry.delays", "the list has no delays; give 1 to %d", retryDelaysMax)
		case n > retryDelaysMax:
			return nil, tooLarge("retry.delays", "the list has %d delays; give at most %d", n, retryDelaysMax)
		}
		list := &beaverv1.RetryPolicy_Delays{}
		for _, d := range r.Delays {
			list.Delays = append(list.Delays, durationpb.New(d))
		}
		p.Kind = &beaverv1.RetryPolicy_List{List: list}
	case RetryNever:
		p.Kind = &beaverv1.RetryPolicy_Never{Never: true}
	default:
		return nil, invalid("retry.kind", "%d is not a kind of retry policy", r.Kind)
	}
	if r.JitterPercent != nil {
		if *r.JitterPercent < 0 || *r.JitterPercent > 100 {
			return nil, invalid("retry.jitter_percent", "the jitter is %d %%; use 0 to 100", *r.JitterPercent)
		}
		p.JitterPercent = new(uint32(*r.JitterPercent))
	}
	return p, nil
}

func retryPolicyOf(p *beaverv1.RetryPolicy) *RetryPolicy {
	if p == nil {
		return nil
	}
	r := &RetryPolicy{}
	switch kind := p.GetKind().(type) {
	case *beaverv1.RetryPolicy_Exponential_:
		r.Kind, r.Base, r.Max = RetryExponential, kind.Exponential.GetBase().AsDuration(), kind.Exponential.GetMax().AsDuration()
	case *beaverv1.RetryPolicy_Fixed_:
		r.Kind, r.Base = RetryFixed, kind.Fixed.GetDelay().AsDuration()
	case *beaverv1.RetryPolicy_List:
		r.Kind = RetryList
		for _, d := range kind.List.GetDelays() {
			r.Delays = append(r.Delays, d.AsDuration())
		}
	case *beaverv1.RetryPolicy_Never:
		r.Kind = RetryNever
	}
	if p.JitterPercent != nil {
		r.JitterPercent = new(int(p.GetJitterPercent()))
	}
	return r
}

func (s *QueueSettings) proto() (*beaverv1.QueueSettings, error) {
	retry, err := s.Retry.proto()
	if err != nil {
		return nil, err
	}
	p := &beaverv1.QueueSettings{Retry: retry, DepthMax: s.DepthMax, Paused: s.Paused}
	for _, f := range []struct {
		name string
		from *int
		to   **uint32
	}{
		{"max_attempts", s.MaxAttempts, &p.MaxAttempts},
		{"poison_limit", s.PoisonLimit, &p.PoisonLimit},
		{"keep_ended", s.KeepEnded, &p.KeepEnded},
		{"partitions", s.Partitions, &p.Partitions},
	} {
		if f.from == nil {
			continue
		}
		switch n := int64(*f.from); {
		case n < 0:
			return nil, invalid("settings."+f.name, "%s is %d; it cannot be negative", f.name, n)
		case n > math.MaxUint32:
			return nil, invalid("settings."+f.name, "%s is %d, which is far over its limit", f.name, n)
		}
		*f.to = new(uint32(*f.from))
	}
	if s.Timeout != nil {
		p.Timeout = durationpb.New(*s.Timeout)
	}
	return p, nil
}

func queueSettingsOf(p *beaverv1.QueueSettings) QueueSettings {
	s := QueueSettings{Retry: retryPolicyOf(p.GetRetry()), DepthMax: p.DepthMax, Paused: p.Paused}
	if p.MaxAttempts != nil {
		s.MaxAttempts = new(int(p.GetMaxAttempts()))
	}
	if p.PoisonLimit != nil {
		s.PoisonLimit = new(int(p.GetPoisonLimit()))
	}
	if p.KeepEnded != nil {
		s.KeepEnded = new(int(p.GetKeepEnded()))
	}
	if p.Partitions != nil {
		s.Partitions = new(int(p.GetPartitions()))
	}
	if p.Timeout != nil {
		s.Timeout = new(p.GetTimeout().AsDuration())
	}
	return s
}

func queueInfoOf(q *beaverv1.Queue) *QueueInfo {
	info := &QueueInfo{
		Name: q.GetName(), Shard: int(q.GetShard()), Shards: shardsOf(q.GetShards()), MovingFromShards: shardsOf(q.GetMovingFromShards()),
		Scheduled: q.GetScheduled(), Ready: q.GetReady(), Running: q.GetRunning(), Backoff: q.GetBackoff(), Dead: q.GetDead(),
		EnqueuedTotal: q.GetEnqueuedTotal(), CompletedTotal: q.GetCompletedTotal(), FailedTotal: q.GetFailedTotal(),
		CrashedTotal: q.GetCrashedTotal(), DiedTotal: q.GetDiedTotal(), CancelledTotal: q.GetCancelledTotal(),
		ExpiredTotal: q.GetExpiredTotal(), RetriedTotal: q.GetRetriedTotal(), DiscardedTotal: q.GetDiscardedTotal(),
		OldestReadyAt: timeOf(q.GetOldestReadyAt()), MovingFrom: int(q.GetMovingFrom()), LeftBehind: q.GetLeftBehind(),
		UniqueKeys: q.GetUniqueKeys(), DeduplicatedTotal: q.GetDeduplicatedTotal(),
	}
	if q.GetSettings() != nil {
		info.Settings = queueSettingsOf(q.GetSettings())
	}
	return info
}

func shardsOf(ids []uint32) []int {
	var shards []int
	for _, id := range ids {
		shards = append(shards, int(id))
	}
	return shards
}

func workerInfoOf(w *beaverv1.Worker) *WorkerInfo {
	i := w.GetInfo()
	return &WorkerInfo{
		ID: w.GetId(), Name: i.GetName(), Host: i.GetHost(), PID: int(i.GetPid()), Version: i.GetVersion(), Labels: i.GetLabels(),
		Queues: i.GetQueues(), Concurrency: int(i.GetConcurrency()), RegisteredAt: timeOf(w.GetRegisteredAt()),
		LastSeenAt: timeOf(w.GetLastSeenAt()), Running: int(w.GetRunning()), State: workerStateOf(w.GetState()), NodeID: w.GetNodeId(),
	}
}

func statusOf(s *beaverv1.GetStatusResponse) *Status {
	status := &Status{
		NodeID: s.GetNodeId(), ClusterID: s.GetClusterId(), Version: s.GetVersion(), StartedAt: timeOf(s.GetStartedAt()),
		Ready: s.GetReady(), NotReadyReason: s.GetNotReadyReason(), DataDir: s.GetDataDir(), Workers: int(s.GetWorkers()),
		Log: LogStatus{
			TailFiles: int(s.GetLog().GetTailFiles()), Segments: int(s.GetLog().GetSegments()),
			SegmentBytes: s.GetLog().GetSegmentBytes(), SegmentLiveBytes: s.GetLog().GetSegmentLiveBytes(),
			Flushes: s.GetLog().GetFlushes(), FlushedBytes: s.GetLog().GetFlushedBytes(),
			DiskFreeBytes: s.GetLog().GetDiskFreeBytes(), DiskTotalBytes: s.GetLog().GetDiskTotalBytes(),
			DiskFull: s.GetLog().GetDiskFull(),
		},
		Recovery: RecoveryStatus{
			Duration:        s.GetRecovery().GetDuration().AsDuration(),
			EntriesReplayed: s.GetRecovery().GetEntriesReplayed(), TornBytes: s.GetRecovery().GetTornBytes(),
		},
	}
	for _, sh := range s.GetShards() {
		status.Shards = append(status.Shards, ShardStatus{
			ID: int(sh.GetId()), Role: sh.GetRole(), Term: sh.GetTerm(), AppliedIndex: sh.GetAppliedIndex(),
			LastIndex: sh.GetLastIndex(), SnapshotIndex: sh.GetSnapshotIndex(), SnapshotBytes: sh.GetSnapshotBytes(),
			SnapshotAt: timeOf(sh.GetSnapshotAt()), Fingerprint: sh.GetFingerprint(), Jobs: sh.GetJobs(),
			LeaderNodeID: sh.GetLeaderNodeId(), Problem: sh.GetProblem(),
		})
	}
	return status
}
