package beaver

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/api/beaver/v1/beaverv1connect"
)

// The fields of EnqueueStreamRequest.
const (
	enqueueSessionField  protowire.Number = 1
	enqueueSequenceField protowire.Number = 2
	enqueueAtomicField   protowire.Number = 3
	enqueueJobsField     protowire.Number = 4
)

// enqueueMessage is an EnqueueStreamRequest whose jobs are encoded already, each once and by the caller it came from.
type enqueueMessage struct {
	session  []byte
	sequence uint64
	atomic   bool
	jobs     []byte
	tooOld   func() bool // of a repeat, asked when it is about to be written; nil: it is none
}

// enqueueStream is the stream to the server. Send and Receive may run at once, and fail when the context that the stream was
// opened with ends.
type enqueueStream interface {
	Send(*enqueueMessage) error
	Receive() (*beaverv1.EnqueueStreamResponse, error)
	CloseRequest() error
	CloseResponse() error
}

// nodeStream is one whose node can be asked whether it is there.
type nodeStream interface {
	enqueueStream
	// silence tells whether the node stands still and another would serve; else when it was last known to be there. See nodes.silence.
	silence(context.Context) (heard time.Time, silent bool)
}

func dialEnqueue(c connect.HTTPClient, addr string, opts connect.ClientOption) func(context.Context) enqueueStream {
	client := connect.NewClient[enqueueMessage, beaverv1.EnqueueStreamResponse](
		c, addr+beaverv1connect.JobServiceEnqueueStreamProcedure, opts, connect.WithCodec(enqueueCodec{}),
	)
	return func(ctx context.Context) enqueueStream { return client.CallBidiStream(ctx) }
}

// enqueueCodec is Connect's proto codec, but for an enqueueMessage.
type enqueueCodec struct{}

func (enqueueCodec) Name() string { return "proto" }

func (c enqueueCodec) Marshal(v any) ([]byte, error) { return c.MarshalAppend(nil, v) }

// MarshalAppend spares Connect a buffer.
func (enqueueCodec) MarshalAppend(dst []byte, v any) ([]byte, error) {
	m, ok := v.(*enqueueMessage)
	if !ok {
		return nil, fmt.Errorf("beaver: %T on the enqueue stream", v)
	}
	if m.tooOld != nil && m.tooOld() {
		return nil, errTooOld
	}
	if len(m.session) > 0 {
		dst = protowire.AppendTag(dst, enqueueSessionField, protowire.BytesType)
		dst = protowire.AppendBytes(dst, m.session)
	}
	dst = protowire.AppendTag(dst, enqueueSequenceField, protowire.VarintType)
	dst = protowire.AppendVarint(dst, m.sequence)
	if m.atomic {
		dst = protowire.AppendTag(dst, enqueueAtomicField, protowire.VarintType)
		dst = protowire.AppendVarint(dst, 1)
	}
	return append(dst, m.jobs...), nil
}

func (enqueueCodec) Unmarshal(b []byte, v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("beaver: %T on the enqueue stream", v)
	}
	return proto.Unmarshal(b, m)
}
