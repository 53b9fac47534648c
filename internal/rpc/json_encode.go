package rpc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// appendJSON appends the JSON form of m: its set fields in the order of their declaration, without white space.
func appendJSON(dst []byte, m protoreflect.Message) ([]byte, error) {
	switch wkt := m.Interface().(type) {
	case *durationpb.Duration:
		return appendDuration(dst, wkt), nil
	case *timestamppb.Timestamp:
		dst = append(dst, '"')
		dst = wkt.AsTime().AppendFormat(dst, time.RFC3339Nano)
		return append(dst, '"'), nil
	}
	dst = append(dst, '{')
	first := true
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		f := all.Get(i)
		if !m.Has(f) {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		var err error
		if dst, err = appendMember(dst, m, f); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func appendMember(dst []byte, m protoreflect.Message, f protoreflect.FieldDescriptor) ([]byte, error) {
	v := m.Get(f)
	if kind := contentTypeField(f); kind != nil {
		if content := v.Bytes(); isJSON(m.Get(kind).String()) && json.Valid(content) && utf8.Valid(content) {
			dst = appendKey(dst, f.JSONName())
			return append(dst, content...), nil
		}
		return appendValue(appendKey(dst, f.JSONName()+base64Suffix), f, v)
	}
	dst = appendKey(dst, f.JSONName())
	switch {
	case f.IsMap():
		return appendMap(dst, f, v.Map())
	case f.IsList():
		dst = append(dst, '[')
		list := v.List()
		for i := range list.Len() {
			if i > 0 {
				dst = append(dst, ',')
			}
			var err error
			if dst, err = appendValue(dst, f, list.Get(i)); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	default:
		return appendValue(dst, f, v)
	}
}

// appendMap appends a map with string keys, in their order.
func appendMap(dst []byte, f protoreflect.FieldDescriptor, entries protoreflect.Map) ([]byte, error) {
	keys := make([]string, 0, entries.Len())
	for k := range entries.Range {
		keys = append(keys, k.String())
	}
	slices.Sort(keys)
	dst = append(dst, '{')
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		var err error
		v := entries.Get(protoreflect.ValueOfString(k).MapKey())
		if dst, err = appendValue(appendKey(dst, k), f.MapValue(), v); err != nil {
			return nil, err
		}
	}
	return append(dst, '}'), nil
}

func appendValue(dst []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch f.Kind() { //nolint:exhaustive // The API has no fields of the other kinds; they are an error below.
	case protoreflect.StringKind:
		return appendQuoted(dst, v.String()), nil
	case protoreflect.BoolKind:
		return strconv.AppendBool(dst, v.Bool()), nil
	case protoreflect.Uint32Kind:
		return strconv.AppendUint(dst, v.Uint(), 10), nil
	case protoreflect.Uint64Kind: // in quotes, since JavaScript would round it
		dst = append(dst, '"')
		dst = strconv.AppendUint(dst, v.Uint(), 10)
		return append(dst, '"'), nil
	case protoreflect.DoubleKind:
		return appendDouble(dst, v.Float()), nil
	case protoreflect.BytesKind:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v.Bytes())
		return append(dst, '"'), nil
	case protoreflect.EnumKind:
		if name := f.Enum().Values().ByNumber(v.Enum()); name != nil {
			return appendQuoted(dst, string(name.Name())), nil
		}
		return strconv.AppendInt(dst, int64(v.Enum()), 10), nil
	case protoreflect.MessageKind:
		return appendJSON(dst, v.Message())
	}
	return nil, fmt.Errorf("field %s has a type that has no JSON form here", f.FullName())
}

// appendDouble appends a number with as few digits as tell it from all others, and what is no number by its name in quotes.
func appendDouble(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, v, 'g', -1, 64)
}

// appendDuration appends seconds with as many decimals as needed, in quotes.
func appendDuration(dst []byte, d *durationpb.Duration) []byte {
	dst = append(dst, '"')
	seconds, nanos := d.GetSeconds(), d.GetNanos()
	if seconds < 0 || nanos < 0 {
		dst = append(dst, '-')
		seconds, nanos = -seconds, -nanos
	}
	dst = strconv.AppendInt(dst, seconds, 10)
	if nanos != 0 {
		decimals := fmt.Sprintf(".%09d", nanos)
		for decimals[len(decimals)-1] == '0' {
			decimals = decimals[:len(decimals)-1]
		}
		dst = append(dst, decimals...)
	}
	return append(dst, 's', '"')
}

func appendKey(dst []byte, key string) []byte { return append(appendQuoted(dst, key), ':') }

// appendQuoted appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendQuoted(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r == '\n':
			dst = append(dst, '\\', 'n')
		case r == '\t':
			dst = append(dst, '\\', 't')
		case r < ' ' || r == 0x7f:
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return append(dst, '"')
}

// base64Raw encodes as Connect does in its error details: without padding.
func base64Raw(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
