package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// written is what a writer writes to a connection.
func written(t testing.TB, fill func(w *frameWriter)) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close() //nolint:errcheck // a pipe in memory
	w := newFrameWriter(plainLink(near, time.Minute))
	read := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(far)
		read <- b
	}()
	fill(w)
	if _, _, err := w.flush(); err != nil {
		t.Fatal(err)
	}
	_ = near.Close()
	return <-read
}

// TestFramesOfAllSizes: what is copied and what is referred to end up in the right places, in a writer that is used again and again.
func TestFramesOfAllSizes(t *testing.T) {
	o := &outbox{bytesMax: QueueBytesDefault, counters: &counters{}, wake: make(chan struct{}, 1)}
	data := bytes.Repeat([]byte("0123456789abcdef!"), 1<<12)
	var messages []*raftpb.Message
	for i, size := range []int{0, 1, copyBytesMax - 1, copyBytesMax, copyBytesMax + 1, 3 * copyBytesMax, shareBytesMax, shareBytesMax + 1, 5} {
		m := appendOf(uint64(i+1), data[:size])
		m.Entries = append(m.Entries, &raftpb.Entry{Data: data[size/2 : size]}, &raftpb.Entry{})
		messages = append(messages, m, heartbeat(uint64(i)))
	}
	for round := range 3 {
		b := written(t, func(w *frameWriter) {
			for range round + 1 {
				if dropped, _ := o.push(uint16(round), messages); dropped > 0 {
					t.Fatal("the messages were not taken")
				}
				for _, any := o.fill(w); any; _, any = o.fill(w) {
					w.ping(framePing, 77)
				}
			}
		})
		r := newFrameReader(bytes.NewReader(b), forMessages, false)
		var got []*raftpb.Message
		for {
			kind, length, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if kind == framePing {
				if b, err := r.fixed(pingBytes); err != nil || binary.LittleEndian.Uint64(b) != 77 {
					t.Fatal(b, err)
				}
				continue
			}
			envelopes, err := r.messages(length)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, messagesOf(envelopes)...)
		}
		if len(got) != (round+1)*len(messages) {
			t.Fatalf("%d messages", len(got))
		}
		for i, m := range got {
			if !proto.Equal(m, messages[i%len(messages)]) {
				t.Fatalf("round %d, message %d: %.200v", round, i, m)
			}
		}
	}
}

// TestFrameBounds: a frame is read at its largest, and refused by its header when it is larger, too small, or out of place.
func TestFrameBounds(t *testing.T) {
	for p := forMessages; p < purposeEnd; p++ {
		for _, back := range []bool{false, true} {
			for kind := range frameKind(10) {
				low, high, ok := bounds(p, back, kind)
				for length, good := range map[int]bool{low: ok, high: ok, high + 1: false, low - 1: false, 1<<32 - 1: false} {
					if length < 0 {
						continue
					}
					_, n, err := newFrameReader(bytes.NewReader(appendFrameHead(nil, kind, length)), p, back).next()
					if good != (err == nil) || good && n != length || !good && !errors.Is(err, ErrMalformed) {
						t.Errorf("kind %d with %d bytes for %v, back %v: %v", kind, length, p, back, err)
					}
				}
			}
		}
	}
	head := appendFrameHead(nil, framePing, pingBytes)
	head[2] = 1
	if _, _, err := newFrameReader(bytes.NewReader(head), forCalls, false).next(); !errors.Is(err, ErrMalformed) {
		t.Errorf("a reserved byte: %v", err)
	}
}

func TestMalformedBatches(t *testing.T) {
	good := written(t, func(w *frameWriter) {
		o := &outbox{bytesMax: QueueBytesDefault, counters: &counters{}, wake: make(chan struct{}, 1)}
		o.push(1, []*raftpb.Message{appendOf(1, []byte("data"))})
		o.fill(w)
	})
	for name, edit := range map[string]func(b []byte){
		"good":               func([]byte) {},
		"too many messages":  func(b []byte) { b[11] = 0xff },
		"long descriptions":  func(b []byte) { b[15] = 0xff },
		"short descriptions": func(b []byte) { b[12]-- },
		"more data":          func(b []byte) { b[4]++ },
		"less data":          func(b []byte) { b[4]-- },
	} {
		b := bytes.Clone(good)
		edit(b)
		r := newFrameReader(bytes.NewReader(b), forMessages, false)
		_, length, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.messages(length); name == "good" && err != nil || name != "good" && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrames reads any bytes as those of each kind of connection, through the code that serves it.
func FuzzFrames(f *testing.F) {
	le := binary.LittleEndian
	request := append(appendFrameHead(nil, frameRequest, requestHeadBytes+4), make([]byte, requestHeadBytes)...)
	f.Add(append(request, "body"...))
	f.Add(append(le.AppendUint64(appendFrameHead(nil, frameAnswer, answerHeadBytes), 1), make([]byte, 8)...))
	f.Add(append(appendFrameHead(nil, frameTransfer, transferHeadBytes+3), "\x01\x00\x02\x00abc"...))
	f.Add(le.AppendUint64(appendFrameHead(nil, framePong, pingBytes), 5))
	f.Add(written(f, func(w *frameWriter) {
		o := &outbox{bytesMax: QueueBytesDefault, counters: &counters{}, wake: make(chan struct{}, 1)}
		o.push(1, []*raftpb.Message{appendOf(1, []byte("data")), heartbeat(5)})
		o.fill(w)
		w.ping(framePing, 1)
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for p := forMessages; p < purposeEnd; p++ {
			for _, back := range []bool{false, true} {
				r := newFrameReader(bytes.NewReader(b), p, back)
				c := &caller{counters: &counters{}, sent: map[uint64]*call{1: {id: 1, result: make(chan result, 1)}}}
				for {
					kind, length, err := r.next()
					if err != nil {
						break
					}
					if length > 1<<20 {
						break // the reader may allocate it; a fuzzer should not, thousands of times
					}
					if err := readAny(r, c, kind, length); err != nil {
						break
					}
				}
			}
		}
	})
}

func readAny(r *frameReader, c *caller, kind frameKind, length int) (err error) {
	switch kind {
	case framePing, framePong, frameCancel:
		_, err = r.fixed(length)
	case frameBatch:
		_, err = r.messages(length)
	case frameAnswer:
		err = c.take(r, kind, length)
	default:
		_, err = r.body(length)
	}
	return err
}
