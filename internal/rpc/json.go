package rpc

import (
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	beaverv1 "github.com/beaver-raft/beaver/api/beaver/v1"
)

// The JSON form of a message is protojson's, with these differences, all for the sake of people with curl:
//
//   - A bytes field with the option content_type_field stands as a plain JSON value when its content type is JSON, and
//     as base64 under its name with "Base64" behind it otherwise. A plain value without a content type makes it
//     application/json. The value's bytes are kept but for white space: numbers keep every digit.
//   - A field's name that the message does not have is refused, with the one that was probably meant.
//   - An enum's value may be given in short lower-case form: "ready" for JOB_STATE_READY.
//   - A duration may be given as Go writes it: "1h30m" beside "5400s".
//   - Errors name the field by its path and say what was expected.

const (
	contentTypeJSON = "application/json"
	base64Suffix    = "Base64"
)

// contentTypeField is the field that names the content type of a bytes field, or nil when the field has none.
func contentTypeField(f protoreflect.FieldDescriptor) protoreflect.FieldDescriptor {
	if f.Kind() != protoreflect.BytesKind || f.IsList() {
		return nil
	}
	name, _ := proto.GetExtension(f.Options(), beaverv1.E_ContentTypeField).(string)
	if name == "" {
		return nil
	}
	return f.ContainingMessage().Fields().ByName(protoreflect.Name(name))
}

// isJSON tells whether content of the type is JSON: application/json or something+json, with or without parameters.
func isJSON(contentType string) bool {
	kind, _, _ := strings.Cut(contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	return kind == contentTypeJSON || strings.HasSuffix(kind, "+json")
}

// enumPrefix is what the names of an enum's values begin with: JOB_STATE_ for JobState.
func enumPrefix(e protoreflect.EnumDescriptor) string {
	var b strings.Builder
	for i, r := range string(e.Name()) {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String()) + "_"
}
