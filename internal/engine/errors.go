package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/beaver-raft/beaver/internal/cluster"
	"github.com/beaver-raft/beaver/internal/host"
	"github.com/beaver-raft/beaver/internal/queue"
	"github.com/beaver-raft/beaver/internal/shard"
)

// The Reasons of errors: stable words for programs.
const (
	ReasonInvalid        = "INVALID"
	ReasonMalformed      = "MALFORMED"
	ReasonTooLarge       = "TOO_LARGE"
	ReasonQueueNotFound  = "QUEUE_NOT_FOUND"
	ReasonQueueNotReady  = "QUEUE_NOT_READY"
	ReasonQueueFull      = "QUEUE_FULL"
	ReasonJobNotFound    = "JOB_NOT_FOUND"
	ReasonLeaseLost      = "LEASE_LOST"
	ReasonWrongState     = "WRONG_STATE"
	ReasonLimit          = "LIMIT"
	ReasonSessionTooOld  = "SESSION_TOO_OLD"
	ReasonRepeatDiffers  = "REPEAT_DIFFERS"
	ReasonAborted        = "ATOMIC_ABORTED"
	ReasonUniqueKeyHeld  = "UNIQUE_KEY_HELD"
	ReasonVersionsDiffer = "VERSIONS_DIFFER"
	ReasonWorkerLost     = "WORKER_LOST"
	ReasonOverloaded     = "OVERLOADED"
	ReasonDiskFull       = "DISK_FULL"
	ReasonNotLeader      = "NOT_LEADER"
	ReasonStopping       = "STOPPING"
	ReasonUnreachable    = "UNREACHABLE"
	ReasonConflict       = "CONFLICT"
	ReasonMoved          = "QUEUE_MOVED"
	ReasonMoving         = "QUEUE_MOVING"
	ReasonPartitioned    = "QUEUE_PARTITIONED"
	ReasonBehind         = "REPLICA_BEHIND"
	ReasonDropped        = "NOT_PROPOSED"
	ReasonUnknownOutcome = "UNKNOWN_OUTCOME"
	ReasonDeadline       = "DEADLINE"
	ReasonCancelled      = "CANCELLED"
	ReasonDiverged       = "STATE_DIVERGED"
	ReasonDamaged        = "DATA_DAMAGED"
	ReasonCutOff         = "CUT_OFF"
	ReasonWaited         = "WAITED_TOO_LONG"
	ReasonInternal       = "INTERNAL"
)

func newError(code Code, reason, format string, args ...any) *Error {
	return &Error{Code: code, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// invalid says which field of a request is wrong.
func invalid(field, format string, args ...any) *Error {
	return &Error{
		Code: CodeInvalidArgument, Reason: ReasonInvalid, Field: field,
		Message: field + " " + fmt.Sprintf(format, args...),
	}
}

// tooLarge says which field of a request has too many bytes or items.
func tooLarge(field, format string, args ...any) *Error {
	err := invalid(field, format, args...)
	err.Reason = ReasonTooLarge
	return err
}

// fieldError turns what a Validate method found into an error of ours.
func fieldError(err error) *Error {
	e := &Error{Code: CodeInvalidArgument, Reason: ReasonInvalid, Message: err.Error(), Cause: err}
	var ofQueue *queue.FieldError
	var ofCluster *cluster.FieldError
	large := false
	switch {
	case errors.As(err, &ofQueue):
		e.Field, e.Message, large = ofQueue.Field, ofQueue.Error(), ofQueue.TooLarge
	case errors.As(err, &ofCluster):
		e.Field, e.Message, large = ofCluster.Field, ofCluster.Error(), ofCluster.TooLarge
	}
	if large {
		e.Reason = ReasonTooLarge
	}
	return e
}

// refusal is the one table from the machine's codes to errors. It is nil for codes that are no refusal.
func refusal(r queue.Result) *Error {
	switch r.Code {
	case queue.CodeOK, queue.CodeDuplicate, queue.CodeCancelRequested, queue.CodeExists:
		return nil
	case queue.CodeNoQueue:
		return newError(CodeUnavailable, ReasonQueueNotReady, "the queue is not set up on its shard yet; try again")
	case queue.CodeQueueFull:
		return newError(CodeResourceExhausted, ReasonQueueFull,
			"the queue holds as many jobs as its depth limit allows; wait until workers have caught up, or raise the queue's limit")
	case queue.CodeNoJob:
		return errNoJob()
	case queue.CodeStale:
		return newError(CodeFailedPrecondition, ReasonLeaseLost,
			"the lease is no longer held: the attempt timed out, was given to another worker, or has ended; stop working on it")
	case queue.CodeWrongState:
		return newError(CodeFailedPrecondition, ReasonWrongState, "the job is %s, which does not allow this", stateName(r.State))
	case queue.CodeLimit:
		return newError(CodeResourceExhausted, ReasonLimit,
			"a limit of the shard is reached (running jobs, client sessions or unique keys that are held); finish some work first")
	case queue.CodeSessionTooOld:
		return newError(CodeFailedPrecondition, ReasonSessionTooOld,
			"this sequence number left its session's window of %d, so it is not known whether it was done; look for the job before sending it again", queue.SessionWindow)
	case queue.CodeRepeatDiffers:
		return newError(CodeFailedPrecondition, ReasonRepeatDiffers,
			"this sequence number was sent before with another set of good jobs, whose answers would be given to the wrong ones here; nothing was stored now: look for the jobs, and send those that are missing under a new sequence number")
	case queue.CodeMoved:
		return newError(CodeUnavailable, ReasonMoved, "the queue is moving to another shard, which does not take its jobs yet; nothing was stored; try again")
	case queue.CodeMalformed:
		return newError(CodeInvalidArgument, ReasonMalformed, "the job machine refused the command as malformed: it breaks a limit or contradicts itself")
	case queue.CodeKeyHeld:
		return newError(CodeFailedPrecondition, ReasonUniqueKeyHeld,
			"job %v holds the unique key of the dead job; wait until that one has ended and retry this one then, or discard it", JobID{Shard: r.Shard, Pos: r.Pos})
	case queue.CodeKeyElsewhere:
		return newError(CodeFailedPrecondition, ReasonMoving,
			"the queue has moved, and the dead job's unique key is granted by its new home now; enqueue the job anew, or discard it")
	case queue.CodeExpired:
		return invalid("expires_at", "lies in the past or before the job may run; the job would never run")
	case queue.CodeAborted:
		return newError(CodeAborted, ReasonAborted, "another job of the same atomic request was refused, so none was stored")
	}
	return newError(CodeInternal, ReasonInternal, "the job machine answered with code %d, which this version does not know", r.Code)
}

// catalogRefusal is refusal's sibling for the catalog.
func catalogRefusal(r cluster.Result) *Error {
	switch r.Code {
	case cluster.CodeOK, cluster.CodeExists:
		return nil
	case cluster.CodeNotFound:
		return newError(CodeNotFound, ReasonQueueNotFound, "there is no such queue; enqueue a job into it or configure it to make it")
	case cluster.CodeLimit:
		return newError(CodeResourceExhausted, ReasonLimit,
			"the cluster has its most queues (%d) or workers (%d); remove some first", cluster.QueuesMax, cluster.WorkersMax)
	case cluster.CodeMoving:
		return errMoving(&r.Queue)
	case cluster.CodePartitioned:
		return errPartitioned(r.Queue.Name, r.Queue.Home.Shards)
	case cluster.CodeMalformed:
		return newError(CodeInvalidArgument, ReasonMalformed, "the catalog refused the command as malformed: it breaks a limit")
	}
	return newError(CodeInternal, ReasonInternal, "the catalog answered with code %d, which this version does not know", r.Code)
}

func errMoving(q *cluster.Queue) *Error {
	if !q.Moving() {
		return newError(CodeFailedPrecondition, ReasonMoving, "queue %q was moved by somebody else just now; look at beaver queues list, and say it again", q.Name)
	}
	return newError(CodeFailedPrecondition, ReasonMoving,
		"queue %q is still moving from %s to %s; look at beaver queues list, and say it again when that is over", q.Name, shardsText(q.From.Shards), shardsText(q.Home.Shards))
}

// errStillMoving is errMoving when it is known what the move waits for.
func errStillMoving(q *cluster.Queue, left *leftBehind) *Error {
	var waits []string
	switch {
	case left.dead > 0:
		waits = append(waits, fmt.Sprintf("for %s, %d of them dead, which have to be retried or, as those with a unique key, discarded", jobsText(left.jobs), left.dead))
	case left.jobs > 0:
		waits = append(waits, fmt.Sprintf("for %s to end", jobsText(left.jobs)))
	}
	if left.keys > 0 && left.jobs == 0 {
		waits = append(waits, fmt.Sprintf("until the windows of %d unique keys have passed", left.keys))
	}
	if left.repeatable > 0 {
		minutes := int((left.repeatable + time.Minute - 1) / time.Minute)
		waits = append(waits, fmt.Sprintf("until clients repeat nothing any more that they sent there, which is in %d min", minutes))
	}
	if !left.closed || q.Opened == 0 {
		waits = append(waits, "for its new homes to be set up")
	}
	if len(waits) == 0 {
		waits = []string{"to be ended, within a moment"}
	}
	return newError(CodeFailedPrecondition, ReasonMoving, "queue %q is still moving from %s to %s: there it waits %s; say it again when that is over",
		q.Name, shardsText(q.From.Shards), shardsText(q.Home.Shards), strings.Join(waits, ", and "))
}

func jobsText(n uint64) string {
	if n == 1 {
		return "1 job"
	}
	return fmt.Sprintf("%d jobs", n)
}

func errPartitioned(name string, shards []uint16) *Error {
	return newError(CodeFailedPrecondition, ReasonPartitioned,
		"queue %q has %d partitions, on %s, and a queue of several does not move to one shard; another number of partitions places them anew", name, len(shards), shardsText(shards))
}

// shardsText names shards in a sentence.
func shardsText(shards []uint16) string {
	if len(shards) == 1 {
		return fmt.Sprintf("shard %d", shards[0])
	}
	words := make([]string, len(shards))
	for i, id := range shards {
		words[i] = fmt.Sprint(id)
	}
	return "shards " + strings.Join(words, ", ")
}

func errNoJob() *Error {
	return newError(CodeNotFound, ReasonJobNotFound,
		"there is no such job: it never was, or it ended and left its queue's window of recently ended jobs")
}

func errWorkerLost() *Error {
	return newError(CodeNotFound, ReasonWorkerLost,
		"the worker is not registered: it was silent for too long, said goodbye, or never came; register again")
}

func errStopping() *Error {
	return newError(CodeUnavailable, ReasonStopping, "the node is stopping; ask another node or try again later")
}

func errMending() *Error {
	return newError(CodeUnavailable, ReasonDamaged,
		"a job's data is damaged on this node, and is being brought from the shard's other members; try again")
}

func errNotLeader() *Error {
	return newError(CodeUnavailable, ReasonNotLeader, "this node does not lead the shard at the moment; try again")
}

// errLedBy is errNotLeader of a node that knows who leads; 0: nobody that it knows of.
func errLedBy(leader uint64) *Error {
	if leader == 0 {
		return newError(CodeUnavailable, ReasonNotLeader, "the shard has no leader that this node knows of; nothing was done; try again")
	}
	err := newError(CodeUnavailable, ReasonNotLeader, "node %d leads the shard, as far as this node knows, and did not take the request; nothing was done; try again, or ask that node", leader)
	err.Leader = leader
	return err
}

func errDiskFull() *Error {
	return newError(CodeResourceExhausted, ReasonDiskFull,
		"the disk is nearly full, so new jobs are refused while those stored can still be finished; free some space or let workers catch up")
}

func errNoShard(id shard.ID) *Error {
	return newError(CodeUnavailable, ReasonNotLeader, "this node has no replica of shard %d and does not know who leads it; ask another node", id)
}

func errUnreachable(node uint64, cause error) *Error {
	return &Error{
		Code: CodeUnavailable, Reason: ReasonUnreachable, Cause: cause, Leader: node,
		Message: fmt.Sprintf("node %d leads the shard and cannot be reached; nothing happened; try again", node),
	}
}

func errForwardVersion(node uint64) *Error {
	return newError(CodeUnavailable, ReasonUnreachable, "node %d speaks another version of the protocol between nodes, or garbled it; run one version on all nodes", node)
}

// nothingHappened tells an error of a node that does not lead the shard, or not yet: another may be asked without harm.
func nothingHappened(err *Error) bool {
	return err != nil && err.Code == CodeUnavailable &&
		(err.Reason == ReasonNotLeader || err.Reason == ReasonDropped || err.Reason == ReasonStopping || err.Reason == ReasonWaited)
}

// ErrStoodStill is what is answered to a request by a connection of an earlier era.
func ErrStoodStill() *Error {
	return newError(CodeUnavailable, ReasonWaited,
		"the node stood still, and the request may have waited all the time: nothing was done; send it again, by a new connection, if you still want it")
}

// errWaited is what is answered to an enqueue that was not proposed for too long.
func errWaited() *Error {
	return newError(CodeUnavailable, ReasonWaited,
		"the request waited for longer than %v, and would be taken for new if it had been stored elsewhere long ago: nothing was stored now; send it again if you still want it", StillMax)
}

func errNodeCutOff() *Error {
	return newError(CodeUnavailable, ReasonCutOff, "this node hears of too few others to know who leads; ask another node")
}

// isCutOff reports whether an error says that this node is cut off: another one serves everything better.
func isCutOff(err error) bool { return asError(err).Reason == ReasonCutOff }

func errUnknownOutcome(cause error) *Error {
	return &Error{
		Code: CodeUnknownOutcome, Reason: ReasonUnknownOutcome, Cause: cause,
		Message: "the request was proposed and its outcome is not known yet: it may still happen; repeat it with the same session and sequence number",
	}
}

// ofOneShard tells an error that leaves the other shards as they are: one has no leader, stands still or has failed. A node
// that stops does so with all of them.
func ofOneShard(err error) bool {
	own := asError(err)
	switch own.Code {
	case CodeUnavailable:
		return own.Reason != ReasonStopping
	case CodeUnknownOutcome, CodeDataLoss:
		return true
	case CodeInternal, CodeInvalidArgument, CodeNotFound, CodeFailedPrecondition, CodeResourceExhausted, CodeAborted,
		CodeDeadlineExceeded, CodeCancelled, CodeUnimplemented:
	}
	return false
}

// contextError is what a call answers whose context ended before anything was proposed.
func contextError(err error) *Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{
			Code: CodeDeadlineExceeded, Reason: ReasonDeadline, Cause: err,
			Message: "the deadline passed before the request was proposed; nothing happened",
		}
	}
	return &Error{
		Code: CodeCancelled, Reason: ReasonCancelled, Cause: err,
		Message: "the caller left before the request was proposed; nothing happened",
	}
}

// hostError is the one table from the host's errors to ours.
func hostError(err error) *Error {
	var own *Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return contextError(err)
	case errors.Is(err, host.ErrNotLeader), errors.Is(err, host.ErrNoShard): // the shard is on its way here
		return errNotLeader()
	case errors.Is(err, host.ErrStopped):
		return errStopping()
	case errors.Is(err, host.ErrOverloaded):
		return newError(CodeResourceExhausted, ReasonOverloaded, "too many reads wait for the shard; slow down and try again")
	}
	return &Error{Code: CodeInternal, Reason: ReasonInternal, Cause: err, Message: "internal error: " + err.Error()}
}

func stateName(s queue.State) string {
	switch s {
	case queue.StateScheduled:
		return "scheduled"
	case queue.StateReady:
		return "ready"
	case queue.StateRunning:
		return "running"
	case queue.StateBackoff:
		return "in backoff"
	case queue.StateDead:
		return "dead"
	case queue.StateCompleted:
		return "completed"
	case queue.StateCancelled:
		return "cancelled"
	case queue.StateExpired:
		return "expired"
	case queue.StateDiscarded:
		return "discarded"
	case queue.StateUnknown:
	}
	return "in no known state"
}
