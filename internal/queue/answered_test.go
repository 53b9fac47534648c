package queue

import (
	"bytes"
	"testing"
)

// TestAnswered: a machine knows when a queue last answered a request that may be repeated, and never takes it for earlier than it was.
func TestAnswered(t *testing.T) {
	t.Parallel()
	const open, full, shut, idle QueueID = 1, 2, 3, 4
	m, out, index := New(1), &Results{}, uint64(0)
	apply := func(now Millis, items ...[]byte) {
		t.Helper()
		index++
		m.Apply(index, now, items, out)
	}
	closed := Settings{Closed: true}
	apply(10, AppendConfigure(nil, open, 1, &Settings{}), AppendConfigure(nil, full, 1, &Settings{DepthMax: 1}),
		AppendConfigure(nil, shut, 1, &closed), AppendConfigure(nil, idle, 1, &Settings{}))
	job := func(q QueueID) []byte { return AppendJob(nil, &Spec{Queue: q, Kind: "k"}) }
	request := func(session byte, seq uint64, atomic bool, queues ...QueueID) [][]byte {
		items := [][]byte{AppendEnqueue(nil, SessionID{session}, seq, len(queues), atomic, 0)}
		for _, q := range queues {
			items = append(items, job(q))
		}
		return items
	}
	check := func(what string, want map[QueueID]Millis) {
		t.Helper()
		for _, q := range []QueueID{open, full, shut, idle, 5} {
			if got := m.Answered(q); got != want[q] {
				t.Errorf("%s: queue %d answered at %d, want %d", what, q, got, want[q])
			}
		}
	}

	apply(20, job(open))
	apply(21, request(0, 0, true, open)...)
	check("without a session", nil)
	restored := restoreNow(t, m)
	if got := restored.Answered(open); got != 0 {
		t.Errorf("restored without sessions: answered at %d", got)
	}
	apply(30, request(1, 1, false, open, shut, open, 5)...)
	check("a request", map[QueueID]Millis{open: 30})
	apply(40, request(1, 2, true, full, full)...)
	check("one that is refused", map[QueueID]Millis{open: 30, full: 40})
	apply(50, request(1, 1, false, open, shut, open, 5)...)
	check("a repeat", map[QueueID]Millis{open: 50, full: 40})
	apply(60, request(1, 1, false, full)...)
	check("one that differs", map[QueueID]Millis{open: 50, full: 40})
	frozen := m.Snapshot()
	sum := m.Fingerprint()
	apply(70, AppendConfigure(nil, open, 2, &closed))
	apply(71, request(2, 1, false, open)...)
	check("a closed queue", map[QueueID]Millis{open: 50, full: 40})
	if frozen.Fingerprint() != sum {
		t.Error("a snapshot changed")
	}
	m = restoreNow(t, m)
	check("restored", map[QueueID]Millis{open: 71, full: 71, shut: 71, idle: 71})
	index = m.Applied()
	apply(80, request(2, 2, false, open, full)...)
	check("after that", map[QueueID]Millis{open: 71, full: 80, shut: 71, idle: 71})
}

// restoreNow restores a machine from its own image.
func restoreNow(t *testing.T, m *Machine) *Machine {
	t.Helper()
	var image bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	restored, err := Restore(1, &image)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Fingerprint() != m.Fingerprint() {
		t.Fatal("restored, it has another fingerprint")
	}
	return restored
}
