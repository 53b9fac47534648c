package rpc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/beaver-raft/beaver/internal/engine"
	"github.com/beaver-raft/beaver/internal/queue"
)

// transcode makes the bytes of a message from its JSON form, for the requests that have decoders of their own. The error is nil or an
// *engine.Error.
func transcode(data []byte, msg proto.Message) ([]byte, error) {
	if err := unmarshalJSON(data, msg); err != nil {
		return nil, err
	}
	data, err := proto.Marshal(msg)
	if err != nil {
		return nil, malformed(err)
	}
	return data, nil
}

// unmarshalJSON reads msg from its JSON form. An empty body is an empty object. The error is nil or an *engine.Error.
func unmarshalJSON(data []byte, msg proto.Message) error {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil
	}
	if !utf8.Valid(data) {
		return syntaxError("the JSON is not valid UTF-8")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(data, &whole); err != nil {
		return syntaxError(describeSyntax(data, err))
	}
	if err := decodeMessage(msg.ProtoReflect(), bytes.TrimSpace(data), ""); err != nil {
		return err
	}
	return nil
}

func syntaxError(message string) *engine.Error {
	return &engine.Error{Code: engine.CodeInvalidArgument, Reason: reasonMalformed, Message: message}
}

// describeSyntax says where the JSON breaks.
func describeSyntax(data []byte, err error) string {
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		before := data[:min(max(s.Offset-1, 0), int64(len(data)))]
		line := 1 + bytes.Count(before, []byte{'\n'})
		column := len(before) - bytes.LastIndexByte(before, '\n')
		return fmt.Sprintf("the body is not valid JSON: line %d, column %d: %v", line, column, s)
	}
	return "the body is not valid JSON: " + err.Error()
}

// Below here the JSON is known to be valid, so that the scanners need not look for what cannot be.

// scanValue returns the first value of s and what follows it.
func scanValue(s []byte) (value, rest []byte) {
	switch s[0] {
	case '"':
		n := stringEnd(s)
		return s[:n], s[n:]
	case '{', '[':
		depth := 0
		for i := 0; i < len(s); {
			switch s[i] {
			case '"':
				i += stringEnd(s[i:])
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
				if depth == 0 {
					return s[:i+1], s[i+1:]
				}
			}
			i++
		}
		return s, nil
	default:
		n := bytes.IndexAny(s, ",]} \t\r\n")
		if n < 0 {
			n = len(s)
		}
		return s[:n], s[n:]
	}
}

// stringEnd is the length of the string literal that s begins with.
func stringEnd(s []byte) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(s)
}

// trim drops white space and separators before the next token.
func trim(s []byte) []byte { return bytes.TrimLeft(s, " \t\r\n,:") }

// members calls fn for each member of an object.
func members(object []byte, fn func(key string, value []byte) *engine.Error) *engine.Error {
	for s := trim(object[1:]); len(s) > 0 && s[0] != '}'; s = trim(s) {
		var key, value []byte
		key, s = scanValue(s)
		value, s = scanValue(trim(s))
		if err := fn(unquote(key), value); err != nil {
			return err
		}
	}
	return nil
}

// elements calls fn for each element of an array.
func elements(array []byte, fn func(i int, value []byte) *engine.Error) *engine.Error {
	i := 0
	for s := trim(array[1:]); len(s) > 0 && s[0] != ']'; s = trim(s) {
		var value []byte
		value, s = scanValue(s)
		if err := fn(i, value); err != nil {
			return err
		}
		i++
	}
	return nil
}

// unquote returns what a valid string literal means.
func unquote(literal []byte) string {
	if body := literal[1 : len(literal)-1]; bytes.IndexByte(body, '\\') < 0 {
		return string(body)
	}
	var s string
	_ = json.Unmarshal(literal, &s) // valid
	return s
}

func isNull(value []byte) bool { return string(value) == "null" }

// shape names the type of a value for error messages.
func shape(value []byte) string {
	switch value[0] {
	case '"':
		return "the string " + clip(string(value))
	case '{':
		return "an object"
	case '[':
		return "an array"
	}
	return clip(string(value))
}

// decodeMessage reads the object that value is into m. path is where it stands; empty is the request itself.
func decodeMessage(m protoreflect.Message, value []byte, path string) *engine.Error {
	if value[0] != '{' {
		return wrong(path, objectOf(m.Descriptor()), value)
	}
	desc := m.Descriptor()
	seen := make(map[protoreflect.FieldNumber]string, 8)
	plain := make(map[protoreflect.FieldNumber]bool, 1) // content fields given as plain values
	err := members(value, func(key string, value []byte) *engine.Error {
		f, encoded := lookupField(desc, key)
		if f == nil {
			return unknownField(desc, key, path)
		}
		at := join(path, string(f.Name()))
		if other, ok := seen[f.Number()]; ok {
			return invalid(at, "given twice%s", twice(other, clip(key)))
		}
		seen[f.Number()] = clip(key)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if other := m.WhichOneof(o); other != nil {
				return invalid(at, "give either it or %s", other.Name())
			}
		}
		if contentTypeField(f) != nil && !encoded {
			plain[f.Number()] = true
			m.Set(f, protoreflect.ValueOfBytes(compact(value)))
			return nil
		}
		if isNull(value) {
			return nil
		}
		return decodeField(m, f, value, at)
	})
	if err != nil {
		return err
	}
	for number := range plain {
		if err := settleContentType(m, desc.Fields().ByNumber(number), path); err != nil {
			return err
		}
	}
	return nil
}

// lookupField finds the field that key names; encoded tells that key asks for its base64 form.
func lookupField(desc protoreflect.MessageDescriptor, key string) (f protoreflect.FieldDescriptor, encoded bool) {
	byName := func(name string) protoreflect.FieldDescriptor {
		if f := desc.Fields().ByJSONName(name); f != nil {
			return f
		}
		return desc.Fields().ByTextName(name)
	}
	if f := byName(key); f != nil {
		return f, false
	}
	base, found := strings.CutSuffix(key, base64Suffix)
	if !found {
		base, found = strings.CutSuffix(key, "_base64")
	}
	if found {
		if f := byName(base); f != nil && contentTypeField(f) != nil {
			return f, true
		}
	}
	return nil, false
}

// settleContentType makes the content type of a plain JSON value application/json, or refuses one that is not JSON.
func settleContentType(m protoreflect.Message, f protoreflect.FieldDescriptor, path string) *engine.Error {
	kind := contentTypeField(f)
	switch given := m.Get(kind).String(); {
	case given == "":
		m.Set(kind, protoreflect.ValueOfString(contentTypeJSON))
	case !isJSON(given):
		return invalid(join(path, string(f.Name())),
			"is a plain JSON value but %s is %q: give its bytes as base64 in %s", kind.JSONName(), clip(given), f.JSONName()+base64Suffix)
	}
	return nil
}

// compact is the value without white space.
func compact(value []byte) []byte {
	var b bytes.Buffer
	b.Grow(len(value))
	_ = json.Compact(&b, value) // valid
	return b.Bytes()
}

func decodeField(m protoreflect.Message, f protoreflect.FieldDescriptor, value []byte, path string) *engine.Error {
	switch {
	case f.IsMap():
		return decodeMap(m.Mutable(f).Map(), f, value, path)
	case f.IsList():
		if value[0] != '[' {
			return wrong(path, "an array such as […]", value)
		}
		list := m.Mutable(f).List()
		return elements(value, func(i int, value []byte) *engine.Error {
			at := fmt.Sprintf("%s[%d]", path, i)
			v := protoreflect.Value{}
			if f.Message() != nil {
				v = list.NewElement()
			}
			v, err := decodeValue(v, f, value, at)
			if err == nil {
				list.Append(v)
			}
			return err
		})
	default:
		v := protoreflect.Value{}
		if f.Message() != nil {
			v = m.NewField(f)
		}
		v, err := decodeValue(v, f, value, path)
		if err == nil {
			m.Set(f, v)
		}
		return err
	}
}

func decodeMap(entries protoreflect.Map, f protoreflect.FieldDescriptor, value []byte, path string) *engine.Error {
	if value[0] != '{' {
		return wrong(path, "an object such as {…}", value)
	}
	if f.MapKey().Kind() != protoreflect.StringKind || f.MapValue().Message() != nil {
		return invalid(path, "cannot be given in JSON")
	}
	return members(value, func(key string, value []byte) *engine.Error {
		k := protoreflect.ValueOfString(key).MapKey()
		at := path + "[" + strconv.Quote(clip(key)) + "]"
		if entries.Has(k) {
			return invalid(at, "given twice")
		}
		v, err := decodeValue(protoreflect.Value{}, f.MapValue(), value, at)
		if err == nil {
			entries.Set(k, v)
		}
		return err
	})
}

// decodeValue reads one value of f's type. empty is a new message when f holds messages.
func decodeValue(empty protoreflect.Value, f protoreflect.FieldDescriptor, value []byte, path string) (protoreflect.Value, *engine.Error) {
	none := protoreflect.Value{}
	switch f.Kind() { //nolint:exhaustive // The API has no fields of the other kinds; they are refused below.
	case protoreflect.StringKind:
		if value[0] != '"' {
			return none, wrong(path, "a string", value)
		}
		return protoreflect.ValueOfString(unquote(value)), nil
	case protoreflect.BoolKind:
		switch string(value) {
		case "true", "false":
			return protoreflect.ValueOfBool(value[0] == 't'), nil
		}
		return none, wrong(path, "true or false", value)
	case protoreflect.Uint32Kind:
		n, err := decodeUint(value, path, math.MaxUint32)
		return protoreflect.ValueOfUint32(uint32(n)), err
	case protoreflect.Uint64Kind:
		n, err := decodeUint(value, path, math.MaxUint64)
		return protoreflect.ValueOfUint64(n), err
	case protoreflect.BytesKind:
		b, err := decodeBase64(value, path)
		return protoreflect.ValueOfBytes(b), err
	case protoreflect.EnumKind:
		n, err := decodeEnum(f.Enum(), value, path)
		return protoreflect.ValueOfEnum(n), err
	case protoreflect.MessageKind:
		return empty, decodeEmbedded(empty.Message(), value, path)
	}
	return none, invalid(path, "cannot be given in JSON")
}

func decodeEmbedded(m protoreflect.Message, value []byte, path string) *engine.Error {
	switch wkt := m.Interface().(type) {
	case *durationpb.Duration:
		if value[0] == '"' {
			text := unquote(value)
			if d, err := time.ParseDuration(text); err == nil {
				wkt.Seconds, wkt.Nanos = int64(d/time.Second), int32(d%time.Second)
				return nil
			}
			if endless(text) {
				return invalid(path, "is %s: no duration is longer than %dh (ten years)", shape(value), queue.DelayMillisMax/3600_000)
			}
		}
		return wrong(path, `a duration such as "30s" or "1h30m"`, value)
	case *timestamppb.Timestamp:
		if value[0] == '"' {
			if t, err := time.Parse(time.RFC3339Nano, unquote(value)); err == nil {
				wkt.Seconds, wkt.Nanos = t.Unix(), int32(t.Nanosecond())
				return nil
			}
		}
		return wrong(path, `a time such as "2026-01-31T08:00:00Z"`, value)
	}
	return decodeMessage(m, value, path)
}

// twice tells the two spellings of a field's name, if there are two.
func twice(a, b string) string {
	if a == b {
		return ""
	}
	return ", as " + a + " and as " + b
}

// numbersMax are the limits of numbers that people write, by field, for the error of what is no such number at all.
var numbersMax = map[string]uint64{
	"priority": queue.PriorityCount - 1, "max_attempts": queue.MaxAttemptsMax, "poison_limit": queue.PoisonLimitMax,
	"keep_ended": queue.KeepEndedMax, "partitions": engine.PartitionsMax, "max": queue.FetchMax, "percent": 100, "jitter_percent": 100,
	"page_size": queue.ListMax, "limit": DeadLimitMax,
}

// endless tells a duration that is only too long to be counted: with the last digit of each number alone it is one.
func endless(text string) bool {
	short := make([]byte, 0, len(text))
	for i := range len(text) {
		if i+1 == len(text) || !isDigit(text[i]) || !isDigit(text[i+1]) {
			short = append(short, text[i])
		}
	}
	d, err := time.ParseDuration(string(short))
	return err == nil && !isDigit(text[len(text)-1]) && d >= 0
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// decodeUint reads a whole number, as a number or in a string. 1e3 and 5.0 are whole, too.
func decodeUint(value []byte, path string, most uint64) (uint64, *engine.Error) {
	text := string(value)
	if value[0] == '"' {
		text = unquote(value)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		if f, ferr := strconv.ParseFloat(text, 64); ferr == nil && f >= 0 && f < 1<<53 && f == math.Trunc(f) {
			n, err = uint64(f), nil
		}
	}
	if limit, ok := numbersMax[path[strings.LastIndexByte(path, '.')+1:]]; ok && (err != nil || n > most) {
		return 0, wrong(path, fmt.Sprintf("a whole number, at most %d", limit), value)
	}
	if err != nil || n > most {
		return 0, wrong(path, fmt.Sprintf("a whole number from 0 to %d", most), value)
	}
	return n, nil
}

func decodeBase64(value []byte, path string) ([]byte, *engine.Error) {
	if value[0] == '"' {
		text := strings.TrimRight(unquote(value), "=")
		encoding := base64.RawStdEncoding
		if strings.ContainsAny(text, "-_") {
			encoding = base64.RawURLEncoding
		}
		if b, err := encoding.DecodeString(text); err == nil {
			return b, nil
		}
	}
	return nil, wrong(path, "bytes in base64", value)
}

func decodeEnum(e protoreflect.EnumDescriptor, value []byte, path string) (protoreflect.EnumNumber, *engine.Error) {
	values := e.Values()
	if value[0] == '"' {
		name := unquote(value)
		for _, full := range []string{name, enumPrefix(e) + strings.ToUpper(name)} {
			if v := values.ByName(protoreflect.Name(full)); v != nil {
				return v.Number(), nil
			}
		}
	} else if n, err := strconv.ParseInt(string(value), 10, 32); err == nil {
		if v := values.ByNumber(protoreflect.EnumNumber(n)); v != nil {
			return v.Number(), nil
		}
	}
	names := make([]string, 0, values.Len())
	for i := 1; i < values.Len(); i++ {
		names = append(names, strings.ToLower(strings.TrimPrefix(string(values.Get(i).Name()), enumPrefix(e))))
	}
	return 0, wrong(path, "one of "+strings.Join(names, ", "), value)
}

func wrong(path, want string, value []byte) *engine.Error {
	if path == "" {
		return syntaxError("the request is " + shape(value) + ": want " + want)
	}
	return invalid(path, "is %s: want %s", shape(value), want)
}

// fieldsNamedMax is the most fields of a message that an error lists.
const fieldsNamedMax = 8

func fieldNames(desc protoreflect.MessageDescriptor) []string {
	names := make([]string, 0, desc.Fields().Len())
	for i := range desc.Fields().Len() {
		names = append(names, desc.Fields().Get(i).JSONName())
	}
	return names
}

// objectOf says what was wanted where a message stands: with few fields, which they are.
func objectOf(desc protoreflect.MessageDescriptor) string {
	if names := fieldNames(desc); len(names) > 0 && len(names) <= fieldsNamedMax {
		return "an object with " + strings.Join(names, ", ")
	}
	return "an object such as {…}"
}

func unknownField(desc protoreflect.MessageDescriptor, key, path string) *engine.Error {
	names, hint := fieldNames(desc), ""
	if near := nearest(key, names); near != "" {
		hint = "; did you mean " + near + "?"
	} else if len(names) > 0 && len(names) <= fieldsNamedMax {
		hint = "; there are " + strings.Join(names, ", ")
	}
	return invalid(join(path, clip(key)), "there is no such field in %s%s", desc.Name(), hint)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
