package rpc

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// The reasons that the front door itself gives: the engine's where they fit, and its own.
const (
	reasonInvalid   = engine.ReasonInvalid
	reasonMalformed = engine.ReasonMalformed
	reasonTooLarge  = engine.ReasonTooLarge
	reasonStopping  = engine.ReasonStopping
	reasonInternal  = engine.ReasonInternal
	reasonCancelled = engine.ReasonCancelled
	reasonDeadline  = engine.ReasonDeadline
	reasonNotReady  = "NOT_READY"
	reasonReplaced  = "STREAM_REPLACED"
	reasonSilent    = "WORKER_SILENT"
	reasonNoMethod  = "NO_SUCH_METHOD"
	reasonNoPage    = "NO_SUCH_PATH"

	reasonWrongMethod = "WRONG_HTTP_METHOD"
	reasonNoStream    = "NO_STREAM"
)

// connectCodes maps the engine's codes to Connect's. CodeUnknownOutcome is aborted and not unavailable, since clients
// retry the latter blindly.
var connectCodes = [...]connect.Code{
	engine.CodeInternal:           connect.CodeInternal,
	engine.CodeInvalidArgument:    connect.CodeInvalidArgument,
	engine.CodeNotFound:           connect.CodeNotFound,
	engine.CodeFailedPrecondition: connect.CodeFailedPrecondition,
	engine.CodeResourceExhausted:  connect.CodeResourceExhausted,
	engine.CodeAborted:            connect.CodeAborted,
	engine.CodeUnavailable:        connect.CodeUnavailable,
	engine.CodeUnknownOutcome:     connect.CodeAborted,
	engine.CodeDeadlineExceeded:   connect.CodeDeadlineExceeded,
	engine.CodeCancelled:          connect.CodeCanceled,
	engine.CodeDataLoss:           connect.CodeDataLoss,
	engine.CodeUnimplemented:      connect.CodeUnimplemented,
}

func connectCode(c engine.Code) connect.Code {
	if int(c) < len(connectCodes) {
		return connectCodes[c]
	}
	return connect.CodeInternal
}

// invalid is a refusal of one field. The message says what was expected; the field's name is put before it.
func invalid(field, format string, args ...any) *engine.Error {
	message := fmt.Sprintf(format, args...)
	if field != "" {
		message = field + ": " + message
	}
	return &engine.Error{Code: engine.CodeInvalidArgument, Reason: reasonInvalid, Field: field, Message: message}
}

// tooLarge is a refusal of one field that has too many bytes or items.
func tooLarge(field, format string, args ...any) *engine.Error {
	err := invalid(field, format, args...)
	err.Reason = reasonTooLarge
	return err
}

// asEngineError finds or makes the engine.Error that describes err.
func asEngineError(err error) *engine.Error {
	if e, ok := errors.AsType[*engine.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return &engine.Error{
			Code: engine.CodeDeadlineExceeded, Reason: reasonDeadline,
			Message: "the call's deadline passed", Cause: err,
		}
	case errors.Is(err, context.Canceled):
		return &engine.Error{
			Code: engine.CodeCancelled, Reason: reasonCancelled, Message: "the caller gave up", Cause: err,
		}
	}
	return &engine.Error{
		Code: engine.CodeInternal, Reason: reasonInternal,
		Message: "internal error; the node's log says more", Cause: err,
	}
}

// toConnect is err as the protocol carries it: with a code and an ErrorInfo. Errors of Connect itself pass through, and
// get an ErrorInfo when they have none.
func toConnect(err error) *connect.Error {
	if c, ok := errors.AsType[*connect.Error](err); ok {
		if len(c.Details()) == 0 {
			addInfo(c, &beaverv1.ErrorInfo{Reason: protocolReason(c.Code())})
		}
		return c
	}
	e := asEngineError(err)
	c := connect.NewError(connectCode(e.Code), errors.New(e.Message))
	addInfo(c, errorInfo(e))
	return c
}

func errorInfo(e *engine.Error) *beaverv1.ErrorInfo {
	return &beaverv1.ErrorInfo{Reason: e.Reason, Field: e.Field, LeaderNodeId: e.Leader}
}

func addInfo(c *connect.Error, info *beaverv1.ErrorInfo) {
	if detail, err := connect.NewErrorDetail(info); err == nil {
		c.AddDetail(detail)
	}
}

// protocolReason is the reason for an error that Connect found while it read or wrote a message.
func protocolReason(code connect.Code) string {
	switch code {
	case connect.CodeResourceExhausted:
		return reasonTooLarge
	case connect.CodeCanceled:
		return reasonCancelled
	case connect.CodeDeadlineExceeded:
		return reasonDeadline
	case connect.CodeInvalidArgument:
		return reasonMalformed
	default:
		return reasonInternal
	}
}

// jobError is the refusal of one item of a batch. prefix is the path of the item, such as "jobs[3]".
func jobError(index int, prefix string, e *engine.Error) *beaverv1.JobError {
	field := e.Field
	switch {
	case field == "":
		field = prefix
	case prefix != "":
		field = prefix + "." + field
	}
	return &beaverv1.JobError{
		Index: uint32(index), Code: connectCode(e.Code).String(), Reason: e.Reason, Message: e.Message, Field: field,
	}
}
