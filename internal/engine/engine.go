package engine

import (
	"context"
	"time"
)

// Engine is the jobs of one node. Its methods may be called from any goroutine.
type Engine struct{}

func unimplemented() *Error { return &Error{Code: CodeUnimplemented, Reason: "UNIMPLEMENTED", Message: "not yet"} }

func Open(ctx context.Context, opts Options) (*Engine, error) { return nil, unimplemented() }
func (e *Engine) Close(ctx context.Context) error             { return unimplemented() }
func (e *Engine) Enqueue(ctx context.Context, r *EnqueueRequest, dst []Enqueued) ([]Enqueued, error) {
	return dst, unimplemented()
}

func (e *Engine) Fetch(ctx context.Context, r *FetchRequest) ([]FetchedJob, error) {
	return nil, unimplemented()
}

func (e *Engine) Finish(ctx context.Context, worker WorkerID, outcomes []Outcome, dst []Ended) ([]Ended, error) {
	return dst, unimplemented()
}

func (e *Engine) Extend(ctx context.Context, id JobID, t Token, d time.Duration) (time.Time, error) {
	return time.Time{}, unimplemented()
}

func (e *Engine) Progress(ctx context.Context, id JobID, t Token, percent int, message string) error {
	return unimplemented()
}

func (e *Engine) RegisterWorker(ctx context.Context, info WorkerInfo) (WorkerID, time.Duration, error) {
	return 0, 0, unimplemented()
}

func (e *Engine) Heartbeat(ctx context.Context, w WorkerID, held []LeaseRef) (HeartbeatReply, error) {
	return HeartbeatReply{}, unimplemented()
}
func (e *Engine) DeregisterWorker(ctx context.Context, w WorkerID) error { return unimplemented() }
func (e *Engine) Notices(w WorkerID) (<-chan Notice, func())             { return nil, func() {} }
func (e *Engine) SignalWorker(ctx context.Context, w WorkerID, s WorkerState) error {
	return unimplemented()
}

func (e *Engine) Job(ctx context.Context, id JobID) (JobDetail, error) {
	return JobDetail{}, unimplemented()
}

func (e *Engine) List(ctx context.Context, r ListRequest) ([]JobDetail, string, error) {
	return nil, "", unimplemented()
}

func (e *Engine) Cancel(ctx context.Context, id JobID) (State, error) { return 0, unimplemented() }

func (e *Engine) RetryDead(ctx context.Context, ids []JobID, dst []Ended) ([]Ended, error) {
	return dst, unimplemented()
}

func (e *Engine) DiscardDead(ctx context.Context, ids []JobID, dst []Ended) ([]Ended, error) {
	return dst, unimplemented()
}

func (e *Engine) RetryAllDead(ctx context.Context, queue string, limit int) (int, bool, error) {
	return 0, false, unimplemented()
}

func (e *Engine) DiscardAllDead(ctx context.Context, queue string, limit int) (int, bool, error) {
	return 0, false, unimplemented()
}

func (e *Engine) ConfigureQueue(ctx context.Context, name string, s Settings) (QueueStatus, error) {
	return QueueStatus{}, unimplemented()
}

func (e *Engine) PauseQueue(ctx context.Context, name string) (QueueStatus, error) {
	return QueueStatus{}, unimplemented()
}

func (e *Engine) ResumeQueue(ctx context.Context, name string) (QueueStatus, error) {
	return QueueStatus{}, unimplemented()
}
func (e *Engine) Queues(ctx context.Context) ([]QueueStatus, error) { return nil, unimplemented() }
func (e *Engine) Queue(ctx context.Context, name string) (QueueStatus, error) {
	return QueueStatus{}, unimplemented()
}
func (e *Engine) Workers(ctx context.Context) ([]WorkerStatus, error) { return nil, unimplemented() }
func (e *Engine) Status(ctx context.Context) (NodeStatus, error)      { return NodeStatus{}, unimplemented() }
func (e *Engine) Ready() (bool, string)                               { return false, "starting" }
func (e *Engine) Stats() Stats                                        { return Stats{} }
