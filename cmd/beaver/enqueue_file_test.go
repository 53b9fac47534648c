package main

import (
	"strings"
	"testing"

	"github.com/beaver-raft/beaver"
)

// TestLineErrors: a line that is not a job says what is right, in the words of who wrote it.
func TestLineErrors(t *testing.T) {
	for line, want := range map[string]string{
		`{"queue":1}`:           "queue is a number; use a string",
		`{"priority":"high"}`:   "priority is a string; use a whole number",
		`{"priority":1e30}`:     "priority is 1e30; use a whole number that is not too large",
		`{"metadata":{"a":1}}`:  "metadata is a number; use a string",
		`{"metadata":5}`:        `metadata is a number; use an object such as {"tenant": "42"}`,
		`{"delay":"99999999h"}`: `"99999999h" is too long; use 0 to 87600h (ten years)`,
		`{"delay":"5"}`:         `"5" has no unit; write it like 30s, 15m or 1h30m`,
		`{"delay":5}`:           `5 is not a duration; write it like "30s"`,
		`{"runAt":"tomorrow"}`:  `"tomorrow" is not a time; write it like "2006-01-02T15:04:05Z"`,
		`{"prioritty":1}`:       `unknown field "prioritty"; there are queue, kind`,
		`{"payloadBase64":"?"}`: "payloadBase64 is not base64",
		`{"queue":`:             "it ends in the middle of its JSON",
		`[1]`:                   "it is a JSON array; write an object such as",
		"{\"kind\":\"\xff\"}":   "it is not UTF-8; give bytes as base64",
		`x`:                     "it is not JSON: invalid character 'x'",
		`{"queue":"q"} {}`:      "there is more than one JSON value",
		`{}`:                    "it names no queue",
	} {
		if _, err := parseLine([]byte(line), &beaver.Job{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n got %v\nwant %s", line, err, want)
		}
	}
}
