package beaver

import (
	"encoding/json"
	"time"
	"unicode/utf8"
)

// prepare checks a job and turns its JSON into its payload. The job is the caller's copy.
func (j *Job) prepare() error {
	if j.JSON != nil {
		if j.Payload != nil {
			return invalid("payload", "the job has both JSON and Payload; set one of them")
		}
		b, err := json.Marshal(j.JSON)
		if err != nil {
			return &Error{Code: CodeInvalidArgument, Reason: reasonInvalid, Field: "payload", Message: "the JSON payload cannot be marshalled: " + err.Error(), cause: err}
		}
		j.Payload, j.JSON = b, nil
		if j.ContentType == "" {
			j.ContentType = ContentTypeJSON
		}
	}
	if j.ContentType == "" {
		j.ContentType = "application/octet-stream"
	}
	return j.validate()
}

func (j *Job) validate() error {
	if err := validateQueue(j.Queue); err != nil {
		return err
	}
	switch {
	case len(j.Kind) > kindBytesMax:
		return tooLarge("kind", "the kind has %d bytes; use at most %d", len(j.Kind), kindBytesMax)
	case !utf8.ValidString(j.Kind):
		return invalid("kind", "the kind is not valid UTF-8")
	case len(j.Payload) > payloadBytesMax:
		return tooLarge("payload", "the payload has %d bytes; use at most %d, and keep larger data elsewhere", len(j.Payload), payloadBytesMax)
	case len(j.ContentType) > contentTypeBytesMax:
		return tooLarge("content_type", "the content type has %d bytes; use at most %d", len(j.ContentType), contentTypeBytesMax)
	case !utf8.ValidString(j.ContentType):
		return invalid("content_type", "the content type is not valid UTF-8")
	case len(j.OrderingKey) > orderKeyBytesMax:
		return tooLarge("ordering_key", "the ordering key has %d bytes; use at most %d", len(j.OrderingKey), orderKeyBytesMax)
	case !utf8.ValidString(j.OrderingKey):
		return invalid("ordering_key", "the ordering key is not valid UTF-8")
	case j.Priority != nil && (*j.Priority < 0 || *j.Priority > priorityMax):
		return invalid("priority", "the priority is %d; use 0 (first) to %d (last)", *j.Priority, priorityMax)
	case j.MaxAttempts < 0 || j.MaxAttempts > maxAttemptsMax:
		return invalid("max_attempts", "the job has %d attempts; use 1 to %d, or 0 for the queue's", j.MaxAttempts, maxAttemptsMax)
	case j.Delay < 0 || j.Delay > delayMax:
		return invalid("delay", "the delay is %v; use 0 to %v", j.Delay, delayMax)
	case j.Delay != 0 && !j.RunAt.IsZero():
		return invalid("delay", "the job has both Delay and RunAt; set one of them")
	case j.Timeout < 0 || j.Timeout > delayMax:
		return invalid("timeout", "the timeout is %v; use a positive duration of at most %v, or 0 for the queue's", j.Timeout, delayMax)
	}
	if err := j.validateUnique(); err != nil {
		return err
	}
	if err := validateTime("run_at", j.RunAt); err != nil {
		return err
	}
	if err := validateTime("expires_at", j.ExpiresAt); err != nil {
		return err
	}
	if err := j.Retry.validate(); err != nil {
		return err
	}
	return validateMetadata(j.Metadata)
}

// validateUnique checks the unique key and what goes with it.
func (j *Job) validateUnique() error {
	switch {
	case j.UniqueKey == "" && j.UniqueUntil == "" && j.UniqueFor == 0: // as most jobs are
	case len(j.UniqueKey) > uniqueKeyBytesMax:
		return tooLarge("unique_key", "the unique key has %d bytes; use at most %d, or a hash of what it is made of", len(j.UniqueKey), uniqueKeyBytesMax)
	case !utf8.ValidString(j.UniqueKey):
		return invalid("unique_key", "the unique key is not valid UTF-8")
	case j.UniqueUntil != "" && j.UniqueUntil != UniqueUntilEnded && j.UniqueUntil != UniqueUntilStarted:
		return invalid("unique_until", "unique until %q is not known; use %s or %s", string(j.UniqueUntil), UniqueUntilEnded, UniqueUntilStarted)
	case j.UniqueFor < 0 || j.UniqueFor > uniqueForMax:
		return invalid("unique_for", "the job is unique for %v; use 0 to %v", j.UniqueFor, uniqueForMax)
	case j.UniqueKey == "" && j.UniqueUntil != "":
		return invalid("unique_until", "the job is unique until %s and has no unique key; set one", j.UniqueUntil)
	case j.UniqueKey == "" && j.UniqueFor != 0:
		return invalid("unique_for", "the job is unique for %v and has no unique key; set one", j.UniqueFor)
	}
	return nil
}

// validateTime refuses what a job's time cannot be; the zero time says that it has none.
func validateTime(field string, t time.Time) error {
	if t.IsZero() || t.Unix() >= 0 && t.UTC().Year() <= yearMax {
		return nil
	}
	return invalid(field, "the time is %v; use one from 1970 to %d", t, yearMax)
}

func (r *RetryPolicy) validate() error {
	if r == nil {
		return nil
	}
	for _, d := range [...]struct {
		field string
		value time.Duration
	}{{"retry.base", r.Base}, {"retry.max", r.Max}} {
		if d.value < 0 || d.value > delayMax {
			return invalid(d.field, "the delay is %v; use 0 to %v", d.value, delayMax)
		}
	}
	for i, d := range r.Delays {
		if d < 0 || d > delayMax {
			return invalid("retry.delays", "delay %d is %v; use 0 to %v", i, d, delayMax)
		}
	}
	return nil
}

func validateQueue(name string) error {
	if name == "" || len(name) > queueNameBytesMax {
		return invalid("queue", "the queue's name has %d bytes; use 1 to %d of A-Z a-z 0-9 . _ : / -", len(name), queueNameBytesMax)
	}
	for i := range len(name) {
		if !isQueueNameByte(name[i]) {
			_, size := utf8.DecodeRuneInString(name[i:])
			return invalid("queue", "the queue's name %q has %q at %d; use A-Z a-z 0-9 . _ : / -", name, name[i:i+size], i)
		}
	}
	return nil
}

func isQueueNameByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' ||
		b == '.' || b == '_' || b == ':' || b == '/' || b == '-'
}

func validateMetadata(m map[string]string) error {
	if len(m) > metadataCountMax {
		return tooLarge("metadata", "the metadata has %d pairs; use at most %d", len(m), metadataCountMax)
	}
	bytes := 0
	for k, v := range m {
		if k == "" || !utf8.ValidString(k) || !utf8.ValidString(v) {
			return invalid("metadata", "the metadata's pair %q=%q is not valid: keys must not be empty, and both must be UTF-8", k, v)
		}
		bytes += len(k) + len(v)
	}
	if bytes > metadataBytesMax {
		return tooLarge("metadata", "the metadata has %d bytes; use at most %d", bytes, metadataBytesMax)
	}
	return nil
}

func validateResult(contentType string, b []byte) error {
	switch {
	case len(b) > resultBytesMax:
		return tooLarge("result", "the result has %d bytes; use at most %d, and keep larger data elsewhere", len(b), resultBytesMax)
	case len(contentType) > contentTypeBytesMax || !utf8.ValidString(contentType):
		return invalid("content_type", "the result's content type is not valid: use at most %d bytes of UTF-8", contentTypeBytesMax)
	}
	return nil
}

// cut returns at most max bytes of s, whole characters of valid UTF-8.
func cut(s string, max int) string {
	if len(s) > max {
		for max > 0 && !utf8.RuneStart(s[max]) {
			max--
		}
		s = s[:max]
	}
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s)) // Replaces what is not UTF-8, which protobuf refuses.
}
