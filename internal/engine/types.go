package engine

import (
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/queue"
)

// The machine's types that the front doors speak in.
type (
	// JobID names a job for ever.
	JobID = queue.JobID
	// WorkerID names a registered worker; 0 is anonymous.
	WorkerID = queue.WorkerID
	// Token fences a lease.
	Token = queue.Token
	// SessionID names a client session; the zero value is none.
	SessionID = queue.SessionID
	// State is where a job stands.
	State = queue.State
	// Settings are a queue's.
	Settings = queue.Settings
	// Retry says how long a failed job waits.
	Retry = queue.Retry
	// Failure is what a worker says of a failed attempt.
	Failure = queue.Failure
	// Spec is what a producer says of a job.
	Spec = queue.Spec
	// KeyValue is one item of a job's metadata.
	KeyValue = queue.KeyValue
	// WorkerInfo is what a worker says of itself.
	WorkerInfo = cluster.WorkerInfo
)

// NewJob is one job to enqueue. Spec.Queue is filled in by the engine.
type NewJob struct {
	Queue string // name; made with default settings when it does not exist
	Spec  Spec
	Err   *Error // what its decoder found wrong: the job is refused with it

	hint JobID // the job that holds its unique key in a home that its queue moves from; see seekHolders
}

// EnqueueRequest asks to store jobs. With a session, a repeat of (Session, Sequence) gets the first one's answer.
type EnqueueRequest struct {
	Session  SessionID
	Sequence uint64 // from 1
	Atomic   bool   // all or none; then all jobs must live on one shard
	Jobs     []NewJob
	Era      Era // of the connection by which it came; 0: by none

	received Reading
}

// Enqueued answers one job of an EnqueueRequest. ID is valid when Err is nil.
type Enqueued struct {
	ID        JobID
	Duplicate bool // the answer is the one that the session got before
	Existing  bool // nothing was stored: ID is the job that holds the unique key
	Err       *Error
}

// FetchRequest asks for jobs.
type FetchRequest struct {
	Worker WorkerID      // 0: anonymous, leased for Lease
	Queues []string      // preference in case of equal priority is the order given
	Max    int           // 1 to queue.FetchMax
	Wait   time.Duration // how long to wait for the first job; at most queue.WaitMillisMax
	Lease  time.Duration // anonymous only; default 60 s

	// OfStream says that the fetch is made for the worker's stream, as often as there are jobs for it, and not by the worker: it is no sign of life.
	OfStream bool

	afar bool // the answer goes to another node
}

// FetchedJob is a leased job with its payload.
type FetchedJob struct {
	ID        JobID
	Token     Token
	QueueName string
	Attempt   uint32
	Failures  uint32
	Crashes   uint32
	Deadline  time.Time // zero: as long as the worker lives
	Spec      Spec      // slices alias engine memory: read only
}

// OutcomeKind is how an attempt ended.
type OutcomeKind uint8

// The outcomes of an attempt.
const (
	OutcomeAck     OutcomeKind = iota // completed, with a result
	OutcomeFail                       // failed, with a Failure
	OutcomeRelease                    // given back, no attempt counted
)

// Outcome ends one attempt.
type Outcome struct {
	Kind        OutcomeKind
	ID          JobID
	Token       Token
	ContentType string
	Result      []byte
	Failure     Failure
	Err         *Error // what its decoder found wrong: the outcome is refused with it
}

// Ended answers one Outcome: the job's state after it, or why it changed nothing.
type Ended struct {
	State State
	Err   *Error
}

// LeaseRef names a lease.
type LeaseRef struct {
	ID    JobID
	Token Token
}

// WorkerState is what the server wants of a worker.
type WorkerState uint8

// The wishes.
const (
	WorkerRun   WorkerState = iota
	WorkerQuiet             // fetch no more, finish what runs
	WorkerStop              // release what runs and end
)

// HeartbeatReply answers a heartbeat.
type HeartbeatReply struct {
	State  WorkerState
	TTL    time.Duration // the worker is lost when silent for so long
	Cancel []LeaseRef    // running jobs whose cancellation was asked for
	Lost   []LeaseRef    // of those the worker said it holds: no longer held
}

// Notice tells a connected worker something between heartbeats.
type Notice struct {
	Lease  LeaseRef
	Cancel bool // cancellation asked for; otherwise the lease was lost
}

// JobDetail is a job as a person wants to see it.
type JobDetail struct {
	Info              queue.JobInfo
	ID                JobID
	QueueName         string
	Spec              Spec
	HasSpec           bool // false when the payload is damaged
	Result            []byte
	ResultContentType string
	Progress          string
	Errors            []AttemptError
}

// AttemptError is one kept failure.
type AttemptError struct {
	At time.Time
	Failure
}

// ListRequest asks for a page of jobs of one queue in one state, by priority and age.
type ListRequest struct {
	Queue  string
	State  State
	Cursor string // opaque; empty: from the start
	Limit  int    // 1 to queue.ListMax
	Full   bool   // with payloads, results and errors
}

// Code is the class of an error; each front door maps it to its protocol in one table.
type Code uint8

// The classes.
const (
	CodeInternal Code = iota
	CodeInvalidArgument
	CodeNotFound
	CodeFailedPrecondition
	CodeResourceExhausted
	CodeAborted
	CodeUnavailable    // nothing happened; retry
	CodeUnknownOutcome // it may have happened; retry with the same session and sequence
	CodeDeadlineExceeded
	CodeCancelled
	CodeDataLoss
	CodeUnimplemented
)

// Error is what every operation of the engine fails with.
type Error struct {
	Code    Code
	Reason  string // one word in capitals, stable, e.g. LEASE_LOST
	Field   string // the request's field at fault, if any
	Message string // a sentence for a person: what is wrong and what to do
	Leader  uint64 // the node that should be asked instead, as far as known; else 0
	Cause   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }
