package rpc

import (
	"context"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

func (h *Handler) listQueues(ctx context.Context, e Engine, _ *beaverv1.ListQueuesRequest) (*beaverv1.ListQueuesResponse, error) {
	queues, err := e.Queues(ctx)
	if err != nil {
		return nil, err
	}
	out := &beaverv1.ListQueuesResponse{Queues: make([]*beaverv1.Queue, len(queues))}
	for i := range queues {
		out.Queues[i] = pbQueue(&queues[i])
	}
	return out, nil
}

func (h *Handler) getQueue(ctx context.Context, e Engine, in *beaverv1.GetQueueRequest) (*beaverv1.GetQueueResponse, error) {
	if in.GetName() == "" {
		return nil, invalid("name", "missing: want the name of a queue")
	}
	q, err := e.Queue(ctx, in.GetName())
	if err != nil {
		return nil, renamed(err, "queue", "name")
	}
	return &beaverv1.GetQueueResponse{Queue: pbQueue(&q)}, nil
}

func (h *Handler) configureQueue(
	ctx context.Context, e Engine, in *beaverv1.ConfigureQueueRequest,
) (*beaverv1.ConfigureQueueResponse, error) {
	if in.GetName() == "" {
		return nil, invalid("name", "missing: want the name of a queue")
	}
	edit, bad := settingsEdit(in.GetSettings())
	if bad != nil {
		return nil, bad
	}
	var q engine.QueueStatus
	var err error
	if in.GetSettings() != nil && in.GetSettings().Partitions != nil {
		q, err = e.PartitionQueue(ctx, in.GetName(), int(in.GetSettings().GetPartitions()), edit)
	} else {
		q, err = e.UpdateQueue(ctx, in.GetName(), edit)
	}
	if err != nil {
		return nil, renamed(renamed(err, "queue", "name"), "partitions", "settings.partitions")
	}
	return &beaverv1.ConfigureQueueResponse{Queue: pbQueue(&q)}, nil
}

func (h *Handler) moveQueue(ctx context.Context, e Engine, in *beaverv1.MoveQueueRequest) (*beaverv1.MoveQueueResponse, error) {
	if in.GetName() == "" {
		return nil, invalid("name", "missing: want the name of a queue")
	}
	if n := in.GetShard(); n == 0 || n > engine.ShardsMax {
		return nil, invalid("shard", "%d is no data shard: want the number of one, as the cluster's status shows it", n)
	}
	q, err := e.MoveQueue(ctx, in.GetName(), uint16(in.GetShard()))
	if err != nil {
		return nil, renamed(err, "queue", "name")
	}
	return &beaverv1.MoveQueueResponse{Queue: pbQueue(&q)}, nil
}

// settingsEdit is the change that in asks for: fields it leaves out are left alone.
func settingsEdit(in *beaverv1.QueueSettings) (func(*engine.Settings), *engine.Error) {
	if err := checkSettings(in); err != nil {
		return nil, err
	}
	retry, err := retryOf("settings.retry", in.GetRetry())
	if err != nil {
		return nil, err
	}
	timeout, err := millisOf("settings.timeout", in.GetTimeout())
	if err != nil {
		return nil, err
	}
	return func(s *engine.Settings) {
		if in == nil {
			return
		}
		if in.Retry != nil {
			s.Retry = retry
		}
		if in.Timeout != nil {
			s.TimeoutMillis = timeout
		}
		set(&s.MaxAttempts, in.MaxAttempts)
		set(&s.PoisonLimit, in.PoisonLimit)
		set(&s.KeepEnded, in.KeepEnded)
		set(&s.DepthMax, in.DepthMax)
		set(&s.Paused, in.Paused)
	}, nil
}

// checkSettings refuses what is out of the limits by name. Zero stands for the default in the machine, and is refused
// here where somebody asks for it.
func checkSettings(in *beaverv1.QueueSettings) *engine.Error {
	switch {
	case in == nil:
		return nil
	case in.MaxAttempts != nil && (*in.MaxAttempts < 1 || *in.MaxAttempts > queue.MaxAttemptsMax):
		return invalid("settings.max_attempts", "is %d: want 1 to %d", *in.MaxAttempts, queue.MaxAttemptsMax)
	case in.PoisonLimit != nil && (*in.PoisonLimit < 1 || *in.PoisonLimit > queue.PoisonLimitMax):
		return invalid("settings.poison_limit", "is %d: want 1 to %d", *in.PoisonLimit, queue.PoisonLimitMax)
	case in.KeepEnded != nil && (*in.KeepEnded < 1 || *in.KeepEnded > queue.KeepEndedMax):
		return invalid("settings.keep_ended", "is %d: want 1 to %d", *in.KeepEnded, queue.KeepEndedMax)
	case in.DepthMax != nil && *in.DepthMax < 1:
		return invalid("settings.depth_max", "is 0: want at least 1; to stop a queue's work, pause it")
	}
	return nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func pbQueue(q *engine.QueueStatus) *beaverv1.Queue {
	i := &q.Info
	settings := pbSettings(&i.Settings)
	settings.Partitions = new(uint32(len(q.Shards)))
	return &beaverv1.Queue{
		Name: q.Name, Shard: uint32(q.Shard), Settings: settings,
		Scheduled: i.ByState[queue.StateScheduled], Ready: i.ByState[queue.StateReady],
		Running: i.ByState[queue.StateRunning], Backoff: i.ByState[queue.StateBackoff], Dead: i.ByState[queue.StateDead],
		EnqueuedTotal: i.Enqueued, CompletedTotal: i.Completed, FailedTotal: i.Failed, CrashedTotal: i.Crashed,
		DiedTotal: i.Died, CancelledTotal: i.Cancelled, ExpiredTotal: i.Expired, RetriedTotal: i.Retried,
		DiscardedTotal: i.Discarded, OldestReadyAt: pbInstant(q.OldestReadyAt),
		MovingFrom: uint32(q.MovingFrom), LeftBehind: q.LeftBehind,
		Shards: pbShards(q.Shards), MovingFromShards: pbShards(q.MovingFromShards),
		UniqueKeys: i.Unique, DeduplicatedTotal: i.Deduplicated,
	}
}

func pbShards(shards []uint16) []uint32 {
	var out []uint32
	for _, id := range shards {
		out = append(out, uint32(id))
	}
	return out
}

func pbSettings(s *engine.Settings) *beaverv1.QueueSettings {
	return &beaverv1.QueueSettings{
		MaxAttempts: new(s.MaxAttempts), Retry: pbRetry(s.Retry), Timeout: pbMillis(s.TimeoutMillis),
		PoisonLimit: new(s.PoisonLimit), KeepEnded: new(s.KeepEnded),
		DepthMax: new(s.DepthMax), Paused: new(s.Paused),
	}
}
