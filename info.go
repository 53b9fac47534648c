package beaver

import (
	"time"
)

// JobState is where a job stands. A job is in exactly one state.
type JobState string

// The states. Ended jobs, those from StateCompleted on, are kept only in their queue's window of recent ends.
const (
	StateScheduled JobState = "scheduled" // waits for its run-at time
	StateReady     JobState = "ready"     // waits for a worker
	StateRunning   JobState = "running"   // leased to a worker
	StateBackoff   JobState = "backoff"   // failed, waits for its next attempt
	StateDead      JobState = "dead"      // out of attempts, poisonous or failed for good; kept until retried or discarded
	StateCompleted JobState = "completed"
	StateCancelled JobState = "cancelled"
	StateExpired   JobState = "expired"   // its ExpiresAt passed before it ran
	StateDiscarded JobState = "discarded" // a dead job thrown away
)

// JobInfo is a stored job. Times that do not apply are zero.
type JobInfo struct {
	ID                JobID
	Queue             string
	State             JobState
	Kind              string
	Payload           []byte
	ContentType       string
	Priority          int
	EnqueuedAt        time.Time
	RunAt             time.Time // scheduled or backoff: when it gets ready
	ExpiresAt         time.Time
	StartedAt         time.Time // of the last attempt
	EndedAt           time.Time
	Deadline          time.Time // running: when the attempt times out
	Attempt           int       // 1 for the first; one that its worker released counts, though it is no failure
	Failures          int
	Crashes           int           // attempts lost with their worker
	MaxAttempts       int           // as the job says; 0: the queue's
	Timeout           time.Duration // as the job says; 0: the queue's
	WorkerID          uint64
	Token             uint64
	CancelRequested   bool
	ProgressPercent   int
	ProgressMessage   string
	Result            []byte
	ResultContentType string
	Errors            []AttemptError // the last ones, oldest first
	DeadReason        string         // attempts, final, poison or damaged
	OrderingKey       string
	UniqueKey         string
	UniqueUntil       UniqueUntil   // of a job with a unique key
	UniqueFor         time.Duration // of a job with a unique key
	Metadata          map[string]string
}

// AttemptError is one failed attempt.
type AttemptError struct {
	At      time.Time
	Type    string
	Message string
	Stack   string
}

// QueueSettings change a queue. Fields that are nil, and a Timeout of 0, keep their value.
type QueueSettings struct {
	MaxAttempts *int           // failures until a job is dead
	Retry       *RetryPolicy   // how long a failed job waits
	Timeout     *time.Duration // of one attempt; 0 for none
	PoisonLimit *int           // lost workers until a job is dead
	KeepEnded   *int           // ended jobs kept for reading, of each partition
	DepthMax    *uint64        // jobs not ended, of each partition; over it enqueues are refused
	Paused      *bool          // nothing is fetched
	Partitions  *int           // on how many shards the queue is; another number is a move, see Client.MoveQueue
}

// QueueInfo is a queue: its settings, how many jobs are in each state, and totals since it was made.
type QueueInfo struct {
	Name     string
	Shard    int   // of the first partition
	Shards   []int // of each partition
	Settings QueueSettings

	Scheduled, Ready, Running, Backoff, Dead uint64

	EnqueuedTotal  uint64
	CompletedTotal uint64
	FailedTotal    uint64 // failed attempts
	CrashedTotal   uint64 // attempts lost with their worker
	DiedTotal      uint64
	CancelledTotal uint64
	ExpiredTotal   uint64
	RetriedTotal   uint64
	DiscardedTotal uint64

	OldestReadyAt time.Time // zero when nothing is ready

	UniqueKeys        uint64 // held now, also by jobs that have ended and whose UniqueFor has not passed
	DeduplicatedTotal uint64 // enqueued jobs that were not stored, since another held their unique key

	MovingFrom       int    // the shard that was the queue's home before, or that of its first partition, while it moves; else 0
	MovingFromShards []int  // of each partition before, while it moves
	LeftBehind       uint64 // jobs that have not ended there; the counts have them too
}

// WorkerState is what the server wants of a worker.
type WorkerState string

// The wishes.
const (
	WorkerRun   WorkerState = "run"
	WorkerQuiet WorkerState = "quiet" // fetch no more, finish what runs
	WorkerStop  WorkerState = "stop"  // release what runs and end
)

// WorkerInfo is a worker as the server sees it.
type WorkerInfo struct {
	ID           uint64
	Name         string
	Host         string
	PID          int
	Version      string
	Labels       []string
	Queues       []string
	Concurrency  int
	RegisteredAt time.Time
	LastSeenAt   time.Time
	Running      int
	State        WorkerState
	NodeID       uint64 // that it is connected to; 0: not known
}

// Status is a node and its shards.
type Status struct {
	NodeID         uint64
	ClusterID      string
	Version        string
	StartedAt      time.Time
	Ready          bool
	NotReadyReason string
	DataDir        string
	Workers        int
	Shards         []ShardStatus
	Log            LogStatus
	Recovery       RecoveryStatus
}

// ShardStatus is one shard's replica on the node.
type ShardStatus struct {
	ID            int
	Role          string // leader, follower or candidate
	Term          uint64
	AppliedIndex  uint64
	LastIndex     uint64
	SnapshotIndex uint64
	SnapshotBytes uint64
	SnapshotAt    time.Time
	Fingerprint   string // hexadecimal
	Jobs          uint64 // not ended
	LeaderNodeID  uint64 // 0: unknown
	Problem       string // why the shard does not serve; empty: it does
}

// LogStatus is the node's log and its disk.
type LogStatus struct {
	TailFiles        int
	Segments         int
	SegmentBytes     uint64
	SegmentLiveBytes uint64
	Flushes          uint64
	FlushedBytes     uint64
	DiskFreeBytes    uint64
	DiskTotalBytes   uint64
	DiskFull         bool
}

// RecoveryStatus says what the last start took.
type RecoveryStatus struct {
	Duration        time.Duration
	EntriesReplayed uint64
	TornBytes       uint64
}
