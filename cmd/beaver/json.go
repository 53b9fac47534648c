package main

import (
	"encoding/json"
	"mime"
	"strings"
	"time"

	"github.com/beaver-raft/beaver"
)

// The types here are what --output json prints. Their fields have the names of the API's JSON, and keep them.

type jobJSON struct {
	ID                string            `json:"id"`
	Queue             string            `json:"queue"`
	State             string            `json:"state"`
	Kind              string            `json:"kind,omitempty"`
	Payload           json.RawMessage   `json:"payload,omitempty"`
	PayloadBase64     []byte            `json:"payloadBase64,omitempty"`
	ContentType       string            `json:"contentType,omitempty"`
	Priority          int               `json:"priority"`
	EnqueuedAt        time.Time         `json:"enqueuedAt,omitzero"`
	RunAt             time.Time         `json:"runAt,omitzero"`
	ExpiresAt         time.Time         `json:"expiresAt,omitzero"`
	StartedAt         time.Time         `json:"startedAt,omitzero"`
	EndedAt           time.Time         `json:"endedAt,omitzero"`
	Deadline          time.Time         `json:"deadline,omitzero"`
	Attempt           int               `json:"attempt"`
	Failures          int               `json:"failures"`
	Crashes           int               `json:"crashes"`
	MaxAttempts       int               `json:"maxAttempts,omitempty"`
	Timeout           string            `json:"timeout,omitempty"`
	WorkerID          uint64            `json:"workerId,omitempty"`
	CancelRequested   bool              `json:"cancelRequested,omitempty"`
	ProgressPercent   int               `json:"progressPercent,omitempty"`
	ProgressMessage   string            `json:"progressMessage,omitempty"`
	Result            json.RawMessage   `json:"result,omitempty"`
	ResultBase64      []byte            `json:"resultBase64,omitempty"`
	ResultContentType string            `json:"resultContentType,omitempty"`
	Errors            []errorJSON       `json:"errors,omitempty"`
	DeadReason        string            `json:"deadReason,omitempty"`
	OrderingKey       string            `json:"orderingKey,omitempty"`
	UniqueKey         string            `json:"uniqueKey,omitempty"`
	UniqueUntil       string            `json:"uniqueUntil,omitempty"`
	UniqueFor         string            `json:"uniqueFor,omitempty"`
	Metadata          map[string]string `json:"metadata,omitempty"`
}

type errorJSON struct {
	At      time.Time `json:"at"`
	Type    string    `json:"type,omitempty"`
	Message string    `json:"message,omitempty"`
	Stack   string    `json:"stack,omitempty"`
}

func jobOutput(j *beaver.JobInfo) jobJSON {
	out := jobJSON{
		ID: string(j.ID), Queue: j.Queue, State: string(j.State), Kind: j.Kind, ContentType: j.ContentType, Priority: j.Priority,
		EnqueuedAt: j.EnqueuedAt, RunAt: j.RunAt, ExpiresAt: j.ExpiresAt, StartedAt: j.StartedAt, EndedAt: j.EndedAt,
		Deadline: j.Deadline, Attempt: j.Attempt, Failures: j.Failures, Crashes: j.Crashes, MaxAttempts: j.MaxAttempts,
		WorkerID: j.WorkerID, CancelRequested: j.CancelRequested, ProgressPercent: j.ProgressPercent,
		ProgressMessage: j.ProgressMessage, ResultContentType: j.ResultContentType, DeadReason: j.DeadReason,
		OrderingKey: j.OrderingKey, UniqueKey: j.UniqueKey, UniqueUntil: string(j.UniqueUntil), Metadata: j.Metadata,
	}
	if j.UniqueFor != 0 {
		out.UniqueFor = j.UniqueFor.String()
	}
	if j.Timeout != 0 {
		out.Timeout = j.Timeout.String()
	}
	out.Payload, out.PayloadBase64 = content(j.ContentType, j.Payload)
	out.Result, out.ResultBase64 = content(j.ResultContentType, j.Result)
	for _, e := range j.Errors {
		out.Errors = append(out.Errors, errorJSON(e))
	}
	return out
}

// content splits bytes into JSON, which is printed as it is, and others.
func content(contentType string, b []byte) (json.RawMessage, []byte) {
	if isJSON(contentType) && json.Valid(b) {
		return b, nil
	}
	return nil, b
}

func isJSON(contentType string) bool {
	t, _, err := mime.ParseMediaType(contentType)
	return err == nil && (t == beaver.ContentTypeJSON || strings.HasSuffix(t, "+json"))
}

type queueJSON struct {
	Name             string       `json:"name"`
	Shard            int          `json:"shard"`
	Shards           []int        `json:"shards"`
	Settings         settingsJSON `json:"settings"`
	Scheduled        uint64       `json:"scheduled"`
	Ready            uint64       `json:"ready"`
	Running          uint64       `json:"running"`
	Backoff          uint64       `json:"backoff"`
	Dead             uint64       `json:"dead"`
	EnqueuedTotal    uint64       `json:"enqueuedTotal"`
	CompletedTotal   uint64       `json:"completedTotal"`
	FailedTotal      uint64       `json:"failedTotal"`
	CrashedTotal     uint64       `json:"crashedTotal"`
	DiedTotal        uint64       `json:"diedTotal"`
	CancelledTotal   uint64       `json:"cancelledTotal"`
	ExpiredTotal     uint64       `json:"expiredTotal"`
	RetriedTotal     uint64       `json:"retriedTotal"`
	DiscardedTotal   uint64       `json:"discardedTotal"`
	OldestReadyAt    time.Time    `json:"oldestReadyAt,omitzero"`
	MovingFrom       int          `json:"movingFrom,omitempty"`
	MovingFromShards []int        `json:"movingFromShards,omitempty"`
	LeftBehind       uint64       `json:"leftBehind,omitempty"`

	UniqueKeys        uint64 `json:"uniqueKeys,omitempty"`
	DeduplicatedTotal uint64 `json:"deduplicatedTotal,omitempty"`
}

type settingsJSON struct {
	MaxAttempts *int       `json:"maxAttempts,omitempty"`
	Retry       *retryJSON `json:"retry,omitempty"`
	Timeout     string     `json:"timeout,omitempty"`
	PoisonLimit *int       `json:"poisonLimit,omitempty"`
	KeepEnded   *int       `json:"keepEnded,omitempty"`
	DepthMax    *uint64    `json:"depthMax,omitempty"`
	Partitions  *int       `json:"partitions,omitempty"`
	Paused      bool       `json:"paused"`
}

func queueOutput(q *beaver.QueueInfo) queueJSON {
	s := q.Settings
	out := queueJSON{
		Name: q.Name, Shard: q.Shard, Shards: q.Shards, MovingFromShards: q.MovingFromShards,
		Scheduled: q.Scheduled, Ready: q.Ready, Running: q.Running, Backoff: q.Backoff, Dead: q.Dead,
		EnqueuedTotal: q.EnqueuedTotal, CompletedTotal: q.CompletedTotal, FailedTotal: q.FailedTotal, CrashedTotal: q.CrashedTotal,
		DiedTotal: q.DiedTotal, CancelledTotal: q.CancelledTotal, ExpiredTotal: q.ExpiredTotal, RetriedTotal: q.RetriedTotal,
		DiscardedTotal: q.DiscardedTotal, OldestReadyAt: q.OldestReadyAt, MovingFrom: q.MovingFrom, LeftBehind: q.LeftBehind,
		UniqueKeys: q.UniqueKeys, DeduplicatedTotal: q.DeduplicatedTotal,
		Settings: settingsJSON{
			MaxAttempts: s.MaxAttempts, Retry: retryOutput(s.Retry), PoisonLimit: s.PoisonLimit, KeepEnded: s.KeepEnded,
			DepthMax: s.DepthMax, Partitions: s.Partitions, Paused: s.Paused != nil && *s.Paused,
		},
	}
	if s.Timeout != nil {
		out.Settings.Timeout = s.Timeout.String()
	}
	return out
}

type workerJSON struct {
	ID           uint64    `json:"id"`
	Name         string    `json:"name"`
	Host         string    `json:"host"`
	PID          int       `json:"pid"`
	Version      string    `json:"version,omitempty"`
	Labels       []string  `json:"labels,omitempty"`
	Queues       []string  `json:"queues"`
	Concurrency  int       `json:"concurrency"`
	RegisteredAt time.Time `json:"registeredAt,omitzero"`
	LastSeenAt   time.Time `json:"lastSeenAt,omitzero"`
	Running      int       `json:"running"`
	State        string    `json:"state"`
	NodeID       uint64    `json:"nodeId,omitempty"`
}

func workerOutput(w *beaver.WorkerInfo) workerJSON {
	return workerJSON{
		ID: w.ID, Name: w.Name, Host: w.Host, PID: w.PID, Version: w.Version, Labels: w.Labels, Queues: w.Queues,
		Concurrency: w.Concurrency, RegisteredAt: w.RegisteredAt, LastSeenAt: w.LastSeenAt, Running: w.Running, State: string(w.State), NodeID: w.NodeID,
	}
}

type statusJSON struct {
	NodeID         uint64       `json:"nodeId"`
	ClusterID      string       `json:"clusterId"`
	Version        string       `json:"version"`
	StartedAt      time.Time    `json:"startedAt,omitzero"`
	Ready          bool         `json:"ready"`
	NotReadyReason string       `json:"notReadyReason,omitempty"`
	DataDir        string       `json:"dataDir"`
	Workers        int          `json:"workers"`
	Shards         []shardJSON  `json:"shards"`
	Log            logJSON      `json:"log"`
	Recovery       recoveryJSON `json:"recovery"`
}

type shardJSON struct {
	ID            int       `json:"id"`
	Role          string    `json:"role"`
	Term          uint64    `json:"term"`
	AppliedIndex  uint64    `json:"appliedIndex"`
	LastIndex     uint64    `json:"lastIndex"`
	SnapshotIndex uint64    `json:"snapshotIndex"`
	SnapshotBytes uint64    `json:"snapshotBytes"`
	SnapshotAt    time.Time `json:"snapshotAt,omitzero"`
	Fingerprint   string    `json:"fingerprint"`
	Jobs          uint64    `json:"jobs"`
	LeaderNodeID  uint64    `json:"leaderNodeId"`
	Problem       string    `json:"problem,omitempty"`
}

type logJSON struct {
	TailFiles        int    `json:"tailFiles"`
	Segments         int    `json:"segments"`
	SegmentBytes     uint64 `json:"segmentBytes"`
	SegmentLiveBytes uint64 `json:"segmentLiveBytes"`
	Flushes          uint64 `json:"flushes"`
	FlushedBytes     uint64 `json:"flushedBytes"`
	DiskFreeBytes    uint64 `json:"diskFreeBytes"`
	DiskTotalBytes   uint64 `json:"diskTotalBytes"`
	DiskFull         bool   `json:"diskFull"`
}

type recoveryJSON struct {
	Duration        string `json:"duration"`
	EntriesReplayed uint64 `json:"entriesReplayed"`
	TornBytes       uint64 `json:"tornBytes"`
}

func statusOutput(s *beaver.Status) statusJSON {
	out := statusJSON{
		NodeID: s.NodeID, ClusterID: s.ClusterID, Version: s.Version, StartedAt: s.StartedAt, Ready: s.Ready,
		NotReadyReason: s.NotReadyReason, DataDir: s.DataDir, Workers: s.Workers, Shards: []shardJSON{}, Log: logJSON(s.Log),
		Recovery: recoveryJSON{s.Recovery.Duration.String(), s.Recovery.EntriesReplayed, s.Recovery.TornBytes},
	}
	for _, sh := range s.Shards {
		out.Shards = append(out.Shards, shardJSON(sh))
	}
	return out
}
