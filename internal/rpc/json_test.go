package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
	"github.com/beaver-raft/beaver/internal/engine"
)

// newMessage makes an empty message of the API by its name.
func newMessage(t testing.TB, name string) proto.Message {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("beaver.v1." + name))
	if err != nil {
		t.Fatal(err)
	}
	return kind.New().Interface()
}

// TestJSON runs the scripts in testdata/json. Each decodes a message and shows what it encodes as again, or the error.
func TestJSON(t *testing.T) {
	datadriven.Walk(t, "testdata/json", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			msg := newMessage(t, d.Cmd)
			if err := unmarshalJSON([]byte(d.Input), msg); err != nil {
				e, ok := errors.AsType[*engine.Error](err)
				if !ok {
					t.Fatalf("error is a %T", err)
				}
				return "error " + e.Reason + " field=" + e.Field + "\n" + e.Message + "\n"
			}
			out, err := jsonCodec{}.Marshal(msg)
			if err != nil {
				t.Fatal(err)
			}
			return string(out)
		})
	})
}

// The examples that errors show are understood, and there is one of each call.
func TestExamples(t *testing.T) {
	h := New(Options{})
	for procedure := range h.rpc {
		if _, ok := examples[procedure]; ok == (h.bare[procedure] != nil) {
			t.Errorf("%s: has an example: %v; want one of each unary call", procedure, ok)
		}
	}
	services := beaverv1.File_beaver_v1_beaver_proto.Services()
	for i := range services.Len() {
		methods := services.Get(i).Methods()
		for j := range methods.Len() {
			m := methods.Get(j)
			body, ok := examples["/"+string(services.Get(i).FullName())+"/"+string(m.Name())]
			if !ok {
				continue
			}
			if err := unmarshalJSON([]byte(body), newMessage(t, string(m.Input().Name()))); err != nil {
				t.Errorf("%s: the example %s: %v", m.FullName(), body, err)
			}
		}
	}
}

// TestJSONOfEveryField: each field of each message of the API, set to its largest value, has a JSON form, and one that the
// mapping of Protocol Buffers would read in the same way.
func TestJSONOfEveryField(t *testing.T) {
	messages := beaverv1.File_beaver_v1_beaver_proto.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			f := fields.Get(j)
			msg := newMessage(t, string(messages.Get(i).Name()))
			if f.IsMap() {
				continue // Maps have string keys and string values: testdata/json has them.
			}
			m := msg.ProtoReflect()
			if f.IsList() {
				m.Mutable(f).List().Append(largest(t, f, m.Mutable(f).List().NewElement))
			} else {
				m.Set(f, largest(t, f, func() protoreflect.Value { return m.NewField(f) }))
			}
			out, err := jsonCodec{}.Marshal(msg)
			if err != nil {
				t.Errorf("%s: %v", f.FullName(), err)
				continue
			}
			if !json.Valid(out) {
				t.Errorf("%s: not valid JSON: %s", f.FullName(), out)
			}
			if contentTypeField(f) != nil {
				continue // Payloads and results differ from that mapping on purpose.
			}
			back := newMessage(t, string(messages.Get(i).Name()))
			if err := protojson.Unmarshal(out, back); err != nil || !proto.Equal(msg, back) {
				t.Errorf("%s: %s is read as %v: %v", f.FullName(), out, back, err)
			}
		}
	}
}

// largest is the largest value of f's type. A message is an empty one.
func largest(t *testing.T, f protoreflect.FieldDescriptor, empty func() protoreflect.Value) protoreflect.Value {
	t.Helper()
	switch f.Kind() { //nolint:exhaustive // The others are not in the API, and the test fails.
	case protoreflect.MessageKind:
		return empty()
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("text")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0xff})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(math.MaxUint32)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(math.MaxUint64)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(math.MaxFloat64)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	}
	t.Fatalf("%s has the kind %v, which this test does not know", f.FullName(), f.Kind())
	return protoreflect.Value{}
}

func TestJSONDoubles(t *testing.T) {
	for v, want := range map[float64]string{0.25: "0.25", 1e21: "1e+21", -3: "-3", math.Inf(1): `"Infinity"`, math.Inf(-1): `"-Infinity"`} {
		if got := string(appendDouble(nil, v)); got != want {
			t.Errorf("%v is %s, want %s", v, got, want)
		}
	}
	if got := string(appendDouble(nil, math.NaN())); got != `"NaN"` {
		t.Errorf("what is no number is %s", got)
	}
}

// Bytes that claim to be JSON and are not must not break the document around them.
func TestJSONDamagedContent(t *testing.T) {
	for _, payload := range []string{`{"a":`, "\xff", "", "1 2", `"a` + "\n" + `"`} {
		msg := &beaverv1.LeasedJob{Id: "x", Payload: []byte(payload), ContentType: contentTypeJSON}
		out, err := jsonCodec{}.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out) {
			t.Errorf("payload %q: not valid JSON: %s", payload, out)
		}
		if payload != "" && !bytes.Contains(out, []byte("payloadBase64")) {
			t.Errorf("payload %q: want base64: %s", payload, out)
		}
	}
}

func TestJSONDeep(t *testing.T) {
	deep := strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000)
	msg := new(beaverv1.EnqueueRequest)
	if err := unmarshalJSON([]byte(`{"queue":"q","payload":`+deep+`}`), msg); err != nil {
		t.Fatal(err)
	}
	if string(msg.GetPayload()) != deep {
		t.Error("payload changed")
	}
	tooDeep := strings.Repeat("[", 11_000) + strings.Repeat("]", 11_000)
	if err := unmarshalJSON([]byte(`{"payload":`+tooDeep+`}`), msg); err == nil {
		t.Error("nesting without end was accepted")
	}
}

// FuzzJSON: whatever comes in, the codec does not panic; what it accepts, it writes as valid JSON that reads back as the
// same message.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"queue":"mail","payload":{"to":"ada"},"runAt":"2026-01-31T08:00:00Z","metadata":{"a":"b"}}`))
	f.Add([]byte(`{"jobs":[{"queue":"a","payloadBase64":"AAEC","contentType":"image/png","priority":0}],"atomic":true}`))
	f.Add([]byte(`{"jobs":[{"retry":{"list":{"delays":["1s","2.5s"]},"jitterPercent":7},"timeout":"1h30m"}],"sequence":"18446744073709551615"}`))
	f.Add([]byte(`{"payload": null, "delay": "-1ns"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first := new(beaverv1.EnqueueRequest)
		if err := unmarshalJSON(data, first); err != nil {
			if e, ok := errors.AsType[*engine.Error](err); !ok || e.Message == "" {
				t.Fatalf("want an engine error with a message, got %#v", err)
			}
			return
		}
		out, err := jsonCodec{}.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(out) {
			t.Fatalf("not valid JSON: %s", out)
		}
		second := new(beaverv1.EnqueueRequest)
		if err := unmarshalJSON(out, second); err != nil {
			t.Fatalf("%s does not read back: %v", out, err)
		}
		if !proto.Equal(first, second) {
			t.Fatalf("read back as another message:\n%v\n%v", first, second)
		}
	})
}
