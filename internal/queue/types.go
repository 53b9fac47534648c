package queue

import "errors"

// Pos is where an item lies in its shard's log: Raft index and ordinal within the entry. Positions order by age.
// The position of its enqueue is a job's identity within the shard.
type Pos uint64

const ordinalBits = 12

// ItemsPerEntryMax is how many items one entry can hold.
const ItemsPerEntryMax = 1 << ordinalBits

// MakePos joins a Raft index (below 2^52) and an ordinal (below ItemsPerEntryMax).
func MakePos(index uint64, ordinal int) Pos { return Pos(index<<ordinalBits | uint64(ordinal)) }

// Index is the Raft index of the entry that holds the item.
func (p Pos) Index() uint64 { return uint64(p) >> ordinalBits }

// Ordinal is the item's place in its entry.
func (p Pos) Ordinal() int { return int(p & (ItemsPerEntryMax - 1)) }

// JobID names a job for ever, cluster-wide. Its text is 16 characters of lower-case Crockford base32 and sorts as
// (shard, age).
type JobID struct {
	Shard uint16
	Pos   Pos
}

// ErrBadJobID is returned by ParseJobID.
var ErrBadJobID = errors.New("not a job id: want 16 characters of 0-9 a-z without i, l, o, u")

// QueueID names a queue for ever; the catalog assigns it and never reuses it. 0 is no queue.
type QueueID uint32

// WorkerID names a registered worker for ever; the catalog assigns it. 0 is an anonymous fetch.
type WorkerID uint64

// Token fences a lease: it grows with every lease a shard grants, so that a stale holder is told apart.
type Token uint64

// SessionID names a client session: 16 random bytes chosen by the client. The zero value is no session.
type SessionID [16]byte

// Millis is a time: milliseconds since the Unix epoch. 0 is no time.
type Millis int64

// State is where a job stands. A job is in exactly one.
type State uint8

// The states of a job. Scheduled, Ready, Running, Backoff and Dead are kept while the job lives; the others are kept
// for the queue's window of recent ends.
const (
	StateUnknown   State = iota
	StateScheduled       // waits for its run-at time
	StateReady           // waits for a worker
	StateRunning         // leased
	StateBackoff         // failed, waits for its retry time
	StateDead            // out of attempts, poisonous or failed for good; kept until retried or discarded
	StateCompleted       // acked
	StateCancelled       // cancelled before it completed
	StateExpired         // its expires-at passed while it waited
	StateDiscarded       // a dead job thrown away
	stateCount
)

// Code is the outcome of one item.
type Code uint8

// The outcomes. Every code but CodeOK, CodeDuplicate and CodeCancelRequested changed nothing; CodeExists is counted.
const (
	CodeOK              Code = iota
	CodeDuplicate            // the session sent this before, Pos is the first one's answer; of an ack: the same attempt did
	CodeNoQueue              // the queue is not configured on this shard
	CodeQueueFull            // the queue's limit of waiting jobs is reached
	CodeNoJob                // no such job (or no longer in the window of recent ends)
	CodeStale                // the lease is no longer held: token or attempt is stale
	CodeWrongState           // the job's state does not allow it, State says which; of a verify: the fingerprint differs
	CodeLimit                // a limit of the shard is reached
	CodeSessionTooOld        // the session's sequence number is before its window: the outcome is not known any more
	CodeMalformed            // the item does not decode or breaks a limit
	CodeAborted              // another item of the same atomic command was refused
	CodeCancelRequested      // the job is running: it will be cancelled when its attempt ends, unless that completes it
	CodeExpired              // the job would expire before it may run
	CodeRepeatDiffers        // the session sent this sequence number with other jobs before: whose answers they are is not certain
	CodeMoved                // the queue is closed here: its new jobs belong on another shard
	CodeExists               // nothing was stored: the job at Shard and Pos holds the unique key
	CodeKeyHeld              // the job at Shard and Pos holds the unique key of the dead one, which stays as it is
	CodeKeyElsewhere         // the queue is closed here: who holds the unique key of the dead job is decided on another shard
)

// RetryKind is the shape of a retry policy.
type RetryKind uint8

// The retry policies.
const (
	RetryDefault     RetryKind = iota // the queue's
	RetryExponential                  // base × 2^(failures-1), at most Max, minus up to JitterPercent of it
	RetryFixed                        // base
	RetryList                         // List[failures-1], then its last
	RetryNever                        // the first failure is final
)

// Retry says how long a failed job waits. Jitter is deterministic: it is drawn from the job's position and attempt.
type Retry struct {
	Kind          RetryKind
	JitterPercent uint8
	BaseMillis    int64
	MaxMillis     int64
	List          []int64 // milliseconds; at most RetryListMax
}

// Settings are a queue's. The zero value of a field means its default; see DefaultSettings.
type Settings struct {
	MaxAttempts   uint32 // failures until a job is dead; default 25
	Retry         Retry  // default exponential, 1 s … 1 h, 20 % jitter
	TimeoutMillis int64  // per attempt; 0 is none: a registered worker holds its jobs as long as it lives
	PoisonLimit   uint32 // lost workers until a job is dead; default 5
	KeepEnded     uint32 // ended jobs kept for reading; default 1000; at most KeepEndedMax
	DepthMax      uint64 // jobs not ended; over it enqueues are refused; default 100,000,000
	Paused        bool   // nothing is fetched
	Closed        bool   // the queue lives on another shard now: no jobs come, and those that are here go on
}

// Spec is what a producer says of a job. It is immutable, lies in the log and is never held by the machine.
// The slices alias the buffer a spec was decoded from.
type Spec struct {
	Queue         QueueID
	Priority      uint8 // 0 is first, 9 last; the front door's default is 5
	RunAt         Millis
	ExpiresAt     Millis
	MaxAttempts   uint32 // 0: the queue's
	Retry         Retry  // Kind RetryDefault: the queue's
	TimeoutMillis int64  // -1: none; 0: the queue's
	EnqueuedAt    Millis // the producer's front door clock; informative
	Kind          string
	ContentType   string
	Payload       []byte
	Metadata      []KeyValue // sorted by key
	OrderingKey   string     // jobs of a queue with the same one go to one shard
	// UniqueKey is held by at most one job of a queue and ordering key at any time; empty: the job has none. An enqueue whose key
	// is held stores nothing, and is answered with the job that holds it.
	UniqueKey       string
	UniqueUntil     UniqueUntil
	UniqueForMillis int64 // the key is held for so long from the enqueue at least, whatever becomes of the job
}

// UniqueUntil says how far a job must have come to give up its unique key.
type UniqueUntil uint8

// The points at which a job gives up its key, if its window has passed by then.
const (
	UniqueUntilEnded   UniqueUntil = iota // it ended, or is dead
	UniqueUntilStarted                    // it was leased: so one more may wait while one runs
)

// KeyValue is one item of a job's metadata.
type KeyValue struct{ Key, Value string }

// Failure is what a worker says of a failed attempt; it lies in the log with the Fail item.
type Failure struct {
	Type, Message, Stack string
	Final                bool  // straight to dead
	DelayMillis          int64 // overrides the policy when > 0
}

// Result is the outcome of one item of an entry.
type Result struct {
	Code  Code
	State State  // of the job, after the item
	Shard uint16 // where the job is that holds a unique key; only with CodeExists and CodeKeyHeld
	Pos   Pos    // of the job
	// Leases[Lo:Hi] of the Results are what a fetch was granted.
	Lo, Hi uint32
	At     Millis // of an extend: the lease's deadline
}

// Lease is one job granted by a fetch.
type Lease struct {
	Pos      Pos
	Token    Token
	Queue    QueueID
	Attempt  uint32 // 1 for the first
	Failures uint32
	Crashes  uint32 // attempts that ended in a lost worker
	Priority uint8
	Deadline Millis // 0: none, as long as the worker lives
}

// Event tells the owner of something that happened in an Apply and concerns others than the caller. Events are not
// state: a replica that is not the leader drops them.
type Event struct {
	Kind   EventKind
	Queue  QueueID
	Worker WorkerID
	Pos    Pos
	Token  Token
}

// EventKind says what an Event is.
type EventKind uint8

// The events.
const (
	EventReady      EventKind = iota // a queue got ready jobs (once per queue and Apply)
	EventLeaseLost                   // Worker no longer holds Pos: timed out
	EventCancel                      // Worker should stop running Pos
	EventUnfinished                  // timers are due but the bound per entry was reached: Tick again
	EventDiverged                    // a Verify found another fingerprint: this replica must stop
)

// Results are what one Apply produced. The machine reuses the slices of the Results passed in.
type Results struct {
	Items  []Result // one per item of the entry
	Leases []Lease
	Events []Event
}

// JobInfo is the hot part of a job, for reading. Error, Result and Progress positions name items in the log; 0 is none.
type JobInfo struct {
	Pos             Pos
	Queue           QueueID
	State           State
	Priority        uint8
	CancelRequested bool
	Attempt         uint32
	Failures        uint32
	Crashes         uint32
	Worker          WorkerID
	Token           Token
	RunAt           Millis // scheduled or backoff: when it gets ready
	Deadline        Millis // running: when the attempt times out
	StartedAt       Millis // running or ended: of the last attempt
	EndedAt         Millis // dead or ended
	ProgressPercent uint8
	ProgressPos     Pos
	ResultPos       Pos
	ErrorPos        []Pos // the last errors, oldest first; at most ErrorsKeptMax; 0 is an attempt that timed out
	DeadReason      DeadReason
}

// DeadReason says why a job is dead.
type DeadReason uint8

// The reasons.
const (
	DeadNot      DeadReason = iota
	DeadAttempts            // out of attempts
	DeadFinal               // the worker said so
	DeadPoison              // lost too many workers
	DeadDamaged             // its payload in the log is damaged
)

// QueueInfo is a queue's counters, kept and never counted.
type QueueInfo struct {
	Queue     QueueID
	Settings  Settings
	Version   uint64
	ByState   [stateCount]uint64 // jobs in each state now; ended states: those kept
	Enqueued  uint64             // totals since the queue was made
	Completed uint64
	Failed    uint64 // failed attempts
	Crashed   uint64 // attempts lost with their worker
	Died      uint64
	Cancelled uint64
	Expired   uint64
	Retried   uint64 // dead jobs retried
	Discarded uint64
	// Deduplicated counts enqueues that were answered with a job which held their unique key, and Unique the keys held now.
	Deduplicated uint64
	Unique       uint64
	OldestReady  Pos // 0: none
}
