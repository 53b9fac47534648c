package beaver

import "time"

// ContentTypeJSON is the content type of a payload given as Job.JSON, and of a result given to SetResult.
const ContentTypeJSON = "application/json"

// Job is a job to store. Queue is required; everything else has a useful zero value.
type Job struct {
	// Queue is the queue's name: 1 to 128 of A-Z a-z 0-9 . _ : / -. A queue is made by its first job.
	Queue string
	// Kind tells workers what to do with the job. At most 200 bytes.
	Kind string
	// JSON, if it is not nil, is marshalled as the payload.
	JSON any
	// Payload is the payload as it is, instead of JSON. At most 1 MiB. It may be reused when the call returns.
	Payload []byte
	// ContentType of Payload. Default application/octet-stream; application/json with JSON.
	ContentType string
	// Priority is 0 (first) to 9 (last); new(0) makes a pointer. Default 5.
	Priority *int
	// RunAt is when the job gets ready. Default: now.
	RunAt time.Time
	// Delay is how long until the job gets ready, instead of RunAt, counted on the server's clock.
	Delay time.Duration
	// ExpiresAt: the job is not run after this. Default: never.
	ExpiresAt time.Time
	// MaxAttempts is how many failures make the job dead. Default: the queue's, which is 25 unless set.
	MaxAttempts int
	// Retry is how long a failed job waits. Default: the queue's, exponential from 1 s to 1 h unless set.
	Retry *RetryPolicy
	// Timeout bounds one attempt, however healthy its worker. Default: the queue's, which is none unless set.
	Timeout time.Duration
	// OrderingKey: jobs of a queue with the same one go to the same partition of the queue, and so are handed out by priority and age.
	// At most 128 bytes. Default: none; then the jobs of one message go to the same partition.
	OrderingKey string
	// UniqueKey: at most one job with this key is held in the queue at any time, or among the jobs of its OrderingKey if it has one.
	// While it is held, a job with it is not stored: the answer is the ID of the job that holds it. Client.EnqueueUnique and
	// Client.EnqueueMany tell whether that was so. At most 256 bytes.
	UniqueKey string
	// UniqueUntil is when the job lets go of its UniqueKey. Default: UniqueUntilEnded.
	UniqueUntil UniqueUntil
	// UniqueFor is how long the job keeps its UniqueKey at least, counted from when it was enqueued, also when it has ended before.
	// Default: no longer than UniqueUntil says. At most 30 days.
	UniqueFor time.Duration
	// Metadata travels with the job: at most 32 pairs and 8 KiB.
	Metadata map[string]string
}

// UniqueUntil is when a job lets go of its unique key.
type UniqueUntil string

// The points at which it may.
const (
	// UniqueUntilEnded is when the job has completed, was cancelled or discarded, has expired, or is dead. A dead job that is retried
	// takes its key again, unless another job holds it: then the retry is refused with ErrUniqueKeyHeld.
	UniqueUntilEnded UniqueUntil = "ended"
	// UniqueUntilStarted is when a worker is given the job for the first time: one more job with the key may wait while this one runs.
	UniqueUntilStarted UniqueUntil = "started"
)

// RetryKind is the shape of a RetryPolicy.
type RetryKind uint8

// The retry policies.
const (
	RetryExponential RetryKind = iota // Base, then twice the last, up to Max
	RetryFixed                        // Base
	RetryList                         // Delays, whose last repeats
	RetryNever                        // the first failure is final
)

// RetryPolicy says how long a failed job waits for its next attempt.
type RetryPolicy struct {
	Kind   RetryKind
	Base   time.Duration   // exponential: default 1 s; fixed: the delay
	Max    time.Duration   // exponential: default 1 h
	Delays []time.Duration // list: 1 to 32
	// JitterPercent: up to this much of a delay is taken off. 0 to 100; nil: 20 for exponential, else 0.
	JitterPercent *int
}

// Enqueued answers one job of EnqueueMany or EnqueueAtomicUnique: its ID, or why it was refused.
type Enqueued struct {
	ID       JobID
	Existing bool // the job's UniqueKey was held: nothing was stored, and ID is that of the job that holds it
	Err      *Error
}
