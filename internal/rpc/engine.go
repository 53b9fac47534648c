package rpc

import (
	"context"
	"time"

	"github.com/beaver-raft/beaver/internal/engine"
)

// Engine is what the front door needs of an engine.Engine; see there for what each method promises. No method retains
// the slices of its request after it returned.
type Engine interface {
	Enqueue(ctx context.Context, r *engine.EnqueueRequest, dst []engine.Enqueued) ([]engine.Enqueued, error)
	BeginEnqueue(ctx context.Context, r *engine.EnqueueRequest, dst []engine.Enqueued, p *engine.PendingEnqueue)
	Fetch(ctx context.Context, r *engine.FetchRequest) ([]engine.FetchedJob, error)
	Finish(ctx context.Context, worker engine.WorkerID, outcomes []engine.Outcome, dst []engine.Ended) ([]engine.Ended, error)
	Extend(ctx context.Context, id engine.JobID, t engine.Token, d time.Duration) (time.Time, error)
	Progress(ctx context.Context, id engine.JobID, t engine.Token, percent int, message string) error

	RegisterWorker(ctx context.Context, info engine.WorkerInfo) (engine.WorkerID, time.Duration, error)
	Heartbeat(ctx context.Context, w engine.WorkerID, held []engine.LeaseRef) (engine.HeartbeatReply, error)
	ResumeWorker(ctx context.Context, w engine.WorkerID, held []engine.LeaseRef) (engine.HeartbeatReply, error)
	DeregisterWorker(ctx context.Context, w engine.WorkerID) error
	CompareWorker(ctx context.Context, w engine.WorkerID, known, doubted []engine.LeaseRef) ([]engine.LeaseRef, error)
	WorkerLeft(w engine.WorkerID, severed bool)
	WorkerStops(w engine.WorkerID)
	Notices(w engine.WorkerID) (<-chan engine.Notice, func())
	SignalWorker(ctx context.Context, w engine.WorkerID, s engine.WorkerState) error
	Workers(ctx context.Context) ([]engine.WorkerStatus, error)

	Job(ctx context.Context, id engine.JobID) (engine.JobDetail, error)
	List(ctx context.Context, r engine.ListRequest) ([]engine.JobDetail, string, error)
	Cancel(ctx context.Context, id engine.JobID) (engine.State, error)
	RetryDead(ctx context.Context, ids []engine.JobID, dst []engine.Ended) ([]engine.Ended, error)
	DiscardDead(ctx context.Context, ids []engine.JobID, dst []engine.Ended) ([]engine.Ended, error)
	RetryAllDead(ctx context.Context, queue, after string, limit int) (count int, next string, err error)
	DiscardAllDead(ctx context.Context, queue, after string, limit int) (count int, next string, err error)

	UpdateQueue(ctx context.Context, name string, edit func(*engine.Settings)) (engine.QueueStatus, error)
	PartitionQueue(ctx context.Context, name string, count int, edit func(*engine.Settings)) (engine.QueueStatus, error)
	Queues(ctx context.Context) ([]engine.QueueStatus, error)
	Queue(ctx context.Context, name string) (engine.QueueStatus, error)
	MoveQueue(ctx context.Context, name string, to uint16) (engine.QueueStatus, error)
	Status(ctx context.Context) (engine.NodeStatus, error)
	Ready() (bool, string)
}
