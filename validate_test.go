package beaver

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

// TestJobLimits stands on both sides of every limit.
func TestJobLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n int) map[string]string {
		m := make(map[string]string)
		for i := range n {
			m[string(rune('a'+i))] = ""
		}
		return m
	}
	large := map[string]bool{
		"kind too long": true, "payload too long": true, "payload of JSON too long": true, "content type too long": true,
		"ordering key too long": true, "unique key too long": true, "metadata too many": true, "metadata too long": true,
	}
	for _, tc := range []struct {
		name string
		job  Job
		bad  string // field; empty: accepted
	}{
		{"least", Job{Queue: "q"}, ""},
		{"queue", Job{Queue: long(queueNameBytesMax)}, ""},
		{"queue too long", Job{Queue: long(queueNameBytesMax + 1)}, "queue"},
		{"queue missing", Job{}, "queue"},
		{"queue of all bytes", Job{Queue: "Az09._:/-"}, ""},
		{"queue with a space", Job{Queue: "a b"}, "queue"},
		{"queue with an umlaut", Job{Queue: "ä"}, "queue"},
		{"kind", Job{Queue: "q", Kind: long(kindBytesMax)}, ""},
		{"kind too long", Job{Queue: "q", Kind: long(kindBytesMax + 1)}, "kind"},
		{"kind not UTF-8", Job{Queue: "q", Kind: "\xff"}, "kind"},
		{"payload", Job{Queue: "q", Payload: make([]byte, payloadBytesMax)}, ""},
		{"payload too long", Job{Queue: "q", Payload: make([]byte, payloadBytesMax+1)}, "payload"},
		{"payload of JSON too long", Job{Queue: "q", JSON: long(payloadBytesMax)}, "payload"},
		{"payload twice", Job{Queue: "q", JSON: 1, Payload: []byte("1")}, "payload"},
		{"payload not JSON", Job{Queue: "q", JSON: math.Inf(1)}, "payload"},
		{"content type", Job{Queue: "q", ContentType: long(contentTypeBytesMax)}, ""},
		{"content type too long", Job{Queue: "q", ContentType: long(contentTypeBytesMax + 1)}, "content_type"},
		{"content type not UTF-8", Job{Queue: "q", ContentType: "\xff"}, "content_type"},
		{"priority", Job{Queue: "q", Priority: new(priorityMax)}, ""},
		{"priority too high", Job{Queue: "q", Priority: new(priorityMax + 1)}, "priority"},
		{"priority too low", Job{Queue: "q", Priority: new(-1)}, "priority"},
		{"attempts", Job{Queue: "q", MaxAttempts: maxAttemptsMax}, ""},
		{"attempts too many", Job{Queue: "q", MaxAttempts: maxAttemptsMax + 1}, "max_attempts"},
		{"attempts negative", Job{Queue: "q", MaxAttempts: -1}, "max_attempts"},
		{"delay", Job{Queue: "q", Delay: delayMax}, ""},
		{"delay too long", Job{Queue: "q", Delay: delayMax + 1}, "delay"},
		{"delay negative", Job{Queue: "q", Delay: -1}, "delay"},
		{"delay and time", Job{Queue: "q", Delay: 1, RunAt: time.Unix(1, 0)}, "delay"},
		{"timeout negative", Job{Queue: "q", Timeout: -1}, "timeout"},
		{"timeout", Job{Queue: "q", Timeout: delayMax}, ""},
		{"timeout too long", Job{Queue: "q", Timeout: delayMax + 1}, "timeout"},
		{"run at 1970", Job{Queue: "q", RunAt: time.Unix(0, 0)}, ""},
		{"run before 1970", Job{Queue: "q", RunAt: time.Unix(-1, 0)}, "run_at"},
		{"run in the last year", Job{Queue: "q", RunAt: time.Date(yearMax, 12, 31, 0, 0, 0, 0, time.UTC)}, ""},
		{"run after the last year", Job{Queue: "q", RunAt: time.Date(yearMax+1, 1, 1, 0, 0, 0, 0, time.UTC)}, "run_at"},
		{"expires before 1970", Job{Queue: "q", ExpiresAt: time.Unix(-1, 0)}, "expires_at"},
		{"retry base", Job{Queue: "q", Retry: &RetryPolicy{Base: delayMax}}, ""},
		{"retry base negative", Job{Queue: "q", Retry: &RetryPolicy{Base: -1}}, "retry.base"},
		{"retry max too long", Job{Queue: "q", Retry: &RetryPolicy{Max: delayMax + 1}}, "retry.max"},
		{"retry delay negative", Job{Queue: "q", Retry: &RetryPolicy{Kind: RetryList, Delays: []time.Duration{1, -1}}}, "retry.delays"},
		{"ordering key", Job{Queue: "q", OrderingKey: long(orderKeyBytesMax)}, ""},
		{"ordering key too long", Job{Queue: "q", OrderingKey: long(orderKeyBytesMax + 1)}, "ordering_key"},
		{"ordering key not UTF-8", Job{Queue: "q", OrderingKey: "\xff"}, "ordering_key"},
		{"unique key", Job{Queue: "q", UniqueKey: long(uniqueKeyBytesMax)}, ""},
		{"unique key too long", Job{Queue: "q", UniqueKey: long(uniqueKeyBytesMax + 1)}, "unique_key"},
		{"unique key not UTF-8", Job{Queue: "q", UniqueKey: "\xff"}, "unique_key"},
		{"unique until ended", Job{Queue: "q", UniqueKey: "k", UniqueUntil: UniqueUntilEnded}, ""},
		{"unique until started", Job{Queue: "q", UniqueKey: "k", UniqueUntil: UniqueUntilStarted}, ""},
		{"unique until another time", Job{Queue: "q", UniqueKey: "k", UniqueUntil: "done"}, "unique_until"},
		{"unique until without key", Job{Queue: "q", UniqueUntil: UniqueUntilEnded}, "unique_until"},
		{"unique for", Job{Queue: "q", UniqueKey: "k", UniqueFor: uniqueForMax}, ""},
		{"unique for too long", Job{Queue: "q", UniqueKey: "k", UniqueFor: uniqueForMax + 1}, "unique_for"},
		{"unique for negative", Job{Queue: "q", UniqueKey: "k", UniqueFor: -1}, "unique_for"},
		{"unique for without key", Job{Queue: "q", UniqueFor: 1}, "unique_for"},
		{"metadata", Job{Queue: "q", Metadata: many(metadataCountMax)}, ""},
		{"metadata too many", Job{Queue: "q", Metadata: many(metadataCountMax + 1)}, "metadata"},
		{"metadata bytes", Job{Queue: "q", Metadata: map[string]string{"k": long(metadataBytesMax - 1)}}, ""},
		{"metadata too long", Job{Queue: "q", Metadata: map[string]string{"k": long(metadataBytesMax)}}, "metadata"},
		{"metadata without key", Job{Queue: "q", Metadata: map[string]string{"": "v"}}, "metadata"},
		{"metadata not UTF-8", Job{Queue: "q", Metadata: map[string]string{"k": "\xff"}}, "metadata"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.job.prepare()
			e, _ := errors.AsType[*Error](err)
			reason := reasonInvalid
			if large[tc.name] {
				reason = reasonTooLarge
			}
			switch {
			case tc.bad == "" && err != nil:
				t.Error(err)
			case tc.bad != "" && (e == nil || e.Field != tc.bad || e.Reason != reason || !errors.Is(err, ErrInvalidArgument)):
				t.Errorf("got %#v, want %s of %s", err, reason, tc.bad)
			}
		})
	}
}

func TestConfigs(t *testing.T) {
	handler := NewMux()
	queues := []string{"q"}
	for name, bad := range map[string]func() error{
		"addr":       func() error { _, err := NewClient(Config{Addr: "ftp://x"}); return err },
		"addr empty": func() error { _, err := NewClient(Config{Addr: "http://"}); return err },
		"retry":      func() error { _, err := NewClient(Config{RetryFor: -2}); return err },
		"retry max":  func() error { _, err := NewClient(Config{RetryFor: retryForMax + 1}); return err },
		"no queues":  func() error { c := WorkerConfig{Handler: handler}; return c.validate() },
		"queues": func() error {
			c := WorkerConfig{Handler: handler, Queues: make([]string, fetchQueuesMax+1)}
			return c.validate()
		},
		"queue name": func() error { c := WorkerConfig{Handler: handler, Queues: []string{""}}; return c.validate() },
		"no handler": func() error { c := WorkerConfig{Queues: queues}; return c.validate() },
		"concurrency": func() error {
			c := WorkerConfig{Handler: handler, Queues: queues, Concurrency: -1}
			return c.validate()
		},
		"concurrency+": func() error {
			c := WorkerConfig{Handler: handler, Queues: queues, Concurrency: concurrencyMax + 1}
			return c.validate()
		},
		"grace": func() error {
			c := WorkerConfig{Handler: handler, Queues: queues, GracePeriod: -2}
			return c.validate()
		},
	} {
		if err := bad(); err == nil || !strings.HasPrefix(err.Error(), "beaver: ") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	good := WorkerConfig{Handler: handler, Queues: queues, Concurrency: concurrencyMax, GracePeriod: -1}
	if err := good.validate(); err != nil || good.GracePeriod != 0 || good.Name == "" {
		t.Errorf("%+v, %v", good, err)
	}
	c, err := NewClient(Config{Addr: "localhost:7400/"})
	if err != nil || c.Addr() != "http://localhost:7400" {
		t.Errorf("%q, %v", c.Addr(), err)
	}
}
