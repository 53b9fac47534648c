package rpc

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// inbound is a message that decodes itself and keeps what went wrong, so that the handler can answer it as an error with
// a detail; Connect would answer a codec's error without.
type inbound interface {
	setProto(data []byte)
	setJSON(data []byte)
}

// owner is an inbound message that keeps the bytes it was decoded from, because what it decoded aliases them. Who reads
// messages from a connection of its own reads them straight into buffer, and calls setOwn in place of setProto, which copies.
// The bytes are the message's until its owner reads the next one into it.
type owner interface {
	buffer() *[]byte
	setOwn()
}

// outbound is a message that encodes itself, without the generated code.
type outbound interface {
	appendProto(dst []byte) []byte
	message() proto.Message // an empty one of the generated type, for JSON
}

// received is an inbound message of generated type.
type received[T any, P interface {
	*T
	proto.Message
}] struct {
	msg T
	err error
}

func (r *received[T, P]) setProto(data []byte) {
	if err := proto.Unmarshal(data, P(&r.msg)); err != nil {
		r.err = malformed(err)
	}
}

func (r *received[T, P]) setJSON(data []byte) { r.err = unmarshalJSON(data, P(&r.msg)) }

// protoCodec is the binary codec.
type protoCodec struct{}

func (protoCodec) Name() string { return "proto" }

func (protoCodec) Marshal(v any) ([]byte, error) { return protoCodec{}.MarshalAppend(nil, v) }

func (protoCodec) MarshalAppend(dst []byte, v any) ([]byte, error) {
	switch m := v.(type) {
	case outbound:
		return m.appendProto(dst), nil
	case proto.Message:
		return proto.MarshalOptions{}.MarshalAppend(dst, m)
	}
	return nil, fmt.Errorf("cannot encode a %T", v)
}

func (protoCodec) Unmarshal(data []byte, v any) error {
	switch m := v.(type) {
	case inbound:
		m.setProto(data)
		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	}
	return fmt.Errorf("cannot decode a %T", v)
}

func (protoCodec) IsBinary() bool { return true }

func (protoCodec) MarshalStable(v any) ([]byte, error) { return protoCodec{}.Marshal(v) }

// jsonCodec is the codec for people: see json.go for its form. name is "json", or that with a charset.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

func (c jsonCodec) Marshal(v any) ([]byte, error) { return c.MarshalAppend(nil, v) }

func (c jsonCodec) MarshalAppend(dst []byte, v any) ([]byte, error) {
	switch m := v.(type) {
	case outbound:
		msg := m.message()
		if err := proto.Unmarshal(m.appendProto(nil), msg); err != nil {
			return nil, err
		}
		return appendLine(dst, msg)
	case proto.Message:
		return appendLine(dst, m)
	}
	return nil, fmt.Errorf("cannot encode a %T", v)
}

// appendLine ends the JSON with a newline: a terminal's prompt should not stick to it.
func appendLine(dst []byte, m proto.Message) ([]byte, error) {
	dst, err := appendJSON(dst, m.ProtoReflect())
	return append(dst, '\n'), err
}

func (c jsonCodec) Unmarshal(data []byte, v any) error {
	switch m := v.(type) {
	case inbound:
		m.setJSON(data)
		return nil
	case proto.Message:
		return unmarshalJSON(data, m)
	}
	return fmt.Errorf("cannot decode a %T", v)
}

func (c jsonCodec) IsBinary() bool { return false }

func (c jsonCodec) MarshalStable(v any) ([]byte, error) { return c.Marshal(v) }
