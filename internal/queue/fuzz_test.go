package queue

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

func everyItem() [][]byte {
	s := Settings{MaxAttempts: 3, Retry: Retry{Kind: RetryList, List: []int64{1, 2}}, TimeoutMillis: 50, KeepEnded: 2, DepthMax: 40}
	spec := Spec{
		Queue: 1, Priority: 2, RunAt: 9, ExpiresAt: 90, MaxAttempts: 2, Retry: Retry{Kind: RetryFixed, BaseMillis: 5},
		TimeoutMillis: -1, EnqueuedAt: 3, Kind: "k", ContentType: "c", Payload: []byte("p"),
		Metadata: []KeyValue{{"a", "b"}}, OrderingKey: "o", UniqueKey: "u", UniqueUntil: UniqueUntilStarted, UniqueForMillis: 7,
	}
	return [][]byte{
		AppendHold(nil, 5),
		AppendConfigure(nil, 1, 1, &s),
		AppendEnqueue(nil, SessionID{1}, 1, 2, true, 7),
		AppendJob(nil, &spec),
		AppendJob(nil, &Spec{Queue: 1}),
		AppendJob(nil, &Spec{Queue: 1, UniqueKey: "v"}),
		AppendEnqueue(nil, SessionID{2}, 1, 2, false, 7),
		AppendJob(nil, &spec),
		AppendHintedJob(nil, &Spec{Queue: 1, UniqueKey: "w", UniqueForMillis: 3}, JobID{Shard: 4, Pos: 9}),
		AppendFetch(nil, 1, []QueueID{1, 2}, 2, 0, 0),
		AppendFetch(nil, 0, []QueueID{1}, 2, 0, 7),
		AppendProgress(nil, MakePos(1, 3), 1, 50, "half"),
		AppendExtend(nil, MakePos(1, 3), 1, 9),
		AppendRelease(nil, MakePos(1, 3), 1),
		AppendFetch(nil, 1, []QueueID{1}, 2, 0, 0),
		AppendTakeBack(nil, MakePos(1, 3), 2),
		AppendFetch(nil, 1, []QueueID{1}, 2, 0, 0),
		AppendFail(nil, MakePos(1, 3), 4, &Failure{Type: "t", Message: "m", Stack: "s", Final: true}),
		AppendRetryDead(nil, MakePos(1, 3)),
		AppendDiscardDead(nil, MakePos(1, 3)),
		AppendAck(nil, MakePos(1, 3), 4, "c", []byte("r")),
		AppendDamaged(nil, MakePos(1, 3), 4),
		AppendCancel(nil, MakePos(1, 3), 1, 0),
		AppendWorkerLost(nil, 1),
		AppendWorkerGone(nil, 1),
		AppendVerify(nil, 1, 2),
		AppendTick(nil),
	}
}

// FuzzApply feeds arbitrary bytes, cut into items and entries by their own length bytes.
func FuzzApply(f *testing.F) {
	var seed []byte
	for i, item := range everyItem() {
		seed = append(seed, byte(len(item)), byte(i))
		seed = append(seed, item...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New(1)
		var out Results
		var items [][]byte
		now := Millis(1)
		for len(b) >= 2 {
			n := min(int(b[0]), len(b)-2)
			items = append(items, b[2:2+n])
			if b[1]&3 == 0 {
				now += Millis(b[1])
				m.Apply(m.Applied()+1, now, items, &out)
				items = items[:0]
			}
			b = b[2+n:]
		}
		m.Apply(m.Applied()+1, now, items, &out)
		if err := m.CheckInvariants(); err != nil {
			t.Fatal(err)
		}
		var image bytes.Buffer
		if _, err := m.Snapshot().WriteTo(&image); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore(1, &image); err != nil {
			t.Fatal(err)
		}
	})
}

// busyMachine has some of everything in its state.
func busyMachine(tb testing.TB) *Machine {
	tb.Helper()
	h := newHistory(nil, 5)
	m := New(3)
	for range 300 {
		h.index++
		h.now += 10
		var commands []command
		var items [][]byte
		for range 4 {
			c := h.command()
			commands = append(commands, c)
			items = c.encode(items)
		}
		h.model.apply(h.index, h.now, commands)
		m.Apply(h.index, h.now, items, &h.out)
		for i := range h.out.Items {
			if h.out.Items[i].Pos != 0 {
				h.aim(h.out.Items[i].Pos)
			}
		}
	}
	if err := m.CheckInvariants(); err != nil {
		tb.Fatal(err)
	}
	return m
}

func imageOf(tb testing.TB, m *Machine) []byte {
	tb.Helper()
	var b bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func FuzzRestore(f *testing.F) {
	f.Add(imageOf(f, busyMachine(f)))
	f.Add(imageOf(f, New(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := restore(3, bytes.NewReader(b), 1<<16)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Fatalf("untyped error: %v", err)
			}
			return
		}
		if err := m.CheckInvariants(); err != nil {
			t.Fatal(err)
		}
		var out Results
		m.Apply(m.Applied()+1, m.Now()+SessionIdleMillis, everyItem(), &out)
		if err := m.CheckInvariants(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeSpec(f *testing.F) {
	for _, item := range everyItem() {
		f.Add(item)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeSpec(b)
		q, priority, peekErr := SpecQueue(b)
		if err != nil {
			return
		}
		if peekErr != nil || q != s.Queue || priority != s.Priority {
			t.Fatalf("peek finds %d %d %v, decode %d %d", q, priority, peekErr, s.Queue, s.Priority)
		}
		again, err := DecodeSpec(AppendJob(nil, &s))
		if err != nil || !sameSpec(&s, &again) {
			t.Fatalf("%+v encodes to %+v, %v", s, again, err)
		}
	})
}

// sameSpec compares what a spec means: a policy that is the queue's has no fields.
func sameSpec(a, b *Spec) bool {
	x, y := *a, *b
	if x.Retry.Kind == RetryDefault {
		x.Retry, y.Retry = Retry{}, Retry{}
	}
	if len(x.Payload) == 0 && len(y.Payload) == 0 {
		x.Payload, y.Payload = nil, nil
	}
	return reflect.DeepEqual(x, y)
}

func FuzzDecodeOutcome(f *testing.F) {
	for _, item := range everyItem() {
		f.Add(item)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if contentType, result, err := DecodeAckResult(b); err == nil {
			again := AppendAck(nil, 1, 2, contentType, result)
			if c, r, err := DecodeAckResult(again); err != nil || c != contentType || !bytes.Equal(r, result) {
				t.Fatal("ack does not come back")
			}
		}
		if failure, err := DecodeFailure(b); err == nil {
			if again, err := DecodeFailure(AppendFail(nil, 1, 2, &failure)); err != nil || again != failure {
				t.Fatal("failure does not come back")
			}
		}
		if percent, message, err := DecodeProgress(b); err == nil {
			if p, s, err := DecodeProgress(AppendProgress(nil, 1, 2, percent, message)); err != nil || p != percent || s != message {
				t.Fatal("progress does not come back")
			}
		}
	})
}

func FuzzParseJobID(f *testing.F) {
	f.Add(JobID{Shard: 3, Pos: MakePos(77, 5)}.String())
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseJobID(s)
		if err != nil {
			return
		}
		if again, err := ParseJobID(id.String()); err != nil || again != id {
			t.Fatalf("%q is %v, which prints as %q", s, id, id.String())
		}
	})
}
