package cluster

import (
	"encoding/binary"
	"fmt"

	"github.com/beaver-raft/beaver/internal/queue"
)

// decoder takes fields off a buffer. After the first field that does not fit, bad stays true and fields are zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() { d.b, d.bad = nil, true }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// uint takes a varint of at most limit.
func (d *decoder) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	// A varint that does not end in its shortest form would give one state two encodings.
	if n <= 0 || v > limit || (n > 1 && d.b[n-1] == 0) {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes takes n bytes; they alias the buffer.
func (d *decoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail()
		return nil
	}
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

// text takes a string of at most bytesMax bytes; it is a copy.
func (d *decoder) text(bytesMax int) string {
	return string(d.bytes(int(d.uint(uint64(bytesMax)))))
}

func (d *decoder) texts(countMax, bytesMax int) []string {
	n := int(d.uint(uint64(countMax)))
	if n == 0 {
		return nil
	}
	v := make([]string, 0, n)
	for range n {
		v = append(v, d.text(bytesMax))
	}
	return v
}

// end reports whether all fields fit and nothing is left.
func (d *decoder) end() bool { return !d.bad && len(d.b) == 0 }

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendTexts(dst []byte, v []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(v)))
	for _, s := range v {
		dst = appendText(dst, s)
	}
	return dst
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// millisMax bounds every duration of a record; the queue's own limits are tighter.
const millisMax = 1 << 62

// AppendSettings appends a queue's settings: max attempts, retry (kind, jitter, base, max, list), timeout, poison limit,
// ended jobs kept, depth, paused.
func AppendSettings(dst []byte, s *queue.Settings) []byte {
	dst = binary.AppendUvarint(dst, uint64(s.MaxAttempts))
	dst = append(dst, byte(s.Retry.Kind), s.Retry.JitterPercent)
	dst = binary.AppendUvarint(dst, uint64(s.Retry.BaseMillis))
	dst = binary.AppendUvarint(dst, uint64(s.Retry.MaxMillis))
	dst = binary.AppendUvarint(dst, uint64(len(s.Retry.List)))
	for _, m := range s.Retry.List {
		dst = binary.AppendUvarint(dst, uint64(m))
	}
	dst = binary.AppendUvarint(dst, uint64(s.TimeoutMillis))
	dst = binary.AppendUvarint(dst, uint64(s.PoisonLimit))
	dst = binary.AppendUvarint(dst, uint64(s.KeepEnded))
	dst = binary.AppendUvarint(dst, s.DepthMax)
	return appendBool(dst, s.Paused)
}

func (d *decoder) settings() queue.Settings {
	var s queue.Settings
	s.MaxAttempts = uint32(d.uint(queue.MaxAttemptsMax))
	s.Retry.Kind = queue.RetryKind(d.byte())
	s.Retry.JitterPercent = d.byte()
	s.Retry.BaseMillis = int64(d.uint(millisMax))
	s.Retry.MaxMillis = int64(d.uint(millisMax))
	if n := int(d.uint(queue.RetryListMax)); n > 0 {
		s.Retry.List = make([]int64, n)
		for i := range s.Retry.List {
			s.Retry.List[i] = int64(d.uint(millisMax))
		}
	}
	s.TimeoutMillis = int64(d.uint(millisMax))
	s.PoisonLimit = uint32(d.uint(queue.PoisonLimitMax))
	s.KeepEnded = uint32(d.uint(queue.KeepEndedMax))
	s.DepthMax = d.uint(1<<63 - 1)
	paused := d.byte()
	if paused > 1 {
		d.fail()
	}
	s.Paused = paused == 1
	if !d.bad && s.Validate() != nil {
		d.fail()
	}
	return s
}

func appendWorkerInfo(dst []byte, w *WorkerInfo) []byte {
	dst = appendText(dst, w.Name)
	dst = appendText(dst, w.Host)
	dst = binary.AppendUvarint(dst, uint64(w.PID))
	dst = appendText(dst, w.Version)
	dst = appendTexts(dst, w.Labels)
	dst = appendTexts(dst, w.Queues)
	return binary.AppendUvarint(dst, uint64(w.Concurrency))
}

func (d *decoder) workerInfo() WorkerInfo {
	var w WorkerInfo
	w.Name = d.text(WorkerTextBytesMax)
	w.Host = d.text(WorkerTextBytesMax)
	w.PID = int(d.uint(WorkerPIDMax))
	w.Version = d.text(WorkerTextBytesMax)
	w.Labels = d.texts(WorkerLabelsMax, WorkerLabelBytesMax)
	w.Queues = d.texts(WorkerQueuesMax, QueueNameBytesMax)
	w.Concurrency = int(d.uint(WorkerConcurrencyMax))
	if !d.bad && w.Validate() != nil {
		d.fail()
	}
	return w
}

// FieldError says which field of a request breaks which limit.
type FieldError struct {
	Field, Problem string
	TooLarge       bool // it has too many bytes or items, which says nothing against each of them
}

func invalid(field, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}

func tooLarge(field, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Problem: fmt.Sprintf(format, args...), TooLarge: true}
}

func (e *FieldError) Error() string { return e.Field + " " + e.Problem }

// Validate names the first field that breaks a limit, in a *FieldError.
func (w *WorkerInfo) Validate() error {
	texts := [...]struct{ field, value string }{{"name", w.Name}, {"host", w.Host}, {"version", w.Version}}
	for _, t := range texts {
		if len(t.value) > WorkerTextBytesMax {
			return tooLarge(t.field, "is %d bytes long; at most %d are kept", len(t.value), WorkerTextBytesMax)
		}
	}
	switch {
	case w.PID < 0 || w.PID > WorkerPIDMax:
		return invalid("pid", "is %d; it must lie between 0 and %d", w.PID, WorkerPIDMax)
	case w.Concurrency < 0 || w.Concurrency > WorkerConcurrencyMax:
		return invalid("concurrency", "is %d; it must lie between 0 and %d", w.Concurrency, WorkerConcurrencyMax)
	case len(w.Labels) > WorkerLabelsMax:
		return tooLarge("labels", "has %d items; at most %d are kept", len(w.Labels), WorkerLabelsMax)
	case len(w.Queues) > WorkerQueuesMax:
		return tooLarge("queues", "has %d names; at most %d are kept", len(w.Queues), WorkerQueuesMax)
	}
	for _, l := range w.Labels {
		if len(l) > WorkerLabelBytesMax {
			return tooLarge("labels", "has an item of %d bytes; at most %d are kept", len(l), WorkerLabelBytesMax)
		}
	}
	for _, q := range w.Queues {
		if !ValidQueueName(q) {
			return invalid("queues", "has %.140q, which is no queue name: want 1 to %d of letters, digits and . _ : / -", q, QueueNameBytesMax)
		}
	}
	return nil
}
