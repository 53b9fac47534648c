package beaver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// Code is the class of an error, named as in Connect and gRPC.
type Code string

// The codes.
const (
	CodeCanceled           Code = "canceled"
	CodeUnknown            Code = "unknown"
	CodeInvalidArgument    Code = "invalid_argument"
	CodeDeadlineExceeded   Code = "deadline_exceeded"
	CodeNotFound           Code = "not_found"
	CodeAlreadyExists      Code = "already_exists"
	CodePermissionDenied   Code = "permission_denied"
	CodeResourceExhausted  Code = "resource_exhausted"
	CodeFailedPrecondition Code = "failed_precondition"
	CodeAborted            Code = "aborted"
	CodeOutOfRange         Code = "out_of_range"
	CodeUnimplemented      Code = "unimplemented"
	CodeInternal           Code = "internal"
	CodeUnavailable        Code = "unavailable"
	CodeDataLoss           Code = "data_loss"
	CodeUnauthenticated    Code = "unauthenticated"
)

// Error is what the server, or the client on its behalf, refused an operation with.
type Error struct {
	Code    Code
	Reason  string // one word in capitals, stable, e.g. LEASE_LOST or TOO_LARGE; may be empty
	Field   string // of the request, if one is at fault
	Message string // for a person: what is wrong and what to do
	Leader  uint64 // the node that leads the shard in question, as far as the one that answered knew; 0: it did not, or there is none
	cause   error
	refusal bool // of a stream's message: sending it again would not help
}

// The sentinels, for errors.Is. One with a Reason matches errors of that reason, one without matches errors of its Code.
var (
	ErrNotFound           = &Error{Code: CodeNotFound, Message: "not found"}
	ErrInvalidArgument    = &Error{Code: CodeInvalidArgument, Message: "invalid argument"}
	ErrResourceExhausted  = &Error{Code: CodeResourceExhausted, Message: "a limit is reached"}
	ErrFailedPrecondition = &Error{Code: CodeFailedPrecondition, Message: "the state does not allow it"}
	ErrUnavailable        = &Error{Code: CodeUnavailable, Message: "the server cannot be reached or is not ready"}

	// ErrQueueFull says that a queue holds as many jobs as its settings allow.
	ErrQueueFull = &Error{Code: CodeResourceExhausted, Reason: reasonQueueFull, Message: "the queue is full"}
	// ErrUniqueKeyHeld says that a dead job cannot be retried while another job holds its unique key.
	ErrUniqueKeyHeld = &Error{Code: CodeFailedPrecondition, Reason: reasonUniqueKeyHeld, Message: "another job holds the unique key"}
	// ErrLeaseLost says that a job is no longer the caller's: it timed out, its worker was taken for lost, or it has ended.
	ErrLeaseLost = &Error{Code: CodeFailedPrecondition, Reason: reasonLeaseLost, Message: "the lease on the job is lost"}
	// ErrWorkerLost says that the server has forgotten the worker, since it was silent for too long.
	ErrWorkerLost = &Error{Code: CodeNotFound, Reason: reasonWorkerLost, Message: "the worker was silent for too long and is forgotten"}
	// ErrOutcomeUnknown says that the operation was sent and no answer came: it may have happened, or may still happen.
	ErrOutcomeUnknown = &Error{Code: CodeUnknown, Reason: reasonOutcomeUnknown, Message: "the outcome is unknown"}
	// ErrClosed says that the client was closed before the operation was sent.
	ErrClosed = &Error{Code: CodeCanceled, Reason: reasonClosed, Message: "the client is closed"}
)

const (
	reasonInvalid        = "INVALID"
	reasonTooLarge       = "TOO_LARGE"
	reasonQueueFull      = "QUEUE_FULL"
	reasonLeaseLost      = "LEASE_LOST"
	reasonWorkerLost     = "WORKER_LOST"
	reasonOutcomeUnknown = "UNKNOWN_OUTCOME"
	reasonClosed         = "CLIENT_CLOSED"
	reasonUniqueKeyHeld  = "UNIQUE_KEY_HELD"
	reasonNoUniqueKeys   = "NO_UNIQUE_KEYS"
	reasonVersionsDiffer = "VERSIONS_DIFFER"
)

func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return e.Message
}

// Unwrap returns the error underneath, such as the context's.
func (e *Error) Unwrap() error { return e.cause }

// Is matches the sentinels: by Reason if the target has one, else by Code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	if !ok {
		return false
	}
	if t.Reason != "" {
		return e.Reason == t.Reason
	}
	return e.Code == t.Code
}

// retryable says whether the same request may succeed later as it is, at this server or the next.
func (e *Error) retryable() bool {
	return e.Code == CodeUnavailable || e.Code == CodeAborted
}

// passing says whether the refusal of one item of a batch may be over soon.
func (e *Error) passing() bool {
	switch e.Code {
	case CodeUnavailable, CodeAborted, CodeResourceExhausted, CodeCanceled, CodeDeadlineExceeded, CodeInternal, CodeUnknown:
		return true
	default: // The server says no.
		return false
	}
}

// invalid is a refusal made before anything was sent.
func invalid(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalidArgument, Reason: reasonInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// tooLarge is a refusal of something that has too many bytes or items, made before anything was sent.
func tooLarge(field, format string, args ...any) *Error {
	err := invalid(field, format, args...)
	err.Reason = reasonTooLarge
	return err
}

// fromJobError turns the refusal of one item of a batch into an Error.
func fromJobError(e *beaverv1.JobError) *Error {
	if e == nil {
		return nil
	}
	return &Error{Code: Code(e.GetCode()), Reason: e.GetReason(), Field: e.GetField(), Message: e.GetMessage()}
}

// unreachedError says that no connection was made, so that nothing was sent.
type unreachedError struct{ error }

func (e unreachedError) Unwrap() error { return e.error }

// unreached says whether err is that of connecting: nothing of the operation has left the client then.
func unreached(err error) bool {
	if _, ok := errors.AsType[unreachedError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// notHTTP2 reports whether the message is one of those by which net/http says that the answer was no HTTP/2, but something
// like HTTP/1.1: which one depends on who sees the answer first. They have no type.
func notHTTP2(message string) bool {
	return strings.Contains(message, "http2: frame too large") || strings.Contains(message, "http2: client conn could not be established")
}

// asError turns what a call failed with into an Error, whose reason and field are in the ErrorInfo detail.
func asError(err error) *Error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	var ce *connect.Error
	if !errors.As(err, &ce) {
		switch {
		case errors.Is(err, context.Canceled):
			return &Error{Code: CodeCanceled, Message: err.Error(), cause: err}
		case errors.Is(err, context.DeadlineExceeded):
			return &Error{Code: CodeDeadlineExceeded, Message: err.Error(), cause: err}
		}
		return &Error{Code: CodeUnavailable, Message: err.Error(), cause: err}
	}
	e := &Error{Code: Code(ce.Code().String()), Message: ce.Message(), cause: err}
	if e.Code == CodeUnavailable && unreached(err) {
		e.Message = "the server cannot be reached: " + e.Message
	}
	if e.Code == CodeUnavailable && notHTTP2(e.Message) {
		e.Message = "what answers there does not speak HTTP/2: it is no beaver server, or a proxy that HTTP/2 does not pass"
	}
	if !connect.IsWireError(err) && (e.Code == CodeUnknown || e.Code == CodeInvalidArgument) {
		e.Code = CodeUnavailable // Not the server's word: the connection broke in the middle of a message.
	}
	for _, d := range ce.Details() {
		v, err := d.Value()
		if err != nil {
			continue // A detail of a newer server: the code and the message still stand.
		}
		if info, ok := v.(*beaverv1.ErrorInfo); ok {
			e.Reason, e.Field, e.Leader = info.GetReason(), info.GetField(), info.GetLeaderNodeId()
		}
	}
	return e
}
